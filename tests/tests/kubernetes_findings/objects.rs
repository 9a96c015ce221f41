//! Objects say much by themselves: an API server with nothing behind it has most of what can be wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use mesh_tests::api_server::ApiServer;
use mesh_tests::kubernetes::PATIENCE;
use mesh_tests::kubernetes::outrider::SYSTEM;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::printed;
use mesh_tests::programs::outrider;
use mesh_tests::wait::eventually;
use serde_json::{Value, json};

use super::Findings;
use crate::kubernetes_common::documents;

const NOT_INSTALLED: &str = "
control-plane | error | there is no Deployment outrider-system/outrider-control-plane | `outrider check --pre` says whether it can be; then outrider install | kubectl apply -f -
";

const NOBODY_RUNS: &str = "
control-plane         | error   | 0 of 1 replicas are ready              | kubectl -n outrider-system get pods; kubectl -n outrider-system logs
leader                | error   | nobody holds the Lease                 | logs deployment/outrider-control-plane says why nobody takes it
authority             | error   | outrider-trust-bundle is not there     | logs deployment/outrider-control-plane
webhook-configuration | error   | outrider-injector has no caBundle yet  | the leader among the control planes writes it
webhook-configuration | error   | outrider-validator has no caBundle yet | the leader among the control planes writes it
pods-without-sidecar  | warning | no namespace is meshed                 | kubectl label namespace NAME outrider.mesh/inject=enabled
";

const SPOILT: &str = "
version               | warning | the control plane is 9.9.9                                 | use the command of the control plane's version
crds                  | error   | there is no workloads.outrider.mesh                        | outrider install --crds only | kubectl apply --server-side
crds                  | warning | meshconfigs.outrider.mesh is not as this command           | outrider install | kubectl apply
leader                | error   | gone has not renewed the Lease for                         | says why nobody takes it
authority             | warning | CN=ends-soon                                               | outrider certs rotate
authority             | error   | expired                                                    | outrider certs rotate
webhook-configuration | error   | outrider-validator has a caBundle that is not the mesh's   | the leader among the control planes writes it
webhook-answers       | error   | the API server gets no answer from the injector            | outrider-system/outrider-control-plane has endpoints
webhook-answers       | error   | the API server gets no answer from the validator           | outrider-system/outrider-control-plane has endpoints
pods-without-sidecar  | warning | 1 of shop have no sidecar, and are not of the mesh: early  | kubectl -n shop rollout restart deployment
host-network          | warning | cannot have a sidecar: shop/host                           | take hostNetwork away
sidecar-versions      | warning | (1 of 0.0.9), but not shop/old                             | kubectl rollout restart deployment
sidecars-ready        | warning | 0 of 1 sidecars are ready, but not shop/old                | POD_IP:15020/ready
";

#[test]
fn objects_that_are_not_as_they_should_be_are_named_with_a_remedy() -> Result<()> {
    let server = ApiServer::start()?;
    let check = || {
        let checked = server.run(&outrider()?, "check --output json", "")?;
        ensure!(checked.status.code() == Some(1), "{}", checked.output());
        Findings::read(&checked)
    };
    check()?.have(NOT_INSTALLED)?;
    pods_of_the_shop(&server)?;
    install(&server, &[])?;
    check()?.have(NOBODY_RUNS)?;
    spoil(&server)?;
    // A webhook is asked from a moment after its configuration was stored.
    eventually("all of it is found", PATIENCE, || {
        check()?.have(SPOILT).map(Some)
    })
}

/// Somebody may nothing, is told how to be let, and installs.
#[test]
fn who_is_let_by_the_remedies_can_install() -> Result<()> {
    let server = ApiServer::start()?;
    server.kubectl("create namespace shop", "")?;
    server.kubectl("create serviceaccount nobody --namespace shop", "")?;
    let token = server.kubectl("create token nobody --namespace shop", "")?;
    let folder = tempfile::tempdir()?;
    let (config, kubeconfig) = (
        std::fs::read_to_string(server.kubeconfig())?,
        folder.path().join("kubeconfig"),
    );
    let (before, after) = config.split_once("{token: ").context("a user")?;
    let (_, after) = after.split_once('}').context("a token")?;
    let config = format!("{before}{{token: {}}}{after}", token.trim());
    std::fs::write(&kubeconfig, config)?;
    let as_nobody = format!("--kubeconfig {}", kubeconfig.display());
    let check = || {
        let line = format!("check --pre --output json {as_nobody}");
        Findings::read(&server.run(&outrider()?, &line, "")?)
    };
    for finding in check()?.of("permissions") {
        let remedy = finding["remedy"].as_str().context("a remedy")?;
        let (_, commands) = remedy
            .split_once("allow it with: kubectl ")
            .context("commands")?;
        for command in commands.split("; kubectl ") {
            server.kubectl(command, "")?;
        }
    }
    check()?.have("permissions | ok | everything that installing does is allowed |")?;
    let objects = printed::text(&["--profile", "ha", "--network-policy"])?;
    for objects in [printed::definitions()?, objects] {
        server.kubectl(&format!("{as_nobody} apply --filename -"), &objects)?;
    }
    Ok(())
}

/// As if they were older than the mesh.
fn pods_of_the_shop(server: &ApiServer) -> Result<()> {
    server.kubectl("create namespace shop", "")?;
    server.kubectl("create serviceaccount default --namespace shop", "")?;
    let app = json!({"name": "app", "image": "app"});
    let sidecar = json!({"name": "outrider-proxy", "image": "outrider-proxy:0.0.9"});
    let pod = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let pods = [
        pod("early", json!({"containers": [app]})),
        pod("host", json!({"containers": [app], "hostNetwork": true})),
        pod("old", json!({"containers": [app, sidecar]})),
    ];
    server.kubectl("create --namespace shop --filename -", &documents(&pods))?;
    let patch = r#"patch pod old --namespace shop --subresource status --patch {"status":{"phase":"Running"}}"#;
    server.kubectl(patch, "")?;
    Ok(())
}

fn install(server: &ApiServer, options: &[&str]) -> Result<()> {
    for objects in [printed::definitions()?, printed::text(options)?] {
        server.kubectl("apply --filename -", &objects)?;
    }
    let established = "wait --for=condition=Established customresourcedefinition --all";
    server.kubectl(established, "")?;
    Ok(())
}

fn spoil(server: &ApiServer) -> Result<()> {
    install(server, &["--image-tag", "9.9.9"])?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "outrider-control-plane", "namespace": SYSTEM},
        "spec": {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    let folder = tempfile::tempdir()?;
    let root = Authority::stranger()?;
    let certificate = |leaf: Leaf, name: &str| -> Result<String> {
        let made = root.issue(&leaf.authority().common_name(name), folder.path(), name)?;
        Ok(std::fs::read_to_string(made.certificate)?)
    };
    let soon = certificate(
        Leaf::uris(&[])?.ends_in(Duration::from_secs(60)),
        "ends-soon",
    )?;
    let ended = certificate(Leaf::uris(&[])?.expired(), "ended")?;
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "outrider-trust-bundle", "namespace": SYSTEM},
        "data": {"trust-bundle.pem": soon + &ended},
    });
    server.kubectl("create --filename -", &documents(&[lease, bundle]))?;
    let of_another = ByteString(root.certificate().into());
    let patch = json!({"webhooks": [{"name": "validator.outrider.mesh", "clientConfig": {"caBundle": of_another}}]});
    let validator = "patch validatingwebhookconfiguration outrider-validator --patch";
    server.kubectl(&format!("{validator} {patch}"), "")?;
    server.kubectl(
        "delete customresourcedefinition workloads.outrider.mesh",
        "",
    )?;
    let path = "/spec/versions/0/schema/openAPIV3Schema/description";
    let patch = json!([{"op": "add", "path": path, "value": "Another."}]);
    let configs = "patch customresourcedefinition meshconfigs.outrider.mesh --type json --patch";
    server.kubectl(&format!("{configs} {patch}"), "")?;
    server.kubectl("label namespace shop outrider.mesh/inject=enabled", "")?;
    Ok(())
}
