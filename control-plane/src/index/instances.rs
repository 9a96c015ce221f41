//! What is at each address: a Service, or one workload by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_api::model::address::AddressTarget;
use outrider_api::model::traffic::TrafficSettings;
use outrider_api::model::{Destination, ServicePort};
use outrider_api::names::ServiceName;

use super::WorkloadName;
use super::addresses::Addresses;
use super::memo::Rows;
use super::presence::Presence;
use super::traffic::ServiceTraffic;

/// A label is no longer (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// What an app may connect to, by address.
pub(super) type AddressTable = BTreeMap<IpAddr, Arc<AddressTarget>>;

/// What a workload by itself is made of.
pub(super) struct Parts {
    presence: Arc<Presence>,
    traffic: Arc<TrafficSettings>,
}

impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.presence, &other.presence) && self.traffic == other.traffic
    }
}

/// Loopback leads nowhere: it is never intercepted, and workloads share it.
pub(super) fn table(
    addresses: &Addresses,
    presences: &BTreeMap<WorkloadName, Arc<Presence>>,
    traffic: &ServiceTraffic,
    rows: &mut Rows<WorkloadName, Parts, AddressTarget>,
) -> AddressTable {
    let services = addresses.services.iter().flat_map(|(name, ips)| {
        let target = Arc::new(AddressTarget::Service(name.clone()));
        ips.iter().map(move |ip| (*ip, Arc::clone(&target)))
    });
    let parts = presences.iter().map(|(name, presence)| {
        let parts = Parts {
            presence: Arc::clone(presence),
            traffic: Arc::clone(traffic.of(presence.services.first())),
        };
        (name.clone(), parts)
    });
    let targets = rows.of(parts, |_, parts| {
        AddressTarget::Instance(Box::new(parts.instance()))
    });
    let instances = targets.iter().zip(presences.values());
    let instances = instances.flat_map(|((_, target), presence)| {
        let own = presence.addresses.iter();
        own.map(move |ip| (*ip, Arc::clone(target)))
    });
    let all = services.chain(instances);
    all.filter(|(address, _)| !address.is_loopback()).collect()
}

impl Parts {
    /// One workload by itself: its own ports, and no routes, since it is not its Services.
    fn instance(&self) -> Destination {
        let presence = &*self.presence;
        let ports = presence.ports.iter().map(|port| ServicePort {
            port: port.port,
            name: port.name.clone(),
            protocol: port.protocol,
        });
        let service = presence.services.first();
        let target_ports = presence.ports.iter().map(|port| (port.port, port.port));
        Destination {
            service: service.cloned().unwrap_or_else(|| own_name(&presence.name)),
            ports: ports.collect(),
            endpoints: vec![presence.endpoint(target_ports.collect())],
            routes: Vec::new(),
            traffic: TrafficSettings {
                // Its port is the Service's; and whoever names an instance means it, healthy or not.
                health_check: None,
                ..(*self.traffic).clone()
            },
            any_port: true,
        }
    }
}

/// For people and metrics, in the form of a Service's name: without dots, and not too long.
fn own_name(workload: &WorkloadName) -> ServiceName {
    let name = workload.name.replace('.', "-");
    let short = name.get(..LABEL_MAX).unwrap_or(&name);
    ServiceName {
        namespace: workload.namespace.clone(),
        name: short.trim_end_matches('-').to_owned(),
    }
}
