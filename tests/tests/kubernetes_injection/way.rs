//! The API server's way to the webhooks: nobody there, an expired certificate, a bundle that somebody edits.

use std::path::Path;

use anyhow::{Result, ensure};
use k8s_openapi::ByteString;
use mesh_tests::kubernetes::PATIENCE;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::process::{Process, command};
use mesh_tests::programs::find;
use mesh_tests::wait::{eventually, until};
use serde_json::json;

use super::injector::{
    HOST, Injector, MUTATING, VALIDATING, create, created, has_sidecar, labelled, pod,
};

#[test]
fn while_nobody_answers_no_pod_goes_without() -> Result<()> {
    let mut injector = Injector::start()?;
    let meshed = injector.namespace("meshed", Some("enabled"))?;
    let silent = injector.namespace("silent", None)?;
    injector.stop()?;
    let refused = create(&meshed, &pod("order", json!({})))?;
    assert!(
        refused
            .stderr
            .contains("failed calling webhook \"namespace.injector.outrider.mesh\""),
        "{refused:?}"
    );
    let refused = create(&silent, &labelled("order", "true"))?;
    assert!(
        refused.stderr.contains("failed calling webhook"),
        "{refused:?}"
    );
    // Who is not of the mesh does not notice.
    assert!(!has_sidecar(&created(&meshed, &labelled("out", "false"))?));
    assert!(!has_sidecar(&created(&silent, &pod("order", json!({})))?));
    injector.start_control_plane()?;
    injector.asked()?;
    assert!(has_sidecar(&created(&meshed, &pod("order", json!({})))?));
    Ok(())
}

#[test]
fn an_expired_certificate_keeps_pods_out_until_there_is_a_new_one() -> Result<()> {
    let mut injector = Injector::start()?;
    let namespace = injector.namespace("expired", Some("enabled"))?;
    let authority = injector.authority()?;
    injector.stop()?;
    let leaf = Leaf::uris(&[])?.address(HOST.into()).expired();
    let identity = authority.issue(&leaf, injector.folder.path(), "expired")?;
    let server = serve_with(&injector, &identity.certificate, &identity.key)?;
    eventually("the certificate is refused", PATIENCE, || {
        let refused = create(&namespace, &pod("order", json!({})))?;
        ensure!(
            refused.stderr.contains("certificate has expired"),
            "{refused:?}"
        );
        Ok(Some(()))
    })?;
    assert!(!has_sidecar(&created(
        &namespace,
        &labelled("out", "false")
    )?));
    drop(server);
    injector.start_control_plane()?;
    injector.asked()?;
    assert!(has_sidecar(&created(&namespace, &pod("order", json!({})))?));
    Ok(())
}

/// A server in the place of the webhook.
fn serve_with(injector: &Injector, certificate: &Path, key: &Path) -> Result<Process> {
    let folder = injector.folder.path();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr info;\nevents {{}}\nhttp {{\naccess_log off;\n\
         server {{ listen {HOST}:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; return 418; }}\n}}\n",
        folder = folder.display(),
        port = injector.webhook,
        certificate = certificate.display(),
        key = key.display(),
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let mut nginx = command(&find("nginx", "nginx-light")?)?;
    nginx.args(["-e", "stderr", "-c"]).arg(&file);
    let process = Process::start("nginx", folder, &mut nginx)?;
    let address = (HOST, injector.webhook);
    eventually("nginx listens", PATIENCE, || {
        std::net::TcpStream::connect(address)?;
        Ok(Some(()))
    })?;
    Ok(process)
}

#[test]
fn what_somebody_does_to_the_trust_bundles_is_undone() -> Result<()> {
    let injector = Injector::start()?;
    let namespace = injector.namespace("bundles", Some("enabled"))?;
    let bundles = || -> Result<[Vec<String>; 2]> {
        Ok([injector.bundle(MUTATING)?, injector.bundle(VALIDATING)?])
    };
    let mut before = bundles()?;
    until("each webhook has a bundle", PATIENCE, || {
        before = bundles()?;
        Ok(before.iter().all(|bundles| bundles.len() == 2))
    })?;
    let stranger = ByteString(Authority::stranger()?.certificate().into());
    for (kind, name) in [MUTATING, VALIDATING] {
        let bundle = |index: u8| format!("/webhooks/{index}/clientConfig/caBundle");
        let patch = json!([
            {"op": "replace", "path": bundle(0), "value": stranger},
            {"op": "remove", "path": bundle(1)},
        ])
        .to_string();
        let patch = ["patch", kind, name, "--type", "json", "--patch", &patch];
        injector.home.cluster().kubectl(&patch)?;
    }
    until("the bundles are there again", PATIENCE, || {
        Ok(bundles()? == before)
    })?;
    // And they are believed, a moment later.
    eventually("pods are seen", PATIENCE, || {
        let seen = created(&namespace, &pod("order", json!({})))?;
        Ok(has_sidecar(&seen).then_some(()))
    })?;
    let pointless = json!({
        "apiVersion": "outrider.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "pointless"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "order"}], "rulez": []},
    });
    eventually("policy is judged", PATIENCE, || {
        let refused = create(&namespace, &pointless)?;
        let by = "admission webhook \"validator.outrider.mesh\" denied the request: spec.rulez";
        ensure!(refused.stderr.contains(by), "{refused:?}");
        Ok(Some(()))
    })
}
