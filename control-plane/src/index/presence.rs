//! What a workload is, by itself and by the Services that lead to it: whatever else is said of it, to its
//! own sidecar or to others, begins with this.

use std::net::{IpAddr, SocketAddr};

use outrider_api::kinds;
use outrider_api::manifest::Located;
use outrider_api::model::{AppPort, Endpoint, Mtls, Outbound, Probe, Protocol, Upstream};
use outrider_api::names::ServiceName;
use outrider_certs::spiffe::SpiffeId;

use super::assemble::{LOOPBACK, declared, declared_by_service, upstream_service};
use super::{WorkloadName, probes, selection};

/// The label of a workload, and of a node, that says where it is.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// What it is made of.
#[derive(PartialEq)]
pub(super) struct Parts {
    pub(super) workload: Located<kinds::Workload>,
    pub(super) id: SpiffeId,
    pub(super) addresses: Vec<IpAddr>,
    /// Those that select it, in the order of their names.
    pub(super) services: Vec<Located<kinds::Service>>,
    /// Of ports that say nothing.
    pub(super) mtls: Mtls,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Presence {
    pub(super) name: WorkloadName,
    /// As it is written.
    pub(super) workload: Located<kinds::Workload>,
    pub(super) id: SpiffeId,
    pub(super) app: String,
    pub(super) services: Vec<ServiceName>,
    pub(super) mesh_address: SocketAddr,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) app_address: IpAddr,
    pub(super) ports: Vec<AppPort>,
    pub(super) mtls: Mtls,
    pub(super) probes: Vec<Probe>,
    pub(super) terminating: bool,
    pub(super) outbound: Outbound,
    pub(super) zone: Option<String>,
}

impl Parts {
    pub(super) fn presence(&self, name: &WorkloadName) -> Presence {
        let spec = &self.workload.spec;
        // Everybody has one, or there are problems.
        let address = self.addresses.first().copied().unwrap_or(LOOPBACK);
        let services = self.services.iter().map(|service| ServiceName {
            namespace: service.metadata.namespace.clone(),
            name: service.metadata.name.clone(),
        });
        let labels = &self.workload.metadata.labels;
        Presence {
            name: name.clone(),
            workload: self.workload.clone(),
            id: self.id.clone(),
            app: labels.get("app").unwrap_or(&name.name).clone(),
            services: services.collect(),
            mesh_address: SocketAddr::new(address, spec.mesh_port),
            addresses: self.addresses.clone(),
            app_address: app_address(&self.workload, address),
            ports: self.ports(),
            mtls: self.mtls(),
            probes: probes::models(&self.workload),
            terminating: spec.terminating,
            outbound: outbound(name, &spec.outbound),
            zone: labels.get(ZONE).cloned().filter(|zone| !zone.is_empty()),
        }
    }

    /// What a workload does not declare of its own port, a Service that leads to it may (in Kubernetes
    /// only Services have `appProtocol`).
    fn ports(&self) -> Vec<AppPort> {
        let mtls = self.mtls();
        let own = self.workload.spec.ports.iter().map(|port| AppPort {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: declared(port),
            mtls: port.mtls.map_or(mtls, Mtls::from),
        });
        let mut ports: Vec<AppPort> = own.collect();
        let of_services = self
            .services
            .iter()
            .flat_map(|service| selection::ports(service));
        for (_, service_port) in of_services {
            let Some(target) = selection::target_port(service_port, &self.workload) else {
                continue;
            };
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

    fn mtls(&self) -> Mtls {
        self.workload.spec.mtls.map_or(self.mtls, Mtls::from)
    }
}

impl Presence {
    /// As an endpoint, of which these are the ports that are called and the app's behind each.
    pub(super) fn endpoint(&self, target_ports: Vec<(u16, u16)>) -> Endpoint {
        Endpoint {
            namespace: self.name.namespace.clone(),
            workload: self.name.name.clone(),
            app: self.app.clone(),
            id: self.id.clone(),
            zone: self.zone.clone(),
            mesh_address: self.mesh_address,
            target_ports,
        }
    }
}

/// An app that was made for a mesh on one machine listens on loopback; one that knows nothing of a
/// mesh is reached where it is.
pub(super) fn app_address(workload: &kinds::Workload, first: IpAddr) -> IpAddr {
    let spec = &workload.spec;
    let default = match spec.address {
        Some(_) => LOOPBACK,
        None => first,
    };
    spec.app_address.unwrap_or(default)
}

fn outbound(workload: &WorkloadName, outbound: &kinds::Outbound) -> Outbound {
    let upstreams = outbound.upstreams.iter().map(|upstream| Upstream {
        service: upstream_service(workload, upstream),
        port: upstream.port,
        local_port: upstream.local_port,
    });
    Outbound {
        http_port: outbound.http_port,
        upstreams: upstreams.collect(),
    }
}
