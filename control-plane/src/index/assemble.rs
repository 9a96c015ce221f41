//! Identities, and the models themselves, once everything they name is known to exist.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use outrider_api::authorization::PolicySet;
use outrider_api::kinds;
use outrider_api::manifest::{Located, Problem};
use outrider_api::model::traffic::{InboundLimits, TrafficSettings};
use outrider_api::model::{
    Destination, Endpoint, MeshSettings, Protocol, RouteGroup, ServicePort, Workload,
};
use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

use super::memo::Shared;
use super::objects::Objects;
use super::presence::Presence;
use super::selection::{self, Selection};
use super::{Settings, WorkloadName};
use crate::server::tls::{NAMESPACE, SERVICE_ACCOUNT};

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) type Identities = HashMap<WorkloadName, SpiffeId>;

/// Who each workload is. Nobody but the control plane is the control plane.
pub(super) fn identities(
    objects: &Objects,
    trust_domain: &TrustDomain,
    problems: &mut Vec<Problem>,
) -> Identities {
    let mut identities = Identities::new();
    for (name, workload) in objects.workloads.iter() {
        let account = &workload.spec.service_account;
        let mut refuse = |message: String| {
            problems.push(workload.problem("spec.serviceAccount", message));
        };
        match SpiffeId::workload(trust_domain, &name.namespace, account) {
            Ok(_) if name.namespace == NAMESPACE && account == SERVICE_ACCOUNT => {
                refuse("is the control plane's own, expected another".to_owned());
            }
            Ok(id) => {
                identities.insert(name.clone(), id);
            }
            Err(error) => refuse(error.to_string()),
        }
    }
    identities
}

/// Every upstream leads to a port of a Service.
pub(super) fn check_upstreams(objects: &Objects, problems: &mut Vec<Problem>) {
    for (name, workload) in objects.workloads.iter() {
        for (index, upstream) in workload.spec.outbound.upstreams.iter().enumerate() {
            let field = |field| format!("spec.outbound.upstreams[{index}].{field}");
            let wanted = upstream_service(name, upstream);
            let Some(service) = objects.services.get(&wanted) else {
                let message = format!("there is no Service {}/{}", wanted.namespace, wanted.name);
                problems.push(workload.problem(
                    field("service"),
                    format!("{message}, expected one that is in these files"),
                ));
                continue;
            };
            let ports: Vec<u16> = selection::ports(service)
                .map(|(_, port)| port.port)
                .collect();
            if !ports.contains(&upstream.port) {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                problems.push(workload.problem(
                    field("port"),
                    format!(
                        "Service {}/{} has no port {}, expected one of {}",
                        wanted.namespace,
                        wanted.name,
                        upstream.port,
                        ports.join(", ")
                    ),
                ));
            }
        }
    }
}

pub(super) fn upstream_service(workload: &WorkloadName, upstream: &kinds::Upstream) -> ServiceName {
    ServiceName {
        namespace: upstream
            .namespace
            .clone()
            .unwrap_or_else(|| workload.namespace.clone()),
        name: upstream.service.clone(),
    }
}

/// The app's ports: those that the workload declares, and those that Services lead to.
pub(super) fn app_port_numbers(
    name: &WorkloadName,
    objects: &Objects,
    selection: &Selection,
) -> BTreeSet<u16> {
    let declared = objects
        .workloads
        .get(name)
        .into_iter()
        .flat_map(|workload| workload.spec.ports.iter().map(|port| port.port));
    let targeted = targets(name, objects, selection).map(|(_, target)| target);
    declared.chain(targeted).collect()
}

/// The ports of Services that lead to a workload, and the app's port behind each.
fn targets<'o>(
    name: &'o WorkloadName,
    objects: &'o Objects,
    selection: &'o Selection,
) -> impl Iterator<Item = (&'o kinds::ServicePort, u16)> {
    let workload = objects.workloads.get(name);
    selection
        .services_of(name)
        .iter()
        .filter_map(|service| objects.services.get(service))
        .flat_map(|service| selection::ports(service))
        .filter_map(move |(_, port)| Some((port, selection::target_port(port, workload?)?)))
}

/// What is the same for every workload.
pub(super) struct Common {
    mesh: MeshSettings,
    trust: TrustBundle,
}

impl Common {
    pub(super) fn new(settings: &Settings, trust: TrustBundle) -> Self {
        let mesh = MeshSettings {
            trust_domain: settings.trust_domain.clone(),
            access_log: settings.access_log,
            drain_timeout: settings.drain_timeout,
            detect_timeout: settings.detect_timeout,
            unknown_destinations: settings.unknown_destinations,
        };
        Self { mesh, trust }
    }
}

/// What the model of a workload is made of.
pub(super) struct WorkloadParts {
    pub(super) presence: Arc<Presence>,
    pub(super) policies: PolicySet,
    pub(super) limits: Option<InboundLimits>,
    pub(super) common: Shared<Common>,
}

impl PartialEq for WorkloadParts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.presence, &other.presence)
            && self.policies == other.policies
            && self.limits == other.limits
            && self.common == other.common
    }
}

impl WorkloadParts {
    pub(super) fn model(&self, name: &WorkloadName) -> Workload {
        let presence = &*self.presence;
        Workload {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            id: presence.id.clone(),
            app: presence.app.clone(),
            services: presence.services.clone(),
            mesh_address: presence.mesh_address,
            addresses: presence.addresses.clone(),
            app_address: presence.app_address,
            ports: presence.ports.clone(),
            mtls: presence.mtls,
            probes: presence.probes.clone(),
            terminating: presence.terminating,
            outbound: presence.outbound.clone(),
            authorization: self.policies.clone(),
            limits: self.limits.clone().unwrap_or_default(),
            zone: presence.zone.clone(),
            mesh: self.common.mesh.clone(),
            trust: self.common.trust.clone(),
        }
    }
}

/// Who is behind a Service, in the order of names.
#[derive(Clone)]
pub(super) struct Behind(pub(super) Vec<Arc<Presence>>);

impl PartialEq for Behind {
    fn eq(&self, other: &Self) -> bool {
        let addresses = |behind: &'_ Self| -> Vec<*const Presence> {
            behind.0.iter().map(Arc::as_ptr).collect()
        };
        addresses(self) == addresses(other)
    }
}

/// What the model of a Service is made of.
pub(super) struct DestinationParts {
    pub(super) service: Located<kinds::Service>,
    pub(super) behind: Arc<Behind>,
    /// Those that take calls; absent: all.
    pub(super) ready: Option<Shared<BTreeSet<WorkloadName>>>,
    pub(super) routes: Option<Arc<Vec<RouteGroup>>>,
    pub(super) traffic: Arc<TrafficSettings>,
}

impl PartialEq for DestinationParts {
    fn eq(&self, other: &Self) -> bool {
        self.service.is(&other.service)
            && Arc::ptr_eq(&self.behind, &other.behind)
            && self.ready == other.ready
            && self.routes == other.routes
            && self.traffic == other.traffic
    }
}

impl DestinationParts {
    pub(super) fn model(&self, name: &ServiceName) -> Destination {
        let takes_calls = |presence: &&Arc<Presence>| {
            let ready = self.ready.as_ref();
            let ready = ready.is_none_or(|ready| ready.contains(&presence.name));
            // Whatever a slice says (`publishNotReadyAddresses`).
            ready && !presence.terminating
        };
        let taking = self.behind.0.iter().filter(takes_calls);
        let ports = selection::ports(&self.service).map(|(_, port)| ServicePort {
            port: port.port,
            name: port.name.clone().unwrap_or_default(),
            protocol: self.protocol(port),
        });
        Destination {
            service: name.clone(),
            ports: ports.collect(),
            endpoints: taking.map(|presence| self.endpoint(presence)).collect(),
            routes: self.routes.as_deref().cloned().unwrap_or_default(),
            traffic: (*self.traffic).clone(),
            any_port: false,
        }
    }

    fn endpoint(&self, presence: &Presence) -> Endpoint {
        let target_ports = selection::ports(&self.service).filter_map(|(_, port)| {
            let target = selection::target_port(port, &presence.workload)?;
            Some((port.port, target))
        });
        presence.endpoint(target_ports.collect())
    }

    /// What the Service declares, else what the first workload behind it does that declares anything.
    fn protocol(&self, port: &kinds::ServicePort) -> Protocol {
        let own = declared_by_service(port);
        if own != Protocol::Detect {
            return own;
        }
        let declared_by = |presence: &Arc<Presence>| {
            let workload = &presence.workload;
            let target = selection::target_port(port, workload)?;
            let mut ports = workload.spec.ports.iter();
            ports.find(|port| port.port == target).map(declared)
        };
        self.behind
            .0
            .iter()
            .filter_map(declared_by)
            .find(|protocol| *protocol != Protocol::Detect)
            .unwrap_or(Protocol::Detect)
    }
}

pub(super) fn declared(port: &kinds::WorkloadPort) -> Protocol {
    Protocol::from_declared(port.app_protocol.as_deref(), port.name.as_deref())
}

pub(super) fn declared_by_service(port: &kinds::ServicePort) -> Protocol {
    Protocol::from_declared(port.app_protocol.as_deref(), port.name.as_deref())
}
