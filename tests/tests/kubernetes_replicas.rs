//! What tests of who is who in the cluster have in common: a control plane of their own, somebody who asks
//! it for certificates as a sidecar does, and a sidecar.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::{Image, Namespace, PATIENCE, PortForward, TOOLS};
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::signing_request;
use mesh_tests::programs::outrider;
use mesh_tests::sign::{certificates, describe, frame};
use mesh_tests::wait::until;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

pub(crate) const BUNDLE: &str = "configmap/outrider-trust-bundle";

/// The command, as an image.
const OUTRIDER: &str = "outrider.test/outrider:1";

/// Makes `namespace` one in which control planes may run that are installed with these options. They may do
/// what these may, and nothing else.
pub(crate) fn prepare(namespace: &Namespace, options: &[&str]) -> Result<()> {
    let image = Image::new(OUTRIDER)
        .libraries()
        .option("--user", "2102")
        .option("--entrypoint", "/outrider")
        .file(&outrider()?, "/outrider");
    namespace.cluster().load(&image.make()?)?;
    namespace.control_plane_account(options)
}

/// A replica of a control plane.
pub(crate) struct Replica {
    pub(crate) name: String,
    listen: String,
    admin: PortForward,
}

impl Replica {
    pub(crate) fn start(namespace: &Namespace, name: &str, arguments: &[&str]) -> Result<Self> {
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
                "automountServiceAccountToken": true,
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

    /// It has never asked the API server for what it may not do.
    pub(crate) fn was_forbidden_nothing(&self, namespace: &Namespace) -> Result<()> {
        let log = namespace.kubectl(&["logs", &self.name])?;
        ensure!(!log.to_lowercase().contains("forbidden"), "{log}");
        Ok(())
    }

    pub(crate) fn leads(&self) -> Result<bool> {
        Ok(self.value("leader")? > 0.5)
    }

    pub(crate) fn value(&self, name: &str) -> Result<f64> {
        Metrics::scrape(self.admin.port())?.value(&format!("outrider_control_plane_{name}"))
    }

    pub(crate) fn reaches(&self, name: &str, least: f64) -> Result<()> {
        until(&format!("{name} reaches {least}"), PATIENCE, || {
            Ok(self.value(name)? >= least)
        })
    }

    pub(crate) fn refused(&self, reason: &str) -> Result<f64> {
        let name = "outrider_control_plane_certificates_refused_total";
        Ok(Metrics::scrape(self.admin.port())?.sum(name, &[("reason", reason)]))
    }
}

/// A pod that can ask for certificates as a sidecar does; its container has the sidecar's name, or another.
pub(crate) fn pod(name: &str, account: &str, container: &str) -> String {
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

pub(crate) fn accounts(namespace: &Namespace, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| {
        namespace
            .kubectl(&["create", "serviceaccount", name])
            .map(|_| ())
    })
}

/// What a call of `Identity.Sign` from a pod came to.
pub(crate) struct Answer {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) chain: Vec<Vec<u8>>,
}

pub(crate) fn token(namespace: &Namespace, pod: &str, path: &str) -> Result<String> {
    let text = namespace.exec(pod, &["cat", &format!("/tokens/{path}")])?;
    Ok(text.trim().to_owned())
}

/// Asks from within `pod` with `token`.
pub(crate) fn sign(
    namespace: &Namespace,
    pod: &str,
    replica: &Replica,
    token: &str,
) -> Result<Answer> {
    sign_at(namespace, pod, &replica.listen, token)
}

/// The same, of a replica of which nothing is known but where it listens.
fn sign_at(namespace: &Namespace, pod: &str, listen: &str, token: &str) -> Result<Answer> {
    let request = frame(&signing_request(&[], false)?)?;
    let request: String = request.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!(
        "printf '{request}' > /tmp/request; : > /tmp/answer
         curl -sk --http2 --max-time 20 -o /tmp/answer -D /tmp/heads --data-binary @/tmp/request \
           -H 'content-type: application/grpc' -H 'te: trailers' -H 'authorization: Bearer {token}' \
           https://{listen}/outrider.v1.Identity/Sign
         cat /tmp/heads; echo; echo BODY; /bin/busybox od -An -v -tx1 /tmp/answer"
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

fn failed_renewals(telemetry: &PortForward) -> Result<f64> {
    let metrics = Metrics::scrape(telemetry.port())?;
    Ok(metrics.sum(
        "outrider_certificate_renewals_total",
        &[("result", "error")],
    ))
}

/// A pod of a sidecar alone.
pub(crate) struct Sidecar {
    telemetry: PortForward,
    /// Renewals that had failed when it was ready.
    failed: f64,
}

impl Sidecar {
    pub(crate) fn start(namespace: &Namespace, replica: &Replica) -> Result<Self> {
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
    pub(crate) fn is_well(&self, namespace: &Namespace) -> Result<()> {
        until("the sidecar is connected", PATIENCE, || {
            let metrics = Metrics::scrape(self.telemetry.port())?;
            Ok(metrics.value("outrider_control_plane_connected")? > 0.5)
        })?;
        let failed = failed_renewals(&self.telemetry)?;
        assert_eq!(failed, self.failed, "{}", self.log(namespace)?);
        Ok(())
    }

    pub(crate) fn log(&self, namespace: &Namespace) -> Result<String> {
        namespace.kubectl(&["logs", "sidecar"])
    }
}

/// Who signs: the identifier of the key.
pub(crate) fn issuer(namespace: &Namespace, replica: &Replica, folder: &Path) -> Result<String> {
    issuer_at(namespace, &replica.listen, folder)
}

/// The same, of the replica that listens there.
pub(crate) fn issuer_at(namespace: &Namespace, listen: &str, folder: &Path) -> Result<String> {
    let own = token(namespace, "order", "own")?;
    let answer = sign_at(namespace, "order", listen, &own)?;
    assert_eq!(answer.code, "0", "{}", answer.message);
    let leaf = answer.chain.first().context("a certificate")?;
    key_identifier(&describe(
        leaf,
        folder,
        &["-ext", "authorityKeyIdentifier"],
    )?)
}

/// The identifier of an authority's key, which certificates name that it has signed; of its PEM.
pub(crate) fn authority(pem: &str, folder: &Path) -> Result<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    key_identifier(&describe(
        &certificate,
        folder,
        &["-ext", "subjectKeyIdentifier"],
    )?)
}

/// The identifier of a key in what `openssl x509 -ext` says.
fn key_identifier(text: &str) -> Result<String> {
    let line = text
        .lines()
        .nth(1)
        .with_context(|| format!("a key: {text}"))?;
    let line = line.trim();
    Ok(line.strip_prefix("keyid:").unwrap_or(line).to_owned())
}

/// How many authorities the trust bundle has.
pub(crate) fn anchors(namespace: &Namespace) -> Result<usize> {
    Ok(bundle(namespace)?.matches("BEGIN CERTIFICATE").count())
}

/// Whom this namespace trusts, PEM.
pub(crate) fn bundle(namespace: &Namespace) -> Result<String> {
    let map = namespace.read(&[BUNDLE])?;
    let text = map["data"]["trust-bundle.pem"].as_str();
    Ok(text.context("a bundle")?.to_owned())
}

/// What a Secret has under a key.
pub(crate) fn field(namespace: &Namespace, secret: &str, key: &str) -> Result<String> {
    let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    namespace.kubectl(&["get", "secret", secret, "--output", &template])
}
