//! From the index of a directory to the network that it asks for. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use outrider_api::kinds::{self, Ranges};
use outrider_api::model;
use outrider_control_plane::index::Mesh;

use super::hosts::{self, Names};
use super::layout::{Id, Layout, Namespace};
use crate::mesh::workload::WorkloadPlan;

/// The network for those Workloads that have a place in it.
pub fn layout(
    id: Id,
    network: &kinds::Network,
    names: &Names,
    workloads: &[WorkloadPlan],
) -> Layout {
    let namespaces = workloads.iter().filter_map(|workload| {
        let place = workload.place.as_ref()?;
        Some(Namespace {
            workload: workload.full_name(),
            name: place.netns.clone(),
            addresses: place.addresses.clone(),
            hosts: names.hosts(&workload.namespace, &place.addresses),
        })
    });
    Layout {
        namespaces: namespaces.collect(),
        bridge: network.workloads.nets().filter_map(first_host).collect(),
        services: network.services.nets().collect(),
        id,
    }
}

/// Whether an address is of the Workloads' own ranges.
pub fn is_inside(ranges: Ranges, workload: &model::Workload) -> bool {
    let address = workload.mesh_address.ip();
    ranges.nets().any(|net| net.contains(&address))
}

/// Everything in a mesh that has a name, with its addresses. Without IPv6 only those of IPv4.
pub fn names(mesh: &Mesh, machine: String, v6: bool) -> Names {
    let kept = |addresses: &[IpAddr]| {
        let addresses = addresses.iter().copied();
        addresses
            .filter(|address| v6 || address.is_ipv4())
            .collect()
    };
    let workload = |workload: &model::Workload| hosts::Workload {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        addresses: kept(&workload.addresses),
    };
    let services = mesh.destinations().iter().map(|(name, destination)| {
        let endpoints = destination.endpoints.iter();
        let members = endpoints.filter_map(|endpoint| {
            let found = mesh.workload(&endpoint.namespace, &endpoint.workload)?;
            Some(workload(found))
        });
        hosts::Service {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            addresses: kept(mesh.cluster_ips(name)),
            members: members.collect(),
        }
    });
    Names {
        machine,
        services: services.collect(),
        workloads: mesh
            .workloads()
            .values()
            .map(|found| workload(found))
            .collect(),
    }
}

/// The usual ranges, and further ones beside them.
pub fn numbered(number: u8) -> kinds::Network {
    let ranges = |usual: Ranges| Ranges {
        v4: usual.v4.and_then(|net| {
            let [first, second, ..] = net.addr().octets();
            let address = Ipv4Addr::new(first, second.checked_add(2 * number)?, 0, 0);
            Ipv4Net::new(address, net.prefix_len()).ok()
        }),
        v6: usual.v6.and_then(|net| {
            let mut segments = net.addr().segments();
            segments[3] += 2 * u16::from(number);
            Ipv6Net::new(segments.into(), net.prefix_len()).ok()
        }),
    };
    let usual = kinds::Network::default();
    kinds::Network {
        workloads: ranges(usual.workloads),
        services: ranges(usual.services),
    }
}

/// "10.201.0.1/16": the bridge's own address in a range. The first of a range of IPv6 is that of any
/// router (RFC 4291, 2.6.1), so it is the next one in either family.
fn first_host(net: IpNet) -> Option<IpNet> {
    let address = match net.network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits().checked_add(1)?).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits().checked_add(1)?).into(),
    };
    IpNet::new(address, net.prefix_len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_the_first_address_of_a_host() {
        let first = |net: &str| first_host(net.parse().unwrap()).unwrap().to_string();
        assert_eq!(first("10.201.0.0/16"), "10.201.0.1/16");
        assert_eq!(first("10.201.7.4/30"), "10.201.7.5/30");
        assert_eq!(first("fd4f:7574:7269:88::/64"), "fd4f:7574:7269:88::1/64");
    }

    #[test]
    fn further_ranges_are_beside_the_usual_ones() {
        let texts = |number| {
            let network = numbered(number);
            let nets = network.workloads.nets().chain(network.services.nets());
            nets.map(|net| net.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(1),
            [
                "10.203.0.0/16",
                "fd4f:7574:7269:8a::/64",
                "10.204.0.0/16",
                "fd4f:7574:7269:8b::/112"
            ]
        );
    }
}
