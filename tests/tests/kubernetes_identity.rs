//! Who a pod is, and whom it trusts: tokens that the cluster reviews, the authority in a Secret, its
//! rotation, and the replica that does it. Control planes run on this machine, with a namespace each.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE, TOOLS};
use mesh_tests::metrics::{Metrics, reaches};
use mesh_tests::pki::{Authority, signing_request, unsigned_token};
use mesh_tests::process::Process;
use mesh_tests::programs::outrider;
use mesh_tests::sign::{certificates, describe, frame, names};
use mesh_tests::wait::{eventually, until};
use serde_json::json;
use tempfile::TempDir;

/// This machine, as pods see it.
const HERE: &str = "198.18.250.1";
const UNAUTHENTICATED: &str = "16";
const PERMISSION_DENIED: &str = "7";
const BUNDLE: &str = "configmap/outrider-trust-bundle";

/// A replica of a control plane whose own namespace is a test's.
struct Replica {
    process: Process,
    listen: String,
    admin: u16,
    _folder: TempDir,
}

impl Replica {
    fn start(namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = format!("{HERE}:0");
        let own = [
            "control-plane",
            "--kubernetes",
            "--namespace",
            namespace.name(),
            "--listen",
            &listen,
            "--admin",
            "127.0.0.1:0",
            "--replica",
            name,
            "--ca-settle",
            "1s",
        ];
        let arguments = [&own, arguments].concat();
        let mut command = namespace.cluster().command_of(&outrider()?, &arguments)?;
        let mut process = Process::start(name, folder.path(), &mut command)?;
        process.wait_for_log("listening", PATIENCE)?;
        let (listen, admin) = (address(&process, "listen=")?, address(&process, "admin=")?);
        let (_, port) = admin.rsplit_once(':').context("a port")?;
        let admin = port.parse()?;
        Ok(Self {
            process,
            listen,
            admin,
            _folder: folder,
        })
    }

    /// Waits until it has an authority and a mesh.
    fn ready(self) -> Result<Self> {
        reaches_within(self.admin, "certificate_expiry_timestamp_seconds", 1.0)?;
        Ok(self)
    }

    fn leads(&self) -> Result<bool> {
        Ok(self.value("leader")? > 0.5)
    }

    fn value(&self, name: &str) -> Result<f64> {
        Metrics::scrape(self.admin)?.value(&format!("outrider_control_plane_{name}"))
    }

    fn refused(&self, reason: &str) -> Result<f64> {
        let name = "outrider_control_plane_certificates_refused_total";
        Ok(Metrics::scrape(self.admin)?.sum(name, &[("reason", reason)]))
    }
}

fn address(process: &Process, field: &str) -> Result<String> {
    let log = process.log();
    let (_, rest) = log.split_once(field).context("an address in the log")?;
    Ok(rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn reaches_within(admin: u16, name: &str, least: f64) -> Result<()> {
    let name = format!("outrider_control_plane_{name}");
    until(&format!("{name} reaches {least}"), PATIENCE, || {
        let metrics = Metrics::scrape(admin)?;
        Ok(metrics.value(&name).is_ok_and(|value| value >= least))
    })
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
        "printf '{request}' > /tmp/request
         curl -sk --http2 --max-time 20 -o /tmp/answer -D /tmp/heads --data-binary @/tmp/request \
           -H 'content-type: application/grpc' -H 'te: trailers' -H 'authorization: Bearer {token}' \
           https://{}/outrider.v1.Identity/Sign
         cat /tmp/heads; echo; echo BODY; [ ! -f /tmp/answer ] || /bin/busybox od -An -v -tx1 /tmp/answer
         rm -f /tmp/answer",
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
    let namespace = Cluster::shared()?.namespace("identity")?;
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
    let replica = Replica::start(&namespace, "one", &[])?.ready()?;
    let ask = |pod: &str, token: &str| sign(&namespace, pod, &replica, token);
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

    // A pod that is gone, and one of the same name in its place.
    let rejected = replica.refused("token_rejected")?;
    namespace.kubectl(&["delete", "pod", "billing", "--wait"])?;
    let gone = ask("order", &billing)?;
    assert_refused(&replica, &gone, UNAUTHENTICATED, "token_rejected")?;
    namespace.apply(&pod("billing", "billing", "outrider-proxy"))?;
    namespace.wait("pod/billing", "Ready")?;
    let gone = ask("billing", &billing)?;
    assert_refused(&replica, &gone, UNAUTHENTICATED, "token_rejected")?;
    let renewed = token(&namespace, "billing", "own")?;
    assert_eq!(ask("billing", &renewed)?.code, "0");

    // A ServiceAccount that was taken away, and given back: the pod's tokens are the old one's.
    namespace.kubectl(&["delete", "serviceaccount", "order"])?;
    assert_refused(
        &replica,
        &ask("order", &own)?,
        UNAUTHENTICATED,
        "token_rejected",
    )?;
    accounts(&namespace, &["order"])?;
    assert_refused(
        &replica,
        &ask("order", &own)?,
        UNAUTHENTICATED,
        "token_rejected",
    )?;
    assert!(replica.refused("token_rejected")? >= rejected + 4.0);
    reaches(
        replica.admin,
        "outrider_control_plane_certificates_issued_total",
        &[],
        2.0,
    )
}

#[test]
fn one_replica_leads_and_another_takes_over() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("leader")?;
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
    let mut killed = replicas.remove(first);
    killed.process.kill()?;
    let second = leader(&replicas)?;

    // Given up, it is another's within moments; a Lease that is deleted comes back.
    let mut ended = replicas.remove(second);
    ended.process.terminate()?;
    ended.process.exit(PATIENCE)?;
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
    let namespace = Cluster::shared()?.namespace("rotation")?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    let one = Replica::start(&namespace, "one", &[])?.ready()?;
    let two = Replica::start(&namespace, "two", &[])?.ready()?;
    let folder = tempfile::tempdir()?;
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
        reaches_within(replica.admin, "trust_anchors", 2.0)?;
    }
    let secret = namespace.read(&["secret", "outrider-ca"])?;
    assert!(secret["data"]["previous.crt"].is_string(), "{secret:#}");
    assert!(secret["data"]["next.key"].is_null());
    assert_eq!(
        secret["metadata"]["annotations"]["outrider.mesh/rotated"],
        "first"
    );

    // Before the old one is forgotten; the same value asks for nothing.
    annotate(&namespace, "second")?;
    until("three are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 3)
    })
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
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("repair")?;
    let meshed = cluster.namespace("meshed")?;
    let replica = Replica::start(&namespace, "one", &[])?.ready()?;
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
    reaches_within(replica.admin, "ca_secret_valid", 1.0)
}

#[test]
fn an_authority_of_another_keeper_is_followed() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("keeper")?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    let folder = tempfile::tempdir()?;
    let (old, new) = (Authority::stranger()?, Authority::stranger()?);
    put(&namespace, &old)?;
    let arguments = ["--ca-secret", "given", "--ca-secret-managed-elsewhere"];
    let replica = Replica::start(&namespace, "one", &arguments)?.ready()?;
    let before = issuer(&namespace, &replica, folder.path())?;
    put(&namespace, &new)?;
    until("both are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 2)
    })?;
    until("the next one signs", PATIENCE, || {
        Ok(issuer(&namespace, &replica, folder.path())? != before)
    })?;
    drop(replica);
    // It has not forgotten whom it trusted.
    let replica = Replica::start(&namespace, "one", &arguments)?.ready()?;
    reaches_within(replica.admin, "trust_anchors", 2.0)?;
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
