//! The shipped roles, enforced: what the control plane may do, and what it may not.

use anyhow::{Result, ensure};
use mesh_tests::api_server::ApiServer;
use mesh_tests::pki::Authority;
use mesh_tests::programs::outrider;
use serde_json::json;

use super::{APPLY, APPLY_THERE, CREATE, install, without_webhooks};

/// The control plane.
const AS: &str = "--as system:serviceaccount:outrider-system:control-plane";
const OWN: &str = "--namespace outrider-system";
const SHOP: &str = "--namespace shop";
/// The definitions of which it needs to know.
const KINDS: [&str; 4] = [
    "authorizationpolicies.outrider.mesh",
    "meshconfigs.outrider.mesh",
    "ratelimitpolicies.outrider.mesh",
    "trafficpolicies.outrider.mesh",
];

fn start(options: &str) -> Result<ApiServer> {
    let server = ApiServer::start()?;
    server.kubectl(APPLY, &install(options)?)?;
    without_webhooks(&server)?;
    server.kubectl("create namespace shop", "")?;
    Ok(server)
}

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\n")
}

fn secret(namespace: &str, name: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n")
}

#[test]
fn the_control_plane_may_do_what_it_does() -> Result<()> {
    let server = start("")?;
    let may = |line: &str, input: &str| server.kubectl(&format!("{line} {AS}"), input);
    let kinds = "pods,services,namespaces,nodes,endpointslices,authorizationpolicies,meshconfigs,\
                 ratelimitpolicies,trafficpolicies";
    may(&format!("get {kinds} --all-namespaces"), "")?;
    // The trust bundle of a namespace, by name: made, seen everywhere, removed.
    may(APPLY_THERE, &config_map("outrider-trust-bundle"))?;
    let named = "--field-selector metadata.name=outrider-trust-bundle --output name";
    let listed = may(&format!("get configmaps --all-namespaces {named}"), "")?;
    assert_eq!(listed.trim(), "configmap/outrider-trust-bundle");
    may(
        &format!("delete configmap outrider-trust-bundle {SHOP}"),
        "",
    )?;
    // Whether a kind of the mesh is being deleted.
    for kind in KINDS {
        may(&format!("get customresourcedefinition {kind}"), "")?;
    }
    // Its own Secret and Lease.
    may(
        "create --validate=false --filename -",
        &secret("outrider-system", "outrider-ca"),
    )?;
    let named = "--field-selector metadata.name=outrider-ca";
    may(&format!("get secrets {named} {OWN}"), "")?;
    let patch = r#"patch secret outrider-ca --patch {"data":{"a":"Yg=="}}"#;
    may(&format!("{patch} {OWN}"), "")?;
    let lease = "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
                 metadata: {name: outrider-control-plane, namespace: outrider-system}\n";
    may("create --validate=false --filename -", lease)?;
    // Who a token is, and the webhooks' authority.
    let review = "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nmetadata: {name: a}\n\
                  spec: {token: x, audiences: [outrider-control-plane]}\n";
    may("create --validate=false --filename -", review)?;
    server.kubectl(APPLY, &install("")?)?;
    for webhooks in [
        "mutatingwebhookconfiguration outrider-injector",
        "validatingwebhookconfiguration outrider-validator",
    ] {
        may(&format!("get {webhooks}"), "")?;
        let patch = r#"--patch {"metadata":{"annotations":{"a":"b"}}}"#;
        may(&format!("patch {webhooks} {patch}"), "")?;
    }
    Ok(())
}

#[test]
fn the_control_plane_may_do_nothing_else() -> Result<()> {
    let server = start("")?;
    server.kubectl(CREATE, &secret("shop", "outrider-ca"))?;
    server.kubectl(CREATE, &secret("outrider-system", "other"))?;
    let refuse = |line: &str, input: &str| refuse(&server, line, input);
    for line in [
        "get secrets --all-namespaces",
        "get secret outrider-ca --namespace shop",
        "get secret other --namespace outrider-system",
        "get secrets --namespace outrider-system",
        "delete secret other --namespace outrider-system",
        "get configmaps --all-namespaces",
        "get configmap other --namespace shop",
        "delete namespace shop",
        "get serviceaccounts --namespace shop",
        "create token default --namespace shop",
        "create serviceaccount x --namespace outrider-system",
        "get workloads.outrider.mesh --namespace shop",
        "get customresourcedefinitions",
        "get customresourcedefinition workloads.outrider.mesh",
        "delete customresourcedefinition authorizationpolicies.outrider.mesh",
        "delete validatingwebhookconfiguration x",
        "get clusterroles",
        "create clusterrolebinding x --clusterrole=cluster-admin --user=x",
        "create deployment x --image=x --namespace outrider-system",
        "get leases --namespace kube-system",
        "get --raw /metrics",
    ] {
        refuse(line, "")?;
    }
    refuse(APPLY_THERE, &config_map("other"))?;
    refuse(CREATE, &secret("shop", "new"))?;
    let policy = "apiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\n\
                  metadata: {name: p, namespace: shop}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: a}]}\n";
    refuse(CREATE, policy)?;
    Ok(())
}

#[test]
fn the_control_plane_may_only_read_the_secret_of_another_keeper() -> Result<()> {
    let server = start("--ca-secret mesh-ca")?;
    for name in ["mesh-ca", "outrider-ca"] {
        server.kubectl(CREATE, &secret("outrider-system", name))?;
    }
    let named = "--field-selector metadata.name=mesh-ca";
    server.kubectl(&format!("get secrets {named} {OWN} {AS}"), "")?;
    let patch = r#"--patch {"data":{"a":"Yg=="}}"#;
    for line in [
        &format!("patch secret mesh-ca {patch}"),
        "delete secret mesh-ca",
        "get secrets",
        "get secret outrider-ca",
        &format!("patch secret outrider-ca {patch}"),
    ] {
        refuse(&server, &format!("{line} {OWN}"), "")?;
    }
    refuse(&server, CREATE, &secret("outrider-system", "new"))
}

#[test]
fn an_authority_of_another_keeper_is_rotated_by_that_one() -> Result<()> {
    let server = start("--ca-secret mesh-ca")?;
    let bundle = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "outrider-trust-bundle", "namespace": "outrider-system"},
        "data": {"trust-bundle.pem": Authority::stranger()?.certificate()},
    });
    server.kubectl(CREATE, &bundle.to_string())?;
    let refused = server.run(&outrider()?, "certs rotate", "")?;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.output());
    let said = refused.output();
    ensure!(said.contains("secrets \"outrider-ca\" not found"), "{said}");
    ensure!(said.contains("cmctl renew -n outrider-system"), "{said}");
    Ok(())
}

/// Asks for what the control plane may not do.
fn refuse(server: &ApiServer, line: &str, input: &str) -> Result<()> {
    let refused = server.try_kubectl(&format!("{line} {AS}"), input)?;
    ensure!(!refused.status.success(), "allowed: {line}");
    let said = refused.output();
    ensure!(said.contains("orbidden"), "{line}: {said}");
    Ok(())
}

/// The API server aggregates by a controller, which is not here; the roles say to whom they belong.
#[test]
fn people_may_change_policy_where_they_may_change_what_runs() -> Result<()> {
    let server = start("")?;
    for (role, to) in [("outrider-view", "view"), ("outrider-edit", "edit")] {
        let bind = format!("create rolebinding {role} --clusterrole={role} --user={role} {SHOP}");
        server.kubectl(&bind, "")?;
        let stored = server.read(&format!("clusterrole {role}"))?;
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        assert_eq!(stored["metadata"]["labels"][label], "true");
    }
    let can = |who: &str, what: &str| -> Result<bool> {
        let question = format!("auth can-i {what} --as={who} {SHOP}");
        Ok(server.try_kubectl(&question, "")?.stdout.trim() == "yes")
    };
    assert!(can("outrider-view", "list trafficpolicies")?);
    assert!(!can("outrider-view", "create trafficpolicies")?);
    for kind in [
        "authorizationpolicies",
        "ratelimitpolicies",
        "trafficpolicies",
    ] {
        assert!(can("outrider-edit", &format!("create {kind}"))?);
        assert!(!can(
            "outrider-edit",
            &format!("patch {kind} --subresource=status")
        )?);
    }
    assert!(!can("outrider-edit", "create meshconfigs")?);
    assert!(!can("outrider-edit", "create workloads")?);
    Ok(())
}
