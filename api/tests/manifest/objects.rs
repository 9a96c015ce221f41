//! Workload, MeshConfig and Service: each way of getting them wrong.

use std::net::IpAddr;

use outrider_api::kinds::{
    ClusterIp, MeshConfigSpec, Mode, Mtls, Probe, ServiceSpec, TargetPort, UnknownDestinations,
    WorkloadSpec,
};
use outrider_api::manifest::Object;
use outrider_api::model::{ProbeHeader, ProbeKind};

use super::{assert_problem, read};

fn workload(text: &str) -> WorkloadSpec {
    let text = format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec:\n  serviceAccount: a\n  {text}\n"
    );
    match read(&text).unwrap().pop() {
        Some(Object::Workload(workload)) => workload.spec.clone(),
        other => panic!("{other:?}"),
    }
}

fn mesh(text: &str) -> MeshConfigSpec {
    let text = format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: a}}\nspec: {{{text}}}\n"
    );
    match read(&text).unwrap().pop() {
        Some(Object::MeshConfig(mesh)) => mesh.spec.clone(),
        other => panic!("{other:?}"),
    }
}

fn service(text: &str) -> ServiceSpec {
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{{text}}}\n");
    match read(&text).unwrap().pop() {
        Some(Object::Service(service)) => service.spec.clone(),
        other => panic!("{other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_workload_whose_traffic_is_intercepted() {
    let least = workload("ports: []");
    assert_eq!((least.address, least.addresses.len()), (None, 0));
    assert_eq!((least.mtls, least.run_as_user), (None, None));
    assert_eq!(least.interception.mode, Mode::Redirect);

    let spec = workload(
        "address: \"::ffff:10.0.0.1\"\n  addresses: [\"fd00::1\"]\n  mtls: Permissive\n  runAsUser: 0\n  \
         ports: [{port: 80, mtls: Strict}, {port: 81}]\n  \
         probes: [{httpGet: {port: http}}, {httpGet: {path: \"/live?full\", port: 80}}, {httpGet: {port: 81, scheme: HTTPS, httpHeaders: [{name: Host, value: shop}, {name: X-Key, value: \" a  b \"}]}}, {tcpSocket: {port: 81}}, {grpc: {port: 80}}, {grpc: {port: 80, service: a.B}}]\n  \
         interception: {mode: TProxy, excludeInboundPorts: [22], excludeOutboundPorts: [], excludeInboundCIDRs: [10.0.0.0/8], excludeOutboundCIDRs: [\"fd00::/8\"], excludeUIDs: [0]}",
    );
    assert_eq!(spec.address, Some(ip("10.0.0.1")));
    assert_eq!(spec.addresses, [ip("fd00::1")]);
    assert_eq!(
        (spec.mtls, spec.run_as_user),
        (Some(Mtls::Permissive), Some(0))
    );
    let modes: Vec<_> = spec.ports.iter().map(|port| port.mtls).collect();
    assert_eq!(modes, [Some(Mtls::Strict), None]);
    let http = |path: &str| ProbeKind::Http {
        path: path.into(),
        tls: false,
        headers: Vec::new(),
    };
    let headers = [("host", "shop"), ("x-key", "a  b")];
    let headers = headers.map(|(name, value)| ProbeHeader::new(name, value.as_bytes()).unwrap());
    let https = ProbeKind::Http {
        path: "/".into(),
        tls: true,
        headers: headers.into(),
    };
    let grpc = |service: &str| ProbeKind::Grpc {
        service: service.into(),
    };
    let number = TargetPort::Number;
    let expected = [
        (TargetPort::Name("http".into()), http("/")),
        (number(80), http("/live?full")),
        (number(81), https),
        (number(81), ProbeKind::Tcp),
        (number(80), grpc("")),
        (number(80), grpc("a.B")),
    ];
    let expected = expected.map(|(port, kind)| Probe { port, kind });
    assert_eq!(spec.probes, expected);
    let interception = &spec.interception;
    assert_eq!(interception.mode, Mode::TProxy);
    assert_eq!(interception.exclude_inbound_ports, [22]);
    assert!(interception.exclude_outbound_ports.is_empty());
    assert_eq!(interception.exclude_inbound_cidrs[0].prefix_len(), 8);
    assert_eq!(interception.exclude_outbound_cidrs.len(), 1);
    assert_eq!(interception.exclude_uids, [0]);
}

#[test]
fn the_network_of_a_mesh() {
    let nets = |spec: &MeshConfigSpec| {
        let network = spec.network;
        let nets = network.workloads.nets().chain(network.services.nets());
        nets.map(|net| net.to_string()).collect::<Vec<_>>()
    };
    let least = mesh("");
    let expected = [
        "10.201.0.0/16",
        "fd4f:7574:7269:88::/64",
        "10.202.0.0/16",
        "fd4f:7574:7269:89::/112",
    ];
    assert_eq!(nets(&least), expected);
    assert_eq!(least.mtls, Mtls::Strict);
    assert_eq!(least.unknown_destinations, UnknownDestinations::Allow);

    let spec = mesh(
        "mtls: Permissive, unknownDestinations: Deny, network: {workloads: [\"fd00::/64\", 192.168.7.9/24]}",
    );
    let expected = [
        "192.168.7.0/24",
        "fd00::/64",
        "10.202.0.0/16",
        "fd4f:7574:7269:89::/112",
    ];
    assert_eq!(nets(&spec), expected);
    assert_eq!(spec.mtls, Mtls::Permissive);
    assert_eq!(spec.unknown_destinations, UnknownDestinations::Deny);
    assert_eq!(
        nets(&mesh("network: {workloads: [], services: []}")).len(),
        0
    );
}

#[test]
fn the_cluster_ips_of_a_service() {
    for left_out in ["", "clusterIP: \"\"", "clusterIP: null"] {
        let spec = service(left_out);
        assert_eq!((spec.cluster_ip, spec.cluster_ips.len()), (None, 0));
    }
    let spec = service("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, \"fd00::1\"]");
    assert_eq!(spec.cluster_ip, Some(ClusterIp::Address(ip("10.0.0.1"))));
    assert_eq!(spec.cluster_ips[1], ClusterIp::Address(ip("fd00::1")));
    let headless = service("clusterIPs: [None]");
    assert_eq!(headless.cluster_ips, [ClusterIp::Headless]);
}

#[test]
fn workloads_and_mesh_settings_that_are_wrong() {
    let workload = |spec: &str| {
        format!(
            "apiVersion: outrider.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec:\n  serviceAccount: a\n  address: 10.0.0.1\n  {spec}\n"
        )
    };
    let mesh = |spec: &str| {
        format!(
            "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: a}}\nspec:\n  {spec}\n"
        )
    };
    let table = [
        (
            workload("appAddress: localhost"),
            "7:15: spec.appAddress: invalid IP address syntax",
        ),
        (
            workload("command: outrider"),
            "7:12: spec.command: is \"outrider\", expected a list",
        ),
        (
            workload("command: [sleep, 10]"),
            "7:20: spec.command[1]: is the number 10, expected text",
        ),
        (
            workload("env: {A: 1}"),
            "7:12: spec.env.A: is the number 1, expected text (in quotes)",
        ),
        (
            workload("env: {A: true}"),
            "7:12: spec.env.A: is true, expected text (in quotes)",
        ),
        (
            workload("addresses: [10.0.0.2, 10.0.0.0/8]"),
            "7:25: spec.addresses[1]: invalid IP address syntax",
        ),
        (
            workload("mtls: strict"),
            "7:9: spec.mtls: is \"strict\", expected Strict or Permissive",
        ),
        (workload("mtls: null"), "7:9: spec.mtls: is nothing"),
        (
            workload("runAsUser: 2102"),
            "7:14: spec.runAsUser: is 2102, the sidecar's own, whose connections are not taken",
        ),
        (
            workload("runAsUser: 4294967295"),
            "7:14: spec.runAsUser: 4294967295 is not a user, expected 0 to 4294967294",
        ),
        (
            workload("probes: [{}]"),
            "7:12: spec.probes[0]: expected exactly one of httpGet, tcpSocket and grpc",
        ),
        (
            workload("probes: [{tcpSocket: {port: 80}, grpc: {port: 80}}]"),
            "7:12: spec.probes[0]: expected exactly one of",
        ),
        (
            workload("probes: [{httpGet: {path: live, port: 80}}]"),
            "7:29: spec.probes[0].httpGet.path: \"live\" is not the target of a request",
        ),
        (
            workload("probes: [{httpGet: {path: /}}]"),
            "7:22: spec.probes[0].httpGet.port: is missing",
        ),
        (
            workload("probes: [{httpGet: {port: 80, scheme: https}}]"),
            "7:41: spec.probes[0].httpGet.scheme: is \"https\", expected HTTP or HTTPS",
        ),
        (
            workload("probes: [{httpGet: {port: 80, httpHeaders: [{name: \"a b\", value: c}]}}]"),
            "7:47: spec.probes[0].httpGet.httpHeaders[0]: \"a b\" is not the name of a header",
        ),
        (
            workload(
                "probes: [{httpGet: {port: 80, httpHeaders: [{name: Connection, value: c}]}}]",
            ),
            "7:47: spec.probes[0].httpGet.httpHeaders[0]: connection is about the connection",
        ),
        (
            workload("probes: [{exec: {command: [a]}}]"),
            "7:13: spec.probes[0].exec: unknown field \"exec\", expected httpGet, tcpSocket or grpc",
        ),
        (
            workload("interception: {excludeInboundPorts: [0]}"),
            "7:40: spec.interception.excludeInboundPorts[0]: 0 is not a port",
        ),
        (
            workload("interception: {excludeInboundCIDRs: [10.0.0.1]}"),
            "7:40: spec.interception.excludeInboundCIDRs[0]: \"10.0.0.1\" is no CIDR block",
        ),
        (
            workload("interception: {excludeUIDs: [-1]}"),
            "7:32: spec.interception.excludeUIDs[0]: invalid value: integer `-1`, expected u32",
        ),
        (
            mesh("unknownDestinations: Refuse"),
            "5:24: spec.unknownDestinations: is \"Refuse\", expected Allow or Deny",
        ),
        (
            mesh("network: {workloads: [10.0.0.0/16, 10.1.0.0/16]}"),
            "5:24: spec.network.workloads: 10.1.0.0/16 is a second block of its family",
        ),
        (
            mesh("network: {workloads: [10.0.0.0/8], services: [10.1.0.0/16]}"),
            "5:12: spec.network: workloads 10.0.0.0/8 and services 10.1.0.0/16 overlap",
        ),
        (
            mesh("network: {services: [10.0.0.0/31]}"),
            "5:23: spec.network.services: 10.0.0.0/31 has no room, expected a prefix length of at most 30",
        ),
        (
            mesh("network: {services: [\"fd00::/127\"]}"),
            "5:23: spec.network.services: fd00::/127 has no room",
        ),
        (
            mesh("network: {services: [127.1.0.0/16]}"),
            "5:23: spec.network.services: 127.1.0.0/16 has addresses of 127.0.0.0/8 in it",
        ),
        (
            mesh("network: {services: [\"::/0\"]}"),
            "5:23: spec.network.services: ::/0 has addresses of ::/16 in it",
        ),
        (
            workload("port: 80"),
            "7:3: spec.port: unknown field \"port\", expected serviceAccount",
        ),
        (
            workload("ports: [{port: 0}]"),
            "7:18: spec.ports[0].port: 0 is not a port",
        ),
        (
            workload("outbound: {upstreams: [{service: a, port: 80}]}"),
            "7:26: spec.outbound.upstreams[0].localPort: is missing",
        ),
        (
            mesh("drainTimeout: 10"),
            "5:17: spec.drainTimeout: is the number 10, expected text",
        ),
        (
            mesh("drainTimeout: 10 s"),
            "5:17: spec.drainTimeout: \"10 s\" is not a duration",
        ),
        (
            mesh("drainTimeout: 2h"),
            "5:17: spec.drainTimeout: is 2h, expected 0s to 1h",
        ),
        (
            mesh("detectTimeout: 0s"),
            "5:18: spec.detectTimeout: is 0s, expected 1ms to 10s",
        ),
        (
            mesh("certificateLifetime: 0s"),
            "5:24: spec.certificateLifetime: is 0s",
        ),
        (mesh("trustDomain: Shop"), "5:16: spec.trustDomain: "),
        (
            mesh("defaultDeny: yes"),
            "5:16: spec.defaultDeny: is \"yes\", expected true or false",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}

#[test]
fn services_that_are_wrong() {
    let service = |text: &str| format!("apiVersion: v1\nkind: Service\n{text}\n");
    let table = [
        (
            service("metadata: {name: a.b}\nspec: {}"),
            "3:18: metadata.name: of a Service contains '.'",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, targetPort: 0}]}"),
            "4:39: spec.ports[0].targetPort: invalid value: integer `0`, expected a port from 1 to 65535 or the name",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, targetPort: '80'}]}"),
            "4:39: spec.ports[0].targetPort: invalid value: string \"80\"",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, protocol: TPC}]}"),
            "4:37: spec.ports[0].protocol: is \"TPC\", expected TCP, UDP or SCTP",
        ),
        (
            service("metadata: {name: a}\nspec: {type: ClusterIp}"),
            "4:14: spec.type: is \"ClusterIp\", expected ClusterIP, NodePort, LoadBalancer or ExternalName",
        ),
        (
            service("metadata: {name: a}\nspec: {clusterIP: none}"),
            "4:19: spec.clusterIP: \"none\" is not an address, expected one, or None",
        ),
        (
            service("metadata: {name: a}\nspec: {clusterIPs: [10.0.0.1, \"\"]}"),
            "4:31: spec.clusterIPs[1]: \"\" is not an address",
        ),
        (
            service("metadata: {name: a, labels: {a: 'b c'}}\nspec: {}"),
            "3:29: metadata.labels: \"b c\" is not the value of a label, at \"a\"",
        ),
        (
            service("metadata: {name: a, labels: {a/b/c: b}}\nspec: {}"),
            "3:29: metadata.labels: \"a/b/c\" is not the key",
        ),
        (
            service("metadata: {name: a, namspace: b}\nspec: {}"),
            "3:21: metadata.namspace: unknown field \"namspace\", expected name, namespace",
        ),
        (
            service("metadata: {name: a}\nspec: {sessionAffinityConfig: {a: 1, a: 2}}"),
            "4:38: spec.sessionAffinityConfig.a: duplicate key \"a\", first given in line 4",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}
