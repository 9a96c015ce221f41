//! The authority is cert-manager's: it is followed when cert-manager renews it, and never written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::{Outrider, Turn};
use mesh_tests::kubernetes::{CertManager, Cluster, Namespace, PATIENCE};
use mesh_tests::programs::root;
use mesh_tests::wait::{eventually, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kubernetes_replicas::{
    Replica, Sidecar, accounts, anchors, authority, bundle, field, issuer, pod, prepare,
};

/// What the documentation calls the Certificate, and its Secret.
const NAME: &str = "mesh-ca";
const ARGUMENTS: [&str; 3] = ["--ca-secret", NAME, "--ca-secret-managed-elsewhere"];

#[test]
fn an_authority_that_cert_manager_renews_is_followed() -> Result<()> {
    let mut kept = Kept::start(documented)?;
    let namespace = &kept.namespace;
    assert_eq!(anchors(namespace)?, 1);

    kept.cert_manager.renew(namespace, NAME)?;
    until(
        "both are trusted",
        PATIENCE,
        || Ok(anchors(namespace)? == 2),
    )?;
    let new = self::kept(namespace, kept.folder.path())?;
    assert_ne!(new, kept.first, "the key is another");
    until("the next one signs", PATIENCE, || Ok(kept.issuer()? == new))?;
    kept.replica.reaches("trust_anchors", 2.0)?;
    until("the sidecar trusts both", PATIENCE, || {
        Ok(kept
            .sidecar
            .log(namespace)?
            .contains("trust anchors replaced"))
    })?;
    kept.sidecar.is_well(namespace)?;
    kept.replica.was_forbidden_nothing(namespace)?;

    namespace.kubectl(&["delete", "pod", "one", "--wait"])?;
    kept.replica = Replica::start(namespace, "one", &ARGUMENTS)?;
    // It has not forgotten whom it trusted.
    kept.replica.reaches("trust_anchors", 2.0)?;
    assert_eq!(kept.issuer()?, new);
    assert_eq!(anchors(namespace)?, 2);
    only_cert_manager_wrote(namespace)?;
    kept.replica.was_forbidden_nothing(namespace)
}

#[test]
fn an_authority_that_cert_manager_renews_under_its_root_signs_at_once() -> Result<()> {
    let mut kept = Kept::start(|_| Ok(under_a_root().to_string()))?;
    let namespace = &kept.namespace;
    let trusted = bundle(namespace)?;
    assert_eq!(trusted.trim(), field(namespace, "root", "tls.crt")?.trim());

    kept.cert_manager.renew(namespace, NAME)?;
    until("the new one signs", PATIENCE, || {
        let now = kept.issuer()?;
        Ok(now != kept.first && now == self::kept(namespace, kept.folder.path())?)
    })?;
    assert_eq!(bundle(namespace)?, trusted);
    assert_eq!(kept.replica.value("ca_rotation_step")?, 0.0);
    kept.sidecar.is_well(namespace)?;
    only_cert_manager_wrote(namespace)?;
    kept.replica.was_forbidden_nothing(namespace)
}

/// A control plane whose authority cert-manager keeps, with a sidecar, and with somebody who asks it for
/// certificates.
struct Kept {
    sidecar: Sidecar,
    replica: Replica,
    cert_manager: CertManager,
    namespace: Namespace,
    /// The authority before it was renewed.
    first: String,
    folder: TempDir,
    _turn: Turn,
}

impl Kept {
    /// `certificate` says what has cert-manager make the authority.
    fn start(certificate: impl Fn(&Namespace) -> Result<String>) -> Result<Self> {
        let turn = Outrider::absent()?;
        let namespace = Cluster::shared()?.namespace("keeper")?;
        prepare(&namespace, &["--ca-secret", NAME])?;
        accounts(&namespace, &["order"])?;
        namespace.apply(&pod("order", "order", "outrider-proxy"))?;
        namespace.wait("pod/order", "Ready")?;
        let cert_manager = CertManager::start(&namespace)?;
        namespace.apply(&certificate(&namespace)?)?;
        namespace.wait(&format!("certificate/{NAME}"), "Ready")?;
        let folder = tempfile::tempdir()?;
        let replica = Replica::start(&namespace, "one", &ARGUMENTS)?;
        let sidecar = Sidecar::start(&namespace, &replica)?;
        // A controller that looks at what it knew a moment ago may make it twice.
        let first = eventually("what was made signs", PATIENCE, || {
            let signs = issuer(&namespace, &replica, folder.path())?;
            Ok((signs == self::kept(&namespace, folder.path())?).then_some(signs))
        })?;
        Ok(Self {
            sidecar,
            replica,
            cert_manager,
            namespace,
            first,
            folder,
            _turn: turn,
        })
    }

    /// Who signs.
    fn issuer(&self) -> Result<String> {
        issuer(&self.namespace, &self.replica, self.folder.path())
    }
}

/// What docs/kubernetes.md tells its readers to apply, for `namespace`.
fn documented(namespace: &Namespace) -> Result<String> {
    let text = fs::read_to_string(root().join("docs/kubernetes.md"))?;
    let objects = text
        .split_once("\n### cert-manager")
        .and_then(|(_, section)| section.split_once("<<END\n"))
        .and_then(|(_, objects)| objects.split_once("\nEND\n"));
    let (objects, _) = objects.context("docs/kubernetes.md has objects for cert-manager")?;
    Ok(objects.replace("outrider-system", namespace.name()))
}

/// An authority that signs itself, and the mesh's below it.
fn under_a_root() -> Value {
    let certificate = |name: &str, issuer: &str| {
        json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": name},
            "spec": {
                "isCA": true,
                "commonName": name,
                "secretName": name,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "issuerRef": {"kind": "Issuer", "name": issuer},
            },
        })
    };
    let issuer = |name: &str, spec: Value| {
        json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Issuer",
            "metadata": {"name": name},
            "spec": spec,
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        issuer("self-signed", json!({"selfSigned": {}})),
        certificate("root", "self-signed"),
        issuer("root", json!({"ca": {"secretName": "root"}})),
        certificate(NAME, "root"),
    ]})
}

/// Of the authority that is in the Secret.
fn kept(namespace: &Namespace, folder: &Path) -> Result<String> {
    authority(&field(namespace, NAME, "tls.crt")?, folder)
}

fn only_cert_manager_wrote(namespace: &Namespace) -> Result<()> {
    let secret = namespace.read(&["secret", NAME, "--show-managed-fields"])?;
    let fields = &secret["metadata"]["managedFields"];
    let fields = fields.as_array().context("who wrote the Secret")?;
    let managers: Vec<&str> = fields
        .iter()
        .filter_map(|entry| entry["manager"].as_str())
        .collect();
    assert!(!managers.is_empty(), "nobody wrote it");
    for manager in managers {
        assert!(manager.starts_with("cert-manager"), "{manager} wrote it");
    }
    Ok(())
}
