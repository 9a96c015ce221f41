//! The webhooks with nobody behind them: what is kept out, what is let in, and what can be undone.

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::{self, ApiServer};
use mesh_tests::wait::{PATIENCE, eventually};
use serde_json::{Value, json};

use super::{APPLY, CREATE, ESTABLISHED, install};

/// Create what is on standard input, but store nothing; webhooks are asked.
const TRY: &str = "create --dry-run=server --filename -";
const SHOP: &str = "--namespace shop";

/// As docs/kubernetes.md says under "The webhooks, and what happens without them".
#[test]
fn while_nobody_answers_nothing_comes_in_unread_and_everything_can_go() -> Result<()> {
    let server = ApiServer::start()?;
    for namespace in ["shop", "other", "kube-system"] {
        // That of the system the API server makes itself, when it finds the time.
        server.try_kubectl(&format!("create namespace {namespace}"), "")?;
        let account = format!("create serviceaccount default --namespace {namespace}");
        server.kubectl(&account, "")?;
    }
    server.kubectl("label namespace shop outrider.mesh/inject=enabled", "")?;
    define(&server)?;
    server.kubectl(CREATE, &policy("old", "ALLOW"))?;
    server.kubectl(APPLY, &install("--crds none")?)?;

    policies_are_kept_out_and_can_be_deleted(&server)?;
    routes_are_let_in(&server)?;
    pods_of_the_mesh_are_kept_out(&server)?;
    its_own_pods_are_let_in(&server)
}

/// Our kinds, and those routes that another controller may have, too.
fn define(server: &ApiServer) -> Result<()> {
    server.kubectl(APPLY, &install("--crds only")?)?;
    let routes = api_server::gateway_api()?.join("gateway.networking.k8s.io_httproutes.yaml");
    let apply = format!("apply --server-side --filename {}", routes.display());
    server.kubectl(&apply, "")?;
    server.kubectl(ESTABLISHED, "")?;
    Ok(())
}

fn policies_are_kept_out_and_can_be_deleted(server: &ApiServer) -> Result<()> {
    const VALIDATOR: &str = "validator.outrider.mesh";
    asked(server, &policy("new", "ALLOW"), VALIDATOR)?;
    refused(server, CREATE, &policy("new", "ALLOW"), VALIDATOR)?;
    refused(server, APPLY, &policy("old", "DENY"), VALIDATOR)?;
    let config = json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "default", "namespace": "outrider-system"},
        "spec": {"defaultDeny": false},
    });
    refused(server, CREATE, &config.to_string(), VALIDATOR)?;
    let kept = server.read(&format!("authorizationpolicies {SHOP}"))?;
    let kept = kept["items"].as_array().context("a list")?;
    assert_eq!(kept.len(), 1, "{kept:#?}");
    assert_eq!(kept[0]["spec"]["action"], "ALLOW", "{kept:#?}");

    server.kubectl(&format!("delete authorizationpolicy old {SHOP}"), "")?;
    let left = server.read(&format!("authorizationpolicies {SHOP}"))?;
    assert_eq!(left["items"], json!([]));
    Ok(())
}

fn routes_are_let_in(server: &ApiServer) -> Result<()> {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
        },
    });
    server.kubectl(APPLY, &route.to_string())?;
    route["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
    server.kubectl(APPLY, &route.to_string())?;
    let stored = server.read(&format!("httproute web {SHOP}"))?;
    let backend = &stored["spec"]["rules"][0]["backendRefs"][0];
    assert_eq!(backend["port"], 81, "{stored:#}");
    Ok(())
}

fn pods_of_the_mesh_are_kept_out(server: &ApiServer) -> Result<()> {
    let labelled = |value: &str| json!({"outrider.mesh/inject": value});
    for (namespace, labels, webhook) in [
        ("shop", json!({}), "namespace.injector.outrider.mesh"),
        ("other", labelled("true"), "pod.injector.outrider.mesh"),
    ] {
        asked(server, &pod(namespace, &labels), webhook)?;
        refused(server, CREATE, &pod(namespace, &labels), webhook)?;
    }
    // Whoever is not of the mesh does not notice.
    server.kubectl(CREATE, &pod("shop", &labelled("false")))?;
    server.kubectl(CREATE, &pod("other", &json!({})))?;
    Ok(())
}

/// A cluster that starts as a whole starts the control plane, and what that needs.
fn its_own_pods_are_let_in(server: &ApiServer) -> Result<()> {
    let labels = json!({"outrider.mesh/inject": "true"});
    server.kubectl(CREATE, &pod("kube-system", &labels))?;
    let own = "--namespace outrider-system";
    let deployment = server.read(&format!("deployment outrider-control-plane {own}"))?;
    let mut pod = deployment["spec"]["template"].clone();
    let fields = pod.as_object_mut().context("a template")?;
    fields.insert("apiVersion".to_owned(), json!("v1"));
    fields.insert("kind".to_owned(), json!("Pod"));
    pod["metadata"]["name"] = json!("control-plane");
    pod["metadata"]["namespace"] = json!("outrider-system");
    server.kubectl(CREATE, &pod.to_string())?;
    Ok(())
}

/// A webhook is asked from a moment after its configuration was stored.
fn asked(server: &ApiServer, input: &str, webhook: &str) -> Result<()> {
    let what = format!("{webhook} is asked");
    eventually(&what, PATIENCE, || {
        refused(server, TRY, input, webhook).map(Some)
    })
}

fn refused(server: &ApiServer, line: &str, input: &str, webhook: &str) -> Result<()> {
    let refused = server.try_kubectl(line, input)?;
    let said = refused.output();
    ensure!(!refused.status.success(), "{said}");
    let expected = format!("failed calling webhook \"{webhook}\"");
    ensure!(said.contains(&expected), "{said}");
    Ok(())
}

fn policy(name: &str, action: &str) -> String {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "action": action,
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"name": "read", "http": [{"methods": ["GET"]}]}],
        },
    })
    .to_string()
}

fn pod(namespace: &str, labels: &Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
    .to_string()
}
