//! Services, and who is behind them: which are of the mesh, and which endpoints take calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrider_api::kinds::{ClusterIp, Transport};
use outrider_api::manifest::Object;
use outrider_api::names::ServiceName;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::objects::{self, Entry};
use super::pods::Pod;
use crate::index::WorkloadName;

/// The label that says whose slice it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Who writes a slice, and who does of those that follow from a selector.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// What is kept of a Service.
#[derive(Debug, PartialEq)]
pub(super) struct Service {
    pub(super) entry: Arc<Entry>,
    pub(super) name: ServiceName,
    /// Empty: its endpoints are somebody else's to say.
    pub(super) selector: BTreeMap<String, String>,
    /// `ExternalName`: a name of something else.
    pub(super) is_alias: bool,
    /// Pods are called before they are ready.
    not_ready_too: bool,
    /// It was deleted: it says which pods policies are about, and nobody calls anything by it.
    is_gone: bool,
}

/// What is kept of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) service: ServiceName,
    /// It follows from the Service's selector.
    pub(super) is_derived: bool,
    endpoints: Vec<SliceEndpoint>,
    ports: SlicePorts,
}

/// The app's TCP ports, each by the name of the Service's port that leads to it; a port without a name
/// has the empty one.
pub(super) type SlicePorts = BTreeMap<String, u16>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct SliceEndpoint {
    /// Name and UID, where the slice says which pod it is.
    pod: Option<(WorkloadName, Option<String>)>,
    addresses: Vec<IpAddr>,
    ready: bool,
}

/// Who is behind one Service of the mesh.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) all: BTreeSet<WorkloadName>,
    pub(super) ready: BTreeSet<WorkloadName>,
    /// What its slices say of its ports, if it has no selector: they say it for `targetPort`, which
    /// those of a selector come of.
    pub(super) ports: SlicePorts,
    /// Not all of its slices say that.
    pub(super) at_odds: bool,
}

/// How pods of the mesh are found.
pub(super) trait PodTable {
    fn named(&self, name: &WorkloadName) -> Option<&Pod>;
    fn at(&self, address: IpAddr) -> Option<&Pod>;
    fn of_namespace<'t>(&'t self, namespace: &'t str) -> impl Iterator<Item = &'t Pod>;
}

/// `None`: it has no name, which no API server says.
pub(super) fn read(service: &v1::Service) -> Option<Service> {
    let id = objects::id(Kind::Service, &service.metadata)?;
    let name = ServiceName {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
    };
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.clone().unwrap_or_default();
    let document = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": objects::metadata(&service.metadata),
        "spec": written(&spec),
    });
    Some(Service {
        entry: Arc::new(Entry::read(id, &service.metadata, &document)),
        name,
        selector,
        is_alias: spec.type_.as_deref() == Some("ExternalName"),
        not_ready_too: spec.publish_not_ready_addresses.unwrap_or(false),
        is_gone: false,
    })
}

/// What a mesh reads of it, so that whatever Kubernetes adds does not make it unreadable.
fn written(spec: &v1::ServiceSpec) -> Value {
    let ports = spec.ports.iter().flatten().map(|port| {
        let mut written = json!({
            "port": port.port,
            "protocol": port.protocol.as_deref().unwrap_or("TCP"),
        });
        if let Some(name) = &port.name {
            written["name"] = json!(name);
        }
        if let Some(target) = &port.target_port {
            written["targetPort"] = json!(target);
        }
        if let Some(protocol) = &port.app_protocol {
            written["appProtocol"] = json!(protocol);
        }
        written
    });
    let ports: Vec<Value> = ports.collect();
    let mut written = json!({
        "type": spec.type_.as_deref().unwrap_or("ClusterIP"),
        "selector": spec.selector.clone().unwrap_or_default(),
        "ports": ports,
    });
    let ips = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter(|ip| !ip.is_empty());
    let ips: Vec<&String> = ips.collect();
    match (ips.as_slice(), spec.cluster_ip.as_deref()) {
        ([], None | Some("")) => {}
        ([], Some(ip)) => written["clusterIP"] = json!(ip),
        (ips, _) => written["clusterIPs"] = json!(ips),
    }
    written
}

/// `None`: it is no Service's.
pub(super) fn read_slice(slice: &EndpointSlice) -> Option<Slice> {
    let namespace = slice.metadata.namespace.clone()?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let target = endpoint.target_ref.as_ref();
        let is_pod = |target: &&v1::ObjectReference| target.kind.as_deref() == Some("Pod");
        let pod = target.filter(is_pod).and_then(|target| {
            let of = target.namespace.as_deref().unwrap_or(&namespace);
            let name = WorkloadName::new(of, target.name.as_deref()?);
            Some((name, target.uid.clone()))
        });
        let addresses = endpoint.addresses.iter();
        let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
        let conditions = endpoint.conditions.as_ref();
        SliceEndpoint {
            pod,
            addresses: addresses.map(|address| address.to_canonical()).collect(),
            // "unknown" counts as ready (discovery/v1).
            ready: conditions.and_then(|known| known.ready).unwrap_or(true),
        }
    });
    Some(Slice {
        service: ServiceName {
            namespace: namespace.clone(),
            name: service.clone(),
        },
        is_derived: is_derived(&slice.metadata),
        endpoints: endpoints.collect(),
        ports: slice.ports.iter().flatten().filter_map(read_port).collect(),
    })
}

/// Whether Kubernetes writes this EndpointSlice by what a Service selects. Whoever selects says so better.
pub(super) fn is_derived(slice: &ObjectMeta) -> bool {
    let labels = slice.labels.as_ref();
    labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == CONTROLLER))
}

/// `None`: it is not TCP's, or stands for all ports, which leads nowhere (kube-proxy).
fn read_port(port: &EndpointPort) -> Option<(String, u16)> {
    let is_tcp = matches!(port.protocol.as_deref(), None | Some("TCP"));
    let number = u16::try_from(port.port?).ok();
    let number = number.filter(|number| is_tcp && *number != 0)?;
    Some((port.name.clone().unwrap_or_default(), number))
}

impl Service {
    /// Who is behind it; `None`: it is not of the mesh, and whoever calls it leaves the mesh.
    ///
    /// It is of the mesh if one of its endpoints that take calls is. Where none takes calls, it is if
    /// it selects pods and its namespace is meshed, or one of its pods is of the mesh.
    pub(super) fn behind<'s>(
        &self,
        slices: impl Iterator<Item = &'s Slice>,
        pods: &impl PodTable,
        is_meshed: bool,
    ) -> Option<Behind> {
        if self.is_alias {
            return None;
        }
        let slices: Vec<&Slice> = slices.collect();
        let mut behind = Behind::default();
        let mut foreign_ready = false;
        // The controller makes a slice for each Service that selects, if with nobody in it.
        if slices.is_empty() {
            self.selected(pods, &mut behind);
        }
        if self.selector.is_empty() {
            behind.ports = self.ports_of(&slices, pods);
        }
        for slice in &slices {
            let fits = slice.fits(&behind.ports);
            for endpoint in &slice.endpoints {
                match endpoint.pod(pods) {
                    // Its policies hold for it all the same.
                    Some(pod) if !fits => {
                        behind.all.insert(pod.name.clone());
                        behind.at_odds = true;
                    }
                    Some(pod) => {
                        behind.all.insert(pod.name.clone());
                        if endpoint.ready {
                            behind.ready.insert(pod.name.clone());
                        }
                    }
                    None => foreign_ready |= endpoint.ready,
                }
            }
        }
        let selects = !self.selector.is_empty();
        let is_of_mesh = !behind.all.is_empty() || (selects && is_meshed);
        if self.is_gone {
            behind.ready.clear();
            return is_of_mesh.then_some(behind);
        }
        if !behind.ready.is_empty() {
            return Some(behind);
        }
        (is_of_mesh && !foreign_ready).then_some(behind)
    }

    /// What holds of it when it was deleted before its pods. Its address may be another's.
    pub(super) fn once_deleted(&self) -> Self {
        let entry = match &self.entry.object {
            Some(Object::Service(written)) => {
                let mut service = (**written).clone();
                service.spec.cluster_ip = Some(ClusterIp::Headless);
                service.spec.cluster_ips.clear();
                Arc::new(self.entry.with(Object::Service(written.with(service))))
            }
            _ => Arc::clone(&self.entry),
        };
        Self {
            entry,
            name: self.name.clone(),
            selector: self.selector.clone(),
            is_gone: true,
            ..*self
        }
    }

    /// What slices with an endpoint of the mesh say of this Service's ports, in the order of their names:
    /// first those with one that takes calls. One that says another number than those before says nothing.
    fn ports_of(&self, slices: &[&Slice], pods: &impl PodTable) -> SlicePorts {
        let taking = slices.iter().filter(|slice| slice.has(pods, true));
        let having = slices.iter().filter(|slice| slice.has(pods, false));
        let mut ports = SlicePorts::new();
        for slice in taking.chain(having) {
            if slice.fits(&ports) {
                let own = slice.ports.iter().filter(|(name, _)| self.has_port(name));
                ports.extend(own.map(|(name, number)| (name.clone(), *number)));
            }
        }
        ports
    }

    fn has_port(&self, name: &str) -> bool {
        let Some(Object::Service(service)) = &self.entry.object else {
            return false;
        };
        let mut ports = service.spec.ports.iter();
        ports.any(|port| {
            port.transport == Transport::Tcp && port.name.as_deref().unwrap_or_default() == name
        })
    }

    fn selected(&self, pods: &impl PodTable, behind: &mut Behind) {
        if self.selector.is_empty() {
            return;
        }
        for pod in pods.of_namespace(&self.name.namespace) {
            let mut selector = self.selector.iter();
            if selector.all(|(label, value)| pod.labels.get(label) == Some(value)) {
                behind.all.insert(pod.name.clone());
                if pod.ready || self.not_ready_too {
                    behind.ready.insert(pod.name.clone());
                }
            }
        }
    }
}

impl Slice {
    /// What holds of it when it was deleted before its pods.
    pub(super) fn once_deleted(&self) -> Self {
        let mut slice = self.clone();
        for endpoint in &mut slice.endpoints {
            endpoint.ready = false;
        }
        slice
    }

    /// An endpoint of the mesh.
    fn has(&self, pods: &impl PodTable, that_takes_calls: bool) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints
            .any(|endpoint| (endpoint.ready || !that_takes_calls) && endpoint.pod(pods).is_some())
    }

    /// Whether it says no other number of any of these ports.
    fn fits(&self, ports: &SlicePorts) -> bool {
        let mut own = self.ports.iter();
        own.all(|(name, number)| ports.get(name).is_none_or(|known| known == number))
    }
}

impl SliceEndpoint {
    /// A pod of the mesh. A slice may be behind: one that names another UID means a pod that is gone.
    fn pod<'p>(&self, pods: &'p impl PodTable) -> Option<&'p Pod> {
        match &self.pod {
            Some((name, uid)) => {
                let pod = pods.named(name)?;
                uid.as_ref()
                    .is_none_or(|uid| *uid == pod.uid)
                    .then_some(pod)
            }
            None => self.addresses.iter().find_map(|address| pods.at(*address)),
        }
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
