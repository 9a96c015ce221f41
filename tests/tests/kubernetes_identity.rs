//! Who a pod is, and whom it trusts: tokens that the cluster reviews, the authority in a Secret, its
//! rotation, and the replica that does it. Each test has a control plane of its own, in its namespace, with
//! the rights that are installed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE};
use mesh_tests::pki::unsigned_token;
use mesh_tests::sign::names;
use mesh_tests::wait::{eventually, holds, until};
use serde_json::json;

use crate::kubernetes_replicas::{
    Answer, BUNDLE, Replica, Sidecar, accounts, anchors, bundle, field, issuer, pod, prepare, sign,
    token,
};

/// A replica looks at the Lease every two seconds, give or take a fifth.
const LOOKS: Duration = Duration::from_secs(3);

const UNAUTHENTICATED: &str = "16";
const RESOURCE_EXHAUSTED: &str = "8";
const PERMISSION_DENIED: &str = "7";

#[track_caller]
fn assert_refused(replica: &Replica, answer: &Answer, code: &str, reason: &str) -> Result<()> {
    assert_eq!(answer.code, code, "{reason}: {}", answer.message);
    assert!(
        answer.chain.is_empty(),
        "{reason}: a certificate came with it"
    );
    let counted = replica.refused(reason)?;
    assert!(
        counted >= 1.0,
        "{reason} was not counted: {}",
        answer.message
    );
    Ok(())
}

#[test]
fn a_token_gives_its_own_pod_its_own_identity_and_nobody_else_anything() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = Cluster::shared()?.namespace("identity")?;
    prepare(&namespace, &[])?;
    accounts(&namespace, &["order", "billing"])?;
    for (name, account, container) in [
        ("order", "order", "outrider-proxy"),
        ("billing", "billing", "outrider-proxy"),
        ("plain", "order", "app"),
    ] {
        namespace.apply(&pod(name, account, container))?;
    }
    for name in ["order", "billing", "plain"] {
        namespace.wait(&format!("pod/{name}"), "Ready")?;
    }
    let replica = Replica::start(&namespace, "one", &[])?;
    // One address may show so many tokens in a second; this test asks faster than a sidecar.
    let ask = |pod: &str, token: &str| {
        eventually("there is room for a token", PATIENCE, || {
            let answer = sign(&namespace, pod, &replica, token)?;
            Ok((answer.code != RESOURCE_EXHAUSTED).then_some(answer))
        })
    };
    let folder = tempfile::tempdir()?;

    let own = token(&namespace, "order", "own")?;
    let answer = ask("order", &own)?;
    assert_eq!(answer.code, "0", "{}", answer.message);
    let leaf = answer.chain.first().context("a certificate")?;
    let id = format!(
        "URI:spiffe://cluster.local/ns/{}/sa/order",
        namespace.name()
    );
    assert_eq!(names(leaf, folder.path())?, id);

    let billing = token(&namespace, "billing", "own")?;
    assert_refused(
        &replica,
        &ask("order", &billing)?,
        PERMISSION_DENIED,
        "pod_address",
    )?;
    let other = token(&namespace, "order", "other")?;
    assert_refused(
        &replica,
        &ask("order", &other)?,
        UNAUTHENTICATED,
        "token_audience",
    )?;
    let plain = token(&namespace, "plain", "own")?;
    assert_refused(
        &replica,
        &ask("plain", &plain)?,
        PERMISSION_DENIED,
        "pod_no_sidecar",
    )?;
    let audience = ["--audience", "outrider-control-plane"];
    let unbound = namespace.kubectl(&[&["create", "token", "order"][..], &audience].concat())?;
    let unbound = ask("order", unbound.trim())?;
    assert_refused(&replica, &unbound, PERMISSION_DENIED, "token_not_bound")?;
    let ended = json!({"aud": "outrider-control-plane", "exp": 1_700_000_000});
    assert_refused(
        &replica,
        &ask("order", &unsigned_token(&ended)?)?,
        UNAUTHENTICATED,
        "token_expired",
    )?;
    let unsigned = json!({"aud": "outrider-control-plane", "exp": 4_000_000_000_u64});
    let unsigned = ask("order", &unsigned_token(&unsigned)?)?;
    assert_refused(&replica, &unsigned, UNAUTHENTICATED, "token_rejected")?;

    // A pod that is gone, and one of the same name in its place. The API server may go on accepting the
    // token for ten seconds; the pod is looked for all the same.
    namespace.kubectl(&["delete", "pod", "billing", "--wait"])?;
    assert_gone(&ask("order", &billing)?);
    namespace.apply(&pod("billing", "billing", "outrider-proxy"))?;
    namespace.wait("pod/billing", "Ready")?;
    assert_gone(&ask("billing", &billing)?);
    let gone = ["pod_gone", "token_rejected"].map(|reason| replica.refused(reason));
    let gone: Vec<f64> = gone.into_iter().collect::<Result<_>>()?;
    assert_eq!(gone.iter().sum::<f64>(), 3.0);
    let renewed = token(&namespace, "billing", "own")?;
    assert_eq!(ask("billing", &renewed)?.code, "0");

    // A ServiceAccount that was taken away, and given back: the pod's tokens are the old one's.
    namespace.kubectl(&["delete", "serviceaccount", "order"])?;
    until("the API server has forgotten", PATIENCE, || {
        Ok(ask("order", &own)?.code == UNAUTHENTICATED)
    })?;
    accounts(&namespace, &["order"])?;
    let answer = ask("order", &own)?;
    assert_refused(&replica, &answer, UNAUTHENTICATED, "token_rejected")?;
    replica.reaches("certificates_issued_total", 2.0)?;
    replica.was_forbidden_nothing(&namespace)
}

#[track_caller]
fn assert_gone(answer: &Answer) {
    let codes = [UNAUTHENTICATED, PERMISSION_DENIED];
    assert!(codes.contains(&answer.code.as_str()), "{}", answer.message);
    assert!(answer.chain.is_empty(), "a certificate came with it");
}

#[test]
fn one_replica_leads_and_another_takes_over() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = Cluster::shared()?.namespace("leader")?;
    prepare(&namespace, &[])?;
    let start = |name| Replica::start(&namespace, name, &[]);
    let mut replicas = vec![start("one")?, start("two")?, start("three")?];
    let first = leader(&replicas)?;
    let killed = replicas.remove(first);
    namespace.kubectl(&[
        "delete",
        "pod",
        &killed.name,
        "--grace-period",
        "0",
        "--force",
    ])?;
    drop(killed);
    let second = leader(&replicas)?;

    // A Lease that is deleted comes back, and stays whose it was.
    namespace.kubectl(&["delete", "lease", "outrider-control-plane"])?;
    namespace.eventually("the Lease is back", &["leases"], |leases| {
        let lease = leases["items"].as_array()?.first()?;
        lease["spec"]["holderIdentity"].as_str().map(|_| ())
    })?;
    assert_eq!(leader(&replicas)?, second);
    // Given up, it is another's within moments.
    let ended = replicas.remove(second);
    namespace.kubectl(&["delete", "pod", &ended.name, "--wait"])?;
    let third = leader(&replicas)?;
    replicas[third].was_forbidden_nothing(&namespace)
}

/// Waits until one of them leads, and sees that no other does while each looks at the Lease once more.
fn leader(replicas: &[Replica]) -> Result<usize> {
    let mut together = None;
    let first = eventually("one of them leads", PATIENCE, || {
        let now = leaders(replicas)?;
        if now.len() > 1 {
            // They were asked one after the other, and one may have given up meanwhile. Who leads before
            // and after leads in between, where all of them do.
            let still = leaders(replicas)?;
            let both: BTreeSet<usize> = now.intersection(&still).copied().collect();
            together = together.take().or((both.len() > 1).then_some(both));
        }
        Ok(now.first().copied())
    })?;
    // Not within: there an error is "not yet".
    ensure!(together.is_none(), "{together:?} of them led at once");
    holds("nobody else leads", LOOKS, || {
        Ok(leaders(replicas)?.iter().all(|leader| *leader == first))
    })?;
    Ok(first)
}

fn leaders(replicas: &[Replica]) -> Result<BTreeSet<usize>> {
    let mut leaders = BTreeSet::new();
    for (number, replica) in replicas.iter().enumerate() {
        if replica.leads()? {
            leaders.insert(number);
        }
    }
    Ok(leaders)
}

#[test]
fn the_authority_is_rotated_while_two_replicas_sign() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = Cluster::shared()?.namespace("rotation")?;
    prepare(&namespace, &[])?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    let one = Replica::start(&namespace, "one", &[])?;
    let two = Replica::start(&namespace, "two", &[])?;
    let folder = tempfile::tempdir()?;
    let sidecar = Sidecar::start(&namespace, &one)?;
    let before = (
        issuer(&namespace, &one, folder.path())?,
        anchors(&namespace)?,
    );
    assert_eq!(before.1, 1);
    assert_eq!(issuer(&namespace, &two, folder.path())?, before.0);

    annotate(&namespace, "first")?;
    for replica in [&one, &two] {
        until("the next one signs", PATIENCE, || {
            Ok(issuer(&namespace, replica, folder.path())? != before.0)
        })?;
    }
    assert_eq!(
        issuer(&namespace, &one, folder.path())?,
        issuer(&namespace, &two, folder.path())?
    );
    until("both are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 2)
    })?;
    for replica in [&one, &two] {
        replica.reaches("trust_anchors", 2.0)?;
    }
    let secret = namespace.read(&["secret", "outrider-ca"])?;
    assert!(secret["data"]["previous.crt"].is_string(), "{secret:#}");
    assert!(secret["data"]["next.key"].is_null());
    assert_eq!(
        secret["metadata"]["annotations"]["outrider.mesh/rotated"],
        "first"
    );

    // The sidecar has followed, and never met a control plane that it did not know.
    until("the sidecar trusts both", PATIENCE, || {
        Ok(sidecar.log(&namespace)?.contains("trust anchors replaced"))
    })?;
    sidecar.is_well(&namespace)?;
    drop(sidecar);
    // One that starts now knows the new authority by the ConfigMap.
    namespace.kubectl(&["delete", "pod", "sidecar", "--wait"])?;
    let sidecar = Sidecar::start(&namespace, &two)?;
    sidecar.is_well(&namespace)?;

    // Before the old one is forgotten; the same value asks for nothing.
    annotate(&namespace, "second")?;
    until("three are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 3)
    })?;
    drop(sidecar);
    namespace.kubectl(&["delete", "pod", "sidecar", "--wait"])?;
    the_old_are_forgotten(&namespace, [&one, &two], folder.path())?;
    for replica in [&one, &two] {
        replica.was_forbidden_nothing(&namespace)?;
    }
    Ok(())
}

/// Once the last one signs and no certificate of the others can live any more: the longest would live for a
/// day, so the Secret is made to say that the last one signs for longer.
fn the_old_are_forgotten(
    namespace: &Namespace,
    replicas: [&Replica; 2],
    folder: &Path,
) -> Result<()> {
    namespace.eventually("the last one signs", &["secrets"], |secrets| {
        let mut secrets = secrets["items"].as_array()?.iter();
        let secret = secrets.find(|secret| secret["metadata"]["name"] == "outrider-ca")?;
        let rotated = &secret["metadata"]["annotations"]["outrider.mesh/rotated"];
        let signs = rotated == "second" && secret["data"]["next.key"].is_null();
        signs.then_some(())
    })?;
    assert_eq!(anchors(namespace)?, 3, "nothing is forgotten before");
    let since = "outrider.mesh/rotation-since=2020-01-01T00:00:00Z";
    namespace.kubectl(&["annotate", "--overwrite", "secret", "outrider-ca", since])?;
    until("one is trusted", PATIENCE, || Ok(anchors(namespace)? == 1))?;
    let signer = field(namespace, "outrider-ca", "tls.crt")?;
    assert_eq!(bundle(namespace)?.trim(), signer.trim());
    let secret = namespace.read(&["secret", "outrider-ca"])?;
    assert!(secret["data"]["previous.crt"].is_null(), "{secret:#}");
    for replica in replicas {
        until("the replica trusts one", PATIENCE, || {
            Ok(replica.value("trust_anchors")? < 1.5)
        })?;
    }
    assert_eq!(
        issuer(namespace, replicas[0], folder)?,
        issuer(namespace, replicas[1], folder)?
    );
    let sidecar = Sidecar::start(namespace, replicas[0])?;
    sidecar.is_well(namespace)
}

fn annotate(namespace: &Namespace, value: &str) -> Result<()> {
    let rotate = format!("outrider.mesh/rotate={value}");
    namespace.kubectl(&["annotate", "--overwrite", "secret", "outrider-ca", &rotate])?;
    Ok(())
}

#[test]
fn what_somebody_changes_is_put_right() -> Result<()> {
    let _turn = Outrider::absent()?;
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("repair")?;
    prepare(&namespace, &[])?;
    let meshed = cluster.namespace("meshed")?;
    let replica = Replica::start(&namespace, "one", &[])?;
    let there = |namespace: &Namespace| {
        namespace.eventually("there is a bundle", &["configmaps"], |maps| {
            let mut maps = maps["items"].as_array()?.iter();
            let map = maps.find(|map| map["metadata"]["name"] == "outrider-trust-bundle")?;
            let text = map["data"]["trust-bundle.pem"].as_str()?;
            text.contains("BEGIN CERTIFICATE").then(|| map.clone())
        })
    };
    there(&namespace)?;
    let name = meshed.name();
    cluster.kubectl(&["label", "namespace", name, "outrider.mesh/inject=enabled"])?;
    let first = there(&meshed)?;

    let edit = r#"{"data":{"trust-bundle.pem":"nobody"}}"#;
    meshed.kubectl(&["patch", BUNDLE, "--type", "merge", "--patch", edit])?;
    let second = there(&meshed)?;
    assert_eq!(second["data"], first["data"]);
    meshed.kubectl(&["delete", BUNDLE])?;
    there(&meshed)?;
    let edit = r#"{"immutable":true,"data":{"trust-bundle.pem":"nobody"}}"#;
    meshed.kubectl(&["patch", BUNDLE, "--type", "merge", "--patch", edit])?;
    there(&meshed)?;
    cluster.kubectl(&["label", "namespace", name, "outrider.mesh/inject-"])?;
    meshed.eventually("the bundle is gone", &["configmaps"], |maps| {
        let mut maps = maps["items"].as_array()?.iter();
        maps.all(|map| map["metadata"]["name"] != "outrider-trust-bundle")
            .then_some(())
    })?;

    // The Secret: what cannot be used changes nothing, and what is gone comes back as it was.
    let secret = namespace.read(&["secret", "outrider-ca"])?;
    let edit = r#"{"data":{"tls.key":"bm90aGluZw=="}}"#;
    namespace.kubectl(&[
        "patch",
        "secret",
        "outrider-ca",
        "--type",
        "merge",
        "--patch",
        edit,
    ])?;
    until("it is noticed", PATIENCE, || {
        Ok(replica.value("ca_secret_valid")? < 0.5)
    })?;
    namespace.kubectl(&["delete", "secret", "outrider-ca"])?;
    let restored = namespace.eventually("the Secret is back", &["secrets"], |secrets| {
        let mut secrets = secrets["items"].as_array()?.iter();
        let found = secrets.find(|secret| secret["metadata"]["name"] == "outrider-ca")?;
        Some(found["data"].clone())
    })?;
    assert_eq!(restored, secret["data"]);
    replica.reaches("ca_secret_valid", 1.0)?;
    replica.was_forbidden_nothing(&namespace)
}
