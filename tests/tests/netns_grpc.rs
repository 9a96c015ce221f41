//! gRPC clients of four languages in a network namespace, none of them configured for the mesh.

use anyhow::{Result, ensure};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::placed::Placed;
use mesh_tests::process::{Finished, run};
use mesh_tests::programs::{grpc_go, java, node_peer, python, script};
use serde_json::Value;

/// `echo` has two instances; `client` may call all of it but Fail.
fn mesh() -> Result<Placed> {
    let server = grpc_go()?;
    let instance = |name: &str| {
        format!(
            r#"---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: shop, labels: {{app: echo}}}}
spec:
  serviceAccount: echo
  ports: [{{name: grpc, port: 50051}}]
  runAsUser: 65534
  command: [{}, server, --host, 0.0.0.0, --port, "50051"]
"#,
            server.display()
        )
    };
    let yaml = r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports: [{name: grpc, port: 50051}]
---
apiVersion: outrider.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: echo, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  loadBalancing: {algorithm: RoundRobin}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {serviceAccount: client}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: echo, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  rules:
  - name: client
    sources: [{type: ServiceAccount, serviceAccount: {name: client}}]
    grpc:
    - {service: outrider.test.Echo, method: Unary}
    - {service: outrider.test.Echo, method: ServerStream}
    - {service: outrider.test.Echo, method: Bidi}
"#;
    let yaml = [yaml, &instance("echo-1"), &instance("echo-2")].concat();
    Placed::start("grpc", &[("mesh.yaml", &yaml)])
}

fn client(mesh: &Placed, words: &[String]) -> Result<Finished> {
    let mut start = mesh.inside("client-1", "env", "coreutils")?;
    // Java keeps what it says of itself out of its output.
    start.env_remove("JAVA_TOOL_OPTIONS").args(words);
    run(&mut start, CLIENT_LIMIT)?.success()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Lines of `CASE CODE RESULT`.
fn told(mesh: &Placed, program: &[String]) -> Result<()> {
    let calls = words(&[
        "echo:50051",
        "unary:hello",
        "server_stream:3",
        "bidi:3",
        "fail:x",
    ]);
    let answers = client(mesh, &[program, &calls].concat())?.stdout;
    let lines: Vec<&str> = answers.lines().collect();
    ensure!(lines.len() == 4, "{answers}");
    assert_eq!(
        lines[..2],
        ["unary 0 hello", "server_stream 0 3"],
        "{answers}"
    );
    assert!(
        lines[2].starts_with("bidi 0 ") && lines[2].ends_with(", completed"),
        "{answers}"
    );
    // What policy does not allow: PERMISSION_DENIED, with the reason.
    assert!(lines[3].starts_with("fail 7 "), "{answers}");
    assert!(lines[3].contains("authorization_denied"), "{answers}");
    Ok(())
}

/// Lines of JSON.
fn told_in_json(mesh: &Placed, program: &[String]) -> Result<()> {
    let calls = words(&["client", "--host", "echo", "--port", "50051"]);
    let cases = words(&["unary:hello", "server_stream:3", "bidi:3", "fail:x"]);
    let answers = client(mesh, &[program, &calls, &cases].concat())?.stdout;
    let codes: Vec<Value> = answers
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["code"].clone()))
        .collect::<Result<_>>()?;
    assert_eq!(codes, [0, 0, 0, 7].map(Value::from), "{answers}");
    Ok(())
}

#[test]
fn clients_of_four_languages_call_a_service_by_its_name() -> Result<()> {
    let mesh = mesh()?;
    told_in_json(&mesh, &words(&[&grpc_go()?.display().to_string()]))?;
    let peer = script("grpc_peer.py");
    let python = [python()?.display().to_string(), peer.display().to_string()];
    told_in_json(&mesh, &python)?;
    told(&mesh, &java("GrpcClient")?)?;
    told(
        &mesh,
        &words(&["node", &node_peer()?.display().to_string()]),
    )?;

    // Both instances were called, each by its identity.
    for instance in ["echo-1", "echo-2"] {
        let metrics = mesh.metrics("client-1")?;
        let labels = [
            ("destination_workload", instance),
            ("request_protocol", "grpc"),
            ("connection_security_policy", "mutual_tls"),
        ];
        let calls = metrics.sum("istio_requests_total", &labels);
        assert!(calls >= 2.0, "{instance} has {calls}");
    }
    Ok(())
}
