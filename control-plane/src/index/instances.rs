//! What is at each address: a Service, or one workload by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_api::model::address::AddressTarget;
use outrider_api::model::traffic::TrafficSettings;
use outrider_api::model::{Destination, Endpoint, ServicePort, Workload};
use outrider_api::names::ServiceName;

use super::WorkloadName;
use super::addresses::Addresses;
use super::traffic::ServiceTraffic;

/// A label is no longer (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// What an app may connect to, by address.
pub(super) type AddressTable = BTreeMap<IpAddr, Arc<AddressTarget>>;

/// Loopback leads nowhere: it is never intercepted, and workloads share it.
pub(super) fn table(
    addresses: &Addresses,
    workloads: &BTreeMap<WorkloadName, Arc<Workload>>,
    traffic: &ServiceTraffic,
) -> AddressTable {
    let services = addresses.services.iter().flat_map(|(name, ips)| {
        let target = Arc::new(AddressTarget::Service(name.clone()));
        ips.iter().map(move |ip| (*ip, Arc::clone(&target)))
    });
    let instances = workloads.values().flat_map(|workload| {
        let target = AddressTarget::Instance(Box::new(instance(workload, traffic)));
        let target = Arc::new(target);
        workload
            .addresses
            .iter()
            .map(move |ip| (*ip, Arc::clone(&target)))
    });
    let all = services.chain(instances);
    all.filter(|(address, _)| !address.is_loopback()).collect()
}

/// One workload by itself: its own ports, and no routes, since it is not its Services.
fn instance(workload: &Workload, traffic: &ServiceTraffic) -> Destination {
    let ports = workload.ports.iter().map(|port| ServicePort {
        port: port.port,
        name: port.name.clone(),
        protocol: port.protocol,
    });
    let service = workload.services.first();
    Destination {
        service: service.cloned().unwrap_or_else(|| own_name(workload)),
        ports: ports.collect(),
        endpoints: vec![Endpoint {
            namespace: workload.namespace.clone(),
            workload: workload.name.clone(),
            app: workload.app.clone(),
            id: workload.id.clone(),
            zone: workload.zone.clone(),
            mesh_address: workload.mesh_address,
            target_ports: workload
                .ports
                .iter()
                .map(|port| (port.port, port.port))
                .collect(),
        }],
        routes: Vec::new(),
        traffic: TrafficSettings {
            // Its port is the Service's; and whoever names an instance means it, healthy or not.
            health_check: None,
            ..traffic.of(service).clone()
        },
        any_port: true,
    }
}

/// For people and metrics, in the form of a Service's name: without dots, and not too long.
fn own_name(workload: &Workload) -> ServiceName {
    let name = workload.name.replace('.', "-");
    let short = name.get(..LABEL_MAX).unwrap_or(&name);
    ServiceName {
        namespace: workload.namespace.clone(),
        name: short.trim_end_matches('-').to_owned(),
    }
}
