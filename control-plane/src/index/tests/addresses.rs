//! Who has which address, and what is found there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use outrider_api::model::Destination;
use outrider_api::model::address::AddressTarget;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn workload_at(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}, spec: {{serviceAccount: a{spec}}}}}\n"
    )
}

fn service_at(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]{spec}}}}}\n"
    )
}

fn mesh_config(network: &str) -> String {
    format!(
        "---\n{{apiVersion: outrider.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: mesh}}, spec: {{network: {{{network}}}}}}}\n"
    )
}

fn of<'m>(mesh: &'m Mesh, name: &str) -> &'m [IpAddr] {
    &workload(mesh, name).addresses
}

fn instance(mesh: &Mesh, address: IpAddr) -> &Destination {
    match mesh.addresses().get(&address).map(|target| &**target) {
        Some(AddressTarget::Instance(instance)) => instance,
        other => panic!("{address} is {other:?}"),
    }
}

#[test]
fn an_address_that_is_not_written_is_assigned_one_of_each_family() {
    let text = workload_at("a", "") + &workload_at("b", "") + &service_at("a", "");
    let mesh = fold(&text).unwrap();
    let network = mesh.settings().network;
    for (own, ranges) in [
        (of(&mesh, "a"), network.workloads),
        (of(&mesh, "b"), network.workloads),
        (mesh.cluster_ips(&service("a")), network.services),
    ] {
        let nets: Vec<_> = ranges.nets().collect();
        assert_eq!(own.len(), nets.len());
        for (address, net) in own.iter().zip(nets) {
            assert!(net.contains(address), "{address} is not of {net}");
        }
    }
    let a = workload(&mesh, "a");
    assert_eq!(a.mesh_address.ip(), a.addresses[0]);
    assert_eq!(
        a.app_address, a.addresses[0],
        "the app is reached where it is"
    );
    assert!(a.mesh_address.is_ipv4());
    assert_eq!(mesh.addresses().len(), 6);
    // Whoever reads the same files finds the same, in every build.
    assert_eq!(
        of(&mesh, "a"),
        [
            ip("10.201.51.82"),
            ip("fd4f:7574:7269:88:d890:e39d:e248:b45f")
        ]
    );
}

#[test]
fn what_is_written_stays_and_an_app_listens_on_loopback() {
    let text = workload_at("a", ", address: 10.0.0.1, addresses: ['fd00::1']")
        + &workload_at("b", ", appAddress: 127.0.0.2")
        + &service_at(
            "a",
            ", clusterIP: 10.1.0.1, clusterIPs: [10.1.0.1, 'fd01::1']",
        )
        + &service_at("b", ", clusterIP: 10.1.0.2");
    let mesh = fold(&text).unwrap();
    assert_eq!(of(&mesh, "a"), [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(workload(&mesh, "a").app_address, ip("127.0.0.1"));
    assert_eq!(workload(&mesh, "b").app_address, ip("127.0.0.2"));
    let ips = mesh.cluster_ips(&service("a"));
    assert_eq!(ips, [ip("10.1.0.1"), ip("fd01::1")]);
    assert_eq!(mesh.cluster_ips(&service("b")), [ip("10.1.0.2")]);
}

#[test]
fn headless_services_and_aliases_have_no_address() {
    for spec in [
        ", clusterIP: None",
        ", clusterIPs: [None]",
        ", type: ExternalName, externalName: a.example",
    ] {
        let mesh = fold(&service_at("a", spec)).unwrap();
        assert!(mesh.cluster_ips(&service("a")).is_empty(), "{spec}");
        assert!(mesh.addresses().is_empty(), "{spec}");
    }
    let none = mesh_config("services: []") + &service_at("a", "");
    assert!(fold(&none).unwrap().addresses().is_empty());
}

#[test]
fn an_object_more_moves_another_only_where_both_want_the_same() {
    let many = |count: u32| -> String {
        let names = (0..count).map(|number| workload_at(&format!("w{number}"), ""));
        names.collect()
    };
    let few = fold(&many(100)).unwrap();
    let more = fold(&many(150)).unwrap();
    let moved = few
        .workloads()
        .keys()
        .filter(|name| of(&few, &name.name) != of(&more, &name.name));
    assert_eq!(moved.count(), 0);
    let distinct: BTreeSet<_> = more.addresses().keys().collect();
    assert_eq!(distinct.len(), 300);
}

#[test]
fn a_block_is_used_to_its_end_and_no_further() {
    let block = mesh_config("workloads: [10.9.0.0/29]");
    let names = ["a", "b", "c", "d", "e"];
    let all: String = names.iter().map(|name| workload_at(name, "")).collect();
    let mesh = fold(&format!("{block}{all}")).unwrap();
    let mut given: Vec<String> = names
        .iter()
        .map(|name| of(&mesh, name)[0].to_string())
        .collect();
    given.sort();
    // Not the network, nor the bridge, nor the broadcast address.
    assert_eq!(
        given,
        ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]
    );

    let found = problems(&format!("{block}{all}{}", workload_at("f", "")));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("spec.address: is missing, and every address of 10.9.0.0/29 is taken"),
        "{found:?}"
    );

    // What is written in the block is not given to another.
    let text = format!(
        "{block}{}{}",
        ["b", "c", "d", "e"]
            .map(|name| workload_at(name, ""))
            .concat(),
        workload_at("z", ", address: 10.9.0.4")
    );
    let mesh = fold(&text).unwrap();
    assert_eq!(mesh.addresses().len(), 5);
}

#[test]
fn two_objects_with_one_address_are_a_problem_that_names_both() {
    let table = [
        (
            workload_at("a", ", address: 10.0.0.1") + &workload_at("b", ", address: 10.0.0.1"),
            "spec.address: 10.0.0.1 is also Workload shop/a's (at mesh.yaml:2:",
        ),
        (
            workload_at("a", ", address: 10.0.0.1") + &service_at("b", ", clusterIP: 10.0.0.1"),
            "spec.clusterIP: 10.0.0.1 is also Workload shop/a's",
        ),
        (
            workload_at("a", ", address: 10.0.0.1, addresses: ['fd00::1']")
                + &service_at("b", ", clusterIPs: ['fd00::1']"),
            "spec.clusterIPs[0]: fd00::1 is also Workload shop/a's",
        ),
        (
            service_at("a", ", clusterIP: 10.0.0.1") + &service_at("b", ", clusterIP: 10.0.0.1"),
            "spec.clusterIP: 10.0.0.1 is also Service shop/a's",
        ),
        (
            workload_at("a", ", address: 10.0.0.1, addresses: [10.0.0.1]"),
            "spec.addresses[0]: 10.0.0.1 is also Workload shop/a's",
        ),
        (
            workload_at("a", ", address: 127.0.0.1, addresses: [127.0.0.1]"),
            "spec.addresses[0]: 127.0.0.1 is given twice",
        ),
    ];
    for (text, expected) in table {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{} lacks {expected}", found[0]);
    }
    let loopback = workload_at("a", ", address: 127.0.0.1")
        + &workload_at(
            "b",
            ", address: 127.0.0.1, meshPort: 1, adminPort: 2, telemetryPort: 3",
        );
    assert!(
        fold(&loopback).unwrap().addresses().is_empty(),
        "loopback is nobody's key"
    );
}

#[test]
fn addresses_that_nobody_can_have_are_problems() {
    let table = [
        (
            workload_at("a", ", addresses: [10.0.0.1]"),
            "spec.addresses: are further ones, expected \"address\" beside them",
        ),
        (
            workload_at("a", ", address: 0.0.0.0"),
            "spec.address: 0.0.0.0 is nobody's",
        ),
        (
            workload_at("a", ", address: 'ff02::1'"),
            "spec.address: ff02::1 is nobody's",
        ),
        (
            mesh_config("workloads: []") + &workload_at("a", ""),
            "spec.address: is missing, expected an address, or a block",
        ),
        (
            service_at("a", ", clusterIP: 127.0.0.1"),
            "spec.clusterIP: 127.0.0.1 is loopback",
        ),
        (
            service_at("a", ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]"),
            "spec.clusterIPs[0]: is not what clusterIP says",
        ),
        (
            service_at("a", ", clusterIPs: [10.0.0.1, None]"),
            "spec.clusterIPs: has None beside others",
        ),
        (
            service_at("a", ", clusterIPs: [10.0.0.1, 10.0.0.2]"),
            "spec.clusterIPs[1]: 10.0.0.2 is a second one of its family",
        ),
    ];
    for (text, expected) in table {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{} lacks {expected}", found[0]);
    }
}

#[test]
fn an_address_leads_to_its_service_or_to_that_instance() {
    let policy = "
---
apiVersion: outrider.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: billing, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: billing}]
  timeouts: {request: 3s}
  healthCheck: {path: /live, port: 80}
";
    let text = format!("{SHOP}{policy}")
        .replace("tier: db}, ports", "tier: db}, clusterIP: 10.1.0.1, ports")
        .replace(
            "name: order-1",
            &format!("name: order.{}", "a.".repeat(40) + "1"),
        )
        .replace(
            "  address: 127.0.0.1\n  outbound",
            "  address: 10.0.0.3\n  outbound",
        );
    let mesh = fold(&text).unwrap();
    let target = mesh.addresses().get(&ip("10.1.0.1")).unwrap();
    assert_eq!(**target, AddressTarget::Service(service("billing-db")));

    let billing = instance(&mesh, ip("10.0.0.2"));
    assert_eq!(
        billing.service,
        service("billing"),
        "the first that selects it"
    );
    assert!(billing.any_port && billing.routes.is_empty());
    let ports: Vec<_> = billing
        .ports
        .iter()
        .map(|port| (port.port, port.protocol))
        .collect();
    assert_eq!(ports, [(8081, Protocol::Http), (5433, Protocol::Tcp)]);
    let [endpoint] = billing.endpoints.as_slice() else {
        panic!("{:?}", billing.endpoints);
    };
    assert_eq!(endpoint.workload, "billing-2");
    assert_eq!(
        endpoint.id.as_str(),
        "spiffe://shop.example/ns/shop/sa/billing"
    );
    assert_eq!(endpoint.mesh_address, "10.0.0.2:15008".parse().unwrap());
    assert_eq!(endpoint.target_ports, [(8081, 8081), (5433, 5433)]);
    assert_eq!(
        billing.traffic.timeouts.request,
        Some(Duration::from_secs(3))
    );
    assert_eq!(
        billing.traffic.health_check, None,
        "its port is the Service's"
    );

    // One of no Service, whose name is none of a Service's.
    let order = instance(&mesh, ip("10.0.0.3"));
    let long = format!("order-{}", "a-".repeat(28) + "a");
    assert_eq!(order.service, service(&long), "as a label, of 63 bytes");
    assert!(order.endpoints[0].workload.ends_with(".a.1"));
    assert!(order.ports.is_empty() && order.any_port);
}
