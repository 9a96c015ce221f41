//! The authority is cert-manager's: it is followed when cert-manager renews it, and never written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{CertManager, Cluster, Namespace, PATIENCE};
use mesh_tests::programs::root;
use mesh_tests::sign::describe;
use mesh_tests::wait::until;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::kubernetes_replicas::{
    Replica, Sidecar, accounts, anchors, bundle, field, issuer, key_identifier, pod, prepare,
};

/// What the documentation calls the Certificate, and its Secret.
const NAME: &str = "mesh-ca";
const ARGUMENTS: [&str; 3] = ["--ca-secret", NAME, "--ca-secret-managed-elsewhere"];

#[test]
fn an_authority_that_cert_manager_renews_is_followed() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = somebody()?;
    let mut cert_manager = CertManager::start(&namespace)?;
    namespace.cluster().apply(&documented(&namespace)?)?;
    namespace.wait(&format!("certificate/{NAME}"), "Ready")?;
    let folder = tempfile::tempdir()?;
    let old = authority(&namespace, folder.path())?;
    let replica = Replica::start(&namespace, "one", &ARGUMENTS)?;
    let sidecar = Sidecar::start(&namespace, &replica)?;
    assert_eq!(issuer(&namespace, &replica, folder.path())?, old);
    assert_eq!(anchors(&namespace)?, 1);

    cert_manager.renew(&namespace, NAME)?;
    until("both are trusted", PATIENCE, || {
        Ok(anchors(&namespace)? == 2)
    })?;
    let new = authority(&namespace, folder.path())?;
    assert_ne!(new, old, "the key is another");
    until("the next one signs", PATIENCE, || {
        Ok(issuer(&namespace, &replica, folder.path())? == new)
    })?;
    replica.reaches("trust_anchors", 2.0)?;
    until("the sidecar trusts both", PATIENCE, || {
        Ok(sidecar.log(&namespace)?.contains("trust anchors replaced"))
    })?;
    sidecar.is_well(&namespace)?;
    drop(sidecar);

    replica.was_forbidden_nothing(&namespace)?;
    drop(replica);
    namespace.kubectl(&["delete", "pod", "one", "--wait"])?;
    let replica = Replica::start(&namespace, "one", &ARGUMENTS)?;
    // It has not forgotten whom it trusted.
    replica.reaches("trust_anchors", 2.0)?;
    assert_eq!(issuer(&namespace, &replica, folder.path())?, new);
    assert_eq!(anchors(&namespace)?, 2);
    only_cert_manager_wrote(&namespace)?;
    replica.was_forbidden_nothing(&namespace)
}

#[test]
fn an_authority_that_cert_manager_renews_under_its_root_signs_at_once() -> Result<()> {
    let _turn = Outrider::absent()?;
    let namespace = somebody()?;
    let mut cert_manager = CertManager::start(&namespace)?;
    namespace.apply(&under_a_root().to_string())?;
    namespace.wait(&format!("certificate/{NAME}"), "Ready")?;
    let folder = tempfile::tempdir()?;
    let old = authority(&namespace, folder.path())?;
    let replica = Replica::start(&namespace, "one", &ARGUMENTS)?;
    let sidecar = Sidecar::start(&namespace, &replica)?;
    assert_eq!(issuer(&namespace, &replica, folder.path())?, old);
    let trusted = bundle(&namespace)?;
    assert_eq!(trusted.trim(), field(&namespace, "root", "tls.crt")?.trim());

    cert_manager.renew(&namespace, NAME)?;
    until("the new one signs", PATIENCE, || {
        let now = issuer(&namespace, &replica, folder.path())?;
        Ok(now != old && now == authority(&namespace, folder.path())?)
    })?;
    assert_eq!(bundle(&namespace)?, trusted);
    assert_eq!(replica.value("ca_rotation_step")?, 0.0);
    sidecar.is_well(&namespace)?;
    only_cert_manager_wrote(&namespace)?;
    replica.was_forbidden_nothing(&namespace)
}

/// A namespace for a control plane, with somebody who asks it for certificates.
fn somebody() -> Result<Namespace> {
    let namespace = Cluster::shared()?.namespace("keeper")?;
    prepare(&namespace, &["--ca-secret", NAME])?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    Ok(namespace)
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

/// The identifier of the key that is in the Secret, which certificates name that it has signed.
fn authority(namespace: &Namespace, folder: &Path) -> Result<String> {
    let pem = field(namespace, NAME, "tls.crt")?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    key_identifier(&describe(
        &certificate,
        folder,
        &["-ext", "subjectKeyIdentifier"],
    )?)
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
