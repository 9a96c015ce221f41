//! A Service as its callers see it.

use std::collections::HashSet;
use std::net::SocketAddr;

use outrider_certs::spiffe::SpiffeId;

use super::error::{Cause, ModelError, each, optional, port, required};
use super::protocol::Protocol;
use super::route::RouteGroup;
use super::traffic::TrafficSettings;
use crate::names::{ServiceName, check_label, check_subdomain};
use crate::proto;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub service: ServiceName,
    /// No port twice.
    pub ports: Vec<ServicePort>,
    pub endpoints: Vec<Endpoint>,
    /// At most one for each port and group of callers.
    pub routes: Vec<RouteGroup>,
    pub traffic: TrafficSettings,
    /// Ports that are not listed lead to the same port of the endpoint, and their protocol is
    /// detected.
    pub any_port: bool,
}

impl Destination {
    #[must_use]
    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|known| known.port == port)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Of the Service; 1 to 65535.
    pub port: u16,
    /// May be empty.
    pub name: String,
    pub protocol: Protocol,
}

/// A workload that answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub namespace: String,
    pub workload: String,
    /// The app that the workload belongs to, for metrics.
    pub app: String,
    /// Where it runs (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    /// Whom its sidecar must prove to be.
    pub id: SpiffeId,
    /// Where its sidecar listens.
    pub mesh_address: SocketAddr,
    /// The port of the Service, and the app's port behind it.
    pub target_ports: Vec<(u16, u16)>,
}

impl Endpoint {
    /// For people and metrics: `namespace/workload`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.workload)
    }

    /// The app's port behind a port of the Service.
    #[must_use]
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        let mut ports = self.target_ports.iter();
        ports
            .find(|(service, _)| *service == service_port)
            .map(|(_, target)| *target)
    }
}

impl TryFrom<proto::Destination> for Destination {
    type Error = ModelError;

    fn try_from(wire: proto::Destination) -> Result<Self, ModelError> {
        let ports: Vec<ServicePort> = each("ports", wire.ports)?;
        let mut seen: Vec<u16> = ports.iter().map(|port| port.port).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ModelError::new("ports", Cause::Duplicate(twice[0])));
        }
        Ok(Self {
            service: required("service", wire.service)?,
            ports,
            endpoints: each("endpoints", wire.endpoints)?,
            routes: groups(wire.routes)?,
            // Absent settings are not "no limits": refused.
            traffic: required("traffic", wire.traffic)?,
            any_port: wire.any_port,
        })
    }
}

/// No request has two of them to choose from.
fn groups(wire: Vec<proto::RouteGroup>) -> Result<Vec<RouteGroup>, ModelError> {
    let groups: Vec<RouteGroup> = each("routes", wire)?;
    let mut seen = HashSet::new();
    let twice = groups
        .iter()
        .find(|group| !seen.insert((group.port, &group.consumer)));
    match twice {
        Some(twice) => Err(ModelError::new("routes", Cause::Duplicate(twice.port))),
        None => Ok(groups),
    }
}

impl From<&Destination> for proto::Destination {
    fn from(destination: &Destination) -> Self {
        Self {
            service: Some((&destination.service).into()),
            ports: destination.ports.iter().map(Into::into).collect(),
            endpoints: destination.endpoints.iter().map(Into::into).collect(),
            routes: destination.routes.iter().map(Into::into).collect(),
            traffic: Some((&destination.traffic).into()),
            any_port: destination.any_port,
        }
    }
}

impl TryFrom<proto::ServicePort> for ServicePort {
    type Error = ModelError;

    fn try_from(wire: proto::ServicePort) -> Result<Self, ModelError> {
        Ok(Self {
            port: port(wire.port).map_err(ModelError::at("port"))?,
            name: wire.name,
            protocol: wire.protocol.try_into()?,
        })
    }
}

impl From<&ServicePort> for proto::ServicePort {
    fn from(port: &ServicePort) -> Self {
        Self {
            port: port.port.into(),
            name: port.name.clone(),
            protocol: proto::Protocol::from(port.protocol).into(),
        }
    }
}

impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = ModelError;

    fn try_from(wire: proto::Endpoint) -> Result<Self, ModelError> {
        check_label(&wire.namespace).map_err(ModelError::at("namespace"))?;
        check_subdomain(&wire.workload).map_err(ModelError::at("workload"))?;
        let address = wire.mesh_address.parse();
        Ok(Self {
            id: wire
                .spiffe_id
                .parse()
                .map_err(ModelError::at("spiffe_id"))?,
            mesh_address: address.map_err(ModelError::at("mesh_address"))?,
            target_ports: each("target_ports", wire.target_ports)?
                .into_iter()
                .map(|TargetPort(service, target)| (service, target))
                .collect(),
            namespace: wire.namespace,
            workload: wire.workload,
            app: wire.app,
            zone: optional(wire.zone),
        })
    }
}

impl From<&Endpoint> for proto::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let target_ports =
            endpoint
                .target_ports
                .iter()
                .map(|(service, target)| proto::TargetPort {
                    service_port: (*service).into(),
                    target_port: (*target).into(),
                });
        Self {
            namespace: endpoint.namespace.clone(),
            workload: endpoint.workload.clone(),
            spiffe_id: endpoint.id.to_string(),
            mesh_address: endpoint.mesh_address.to_string(),
            target_ports: target_ports.collect(),
            app: endpoint.app.clone(),
            zone: endpoint.zone.clone().unwrap_or_default(),
        }
    }
}

struct TargetPort(u16, u16);

impl TryFrom<proto::TargetPort> for TargetPort {
    type Error = ModelError;

    fn try_from(wire: proto::TargetPort) -> Result<Self, ModelError> {
        let service = port(wire.service_port).map_err(ModelError::at("service_port"))?;
        let target = port(wire.target_port).map_err(ModelError::at("target_port"))?;
        Ok(Self(service, target))
    }
}
