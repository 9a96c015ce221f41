//! Who a pod is, and whom it trusts: tokens that the cluster reviews, the authority in a Secret, its
//! rotation, and the replica that does it. Each test has a control plane of its own, in its namespace.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Cluster, Image, Namespace, PATIENCE, PortForward, TOOLS};
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::{Authority, signing_request, unsigned_token};
use mesh_tests::programs::outrider;
use mesh_tests::sign::{certificates, describe, frame, names};
use mesh_tests::wait::{eventually, until};
use serde_json::json;

const UNAUTHENTICATED: &str = "16";
const RESOURCE_EXHAUSTED: &str = "8";
const PERMISSION_DENIED: &str = "7";
const BUNDLE: &str = "configmap/outrider-trust-bundle";

/// The command, as an image.
const OUTRIDER: &str = "outrider.test/outrider:1";

/// Makes `namespace` one in which control planes may run. What they may do is not what is tested here.
fn prepare(namespace: &Namespace) -> Result<()> {
    let image = Image::new(OUTRIDER)
        .libraries()
        .option("--user", "2102")
        .option("--entrypoint", "/outrider")
        .file(&outrider()?, "/outrider");
    namespace.cluster().load(&image.make()?)?;
    accounts(namespace, &["control-plane"])?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": namespace.name(), "ownerReferences": [namespace.owner()?]},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
        },
        "subjects": [{
            "kind": "ServiceAccount", "name": "control-plane", "namespace": namespace.name(),
        }],
    });
    namespace.cluster().apply(&binding.to_string())
}

/// A replica of a control plane.
struct Replica {
    name: String,
    listen: String,
    admin: PortForward,
}

impl Replica {
    fn start(namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Self> {
        let own = [
            "control-plane",
            "--kubernetes",
            "--namespace",
            namespace.name(),
            "--replica",
            name,
            "--ca-settle",
            "1s",
        ];
        let arguments = [&own, arguments].concat();
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {
                "app.kubernetes.io/name": "outrider", "app.kubernetes.io/component": "control-plane",
            }},
            "spec": {
                "serviceAccountName": "control-plane",
                "containers": [{
                    "name": "control-plane",
                    "image": OUTRIDER,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 15014}, "periodSeconds": 1},
                }],
            },
        });
        namespace.apply(&pod.to_string())?;
        namespace.wait(&format!("pod/{name}"), "Ready")?;
        let found = namespace.read(&["pod", name])?;
        let address = found["status"]["podIP"].as_str().context("an address")?;
        Ok(Self {
            name: name.to_owned(),
            listen: format!("{address}:15012"),
            admin: namespace.port_forward(&format!("pod/{name}"), 15014)?,
        })
    }

    fn leads(&self) -> Result<bool> {
        Ok(self.value("leader")? > 0.5)
    }

    fn value(&self, name: &str) -> Result<f64> {
        Metrics::scrape(self.admin.port())?.value(&format!("outrider_control_plane_{name}"))
    }

    fn reaches(&self, name: &str, least: f64) -> Result<()> {
        until(&format!("{name} reaches {least}"), PATIENCE, || {
            Ok(self.value(name)? >= least)
        })
    }

    fn refused(&self, reason: &str) -> Result<f64> {
        let name = "outrider_control_plane_certificates_refused_total";
        Ok(Metrics::scrape(self.admin.port())?.sum(name, &[("reason", reason)]))
    }
}

/// A pod that can ask for certificates as a sidecar does; its container has the sidecar's name, or another.
fn pod(name: &str, account: &str, container: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": container,
                "image": TOOLS,
                "imagePullPolicy": "Never",
                "command": ["/bin/sleep", "1000000"],
                "volumeMounts": [{"name": "tokens", "mountPath": "/tokens"}],
            }],
            "volumes": [{"name": "tokens", "projected": {"sources": [
                {"serviceAccountToken": {"path": "own", "audience": "outrider-control-plane"}},
                {"serviceAccountToken": {"path": "other", "audience": "elsewhere"}},
            ]}}],
        },
    })
    .to_string()
}

fn accounts(namespace: &Namespace, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| {
        namespace
            .kubectl(&["create", "serviceaccount", name])
            .map(|_| ())
    })
}

/// What a call of `Identity.Sign` from a pod came to.
struct Answer {
    code: String,
    message: String,
    chain: Vec<Vec<u8>>,
}

fn token(namespace: &Namespace, pod: &str, path: &str) -> Result<String> {
    let text = namespace.exec(pod, &["cat", &format!("/tokens/{path}")])?;
    Ok(text.trim().to_owned())
}

/// Asks from within `pod` with `token`.
fn sign(namespace: &Namespace, pod: &str, replica: &Replica, token: &str) -> Result<Answer> {
    let request = frame(&signing_request(&[], false)?)?;
    let request: String = request.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!(
        "printf '{request}' > /tmp/request; : > /tmp/answer
         curl -sk --http2 --max-time 20 -o /tmp/answer -D /tmp/heads --data-binary @/tmp/request \
           -H 'content-type: application/grpc' -H 'te: trailers' -H 'authorization: Bearer {token}' \
           https://{}/outrider.v1.Identity/Sign
         cat /tmp/heads; echo; echo BODY; /bin/busybox od -An -v -tx1 /tmp/answer",
        replica.listen
    );
    let text = namespace.exec(pod, &["/bin/sh", "-c", &script])?;
    let (heads, body) = text.split_once("BODY").context("an answer")?;
    let field = |name: &str| {
        let mut lines = heads.lines().filter_map(|line| line.split_once(':'));
        let line = lines.find(|(field, _)| field.eq_ignore_ascii_case(name));
        line.map(|(_, value)| value.trim().to_owned())
    };
    let bytes = body
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Result<Vec<u8>, _> = bytes.collect();
    Ok(Answer {
        code: field("grpc-status").with_context(|| format!("a status: {heads}"))?,
        message: field("grpc-message").unwrap_or_default(),
        chain: certificates(&bytes?)?,
    })
}

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
    prepare(&namespace)?;
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
    replica.reaches("certificates_issued_total", 2.0)
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
    prepare(&namespace)?;
    let start = |name| Replica::start(&namespace, name, &[]);
    let mut replicas = vec![start("one")?, start("two")?, start("three")?];
    let leader = |replicas: &[Replica]| {
        eventually("one of them leads", PATIENCE, || {
            let leads: Vec<bool> = replicas.iter().map(Replica::leads).collect::<Result<_>>()?;
            let count = leads.iter().filter(|leads| **leads).count();
            ensure!(count <= 1, "{count} of them lead");
            Ok(leads.iter().position(|leads| *leads))
        })
    };
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

    // Given up, it is another's within moments; a Lease that is deleted comes back.
    let ended = replicas.remove(second);
    namespace.kubectl(&["delete", "pod", &ended.name, "--wait"])?;
    leader(&replicas)?;
    namespace.kubectl(&["delete", "lease", "outrider-control-plane"])?;
    namespace.eventually("the Lease is back", &["leases"], |leases| {
        let lease = leases["items"].as_array()?.first()?;
        lease["spec"]["holderIdentity"].as_str().map(|_| ())
    })?;
    leader(&replicas)?;
    Ok(())
}

#[test]
fn the_authority_is_rotated_while_two_replicas_sign() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = Cluster::shared()?.namespace("rotation")?;
    prepare(&namespace)?;
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
    })
}

fn failed_renewals(telemetry: &PortForward) -> Result<f64> {
    let metrics = Metrics::scrape(telemetry.port())?;
    Ok(metrics.sum(
        "outrider_certificate_renewals_total",
        &[("result", "error")],
    ))
}

/// A pod of a sidecar alone.
struct Sidecar {
    telemetry: PortForward,
    /// Renewals that had failed when it was ready.
    failed: f64,
}

impl Sidecar {
    fn start(namespace: &Namespace, replica: &Replica) -> Result<Self> {
        let workload = format!("{}/sidecar", namespace.name());
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "sidecar"},
            "spec": {
                "serviceAccountName": "order",
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "outrider-proxy",
                    "image": OUTRIDER,
                    "imagePullPolicy": "Never",
                    "args": [
                        "proxy", "--control-plane", replica.listen, "--trust-bundle",
                        "/trust/trust-bundle.pem", "--token-file", "/tokens/own", "--workload", workload,
                    ],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 15020}, "periodSeconds": 1},
                    "volumeMounts": [
                        {"name": "tokens", "mountPath": "/tokens"},
                        {"name": "trust", "mountPath": "/trust"},
                    ],
                }],
                "volumes": [
                    {"name": "tokens", "projected": {"sources": [{"serviceAccountToken": {
                        "path": "own", "audience": "outrider-control-plane",
                    }}]}},
                    {"name": "trust", "configMap": {"name": "outrider-trust-bundle"}},
                ],
            },
        });
        namespace.apply(&pod.to_string())?;
        namespace.wait("pod/sidecar", "Ready")?;
        let telemetry = namespace.port_forward("pod/sidecar", 15020)?;
        let failed = failed_renewals(&telemetry)?;
        Ok(Self { telemetry, failed })
    }

    /// Waits until it is connected; no renewal of its certificate has failed.
    fn is_well(&self, namespace: &Namespace) -> Result<()> {
        until("the sidecar is connected", PATIENCE, || {
            let metrics = Metrics::scrape(self.telemetry.port())?;
            Ok(metrics.value("outrider_control_plane_connected")? > 0.5)
        })?;
        let failed = failed_renewals(&self.telemetry)?;
        assert_eq!(failed, self.failed, "{}", self.log(namespace)?);
        Ok(())
    }

    fn log(&self, namespace: &Namespace) -> Result<String> {
        namespace.kubectl(&["logs", "sidecar"])
    }
}

fn annotate(namespace: &Namespace, value: &str) -> Result<()> {
    let rotate = format!("outrider.mesh/rotate={value}");
    namespace.kubectl(&["annotate", "--overwrite", "secret", "outrider-ca", &rotate])?;
    Ok(())
}

/// Who signs.
fn issuer(namespace: &Namespace, replica: &Replica, folder: &Path) -> Result<String> {
    let own = token(namespace, "order", "own")?;
    let answer = sign(namespace, "order", replica, &own)?;
    assert_eq!(answer.code, "0", "{}", answer.message);
    let leaf = answer.chain.first().context("a certificate")?;
    describe(leaf, folder, &["-ext", "authorityKeyIdentifier"])
}

/// How many authorities the trust bundle has.
fn anchors(namespace: &Namespace) -> Result<usize> {
    let map = namespace.read(&[BUNDLE])?;
    let text = map["data"]["trust-bundle.pem"]
        .as_str()
        .context("a bundle")?;
    Ok(text.matches("BEGIN CERTIFICATE").count())
}

#[test]
fn what_somebody_changes_is_put_right() -> Result<()> {
    let _turn = Outrider::absent()?;
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("repair")?;
    prepare(&namespace)?;
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
    replica.reaches("ca_secret_valid", 1.0)
}

#[test]
fn an_authority_of_another_keeper_is_followed() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = Cluster::shared()?.namespace("keeper")?;
    prepare(&namespace)?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    let folder = tempfile::tempdir()?;
    let (old, new) = (Authority::stranger()?, Authority::stranger()?);
    put(&namespace, &old)?;
    let arguments = ["--ca-secret", "given", "--ca-secret-managed-elsewhere"];
    let replica = Replica::start(&namespace, "one", &arguments)?;
    let before = issuer(&namespace, &replica, folder.path())?;
    put(&namespace, &new)?;
    until("both are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 2)
    })?;
    until("the next one signs", PATIENCE, || {
        Ok(issuer(&namespace, &replica, folder.path())? != before)
    })?;
    drop(replica);
    namespace.kubectl(&["delete", "pod", "one", "--wait"])?;
    // It has not forgotten whom it trusted.
    let replica = Replica::start(&namespace, "one", &arguments)?;
    replica.reaches("trust_anchors", 2.0)?;
    let secret = namespace.read(&["secret", "given"])?;
    let fields = secret["metadata"]["managedFields"].to_string();
    ensure!(!fields.contains("outrider"), "it was written: {fields}");
    Ok(())
}

/// As cert-manager does: all at once.
fn put(namespace: &Namespace, authority: &Authority) -> Result<()> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "given"},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": authority.certificate(),
            "tls.key": authority.key(),
            "ca.crt": authority.certificate(),
        },
    });
    namespace.apply(&secret.to_string())
}
