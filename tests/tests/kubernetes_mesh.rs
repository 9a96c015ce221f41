//! The mesh where its users run it: installed from what `outrider install` prints, three replicas, with
//! the shop's Deployments in a namespace that has the label. No call fails that policy allows,
//! whatever comes and goes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::shop::Shop;
use mesh_tests::kubernetes::{Cluster, GatewayApi, Namespace, PATIENCE, SIDECAR, container};
use mesh_tests::process::run;
use mesh_tests::wait::until;
use serde_json::{Value, json};

use crate::kubernetes_common::{
    allow_friend, assert_denied, assert_refused, befriended, call, client, enforced, programmed,
    try_apply, web,
};

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
    identities_are_those_of_accounts(&outrider, &shop)?;
    let before = shop.totals()?;
    shop.more_orders(before.placed + 20)?;
    assert_eq!(shop.totals()?.failed, before.failed);
    Ok(())
}

/// Each sidecar shows others a certificate for the ServiceAccount of its pod.
fn identities_are_those_of_accounts(outrider: &Outrider, shop: &Shop) -> Result<()> {
    let mut expected = BTreeMap::new();
    for pod in shop.pods()? {
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a name");
        let name = text(&pod["metadata"]["name"])?;
        let account = text(&pod["spec"]["serviceAccountName"])?;
        let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        expected.insert(format!("shop/{name}"), id);
    }
    assert_eq!(expected.len(), 8, "{expected:?}");
    let arguments = ["certs", "--namespace", "shop", "--output", "json"];
    let listed = run(&mut outrider.command(&arguments)?, PATIENCE)?.success()?;
    let listed: Value = serde_json::from_str(&listed.stdout)?;
    let rows = listed["certificates"].as_array().context("certificates")?;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let shown = rows.iter();
    let shown: BTreeMap<String, String> = shown
        .map(|row| (text(row, "workload"), text(row, "identity")))
        .collect();
    assert_eq!(shown, expected);
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
        assert_denied(&call(&namespace, pod, "/")?);
    }

    namespace.apply(&allow_friend())?;
    enforced(&namespace, "web", 2)?;
    let allowed = call(&namespace, "friend", "/")?;
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    assert_denied(&call(&namespace, "stranger", "/")?);
    // The app is told who calls, by the names of their ServiceAccounts.
    let id = |account: &str| {
        format!(
            "spiffe://cluster.local/ns/{}/sa/{account}",
            namespace.name()
        )
    };
    let who = format!("\r\n\r\nBy={};URI={}", id("default"), id("friend"));
    let told = call(&namespace, "friend", "/who")?;
    assert!(told.ends_with(&who), "expected {who}: {told}");

    namespace.kubectl(&["delete", "authorizationpolicy", "web"])?;
    namespace.eventually("the policy is gone", &["authorizationpolicies"], |list| {
        list["items"].as_array()?.is_empty().then_some(())
    })?;
    until("nobody is let in", Duration::from_secs(10), || {
        Ok(call(&namespace, "friend", "/")?.starts_with("HTTP/1.1 403"))
    })?;
    assert_denied(&call(&namespace, "friend", "/")?);
    Ok(())
}

/// Their status counts whom they concern: who is called, or who calls.
#[test]
fn limits_and_settings_say_on_how_many_sidecars_they_are_in_force() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = befriended(&outrider, "settings")?;
    let answered = |status: u16| -> Result<String> {
        let answer = call(&namespace, "friend", "/")?;
        let first = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&first), "expected {status}: {answer}");
        Ok(answer)
    };
    answered(200)?;

    // One in an hour from each instance, of which there are two.
    let limit = |requests: u32| {
        let limits = json!([{"name": "few", "requests": requests, "interval": "1h"}]);
        about_web("RateLimitPolicy", &json!({ "limits": limits }))
    };
    namespace.apply(&limit(1))?;
    programmed(&namespace, "ratelimitpolicy", "web", 2)?;
    let allowed = (0..10).map(|_| call(&namespace, "friend", "/"));
    let answers: Vec<String> = allowed.collect::<Result<_>>()?;
    let (allowed, refused): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.starts_with("HTTP/1.1 200 "));
    assert!((1..=2).contains(&allowed.len()), "{answers:#?}");
    for refused in refused {
        assert_refused(refused, 429, "http_request_denied", "rate_limited");
    }
    namespace.apply(&limit(1000))?;
    programmed(&namespace, "ratelimitpolicy", "web", 2)?;
    answered(200)?;

    let faults = |percent: u32| {
        let faults = json!([{"percent": percent, "abort": {"status": 418}}]);
        about_web("TrafficPolicy", &json!({ "faults": faults }))
    };
    namespace.apply(&faults(100))?;
    programmed(&namespace, "trafficpolicy", "web", 1)?;
    let aborted = answered(418)?;
    assert_refused(&aborted, 418, "proxy_internal_response", "fault_injected");
    namespace.apply(&faults(0))?;
    programmed(&namespace, "trafficpolicy", "web", 1)?;
    answered(200)?;
    Ok(())
}

/// A policy about the Service `web`, with these further fields.
fn about_web(kind: &str, fields: &Value) -> String {
    let mut policy = json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": kind,
        "metadata": {"name": "web"},
        "spec": fields,
    });
    policy["spec"]["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "web"}]);
    policy.to_string()
}

/// What has no meaning is refused with what was meant, and what has none yet is stored with a warning.
#[test]
fn a_policy_is_judged_before_it_is_stored() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("judged")?;
    nothing_meaningless_is_taken(&namespace)?;
    let none = namespace.read(&["authorizationpolicies"])?;
    assert_eq!(none["items"], json!([]), "{none:#}");

    let taken = try_apply(&namespace, &allow_friend(), &[])?.success()?;
    let warning = "Warning: spec.targetRefs[0].name: there is no Service";
    assert!(taken.stderr.contains(warning), "{}", taken.output());
    let stored = namespace.read(&["authorizationpolicy", "web"])?;
    let expected: Value = serde_json::from_str(&allow_friend())?;
    assert_eq!(stored["spec"], expected["spec"], "{stored:#}");

    nothing_meaningless_is_taken(&namespace)?;
    let kept = namespace.read(&["authorizationpolicy", "web"])?;
    assert_eq!(kept["spec"], expected["spec"], "{kept:#}");

    // With the Service there, and pods behind it, nothing is missing.
    namespace.apply(&web())?;
    namespace.rolled_out("deployment/web")?;
    let mut changed = expected;
    changed["spec"]["rules"][0]["name"] = json!("friends");
    until("the webhook knows the Service", PATIENCE, || {
        let tried = try_apply(&namespace, &changed.to_string(), &["--dry-run=server"])?;
        Ok(!tried.success()?.stderr.contains("Warning"))
    })
}

/// In place of [`allow_friend`], either way of applying.
fn nothing_meaningless_is_taken(namespace: &Namespace) -> Result<()> {
    let mut misspelt: Value = serde_json::from_str(&allow_friend())?;
    let mut nobody = misspelt.clone();
    let spec = misspelt["spec"].as_object_mut().context("a spec")?;
    let rules = spec.remove("rules").context("rules")?;
    spec.insert("rulez".to_owned(), rules);
    nobody["spec"]["rules"][0]["sources"] = Value::Null;
    for (policy, expected) in [
        (
            misspelt,
            "spec.rulez: unknown field \"rulez\", expected targetRefs, action or rules; did you mean \"rules\"?",
        ),
        (nobody, "spec.rules[0].sources: "),
    ] {
        for way in [&[][..], &["--server-side", "--force-conflicts"]] {
            let refused = try_apply(namespace, &policy.to_string(), way)?;
            let said = refused.output();
            assert_eq!(refused.status.code(), Some(1), "{way:?}: {said}");
            let by = "admission webhook \"validator.outrider.mesh\" denied the request: ";
            assert!(said.contains(&format!("{by}{expected}")), "{way:?}: {said}");
        }
    }
    Ok(())
}

#[test]
fn no_order_fails_while_pods_come_and_go() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    let before = shop.totals()?;
    let kubectl = |arguments: &[&str]| shop.namespace().kubectl(arguments);
    for app in ["billing", "user", "order"] {
        let deployment = format!("deployment/{app}");
        kubectl(&["rollout", "restart", &deployment])?;
        shop.namespace().rolled_out(&deployment)?;
        shop.settled(app, 2)?;
    }
    for replicas in [3, 1, 2] {
        let to = replicas.to_string();
        kubectl(&["scale", "deployment/user", "--replicas", &to])?;
        shop.namespace().rolled_out("deployment/user")?;
        shop.settled("user", replicas)?;
    }
    for _ in 0..3 {
        let pods = shop.settled("billing", 2)?;
        kubectl(&["delete", "pod", &pods[0]])?;
        shop.namespace().rolled_out("deployment/billing")?;
    }
    shop.no_more_failed_than(&before)
}

/// As docs/kubernetes.md says: the control plane first, then pods as they are created anew.
#[test]
fn no_order_fails_while_the_mesh_is_upgraded() -> Result<()> {
    const NEXT: &str = "next";
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    outrider.publish(NEXT)?;
    let upgraded = upgrade(&outrider, &shop, NEXT);
    // Whatever became of it, the next test finds what it expects.
    outrider.install_version(env!("CARGO_PKG_VERSION"))?;
    upgraded
}

fn upgrade(outrider: &Outrider, shop: &Shop, tag: &str) -> Result<()> {
    let before = shop.totals()?;
    outrider.install_version(tag)?;
    for app in ["billing", "user", "order"] {
        let deployment = format!("deployment/{app}");
        shop.namespace()
            .kubectl(&["rollout", "restart", &deployment])?;
        shop.namespace().rolled_out(&deployment)?;
        shop.settled(app, 2)?;
    }
    shop.no_more_failed_than(&before)?;
    for pod in shop.pods()? {
        let app = &pod["metadata"]["labels"]["app"];
        let image = container(&pod, SIDECAR)?["image"].as_str();
        let image = image.context("a sidecar has an image")?;
        let upgraded = ["billing", "user", "order"].iter().any(|name| app == name);
        let is_new = image.ends_with(&format!(":{tag}"));
        assert_eq!(is_new, upgraded, "{app}: {image}");
    }
    Ok(())
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

/// The cluster is what it was before: what `outrider uninstall` names is all there is.
#[test]
fn nothing_is_left_when_it_is_uninstalled() -> Result<()> {
    let outrider = Outrider::installed()?;
    let cluster = outrider.cluster();
    // What it makes outside of its own namespace.
    let _kinds = GatewayApi::install(cluster)?;
    let shop = outrider.meshed_namespace("bundle")?;
    let named = |list: &Value, name: &str| {
        let mut names = list["items"].as_array()?.iter();
        names
            .any(|item| item["metadata"]["name"] == name)
            .then_some(())
    };
    cluster.eventually("there is an XMesh", &["xmeshes"], |list| {
        named(list, "outrider")
    })?;
    shop.eventually("there is a trust bundle", &["configmaps"], |list| {
        named(list, "outrider-trust-bundle")
    })?;

    outrider.uninstall()?;
    let mut left = Vec::new();
    until("nothing of it is left", PATIENCE, || {
        left = of_outrider(cluster)?;
        Ok(left.is_empty())
    })
    .with_context(|| format!("{left:?}"))
}

/// Everything in the cluster that is named after it, or is in its namespace.
fn of_outrider(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = "customresourcedefinitions,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
                 clusterroles,clusterrolebindings,roles,rolebindings,leases,secrets,configmaps,\
                 serviceaccounts,services,deployments,pods,namespaces,xmeshes";
    let all = cluster.read(&[kinds, "--all-namespaces"])?;
    let all = all["items"].as_array().context("a list")?.iter();
    // A node may be named so.
    let all = all.filter(|item| item["metadata"]["namespace"] != "kube-node-lease");
    let names = all.map(|item| {
        let (kind, metadata) = (&item["kind"], &item["metadata"]);
        format!("{kind} {} {}", metadata["namespace"], metadata["name"])
    });
    Ok(names.filter(|name| name.contains("outrider")).collect())
}
