//! Gateway API routes in the cluster, with its real CRDs, which come while the mesh runs.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{GatewayApi, Namespace};
use mesh_tests::wait::until;
use serde_json::{Value, json};

use crate::kubernetes_common::{befriended, call, try_apply};

const WEB: &str = "httproute/web";

#[test]
fn routes_are_in_force_and_say_so_when_their_kinds_come() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = befriended(&outrider, "routes")?;
    let answer = call(&namespace, "friend", "/anything")?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let _kinds = GatewayApi::install(outrider.cluster())?;
    namespace.apply(&route("web"))?;
    conditions(&namespace, WEB, &["Accepted", "ResolvedRefs", "Programmed"])?;
    until("the route is in force", Duration::from_secs(10), || {
        Ok(call(&namespace, "friend", "/anything")?.starts_with("HTTP/1.1 404"))
    })?;
    let refused = call(&namespace, "friend", "/anything")?;
    assert!(refused.contains("no_route"), "says why: {refused}");
    let answer = call(&namespace, "friend", "/only/this")?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("X-Route: web"), "{answer}");

    namespace.apply(&route("ghost"))?;
    let resolved = condition(&namespace, WEB, "ResolvedRefs", "False")?;
    assert_eq!(resolved["reason"], "BackendNotFound", "{resolved:#}");
    let message = resolved["message"].as_str().context("a message")?;
    assert!(message.contains("ghost"), "{message}");
    conditions(&namespace, WEB, &["Accepted"])?;
    a_route_without_a_meaning_is_refused(&namespace)?;
    routes_of_calls_and_of_bytes_say_so_as_well(&namespace)?;

    // Their kinds take half a minute to be found, so what the mesh says of itself is looked at here.
    the_mesh_says_what_it_can_do(&outrider)
}

fn a_route_without_a_meaning_is_refused(namespace: &Namespace) -> Result<()> {
    let mut wrong: Value = serde_json::from_str(&route("web"))?;
    wrong["spec"]["rules"][0]["matches"][0]["path"] =
        json!({"type": "RegularExpression", "value": "/only("});
    let refused = try_apply(namespace, &wrong.to_string(), &[])?;
    let said = refused.output();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let expected = "admission webhook \"routes.validator.outrider.mesh\" denied the request: \
                    spec.rules[0].matches[0].path.value: is no regular expression";
    assert!(said.contains(expected), "{said}");
    Ok(())
}

/// What they do to traffic is the same on one machine.
fn routes_of_calls_and_of_bytes_say_so_as_well(namespace: &Namespace) -> Result<()> {
    for (service, protocol, app) in [("calls", "kubernetes.io/h2c", 9001), ("bytes", "tcp", 9002)] {
        let port = json!({"port": 80, "targetPort": app, "appProtocol": protocol});
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service},
            "spec": {"selector": {"app": "web"}, "ports": [port]},
        });
        namespace.apply(&service.to_string())?;
    }
    let matches =
        |service: &str| json!([{"method": {"type": "RegularExpression", "service": service}}]);
    for (object, service, version) in [
        ("grpcroute/calls", "calls", "v1"),
        ("tcproute/bytes", "bytes", "v1alpha2"),
    ] {
        let route = |backend: &str, matches: Option<Value>| {
            let mut rule = json!({"backendRefs": [{"name": backend, "port": 80}]});
            if let Some(matches) = matches {
                rule["matches"] = matches;
            }
            json!({
                "apiVersion": format!("gateway.networking.k8s.io/{version}"),
                "kind": if service == "calls" { "GRPCRoute" } else { "TCPRoute" },
                "metadata": {"name": service},
                "spec": {
                    "parentRefs": [{"group": "", "kind": "Service", "name": service, "port": 80}],
                    "rules": [rule],
                },
            })
            .to_string()
        };
        namespace.apply(&route(service, None))?;
        conditions(
            namespace,
            object,
            &["Accepted", "ResolvedRefs", "Programmed"],
        )?;
        namespace.apply(&route("ghost", None))?;
        let resolved = condition(namespace, object, "ResolvedRefs", "False")?;
        assert_eq!(resolved["reason"], "BackendNotFound", "{resolved:#}");
        if service == "calls" {
            let refused = try_apply(namespace, &route(service, Some(matches("shop("))), &[])?;
            let said = refused.output();
            assert_eq!(refused.status.code(), Some(1), "{said}");
            let expected = "spec.rules[0].matches[0].method.service: is no regular expression";
            assert!(said.contains(expected), "{said}");
        }
    }
    Ok(())
}

fn the_mesh_says_what_it_can_do(outrider: &Outrider) -> Result<()> {
    let features = outrider.cluster().eventually(
        "there is an XMesh with its features",
        &["xmeshes"],
        |list| {
            let mesh = list["items"].as_array()?.first()?;
            let features = mesh["status"]["supportedFeatures"].as_array()?;
            let accepted = &mesh["status"]["conditions"][0];
            let is_ours = mesh["metadata"]["name"] == "outrider"
                && mesh["spec"]["controllerName"] == "outrider.mesh/control-plane"
                && (accepted["type"] == "Accepted" && accepted["status"] == "True");
            let names = features.iter().filter_map(|one| one["name"].as_str());
            is_ours.then(|| names.map(str::to_owned).collect::<Vec<_>>())
        },
    )?;
    assert!(features.is_sorted(), "{features:?}");
    for feature in ["Mesh", "MeshClusterIPMatching", "HTTPRoute", "GRPCRoute"] {
        assert!(features.iter().any(|one| one == feature), "{features:?}");
    }
    Ok(())
}

/// Only one path leads anywhere, and its answers are marked.
fn route(backend: &str) -> String {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "web"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/only"}}],
                "filters": [{
                    "type": "ResponseHeaderModifier",
                    "responseHeaderModifier": {"set": [{"name": "x-route", "value": "web"}]},
                }],
                "backendRefs": [{"name": backend, "port": 80}],
            }],
        },
    })
    .to_string()
}

/// Waits until these are true, at the generation that the route has.
fn conditions(namespace: &Namespace, route: &str, wanted: &[&str]) -> Result<()> {
    for kind in wanted {
        condition(namespace, route, kind, "True")?;
    }
    Ok(())
}

fn condition(namespace: &Namespace, route: &str, kind: &str, status: &str) -> Result<Value> {
    let what = format!("the condition {kind} of {route} is {status}");
    namespace.eventually(&what, &[route], |route| {
        let parent = &route["status"]["parents"][0];
        let mut conditions = parent["conditions"].as_array()?.iter();
        let found = conditions.find(|one| one["type"] == kind && one["status"] == status)?;
        let is_current = found["observedGeneration"] == route["metadata"]["generation"]
            && parent["controllerName"] == "outrider.mesh/control-plane";
        is_current.then(|| found.clone())
    })
}
