//! One Workload on this machine: its addresses, the ports it binds, and the environment that its
//! app is told them by. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use outrider_api::{kinds, model};
use outrider_certs::spiffe::SpiffeId;

use super::ports::PortUse;
use crate::fetch::Door;

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// One Workload: its sidecar, and its app when it has a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What people call it in this mesh: the name, with the namespace where names repeat.
    pub label: String,
    /// Its identity.
    pub id: SpiffeId,
    /// What peers dial.
    pub address: IpAddr,
    /// On `address`.
    pub mesh_port: u16,
    /// On loopback.
    pub admin_port: u16,
    /// On `address`.
    pub telemetry_port: u16,
    /// Where the app listens.
    pub app_address: IpAddr,
    /// The app's ports by name, which may be empty.
    pub app_ports: Vec<(String, u16)>,
    /// The sidecar's loopback port that routes by authority.
    pub outbound_http: Option<u16>,
    /// The sidecar's loopback ports for one Service each.
    pub upstreams: Vec<UpstreamPlan>,
    /// The app's command; empty: the app is started by someone else.
    pub command: Vec<String>,
    /// The app's own environment.
    pub env: BTreeMap<String, String>,
    /// The app's user; none: that of this process.
    pub run_as_user: Option<u32>,
    /// Where it has a network of its own.
    pub place: Option<Place>,
}

/// The network namespace of a Workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What `ip netns` calls it.
    pub netns: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// What the sidecar takes of its traffic.
    pub interception: kinds::Interception,
}

/// A loopback port of a sidecar that leads to one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamPlan {
    /// "billing.shop"
    pub service: String,
    /// "billing"
    pub service_name: String,
    /// The Service's port.
    pub port: u16,
    /// On loopback.
    pub local_port: u16,
}

impl WorkloadPlan {
    pub(super) fn new(
        workload: &model::Workload,
        spec: &kinds::WorkloadSpec,
        unique: bool,
    ) -> Self {
        let upstreams = workload
            .outbound
            .upstreams
            .iter()
            .map(|upstream| UpstreamPlan {
                service: upstream.service.to_string(),
                service_name: upstream.service.name.clone(),
                port: upstream.port,
                local_port: upstream.local_port,
            });
        Self {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            label: if unique {
                workload.name.clone()
            } else {
                format!("{}/{}", workload.namespace, workload.name)
            },
            id: workload.id.clone(),
            address: workload.mesh_address.ip(),
            mesh_port: workload.mesh_address.port(),
            admin_port: spec.admin_port,
            telemetry_port: spec.telemetry_port,
            app_address: workload.app_address,
            app_ports: workload
                .ports
                .iter()
                .map(|port| (port.name.clone(), port.port))
                .collect(),
            outbound_http: workload.outbound.http_port,
            upstreams: upstreams.collect(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            run_as_user: spec.run_as_user,
            place: None,
        }
    }

    /// The same in a network namespace.
    pub(super) fn placed(
        mut self,
        netns: String,
        place: &model::Workload,
        spec: &kinds::WorkloadSpec,
    ) -> Self {
        self.place = Some(Place {
            netns,
            addresses: place.addresses.clone(),
            interception: spec.interception.clone(),
        });
        self
    }

    /// NAMESPACE/NAME
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Where somebody at the workload's own side of its sidecar reaches `address`.
    pub fn door(&self, address: SocketAddr) -> Door {
        Door {
            address,
            namespace: self.place.as_ref().map(|place| place.netns.clone()),
        }
    }

    /// Whether its processes would be started in the same way: what they are called in the lines that
    /// are printed says nothing of that, nor does a port without a name that only a Service leads to.
    pub(super) fn starts_as(&self, other: &Self) -> bool {
        let bare = |workload: &Self| {
            let mut ports = workload.app_ports.iter().enumerate();
            let told =
                |(index, (name, _)): &(usize, &(String, u16))| *index == 0 || !name.is_empty();
            let app_ports = ports.by_ref().filter(told).map(|(_, port)| port.clone());
            Self {
                label: String::new(),
                app_ports: app_ports.collect(),
                ..workload.clone()
            }
        };
        bare(self) == bare(other)
    }

    /// What it binds.
    pub(super) fn sockets(&self) -> Vec<SocketAddr> {
        self.ports().into_iter().map(|used| used.address).collect()
    }

    /// The sidecar's health and metrics.
    pub fn telemetry(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.telemetry_port)
    }

    /// The sidecar's admin port.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.admin_port)
    }

    /// What other sidecars dial.
    pub fn mesh(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.mesh_port)
    }

    /// Where the app listens, when it does.
    pub fn app(&self) -> Option<SocketAddr> {
        let (_, port) = self.app_ports.first()?;
        Some(SocketAddr::new(self.app_address, *port))
    }

    /// Where the app listens on the port of this name.
    pub fn app_port(&self, name: &str) -> Option<SocketAddr> {
        let (_, port) = self.app_ports.iter().find(|(known, _)| known == name)?;
        Some(SocketAddr::new(self.app_address, *port))
    }

    pub(super) fn ports(&self) -> Vec<PortUse> {
        let owner = format!("Workload {}", self.full_name());
        let used = |address, field: String| PortUse {
            address,
            owner: owner.clone(),
            field,
        };
        let mut uses = vec![
            used(self.mesh(), "spec.meshPort".to_owned()),
            used(self.admin(), "spec.adminPort".to_owned()),
            used(self.telemetry(), "spec.telemetryPort".to_owned()),
        ];
        if let Some(port) = self.outbound_http {
            let address = SocketAddr::new(LOOPBACK, port);
            uses.push(used(address, "spec.outbound.httpPort".to_owned()));
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let address = SocketAddr::new(LOOPBACK, upstream.local_port);
            uses.push(used(
                address,
                format!("spec.outbound.upstreams[{index}].localPort"),
            ));
        }
        // An app that someone else runs may well listen already.
        if !self.command.is_empty() {
            for (index, (_, port)) in self.app_ports.iter().enumerate() {
                let address = SocketAddr::new(self.app_address, *port);
                uses.push(used(address, format!("spec.ports[{index}].port")));
            }
        }
        uses
    }

    /// Where to listen and what to call, for the app.
    pub(super) fn app_env(&self) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> =
            vec![("OUTRIDER_WORKLOAD".into(), self.full_name().into())];
        if let Some(address) = self.app() {
            env.push(("OUTRIDER_LISTEN".into(), address.to_string().into()));
        }
        for (name, port) in self.app_ports.iter().filter(|(name, _)| !name.is_empty()) {
            let address = SocketAddr::new(self.app_address, *port);
            env.push((
                variable("OUTRIDER_LISTEN_", name),
                address.to_string().into(),
            ));
        }
        if let Some(port) = self.outbound_http {
            let url = format!("http://{}", SocketAddr::new(LOOPBACK, port));
            env.push(("OUTRIDER_OUTBOUND_HTTP".into(), url.into()));
        }
        let mut named = BTreeSet::new();
        for upstream in &self.upstreams {
            let address = SocketAddr::new(LOOPBACK, upstream.local_port).to_string();
            // The first port of a Service has the short name; every port has the long one.
            if named.insert(&upstream.service_name) {
                env.push((
                    variable("OUTRIDER_UPSTREAM_", &upstream.service_name),
                    address.clone().into(),
                ));
            }
            let long = format!("{}_{}", upstream.service_name, upstream.port);
            env.push((variable("OUTRIDER_UPSTREAM_", &long), address.into()));
        }
        env
    }
}

fn variable(prefix: &str, name: &str) -> OsString {
    let name: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{prefix}{name}").into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::mesh) fn order() -> WorkloadPlan {
        WorkloadPlan {
            namespace: "shop".to_owned(),
            name: "order-1".to_owned(),
            label: "order-1".to_owned(),
            id: "spiffe://shop.example/ns/shop/sa/order".parse().unwrap(),
            address: LOOPBACK,
            mesh_port: 18108,
            admin_port: 18110,
            telemetry_port: 18120,
            app_address: LOOPBACK,
            app_ports: vec![("http".to_owned(), 18100)],
            outbound_http: Some(18101),
            upstreams: vec![UpstreamPlan {
                service: "billing.shop".to_owned(),
                service_name: "billing".to_owned(),
                port: 80,
                local_port: 18102,
            }],
            command: vec!["outrider".to_owned(), "shop".to_owned(), "order".to_owned()],
            env: BTreeMap::new(),
            run_as_user: None,
            place: None,
        }
    }

    #[test]
    fn what_processes_are_not_told_does_not_start_them_anew() {
        let label = WorkloadPlan {
            label: "shop/order-1".to_owned(),
            ..order()
        };
        let mut wider = order();
        wider.app_ports.push((String::new(), 18103));
        assert!(order().starts_as(&label) && order().starts_as(&wider));
        wider.app_ports.push(("metrics".to_owned(), 18104));
        let mut other = order();
        other.command.push("--more".to_owned());
        assert!(!order().starts_as(&wider) && !order().starts_as(&other));
    }

    #[test]
    fn an_app_learns_its_ports_from_the_environment() {
        let env: BTreeMap<_, _> = order()
            .app_env()
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect();
        assert_eq!(env["OUTRIDER_LISTEN"], "127.0.0.1:18100");
        assert_eq!(env["OUTRIDER_LISTEN_HTTP"], "127.0.0.1:18100");
        assert_eq!(env["OUTRIDER_OUTBOUND_HTTP"], "http://127.0.0.1:18101");
        assert_eq!(env["OUTRIDER_UPSTREAM_BILLING"], "127.0.0.1:18102");
        assert_eq!(env["OUTRIDER_UPSTREAM_BILLING_80"], "127.0.0.1:18102");
        assert_eq!(env["OUTRIDER_WORKLOAD"], "shop/order-1");
    }

    #[test]
    fn every_port_is_named_by_its_field() {
        let fields: Vec<String> = order().ports().into_iter().map(|used| used.field).collect();
        assert_eq!(
            fields,
            [
                "spec.meshPort",
                "spec.adminPort",
                "spec.telemetryPort",
                "spec.outbound.httpPort",
                "spec.outbound.upstreams[0].localPort",
                "spec.ports[0].port",
            ]
        );
    }

    #[test]
    fn ports_of_an_app_that_is_not_started_may_be_taken() {
        let mut workload = order();
        workload.command.clear();
        assert!(
            !workload
                .ports()
                .iter()
                .any(|used| used.field.starts_with("spec.ports"))
        );
    }
}
