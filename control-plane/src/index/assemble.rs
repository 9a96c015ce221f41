//! Identities, and the models themselves, once everything they name is known to exist.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use outrider_api::authorization::{Policy, PolicySet};
use outrider_api::kinds;
use outrider_api::manifest::Problem;
use outrider_api::model::{
    AppPort, Destination, Endpoint, MeshSettings, Mtls, Outbound, Protocol, ServicePort, Upstream,
    Workload,
};
use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

use super::addresses::Addresses;
use super::endpoints::Endpoints;
use super::limits::WorkloadLimits;
use super::objects::Objects;
use super::policies::Policies;
use super::routes::ServiceRoutes;
use super::selection::{self, Selection};
use super::traffic::ServiceTraffic;
use super::{Settings, WorkloadName, probes};
use crate::server::tls::{NAMESPACE, SERVICE_ACCOUNT};

/// The label that says where a workload runs.
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) type Identities = BTreeMap<WorkloadName, SpiffeId>;

/// Who each workload is. Nobody but the control plane is the control plane.
pub(super) fn identities(
    objects: &Objects<'_>,
    trust_domain: &TrustDomain,
    problems: &mut Vec<Problem>,
) -> Identities {
    let mut identities = Identities::new();
    for (name, workload) in &objects.workloads {
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
pub(super) fn check_upstreams(objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    for (name, workload) in &objects.workloads {
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

fn upstream_service(workload: &WorkloadName, upstream: &kinds::Upstream) -> ServiceName {
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
    objects: &Objects<'_>,
    selection: &Selection<'_>,
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
    objects: &'o Objects<'_>,
    selection: &'o Selection<'_>,
) -> impl Iterator<Item = (&'o kinds::ServicePort, u16)> {
    let workload = objects.workloads.get(name);
    selection
        .services_of(name)
        .iter()
        .filter_map(|service| objects.services.get(*service))
        .flat_map(|service| selection::ports(service))
        .filter_map(move |(_, port)| Some((port, selection::target_port(port, workload?)?)))
}

/// Everything that models are made of.
pub(super) struct Parts<'p, 'o> {
    pub(super) objects: &'p Objects<'o>,
    pub(super) settings: &'p Settings,
    pub(super) identities: &'p Identities,
    pub(super) addresses: &'p Addresses,
    pub(super) selection: &'p Selection<'p>,
    pub(super) endpoints: &'p Endpoints,
    pub(super) policies: Policies,
    pub(super) routes: ServiceRoutes,
    pub(super) traffic: &'p ServiceTraffic,
    pub(super) limits: WorkloadLimits,
    pub(super) trust: TrustBundle,
}

impl Parts<'_, '_> {
    pub(super) fn workloads(&self) -> BTreeMap<WorkloadName, Arc<Workload>> {
        let made = self.identities.iter().filter_map(|(name, id)| {
            let workload = self.objects.workloads.get(name)?;
            Some((name.clone(), Arc::new(self.workload(name, id, workload))))
        });
        made.collect()
    }

    pub(super) fn destinations(&self) -> BTreeMap<ServiceName, Arc<Destination>> {
        let made = self
            .objects
            .services
            .iter()
            .map(|(name, service)| (name.clone(), Arc::new(self.destination(name, service))));
        made.collect()
    }

    fn workload(&self, name: &WorkloadName, id: &SpiffeId, workload: &kinds::Workload) -> Workload {
        let spec = &workload.spec;
        let policies = self.policies.get(name).map_or(&[][..], Vec::as_slice);
        let policies: Vec<Policy> = policies.iter().map(|policy| (**policy).clone()).collect();
        let services = self.selection.services_of(name);
        Workload {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            id: id.clone(),
            app: app(name, workload),
            services: services.iter().map(|&service| service.clone()).collect(),
            mesh_address: self.mesh_address(name, workload),
            addresses: self.addresses.of(name).to_vec(),
            app_address: app_address(name, workload, self.addresses),
            ports: self.app_ports(name, workload),
            mtls: self.mtls(workload),
            probes: probes::models(workload),
            terminating: spec.terminating,
            outbound: outbound(name, &spec.outbound),
            authorization: PolicySet::new(self.settings.default_deny, policies),
            limits: self.limits.get(name).cloned().unwrap_or_default(),
            zone: zone(workload),
            mesh: MeshSettings {
                trust_domain: self.settings.trust_domain.clone(),
                access_log: self.settings.access_log,
                drain_timeout: self.settings.drain_timeout,
                detect_timeout: self.settings.detect_timeout,
                unknown_destinations: self.settings.unknown_destinations,
            },
            trust: self.trust.clone(),
        }
    }

    /// What a workload does not declare of its own port, a Service that leads to it may (in Kubernetes
    /// only Services have `appProtocol`).
    fn app_ports(&self, name: &WorkloadName, workload: &kinds::Workload) -> Vec<AppPort> {
        let mtls = self.mtls(workload);
        let mut ports: Vec<AppPort> = workload
            .spec
            .ports
            .iter()
            .map(|port| AppPort {
                name: port.name.clone().unwrap_or_default(),
                port: port.port,
                protocol: declared(port),
                mtls: port.mtls.map_or(mtls, Mtls::from),
            })
            .collect();
        for (service_port, target) in targets(name, self.objects, self.selection) {
            let protocol = declared_by_service(service_port);
            match ports.iter_mut().find(|port| port.port == target) {
                Some(port) if port.protocol == Protocol::Detect => port.protocol = protocol,
                Some(_) => {}
                None => ports.push(AppPort {
                    name: String::new(),
                    port: target,
                    protocol,
                    mtls,
                }),
            }
        }
        ports
    }

    /// Of ports that say nothing.
    fn mtls(&self, workload: &kinds::Workload) -> Mtls {
        workload.spec.mtls.map_or(self.settings.mtls, Mtls::from)
    }

    fn destination(&self, name: &ServiceName, service: &kinds::Service) -> Destination {
        let endpoints: Vec<Endpoint> = self
            .selection
            .workloads_of(name)
            .iter()
            .filter(|workload| self.endpoints.takes_calls(name, workload))
            .filter_map(|workload| self.endpoint(workload, service))
            .collect();
        let ports = selection::ports(service).map(|(_, port)| ServicePort {
            port: port.port,
            name: port.name.clone().unwrap_or_default(),
            protocol: self.service_protocol(name, port),
        });
        Destination {
            service: name.clone(),
            ports: ports.collect(),
            endpoints,
            routes: self.routes.get(name).cloned().unwrap_or_default(),
            traffic: self.traffic.of(Some(name)).clone(),
            any_port: false,
        }
    }

    fn endpoint(&self, name: &WorkloadName, service: &kinds::Service) -> Option<Endpoint> {
        let workload = self.objects.workloads.get(name)?;
        let target_ports = selection::ports(service)
            .filter_map(|(_, port)| Some((port.port, selection::target_port(port, workload)?)));
        Some(Endpoint {
            namespace: name.namespace.clone(),
            workload: name.name.clone(),
            app: app(name, workload),
            id: self.identities.get(name)?.clone(),
            zone: zone(workload),
            mesh_address: self.mesh_address(name, workload),
            target_ports: target_ports.collect(),
        })
    }

    fn mesh_address(&self, name: &WorkloadName, workload: &kinds::Workload) -> SocketAddr {
        // Everybody has one, or there are problems.
        let address = self.addresses.first(name).unwrap_or(LOOPBACK);
        SocketAddr::new(address, workload.spec.mesh_port)
    }

    /// What the Service declares, else what the first workload behind it does that declares anything.
    fn service_protocol(&self, name: &ServiceName, port: &kinds::ServicePort) -> Protocol {
        let own = declared_by_service(port);
        if own != Protocol::Detect {
            return own;
        }
        self.selection
            .workloads_of(name)
            .iter()
            .filter_map(|&workload| self.objects.workloads.get(workload))
            .filter_map(|workload| {
                let target = selection::target_port(port, workload)?;
                workload.spec.ports.iter().find(|port| port.port == target)
            })
            .map(declared)
            .find(|protocol| *protocol != Protocol::Detect)
            .unwrap_or(Protocol::Detect)
    }
}

fn declared(port: &kinds::WorkloadPort) -> Protocol {
    Protocol::from_declared(port.app_protocol.as_deref(), port.name.as_deref())
}

pub(super) fn declared_by_service(port: &kinds::ServicePort) -> Protocol {
    Protocol::from_declared(port.app_protocol.as_deref(), port.name.as_deref())
}

fn app(name: &WorkloadName, workload: &kinds::Workload) -> String {
    let label = workload.metadata.labels.get("app");
    label.unwrap_or(&name.name).clone()
}

fn zone(workload: &kinds::Workload) -> Option<String> {
    let zone = workload.metadata.labels.get(ZONE).cloned();
    zone.filter(|zone| !zone.is_empty())
}

/// An app that was made for a mesh on one machine listens on loopback; one that knows nothing of a
/// mesh is reached where it is.
pub(super) fn app_address(
    name: &WorkloadName,
    workload: &kinds::Workload,
    addresses: &Addresses,
) -> IpAddr {
    let spec = &workload.spec;
    let default = match spec.address {
        Some(_) => LOOPBACK,
        None => addresses.first(name).unwrap_or(LOOPBACK),
    };
    spec.app_address.unwrap_or(default)
}

fn outbound(workload: &WorkloadName, outbound: &kinds::Outbound) -> Outbound {
    Outbound {
        http_port: outbound.http_port,
        upstreams: outbound
            .upstreams
            .iter()
            .map(|upstream| Upstream {
                service: upstream_service(workload, upstream),
                port: upstream.port,
                local_port: upstream.local_port,
            })
            .collect(),
    }
}
