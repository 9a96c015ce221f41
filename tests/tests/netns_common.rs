//! Meshes in network namespaces, from what a test cares about.

use std::fs;
use std::path::Path;

use anyhow::Result;
use mesh_tests::metrics::Metrics;
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::placed::Placed;
use mesh_tests::process::run;
use mesh_tests::programs::{find, grpc_go, python, script};
use serde_json::Value;

/// A MeshConfig with these further fields, on one line: `, mtls: Permissive`.
pub(crate) fn config(fields: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\n\
         spec: {{trustDomain: shop.example, defaultDeny: true{fields}}}\n"
    )
}

/// `web-1` is of the app `web`, under the ServiceAccount `web`; with further fields as in [`config`].
pub(crate) fn workload(name: &str, fields: &str) -> String {
    let app = name.rsplit_once('-').map_or(name, |(app, _)| app);
    format!(
        "---\napiVersion: outrider.mesh/v1alpha1\nkind: Workload\n\
         metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{serviceAccount: {app}{fields}}}\n"
    )
}

/// A Service of this name, of the workloads of an app. Ports are YAML on one line.
pub(crate) fn service(name: &str, app: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{selector: {{app: {app}}}, ports: [{ports}]}}\n"
    )
}

/// A Service without an address of its own.
pub(crate) fn headless(name: &str, app: &str, ports: &str) -> String {
    service(name, app, ports).replace("spec: {", "spec: {clusterIP: None, ")
}

/// Who may call the workloads of an app; `rules` are YAML on one line.
pub(crate) fn allow(app: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {app}, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Pod, selector: {{matchLabels: {{app: {app}}}}}}}], \
         rules: [{rules}]}}\n"
    )
}

/// A rule for whoever is this ServiceAccount.
pub(crate) fn account(name: &str) -> String {
    format!("{{sources: [{{type: ServiceAccount, serviceAccount: {{name: {name}}}}}]}}")
}

/// A rule for the machine on which the mesh runs: both of its addresses, and nothing but what `fields`
/// say.
pub(crate) fn machine(fields: &str) -> String {
    let block = |cidr: &str| format!("{{type: IPBlock, ipBlock: {{cidr: \"{cidr}\"}}}}");
    let (v4, v6) = (block("10.201.0.1/32"), block("fd4f:7574:7269:88::1/128"));
    format!("{{sources: [{v4}, {v6}]{fields}}}")
}

/// The command of an nginx with these server blocks, which keeps its files in `folder`.
pub(crate) fn nginx(folder: &Path, name: &str, servers: &str) -> Result<String> {
    let file = folder.join(format!("{name}.conf"));
    fs::write(
        &file,
        format!(
            "daemon off; pid {}/{name}.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; default_type text/plain; {servers} }}\n",
            folder.display()
        ),
    )?;
    let program = find("nginx", "nginx-light")?;
    Ok(command(&[
        &program.display().to_string(),
        "-e",
        "stderr",
        "-c",
        &file.display().to_string(),
    ]))
}

/// The command of a WebSocket server that echoes.
pub(crate) fn websockets(port: u16) -> Result<String> {
    Ok(command(&[
        &python()?.display().to_string(),
        "-u",
        &script("ws_peer.py").display().to_string(),
        "server",
        "--port",
        &port.to_string(),
        "--host",
        "0.0.0.0",
    ]))
}

/// The command of a grpc-go server.
pub(crate) fn grpc(port: u16) -> Result<String> {
    let program = grpc_go()?.display().to_string();
    let port = port.to_string();
    Ok(command(&[
        &program, "server", "--host", "0.0.0.0", "--port", &port,
    ]))
}

/// The command of a Redis that keeps nothing.
pub(crate) fn redis() -> Result<String> {
    let program = find("redis-server", "redis-server")?.display().to_string();
    Ok(command(&[
        &program,
        "--bind",
        "* -::*",
        "--protected-mode",
        "no",
        "--save",
        "",
    ]))
}

/// As a further field of a [`workload`].
fn command(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!(", command: [{}]", words.join(", "))
}

/// What a workload's sidecar counts.
pub(crate) fn metrics(mesh: &Placed, workload: &str) -> Result<Metrics> {
    mesh.metrics(workload)
}

/// The lines of JSON that a program prints.
pub(crate) fn json_lines(command: &mut std::process::Command) -> Result<Vec<Value>> {
    let told = run(command, CLIENT_LIMIT)?.success()?.stdout;
    let lines = told.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}
