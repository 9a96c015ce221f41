//! CustomResourceDefinitions: the API server takes them, keeps what is good as it is written, refuses
//! what is wrong before it is stored, and takes the newer ones in place of older.

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::ApiServer;
use mesh_tests::programs::root;
use serde_json::{Value, json};

use super::{APPLY, APPLY_THERE, CREATE, ESTABLISHED, install};

/// With the definitions, established.
fn start() -> Result<ApiServer> {
    let server = ApiServer::start()?;
    server.kubectl(APPLY, &install("--crds only")?)?;
    server.kubectl(ESTABLISHED, "")?;
    server.kubectl("create namespace shop", "")?;
    Ok(server)
}

fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn definitions_are_structural_and_examples_are_good() -> Result<()> {
    let server = start()?;
    let definitions = server.read("customresourcedefinitions")?;
    let definitions = definitions["items"].as_array().context("a list")?;
    assert_eq!(definitions.len(), 5);
    for definition in definitions {
        let conditions = definition["status"]["conditions"].as_array();
        let conditions = conditions.context("conditions")?;
        let is = |kind: &str, status: &str| {
            conditions
                .iter()
                .any(|one| one["type"] == kind && one["status"] == status)
        };
        ensure!(is("Established", "True"), "{conditions:#?}");
        ensure!(is("NamesAccepted", "True"), "{conditions:#?}");
        ensure!(
            !conditions
                .iter()
                .any(|one| one["type"] == "NonStructuralSchema"),
            "{conditions:#?}"
        );
    }
    for folder in ["examples/shop/mesh", "examples/shop/netns"] {
        let folder = root().join(folder);
        let folder = folder.to_str().context("UTF-8")?;
        let applied = server
            .try_kubectl(&format!("apply --filename {folder}"), "")?
            .success()?;
        assert_eq!(applied.stderr, "", "{folder}");
    }
    let listed = server.kubectl("get outrider --all-namespaces", "")?;
    for heading in [
        "ACTION",
        "DEFAULT-DENY",
        "TARGET",
        "SERVICEACCOUNT",
        "ACCEPTED",
        "PROGRAMMED",
    ] {
        ensure!(listed.contains(heading), "{listed}");
    }
    let explained = server.kubectl("explain authz.spec.rules.sources", "")?;
    ensure!(
        explained.contains("Every ServiceAccount of this namespace."),
        "{explained}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_before_it_is_stored() -> Result<()> {
    let server = start()?;
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    for (kind, spec, expected) in WRONG {
        let yaml = object(kind, &spec.replace("TARGET", target));
        let refused = server.try_kubectl(APPLY, &yaml)?;
        ensure!(!refused.status.success(), "{kind} {spec} was taken");
        let said = refused.stderr;
        ensure!(
            said.contains(&format!("The {kind} \"p\" is invalid")),
            "{said}"
        );
        ensure!(
            expected.split('…').all(|part| said.contains(part)),
            "{kind} {spec}: expected {expected:?} in {said}"
        );
    }
    Ok(())
}

/// Kind, spec, and what is said of it; where it has `…`, API servers of one version say the value and of
/// another its type.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "AuthorizationPolicy",
        "{TARGET, action: DENY}",
        "a DENY policy without rules refuses nothing",
    ),
    (
        "AuthorizationPolicy",
        "{targetRefs: []}",
        "spec.targetRefs in body should have at least 1 items",
    ),
    (
        "AuthorizationPolicy",
        "{}",
        "spec.targetRefs: Required value",
    ),
    (
        "AuthorizationPolicy",
        "{targetRefs: [{group: '', kind: Pod, name: a}]}",
        "expected \"selector\" and no \"name\" beside kind Pod",
    ),
    (
        "AuthorizationPolicy",
        "{targetRefs: [{group: apps, kind: Service, name: a}]}",
        "expected group \"\" with kind Service or Pod",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, action: Allow}",
        "supported values: \"ALLOW\", \"DENY\", \"AUDIT\"",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{sources: [{type: SPIFFE, namespace: shop}]}]}",
        "\"spec.rules[0].sources[0]\" must validate one and only one schema",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{sources: [{type: Namespace, namespace: a, spiffe: 'spiffe://a/ns/b/sa/c'}]}]}",
        "spec.rules[0].sources[0]: Too many: 3",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://a/b'}]}]}",
        "spec.rules[0].sources[0].spiffe in body should match",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{networkAttributes: {ports: [0]}}]}",
        "should be greater than or equal to 1",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{http: [{headers: [{name: a, type: Present, value: b}]}]}]}",
        "spec.rules[0].http[0].headers[0]",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{http: [{headers: [{name: a}]}]}]}",
        "headers[0]",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{http: []}]}",
        "spec.rules[0].http in body should have at least 1",
    ),
    (
        "AuthorizationPolicy",
        "{TARGET, rules: [{http: [{methods: [get]}]}]}",
        "should match '^[A-Z0-9_-]+$'",
    ),
    (
        "TrafficPolicy",
        "{TARGET, timeouts: {request: 25h}}",
        "spec.timeouts.request: Invalid value: …: expected 0s to 24h",
    ),
    (
        "TrafficPolicy",
        "{TARGET, timeouts: {request: 1.5s}}",
        "should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'",
    ),
    (
        "TrafficPolicy",
        "{TARGET, timeouts: {request: 10}}",
        "must be of type string",
    ),
    (
        "TrafficPolicy",
        "{TARGET, retry: {attempts: 11}}",
        "should be less than or equal to 10",
    ),
    (
        "TrafficPolicy",
        "{TARGET, retry: {grpcCodes: [OK]}}",
        "spec.retry.grpcCodes[0] in body should match",
    ),
    (
        "TrafficPolicy",
        "{TARGET, faults: [{percent: 1, delay: 1s, abort: {}}]}",
        "expected exactly one of \"delay\" and \"abort\"",
    ),
    (
        "TrafficPolicy",
        "{TARGET, loadBalancing: {hashOn: {header: a, source: true}}}",
        "expected exactly one of \"header\", \"cookie\" and \"source: true\"",
    ),
    (
        "RateLimitPolicy",
        "{TARGET, limits: [{name: a, requests: 1}, {name: a, requests: 2}]}",
        "Duplicate value",
    ),
    (
        "RateLimitPolicy",
        "{TARGET, limits: [{name: a, requests: 0}]}",
        "should be greater than or equal to 1",
    ),
    (
        "Workload",
        "{serviceAccount: a, runAsUser: 2102}",
        "2102 is the sidecar's own",
    ),
    (
        "Workload",
        "{serviceAccount: a, probes: [{httpGet: {port: 1}, grpc: {port: 1}}]}",
        "spec.probes[0]: Too many: 2",
    ),
    (
        "Workload",
        "{serviceAccount: a, addresses: [nowhere]}",
        "spec.addresses[0] in body should match",
    ),
    (
        "MeshConfig",
        "{mtls: strict}",
        "supported values: \"Strict\", \"Permissive\"",
    ),
    (
        "MeshConfig",
        "{traffic: {healthCheck: {interval: 99ms}}}",
        "expected 100ms to 1h",
    ),
];

/// What an API server prunes would make of a rule with a misspelt condition one without it, and of
/// `sources:` without entries "anyone". Both must reach who judges them.
#[test]
fn nothing_is_dropped_on_its_way_to_who_judges_it() -> Result<()> {
    let server = start()?;
    let written = json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "action": "DENY",
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "a", "sectoin": "x"}],
            "rules": [{"sources": null, "hosts": ["a"]}],
            "rulez": [],
        },
    });
    for way in [CREATE, APPLY_THERE] {
        server.kubectl(way, &written.to_string())?;
        let stored = server.read("authz p --namespace shop")?;
        assert_eq!(stored["spec"], written["spec"], "{way:?}");
        assert_eq!(stored["action"], "DENY", "{way:?}");
        server.kubectl("delete authz p --namespace shop", "")?;
    }
    Ok(())
}

/// A control plane writes status, and nobody else's fields by it.
#[test]
fn status_is_a_subresource() -> Result<()> {
    let server = start()?;
    let yaml = object(
        "AuthorizationPolicy",
        "{targetRefs: [{group: '', kind: Service, name: a}]}",
    );
    server.kubectl(APPLY, &yaml)?;
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": kind, "message": "all",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let status = json!({"status": {"ancestors": [{
        "ancestorRef": {"group": "", "kind": "Service", "name": "a"},
        "controllerName": "outrider.mesh/control-plane",
        "conditions": [condition("Accepted"), condition("Programmed")],
    }]}, "spec": {"action": "DENY"}});
    let patch = "patch authz p --namespace shop --type merge --subresource status --patch";
    server.kubectl(&format!("{patch} {status}"), "")?;
    let stored = server.read("authz p --namespace shop")?;
    assert_eq!(stored["status"], status["status"]);
    assert_eq!(stored["spec"].get("action"), None);
    assert_eq!(stored["metadata"]["generation"], 1);
    let line = server.kubectl("get authz p --namespace shop --no-headers", "")?;
    assert_eq!(line.matches("True").count(), 2, "{line}");
    Ok(())
}

/// A policy that says more than the definition knows is kept whole, until the newer definition comes.
#[test]
fn a_definition_of_an_older_version_is_upgraded() -> Result<()> {
    let server = ApiServer::start()?;
    let yaml = install("--crds only")?;
    server.kubectl(APPLY, &yaml)?;
    server.kubectl(ESTABLISHED, "")?;
    let name = "trafficpolicies.outrider.mesh";
    let older = older(&server, name)?;
    server.kubectl(&format!("delete customresourcedefinition {name}"), "")?;
    server.kubectl(APPLY, &older.to_string())?;
    server.kubectl(ESTABLISHED, "")?;
    server.kubectl("create namespace shop", "")?;
    let spec =
        "{targetRefs: [{group: '', kind: Service, name: a}], faults: [{percent: 1, delay: 1s}]}";
    server.kubectl(APPLY, &object("TrafficPolicy", spec))?;

    server.kubectl(APPLY, &yaml)?;
    server.kubectl(ESTABLISHED, "")?;
    let stored = server.read("trafficpolicy p --namespace shop")?;
    let faults = json!([{"percent": 1, "delay": "1s"}]);
    assert_eq!(
        stored["spec"]["faults"], faults,
        "the older one would have dropped it"
    );
    let now = server.read(&format!("customresourcedefinition {name}"))?;
    let version = &now["metadata"]["annotations"]["outrider.mesh/version"];
    assert_ne!(*version, "0.0.9");
    // And what the newer one knows to be wrong is refused from now on.
    let wrong = spec.replace("1s}", "1s, abort: {}}");
    let refused = server.try_kubectl(APPLY, &object("TrafficPolicy", &wrong))?;
    ensure!(!refused.status.success(), "{}", refused.stdout);
    Ok(())
}

/// The definition as it was before it knew of faults.
fn older(server: &ApiServer, name: &str) -> Result<Value> {
    let mut definition = server.read(&format!("customresourcedefinition {name}"))?;
    let mut old = definition["spec"].take();
    let spec = &mut old["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let properties = spec["properties"].as_object_mut().context("properties")?;
    properties.remove("faults").context("faults")?;
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "annotations": {"outrider.mesh/version": "0.0.9"}},
        "spec": old,
    }))
}
