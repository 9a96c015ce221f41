//! The demo's own copy of the shop's YAML, in a temporary directory: prepared, moved to free ports
//! when the usual ones are taken, and edited while the mesh runs. Edits go through the YAML's
//! model, and each is written whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ipnet::IpNet;
use outrider_api::kinds::Network;
use serde_json::{Value, json};
use tempfile::TempDir;
use thiserror::Error;

/// How long certificates live in the demo, so that a rotation can be watched.
const CERTIFICATE_LIFETIME: &str = "30s";
/// The fields of a Workload that hold a port of this machine.
const PORT_FIELDS: [&str; 3] = ["meshPort", "adminPort", "telemetryPort"];

/// Why the YAML could not be prepared or edited.
#[derive(Debug, Error)]
pub(crate) enum StageError {
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
    #[error("cannot make a temporary directory: {0}")]
    Temporary(io::Error),
    #[error("{0}: {1}")]
    Yaml(String, String),
    #[error("{0}: there is no {1} to edit")]
    Missing(String, String),
}

/// The directory that the demo's mesh runs from; removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    directory: TempDir,
}

impl Stage {
    /// Writes the shop's YAML. `moved` maps the ports that are taken to others.
    pub(crate) fn prepare(moved: &BTreeMap<u16, u16>) -> Result<Self, StageError> {
        Self::prepare_with(&[], |document| move_ports(document, moved))
    }

    /// Writes the YAML of the shop in network namespaces, with addresses out of `network`.
    pub(crate) fn prepare_netns(network: &Network) -> Result<Self, StageError> {
        let text = |nets: Vec<IpNet>| nets.iter().map(IpNet::to_string).collect::<Vec<_>>();
        let network = json!({
            "workloads": text(network.workloads.nets().collect()),
            "services": text(network.services.nets().collect()),
        });
        Self::prepare_with(outrider_shop::NETNS, |document| {
            if document["kind"] == "MeshConfig" {
                document["spec"]["network"] = network.clone();
            }
        })
    }

    /// Files of `instead` take the place of those of the same name.
    fn prepare_with(
        instead: &[(&str, &str)],
        edit: impl Fn(&mut Value),
    ) -> Result<Self, StageError> {
        let directory = tempfile::Builder::new()
            .prefix("outrider-demo-")
            .tempdir()
            .map_err(StageError::Temporary)?;
        let stage = Self { directory };
        for (file, text) in outrider_shop::MESH {
            let other = instead.iter().find(|(name, _)| name == file);
            let mut documents = parse(file, other.map_or(text, |(_, other)| other))?;
            for document in &mut documents {
                edit(document);
                if document["kind"] == "MeshConfig" {
                    document["spec"]["certificateLifetime"] = json!(CERTIFICATE_LIFETIME);
                }
            }
            stage.write(file, &render(file, &documents)?)?;
        }
        Ok(stage)
    }

    /// Where the YAML is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file as it is now.
    pub(crate) fn read(&self, file: &str) -> Result<String, StageError> {
        let path = self.path().join(file);
        fs::read_to_string(&path).map_err(|error| StageError::Write(path, error))
    }

    /// Replaces a file as a whole.
    pub(crate) fn write(&self, file: &str, text: &str) -> Result<(), StageError> {
        let path = self.path().join(file);
        outrider_certs::file::write_atomic(&path, text.as_bytes(), 0o644)
            .map_err(|error| StageError::Write(path, error))
    }

    /// The text of `file` without the rule `name`.
    pub(crate) fn without_rule(&self, file: &str, name: &str) -> Result<String, StageError> {
        let mut documents = parse(file, &self.read(file)?)?;
        let mut found = false;
        for document in &mut documents {
            if let Some(rules) = document
                .pointer_mut("/spec/rules")
                .and_then(Value::as_array_mut)
            {
                let before = rules.len();
                rules.retain(|rule| rule["name"] != name);
                found |= rules.len() < before;
            }
        }
        if !found {
            return Err(StageError::Missing(file.to_owned(), format!("rule {name}")));
        }
        render(file, &documents)
    }
}

/// A policy's text with a field that no policy has: what a slip of the finger makes of it.
pub(crate) fn with_typo(file: &str, text: &str) -> Result<String, StageError> {
    let mut documents = parse(file, text)?;
    for document in &mut documents {
        document["spec"]["ruels"] = json!([]);
    }
    render(file, &documents)
}

/// Every port that the shop's Workloads use on this machine.
pub(crate) fn ports() -> Result<Vec<u16>, StageError> {
    let mut ports = Vec::new();
    for (file, text) in outrider_shop::MESH {
        for mut document in parse(file, text)? {
            each_port(&mut document, &mut |port| ports.push(port_of(port)));
        }
    }
    Ok(ports.into_iter().flatten().collect())
}

fn move_ports(document: &mut Value, moved: &BTreeMap<u16, u16>) {
    each_port(document, &mut |port| {
        if let Some(other) = port_of(port).and_then(|port| moved.get(&port)) {
            *port = json!(other);
        }
    });
}

fn port_of(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// Visits every field of a Workload that holds a port of this machine.
fn each_port(document: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    if document["kind"] != "Workload" {
        return;
    }
    let spec = &mut document["spec"];
    for field in PORT_FIELDS {
        if let Some(port) = spec.get_mut(field) {
            visit(port);
        }
    }
    if let Some(port) = spec.pointer_mut("/outbound/httpPort") {
        visit(port);
    }
    for (list, field) in [("/outbound/upstreams", "localPort"), ("/ports", "port")] {
        let entries = spec.pointer_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            if let Some(port) = entry.get_mut(field) {
                visit(port);
            }
        }
    }
}

fn parse(file: &str, text: &str) -> Result<Vec<Value>, StageError> {
    serde_saphyr::from_multiple(text)
        .map_err(|error| StageError::Yaml(file.to_owned(), error.to_string()))
}

fn render(file: &str, documents: &[Value]) -> Result<String, StageError> {
    serde_saphyr::to_string_multiple(documents)
        .map_err(|error| StageError::Yaml(file.to_owned(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_known_and_different() {
        let mut ports = ports().unwrap();
        assert_eq!(ports.len(), 6 * 3 + 5 * 2 + 3 + 1, "{ports:?}");
        assert!(ports.iter().all(|port| (18000..19000).contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 32);
    }

    #[test]
    fn ports_are_moved_through_the_model() {
        let moved = BTreeMap::from([(18100, 20001), (18102, 20002), (18020, 20003)]);
        let stage = Stage::prepare(&moved).unwrap();
        let text = stage.read("workloads.yaml").unwrap();
        for (old, new) in &moved {
            assert!(
                !text.contains(&old.to_string()),
                "{old} is still in\n{text}"
            );
            assert!(text.contains(&new.to_string()), "{new} is not in\n{text}");
        }
        assert!(text.contains("18101"), "others stay");
        assert!(
            stage
                .read("mesh.yaml")
                .unwrap()
                .contains(CERTIFICATE_LIFETIME)
        );
    }

    #[test]
    fn a_rule_is_taken_out_by_name() {
        let stage = Stage::prepare(&BTreeMap::new()).unwrap();
        let text = stage
            .without_rule("policy-order.yaml", "read-orders")
            .unwrap();
        assert!(
            text.contains("place-orders") && !text.contains("read-orders"),
            "{text}"
        );
        assert!(stage.without_rule("policy-order.yaml", "no-such").is_err());
    }
}
