//! The mesh where its users run it: installed from what `outrider install` prints, three replicas, with
//! the shop's Deployments in a namespace that has the label. No call fails that policy allows,
//! whatever comes and goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::shop::Shop;
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE, TOOLS};
use mesh_tests::wait::until;
use serde_json::{Value, json};

/// Every pod has a sidecar, an identity, and is called as policy says.
#[test]
fn a_label_puts_the_shop_into_the_mesh() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    for pod in shop.pods()? {
        let sidecar = &pod["spec"]["initContainers"][1];
        assert_eq!(sidecar["name"], "outrider-proxy", "{pod:#}");
        assert_eq!(sidecar["restartPolicy"], "Always", "{pod:#}");
    }
    let before = shop.totals()?;
    shop.more_orders(before.placed + 20)?;
    assert_eq!(shop.totals()?.failed, before.failed);
    Ok(())
}

/// Without a policy nobody is let in; with one, who it names; and its status says where it is in force.
#[test]
fn a_policy_lets_in_whom_it_names_and_says_that_it_is_enforced() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("policy")?;
    namespace.apply(&web())?;
    namespace.apply(&client("friend"))?;
    namespace.apply(&client("stranger"))?;
    namespace.rolled_out("deployment/web")?;
    for pod in ["friend", "stranger"] {
        namespace.wait(&format!("pod/{pod}"), "Ready")?;
        let refused = call(&namespace, pod)?;
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
        assert!(
            refused.contains("authorization_denied"),
            "says why: {refused}"
        );
    }

    namespace.apply(&allow_friend())?;
    enforced(&namespace, "web", 2)?;
    let allowed = call(&namespace, "friend")?;
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    let refused = call(&namespace, "stranger")?;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");

    namespace.kubectl(&["delete", "authorizationpolicy", "web"])?;
    namespace.eventually("the policy is gone", &["authorizationpolicies"], |list| {
        list["items"].as_array()?.is_empty().then_some(())
    })?;
    until("nobody is let in", Duration::from_secs(10), || {
        Ok(call(&namespace, "friend")?.starts_with("HTTP/1.1 403"))
    })
}

#[test]
fn a_job_with_a_sidecar_ends() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    let namespace = shop.namespace();
    namespace.apply(&shop.job("ten-orders", 10))?;
    let complete = namespace.wait("job/ten-orders", "Complete");
    complete.with_context(|| {
        let log = namespace.kubectl(&["logs", "job/ten-orders", "--container", "shopper"]);
        format!("its log: {log:?}")
    })
}

#[test]
fn no_order_fails_while_the_issuing_key_is_rotated() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    let before = shop.totals()?;
    let old = outrider.issuer()?;
    outrider.rotate()?;
    // The next one is trusted for two minutes before it signs.
    until("another key signs", 3 * PATIENCE, || {
        Ok(outrider.issuer()? != old)
    })?;
    // Everybody who starts now is signed by it, and is understood by everybody else.
    shop.namespace()
        .kubectl(&["rollout", "restart", "deployment/user"])?;
    shop.namespace().rolled_out("deployment/user")?;
    shop.no_more_failed_than(&before)
}

#[test]
fn no_order_fails_while_control_planes_die() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    let before = shop.totals()?;
    let pods = outrider.control_planes()?;
    assert_eq!(pods.len(), 3, "three replicas");
    let one = pods.first().context("there is a pod")?;
    outrider.kill(&[one])?;
    shop.more_orders(before.placed + 20)?;
    outrider.ready()?;

    let pods = outrider.control_planes()?;
    outrider.kill(&pods.iter().map(String::as_str).collect::<Vec<_>>())?;
    let then = shop.totals()?;
    shop.more_orders(then.placed + 20)?;
    outrider.ready()?;
    // They serve again: a new pod gets its certificate.
    shop.namespace()
        .kubectl(&["rollout", "restart", "deployment/user"])?;
    shop.namespace().rolled_out("deployment/user")?;
    shop.no_more_failed_than(&before)
}

/// Waits until the policy's status says that all of these sidecars enforce it.
fn enforced(namespace: &Namespace, policy: &str, sidecars: usize) -> Result<()> {
    let expected = format!("{sidecars} of {sidecars} sidecars");
    namespace.eventually(
        "the policy is enforced",
        &["authorizationpolicy", policy],
        |policy| {
            let conditions = policy["status"]["ancestors"][0]["conditions"].as_array()?;
            let programmed = conditions
                .iter()
                .find(|condition| condition["type"] == "Programmed")?;
            let said = programmed["message"].as_str()?;
            (programmed["status"] == "True" && said.contains(&expected)).then_some(())
        },
    )
}

/// What `curl -i` says.
fn call(namespace: &Namespace, pod: &str) -> Result<String> {
    let answer = namespace.exec(
        &format!("{pod}/client"),
        &[
            "/usr/bin/curl",
            "--silent",
            "--include",
            "--max-time",
            "10",
            "http://web/",
        ],
    )?;
    ensure!(!answer.is_empty(), "an answer");
    Ok(answer)
}

fn web() -> String {
    let nginx = "daemon off; error_log stderr; pid /tmp/nginx.pid; events {} http { access_log off; \
                 client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; \
                 uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; \
                 server { listen 8080; location / { return 200 'hello'; } } }";
    let command = format!("printf '%s' \"{nginx}\" >/tmp/c && exec /usr/sbin/nginx -c /tmp/c");
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "web",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-ec", command],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                }]},
            },
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
        },
    });
    documents(&[deployment, service])
}

/// A ServiceAccount, and a pod of it to call from.
fn client(name: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "client",
                "image": TOOLS,
                "imagePullPolicy": "Never",
                "command": ["/bin/sleep", "1000000"],
            }],
        },
    });
    documents(&[account, pod])
}

fn allow_friend() -> String {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{
                "name": "friend",
                "sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "friend"}}],
            }],
        },
    })
    .to_string()
}

fn documents(objects: &[Value]) -> String {
    objects
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}

/// The cluster is what it was before: what `outrider uninstall` names is all there is.
#[test]
fn nothing_is_left_when_it_is_uninstalled() -> Result<()> {
    let outrider = Outrider::installed()?;
    outrider.uninstall()?;
    let cluster = Cluster::shared()?;
    for kind in [
        "customresourcedefinitions",
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "clusterroles",
        "clusterrolebindings",
        "namespaces",
    ] {
        cluster.eventually("nothing of it is left", &[kind], |list| {
            let of_outrider = |item: &&Value| {
                item["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| name.contains("outrider"))
            };
            let left = list["items"].as_array()?.iter().find(of_outrider);
            left.is_none().then_some(())
        })?;
    }
    let bundles = cluster.read(&["configmaps", "--all-namespaces"])?;
    let bundles = bundles["items"].as_array().context("a list")?;
    let left = bundles
        .iter()
        .find(|bundle| bundle["metadata"]["name"] == "outrider-trust-bundle");
    assert_eq!(left, None);
    Ok(())
}
