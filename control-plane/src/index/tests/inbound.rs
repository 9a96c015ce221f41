//! How a workload is called: plaintext, probes, and ports that are the sidecar's own.

use outrider_api::model::{Mtls, Probe, ProbeKind, UnknownDestinations};

use super::*;

fn billing(spec: &str) -> String {
    format!(
        "
{{apiVersion: v1, kind: Service, metadata: {{name: billing, namespace: shop}}, spec: {{selector: {{app: billing}}, ports: [{{port: 80, targetPort: 9090}}]}}}}
---
{{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: {{name: billing-1, namespace: shop, labels: {{app: billing}}}}, spec: {{serviceAccount: billing, {spec}}}}}
"
    )
}

fn modes(text: &str) -> (Mtls, Vec<(u16, Mtls)>) {
    let mesh = fold(text).unwrap();
    let workload = workload(&mesh, "billing-1");
    let ports = workload.ports.iter().map(|port| (port.port, port.mtls));
    (workload.mtls, ports.collect())
}

#[test]
fn plaintext_is_a_matter_of_the_port_then_of_the_workload_then_of_the_mesh() {
    use Mtls::{Permissive, Strict};
    let ports = "ports: [{port: 1}, {port: 2, mtls: Strict}, {port: 3, mtls: Permissive}]";
    let mesh = "---\n{apiVersion: outrider.mesh/v1alpha1, kind: MeshConfig, metadata: {name: m}, spec: {mtls: Permissive, unknownDestinations: Deny}}\n";
    // Of the last, only the Service knows.
    let expected = |rest| {
        (
            rest,
            vec![(1, rest), (2, Strict), (3, Permissive), (9090, rest)],
        )
    };
    assert_eq!(modes(&billing(ports)), expected(Strict));
    let own = format!("mtls: Permissive, {ports}");
    assert_eq!(modes(&billing(&own)), expected(Permissive));
    let of_mesh = |spec: &str| format!("{}{mesh}", billing(spec));
    assert_eq!(modes(&of_mesh(ports)), expected(Permissive));
    let strict = format!("mtls: Strict, {ports}");
    assert_eq!(modes(&of_mesh(&strict)), expected(Strict));

    let unknown = |text: &str| {
        let mesh = fold(text).unwrap();
        workload(&mesh, "billing-1").mesh.unknown_destinations
    };
    assert_eq!(unknown(&billing(ports)), UnknownDestinations::Allow);
    assert_eq!(unknown(&of_mesh(ports)), UnknownDestinations::Deny);
}

#[test]
fn probes_ask_ports_of_the_app() {
    let probes = "probes: [{httpGet: {path: /live, port: web}}, {tcpSocket: {port: 9090}}, {grpc: {port: 8080, service: a.B}}]";
    let mesh = fold(&billing(&format!(
        "ports: [{{name: web, port: 8080}}], {probes}"
    )))
    .unwrap();
    let http = ProbeKind::Http {
        path: "/live".into(),
        tls: false,
        headers: Vec::new(),
    };
    let grpc = ProbeKind::Grpc {
        service: "a.B".into(),
    };
    let expected = [(8080, http), (9090, ProbeKind::Tcp), (8080, grpc)];
    let expected = expected.map(|(port, kind)| Probe { port, kind });
    assert_eq!(workload(&mesh, "billing-1").probes, expected);

    let table = [
        (
            "ports: [{name: web, port: 8080}], probes: [{tcpSocket: {port: admin}}]",
            "spec.probes[0].tcpSocket.port: is none of this Workload's, expected a number or one of web",
        ),
        (
            "ports: [{port: 8080}], probes: [{httpGet: {port: 8080}}, {httpGet: {port: 8081}}]",
            "spec.probes[1].httpGet.port: 8081 is none of this Workload's, expected one of 8080, 9090",
        ),
        (
            "probes: [{grpc: {port: 15020}}]",
            "spec.probes[0].grpc.port: 15020 is none of this Workload's, expected one of 9090",
        ),
    ];
    for (spec, expected) in table {
        let found = problems(&billing(spec));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{} lacks {expected}", found[0]);
    }
}

#[test]
fn an_app_has_no_port_that_is_its_sidecars() {
    let own = "is also the sidecar's own, for connections that it intercepts, expected another";
    let table = [
        (
            "ports: [{port: 15001}]",
            "spec.ports[0].port: port 15001",
            own,
        ),
        (
            "ports: [{port: 15006}]",
            "spec.ports[0].port: port 15006",
            own,
        ),
        (
            "ports: [{port: 15008}]",
            "spec.meshPort: port 15008",
            "is also spec.ports[0].port",
        ),
        (
            "ports: [{port: 15000}]",
            "spec.adminPort: port 15000",
            "is also spec.ports[0].port",
        ),
        (
            "ports: [{port: 15020}]",
            "spec.telemetryPort: port 15020",
            "is also spec.ports[0].port",
        ),
        (
            "meshPort: 1, ports: [{port: 1}]",
            "spec.meshPort: port 1",
            "is also spec.ports[0].port",
        ),
        (
            "address: 10.0.0.1, appAddress: 10.0.0.1, ports: [{port: 15006}]",
            "spec.ports[0].port: port 15006",
            own,
        ),
        (
            "outbound: {httpPort: 15001}",
            "spec.outbound.httpPort: port 15001",
            own,
        ),
    ];
    for (spec, field, message) in table {
        let found = problems(&billing(spec));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(field), "{} lacks {field}", found[0]);
        assert!(found[0].contains(message), "{} lacks {message}", found[0]);
    }
    // On loopback nothing is intercepted.
    fold(&billing("address: 127.0.0.1, ports: [{port: 15006}]")).unwrap();
}
