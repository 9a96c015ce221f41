//! A sidecar's own workload: what it listens on, and who may call it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

use super::error::{Cause, ModelError, each, optional, parsed, port, required};
use super::mtls::Mtls;
use super::probe::Probe;
use super::protocol::Protocol;
use super::traffic::InboundLimits;
use super::units::milliseconds;
use crate::authorization::PolicySet;
use crate::names::{ServiceName, check_label, check_subdomain};
use crate::proto;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub id: SpiffeId,
    /// The app that it belongs to, for metrics.
    pub app: String,
    /// The Services that select it.
    pub services: Vec<ServiceName>,
    /// What other sidecars dial.
    pub mesh_address: SocketAddr,
    /// All of its own, none twice; the first is that of `mesh_address`.
    pub addresses: Vec<IpAddr>,
    /// Where the app listens.
    pub app_address: IpAddr,
    /// No port twice.
    pub ports: Vec<AppPort>,
    /// Of ports that are not listed.
    pub mtls: Mtls,
    /// What is answered without an identity.
    pub probes: Vec<Probe>,
    /// It is about to end: nobody is to call it any more.
    pub terminating: bool,
    pub outbound: Outbound,
    pub authorization: PolicySet,
    /// How much it takes of each peer.
    pub limits: InboundLimits,
    /// Where it runs (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    pub mesh: MeshSettings,
    pub trust: TrustBundle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppPort {
    /// May be empty.
    pub name: String,
    /// 1 to 65535.
    pub port: u16,
    pub protocol: Protocol,
    pub mtls: Mtls,
}

/// What the sidecar listens on for its app, on loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Routes by authority.
    pub http_port: Option<u16>,
    pub upstreams: Vec<Upstream>,
}

/// A local port that leads to one port of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub service: ServiceName,
    /// Of the Service.
    pub port: u16,
    /// On loopback.
    pub local_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    pub trust_domain: TrustDomain,
    pub access_log: bool,
    /// How long a drain may take; whole milliseconds.
    pub drain_timeout: Duration,
    /// How long the first bytes of a connection are waited for where the protocol is not declared;
    /// whole milliseconds.
    pub detect_timeout: Duration,
    pub unknown_destinations: UnknownDestinations,
}

/// What becomes of a connection of the app to what is not of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnknownDestinations {
    /// It passes through, and is counted.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

impl TryFrom<proto::Workload> for Workload {
    type Error = ModelError;

    fn try_from(wire: proto::Workload) -> Result<Self, ModelError> {
        check_label(&wire.namespace).map_err(ModelError::at("namespace"))?;
        check_subdomain(&wire.name).map_err(ModelError::at("name"))?;
        let mesh_address: SocketAddr = wire
            .mesh_address
            .parse()
            .map_err(ModelError::at("mesh_address"))?;
        let app_address = wire.app_address.parse();
        let mesh: MeshSettings = required("mesh", wire.mesh)?;
        let anchors = wire
            .trust_anchors_der
            .iter()
            .map(|der| der.to_vec().into())
            .collect();
        let trust = TrustBundle::new(mesh.trust_domain.clone(), anchors)
            .map_err(ModelError::at("trust_anchors_der"))?;
        let ports: Vec<AppPort> = each("ports", wire.ports)?;
        let mut seen: Vec<u16> = ports.iter().map(|port| port.port).collect();
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ModelError::new("ports", Cause::Duplicate(twice[0])));
        }
        Ok(Self {
            namespace: wire.namespace,
            name: wire.name,
            id: wire
                .spiffe_id
                .parse()
                .map_err(ModelError::at("spiffe_id"))?,
            app: wire.app,
            services: each("services", wire.services)?,
            mesh_address,
            addresses: addresses(wire.addresses, mesh_address.ip())?,
            app_address: app_address.map_err(ModelError::at("app_address"))?,
            ports,
            mtls: wire.mtls.try_into()?,
            probes: each("probes", wire.probes)?,
            terminating: wire.terminating,
            outbound: required("outbound", wire.outbound)?,
            // Absent policy is not "no policy": refused, so that the sidecar lets nothing through.
            authorization: required("authorization", wire.authorization)?,
            limits: required("limits", wire.limits)?,
            zone: optional(wire.zone),
            mesh,
            trust,
        })
    }
}

fn addresses(wire: Vec<String>, first: IpAddr) -> Result<Vec<IpAddr>, ModelError> {
    let addresses: Vec<IpAddr> = parsed("addresses", wire, |text| text.parse())?;
    let error = |cause| Err(ModelError::new("addresses", cause));
    if addresses.first() != Some(&first) {
        return error(Cause::NotFirst(first));
    }
    let mut seen = HashSet::new();
    match addresses.iter().find(|address| !seen.insert(**address)) {
        Some(twice) => error(Cause::Twice(*twice)),
        None => Ok(addresses),
    }
}

impl From<&Workload> for proto::Workload {
    fn from(workload: &Workload) -> Self {
        let anchors = workload.trust.anchors().iter();
        Self {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            spiffe_id: workload.id.to_string(),
            app: workload.app.clone(),
            services: workload.services.iter().map(Into::into).collect(),
            mesh_address: workload.mesh_address.to_string(),
            app_address: workload.app_address.to_string(),
            ports: workload.ports.iter().map(Into::into).collect(),
            addresses: workload.addresses.iter().map(IpAddr::to_string).collect(),
            mtls: proto::Mtls::from(workload.mtls).into(),
            probes: workload.probes.iter().map(Into::into).collect(),
            terminating: workload.terminating,
            outbound: Some((&workload.outbound).into()),
            authorization: Some((&workload.authorization).into()),
            mesh: Some((&workload.mesh).into()),
            trust_anchors_der: anchors.map(|der| der.to_vec().into()).collect(),
            limits: Some((&workload.limits).into()),
            zone: workload.zone.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::AppPort> for AppPort {
    type Error = ModelError;

    fn try_from(wire: proto::AppPort) -> Result<Self, ModelError> {
        Ok(Self {
            name: wire.name,
            port: port(wire.port).map_err(ModelError::at("port"))?,
            protocol: wire.protocol.try_into()?,
            mtls: wire.mtls.try_into()?,
        })
    }
}

impl From<&AppPort> for proto::AppPort {
    fn from(port: &AppPort) -> Self {
        Self {
            name: port.name.clone(),
            port: port.port.into(),
            protocol: proto::Protocol::from(port.protocol).into(),
            mtls: proto::Mtls::from(port.mtls).into(),
        }
    }
}

impl TryFrom<proto::Outbound> for Outbound {
    type Error = ModelError;

    fn try_from(wire: proto::Outbound) -> Result<Self, ModelError> {
        let http_port = match wire.http_port {
            0 => None,
            given => Some(port(given).map_err(ModelError::at("http_port"))?),
        };
        let upstreams = each("upstreams", wire.upstreams)?;
        Ok(Self {
            http_port,
            upstreams,
        })
    }
}

impl From<&Outbound> for proto::Outbound {
    fn from(outbound: &Outbound) -> Self {
        Self {
            http_port: outbound.http_port.unwrap_or_default().into(),
            upstreams: outbound.upstreams.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Upstream> for Upstream {
    type Error = ModelError;

    fn try_from(wire: proto::Upstream) -> Result<Self, ModelError> {
        Ok(Self {
            service: required("service", wire.service)?,
            port: port(wire.port).map_err(ModelError::at("port"))?,
            local_port: port(wire.local_port).map_err(ModelError::at("local_port"))?,
        })
    }
}

impl From<&Upstream> for proto::Upstream {
    fn from(upstream: &Upstream) -> Self {
        Self {
            service: Some((&upstream.service).into()),
            port: upstream.port.into(),
            local_port: upstream.local_port.into(),
        }
    }
}

impl TryFrom<proto::MeshSettings> for MeshSettings {
    type Error = ModelError;

    fn try_from(wire: proto::MeshSettings) -> Result<Self, ModelError> {
        Ok(Self {
            trust_domain: wire
                .trust_domain
                .parse()
                .map_err(ModelError::at("trust_domain"))?,
            access_log: wire.access_log,
            drain_timeout: Duration::from_millis(wire.drain_timeout_ms),
            detect_timeout: Duration::from_millis(wire.detect_timeout_ms),
            unknown_destinations: wire.unknown_destinations.try_into()?,
        })
    }
}

impl From<&MeshSettings> for proto::MeshSettings {
    fn from(settings: &MeshSettings) -> Self {
        Self {
            trust_domain: settings.trust_domain.to_string(),
            access_log: settings.access_log,
            drain_timeout_ms: milliseconds(settings.drain_timeout),
            detect_timeout_ms: milliseconds(settings.detect_timeout),
            unknown_destinations: proto::UnknownDestinations::from(settings.unknown_destinations)
                .into(),
        }
    }
}

impl TryFrom<i32> for UnknownDestinations {
    type Error = ModelError;

    fn try_from(wire: i32) -> Result<Self, ModelError> {
        match proto::UnknownDestinations::try_from(wire) {
            Ok(proto::UnknownDestinations::Allow) => Ok(Self::Allow),
            Ok(proto::UnknownDestinations::Deny) => Ok(Self::Deny),
            Ok(proto::UnknownDestinations::Unspecified) | Err(_) => {
                Err(ModelError::new("unknown_destinations", Cause::Number(wire)))
            }
        }
    }
}

impl From<UnknownDestinations> for proto::UnknownDestinations {
    fn from(unknown: UnknownDestinations) -> Self {
        match unknown {
            UnknownDestinations::Allow => Self::Allow,
            UnknownDestinations::Deny => Self::Deny,
        }
    }
}
