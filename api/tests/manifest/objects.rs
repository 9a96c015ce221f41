//! Workload, MeshConfig and Service: each way of getting them wrong.

use super::assert_problem;

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
