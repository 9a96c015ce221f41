//! The pods of the mesh: those that have a sidecar, each as the Workload that it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::{self, Container, ContainerPort, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outrider_api::annotations::{Annotations, INIT_CONTAINER, SIDECAR_CONTAINER};
use outrider_api::kinds::{API_VERSION, Mtls};
use outrider_api::manifest::{Cause, Location, Object, Problem};
use outrider_api::model::ProbeHeader;
use outrider_api::sidecar::{AppProbe, TELEMETRY_PORT};
use serde_json::{Value, json};

use super::kinds::Kind;
use super::objects::{self, Entry};
use crate::index::{WorkloadName, ZONE};

/// A pod that has a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: WorkloadName,
    pub(crate) uid: String,
    pub(crate) service_account: String,
    /// Absent until it is scheduled.
    pub(crate) node: Option<String>,
    /// Absent until its sandbox is made.
    pub(crate) addresses: Vec<IpAddr>,
    /// Succeeded or Failed: no container runs, and its addresses may be another's.
    pub(crate) ended: bool,
    /// It is being deleted.
    pub(crate) terminating: bool,
    /// Ready, and not on the way out.
    pub(crate) ready: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// RFC 3339, in UTC: the order of texts is that of time.
    pub(crate) created: String,
}

/// What is kept of a pod; `None`: it has no sidecar.
pub(super) fn read(pod: &v1::Pod) -> Option<(Pod, Entry)> {
    let spec = pod.spec.as_ref()?;
    let is_sidecar = |container: &&Container| container.name == SIDECAR_CONTAINER;
    all(spec).find(is_sidecar)?;
    let id = objects::id(Kind::Pod, &pod.metadata)?;
    let record = record(pod, spec, WorkloadName::new(&id.namespace, &id.name));
    let written = pod.metadata.annotations.iter().flatten();
    // What is wrong counts as not written: a pod that runs is not cut off by an edit.
    let (annotations, errors) =
        Annotations::read(written.map(|(key, value)| (key.as_str(), value.as_str())));
    let document = workload(spec, &record, &annotations);
    let mut entry = Entry::read(id, &pod.metadata, &document);
    let file = entry.id.file();
    entry.problems.extend(errors.into_iter().map(|error| {
        let location = Location {
            file: Arc::clone(&file),
            line: 1,
            column: 1,
        };
        let problem = Problem::new(location, "metadata.annotations", error.to_string());
        problem.because(Cause::NoEffect).as_warning()
    }));
    Some((record, entry))
}

fn all(spec: &v1::PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
}

/// Those that run beside each other, but for our own.
fn apps(spec: &v1::PodSpec) -> impl Iterator<Item = &Container> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let is_ours = |container: &&Container| {
        [SIDECAR_CONTAINER, INIT_CONTAINER].contains(&container.name.as_str())
    };
    sidecars
        .chain(&spec.containers)
        .filter(move |container| !is_ours(container))
}

fn record(pod: &v1::Pod, spec: &v1::PodSpec, name: WorkloadName) -> Pod {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let is_ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
    let account = spec.service_account_name.as_deref();
    let created = pod.metadata.creation_timestamp.as_ref();
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Pod {
        name,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        service_account: account.unwrap_or("default").to_owned(),
        node: spec.node_name.clone(),
        addresses: status.map(addresses).unwrap_or_default(),
        ended: matches!(phase, Some("Succeeded" | "Failed")),
        terminating,
        ready: is_ready && !terminating,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        created: created.map(|time| time.0.to_string()).unwrap_or_default(),
    }
}

/// One of each family (Kubernetes has no more).
fn addresses(status: &v1::PodStatus) -> Vec<IpAddr> {
    let list = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let all = list.chain(status.pod_ip.as_deref());
    let mut addresses = Vec::new();
    for address in all.filter_map(|text| text.parse::<IpAddr>().ok()) {
        let address = address.to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// As somebody would have written it.
fn workload(spec: &v1::PodSpec, record: &Pod, annotations: &Annotations) -> Value {
    let probes = probes(spec);
    let mut workload = json!({
        "serviceAccount": record.service_account,
        "ports": ports(spec, &probes, annotations),
        "probes": probes.into_iter().map(|(_, probe)| probe).collect::<Vec<_>>(),
    });
    if let Some((first, others)) = record.addresses.split_first() {
        workload["address"] = json!(first);
        workload["appAddress"] = json!(first);
        workload["addresses"] = json!(others);
    }
    if record.terminating {
        workload["terminating"] = json!(true);
    }
    if let Some(mtls) = annotations.mtls {
        workload["mtls"] = json!(match mtls {
            Mtls::Strict => "Strict",
            Mtls::Permissive => "Permissive",
        });
    }
    json!({
        "apiVersion": API_VERSION,
        "kind": "Workload",
        "metadata": {
            "name": record.name.name,
            "namespace": record.name.namespace,
            "labels": record.labels,
        },
        "spec": workload,
    })
}

/// Each once: what containers declare, then what only probes and annotations know of.
fn ports(spec: &v1::PodSpec, probes: &[(u16, Value)], annotations: &Annotations) -> Vec<Value> {
    let protocols = &annotations.app_protocols;
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    let mut add = |number: u16, name: Option<&str>| {
        if seen.insert(number) {
            let mut port = json!({ "port": number });
            if let Some(name) = name {
                port["name"] = json!(name);
            }
            if let Some(protocol) = protocols.get(&number) {
                port["appProtocol"] = json!(protocol);
            }
            ports.push(port);
        }
    };
    let is_tcp = |port: &&ContainerPort| port.protocol.as_deref().is_none_or(|p| p == "TCP");
    let declared = apps(spec).flat_map(|container| container.ports.iter().flatten());
    for port in declared.filter(is_tcp) {
        if let Ok(number) = u16::try_from(port.container_port) {
            add(number, port.name.as_deref());
        }
    }
    for (number, _) in probes {
        add(*number, None);
    }
    for number in protocols.keys() {
        add(*number, None);
    }
    ports
}

/// What the kubelet asks: probes and hooks, with the port of the app of each.
fn probes(spec: &v1::PodSpec) -> Vec<(u16, Value)> {
    let mut probes: Vec<(u16, Value)> = Vec::new();
    for container in apps(spec) {
        let all = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        let asked = all.into_iter().flatten().filter_map(|probe| {
            http(probe.http_get.as_ref(), container)
                .or_else(|| tcp(probe.tcp_socket.as_ref(), container))
                .or_else(|| grpc(probe.grpc.as_ref()))
        });
        let lifecycle = container.lifecycle.as_ref();
        let hooks = lifecycle.map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
        let hooks = hooks.into_iter().flatten().flatten();
        let called = hooks.filter_map(|hook| http(hook.http_get.as_ref(), container));
        for probe in asked.chain(called) {
            if !probes.contains(&probe) {
                probes.push(probe);
            }
        }
    }
    probes
}

fn http(action: Option<&v1::HTTPGetAction>, container: &Container) -> Option<(u16, Value)> {
    let action = action?;
    // One with a host asks somebody else.
    if action.host.as_ref().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let path = action.path.as_deref().unwrap_or("/");
    let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
    let is_https = action.scheme.as_deref() == Some("HTTPS");
    let headers = action.http_headers.as_deref().unwrap_or_default();
    match number(&action.port, container)? {
        // As injection has rewritten it; what else asks the sidecar is about nobody else.
        TELEMETRY_PORT => match AppProbe::read(&path)? {
            AppProbe::Tcp { port } => Some((port, json!({"tcpSocket": {"port": port}}))),
            AppProbe::Https { port, target } => get(port, target, "HTTPS", headers),
        },
        // It comes straight to the app, or cannot be told from anybody's TLS and is not let in.
        _ if is_https => None,
        port => get(port, &path, "HTTP", headers),
    }
}

/// `None`: it is not what a client could ask. Nothing else of the pod becomes wrong by it.
fn get(port: u16, path: &str, scheme: &str, headers: &[HTTPHeader]) -> Option<(u16, Value)> {
    let is_whole = |target: PathAndQuery| target.as_str() == path;
    if !PathAndQuery::try_from(path).is_ok_and(is_whole) {
        return None;
    }
    let mut get = json!({"path": path, "port": port, "scheme": scheme});
    let is_sent =
        |header: &&HTTPHeader| ProbeHeader::new(&header.name, header.value.as_bytes()).is_ok();
    let field = |header: &HTTPHeader| json!({"name": header.name, "value": header.value});
    let headers: Vec<Value> = headers.iter().filter(is_sent).map(field).collect();
    if !headers.is_empty() {
        get["httpHeaders"] = Value::Array(headers);
    }
    Some((port, json!({"httpGet": get})))
}

fn tcp(action: Option<&v1::TCPSocketAction>, container: &Container) -> Option<(u16, Value)> {
    let action = action?;
    if action.host.as_ref().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let port = number(&action.port, container)?;
    Some((port, json!({"tcpSocket": {"port": port}})))
}

fn grpc(action: Option<&v1::GRPCAction>) -> Option<(u16, Value)> {
    let action = action?;
    let port = u16::try_from(action.port).ok()?;
    let service = action.service.as_deref().unwrap_or_default();
    Some((port, json!({"grpc": {"port": port, "service": service}})))
}

/// A name is one of the container's own.
fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            named?.container_port
        }
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// A pod's entry, its pod being there.
pub(super) fn with_zone(entry: &Arc<Entry>, zone: &str) -> Arc<Entry> {
    let Some(Object::Workload(written)) = &entry.object else {
        return Arc::clone(entry);
    };
    let mut workload = (**written).clone();
    let labels = &mut workload.metadata.labels;
    labels.insert(ZONE.to_owned(), zone.to_owned());
    Arc::new(entry.with(Object::Workload(written.with(workload))))
}

#[cfg(test)]
#[path = "pods_tests.rs"]
pub(super) mod tests;
