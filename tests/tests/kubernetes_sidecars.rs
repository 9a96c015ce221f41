//! Sidecars of every kind in the cluster, and a mesh that helm has installed.

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::{Outrider, SYSTEM};
use mesh_tests::kubernetes::{Cluster, PATIENCE, TOOLS};
use mesh_tests::pki::Authority;
use mesh_tests::process::run;
use serde_json::{Value, json};

use crate::kubernetes_common::{
    allow_friend, assert_refused, call, client, enforced, get, nginx, web, web_with,
};
use crate::kubernetes_replicas::{self, accounts, bundle, issuer_at, pod};

/// The Secret of an authority that is kept elsewhere.
const KEPT: &str = "mesh-ca";

/// A call that policy allows to a pod with such a sidecar, and the pod.
fn called(outrider: &Outrider, web: &str) -> Result<Value> {
    let namespace = outrider.meshed_namespace("sidecars")?;
    namespace.apply(web)?;
    namespace.apply(&client("friend"))?;
    namespace.apply(&client("stranger"))?;
    namespace.apply(&allow_friend())?;
    namespace.rolled_out("deployment/web")?;
    for pod in ["pod/friend", "pod/stranger"] {
        namespace.wait(pod, "Ready")?;
    }
    enforced(&namespace, "web", 2)?;
    let answer = call(&namespace, "friend", "/")?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = call(&namespace, "stranger", "/")?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let pods = namespace.read(&["pods", "--selector", "app=web"])?;
    Ok(pods["items"][0].clone())
}

#[test]
fn a_classic_sidecar_serves() -> Result<()> {
    let outrider = Outrider::installed()?;
    let classic = json!({"outrider.mesh/sidecar": "classic"});
    let pod = called(&outrider, &web_with(&classic))?;
    assert_eq!(pod["spec"]["containers"][0]["name"], "outrider-proxy");
    assert_eq!(pod["spec"]["containers"][1]["name"], "web");
    Ok(())
}

#[test]
fn a_sidecar_with_tproxy_serves() -> Result<()> {
    let outrider = Outrider::installed()?;
    let tproxy = json!({"outrider.mesh/interception-mode": "TProxy"});
    let pod = called(&outrider, &web_with(&tproxy))?;
    let arguments = &pod["spec"]["initContainers"][0]["args"];
    let arguments = arguments.as_array().context("arguments of init")?;
    assert!(arguments.contains(&json!("--mode=tproxy")), "{arguments:?}");
    Ok(())
}

/// Its namespace says nothing, and gets the trust bundle since the pod is there.
#[test]
fn a_pod_that_asks_has_the_sidecar_that_its_annotations_describe() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.cluster().namespace("asks")?;
    let web = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web",
            "labels": {"outrider.mesh/inject": "true"},
            "annotations": {
                "outrider.mesh/exclude-inbound-ports": "8081",
                "outrider.mesh/log-level": "debug",
                "outrider.mesh/cpu-limit": "1",
                "outrider.mesh/memory-limit": "64Mi",
                "outrider.mesh/drain-timeout": "3s",
            },
        },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [nginx("listen 8081; location / { return 200 'hello'; }")],
        },
    });
    namespace.apply(&web.to_string())?;
    namespace.apply(&client("stranger"))?;
    for pod in ["pod/web", "pod/stranger"] {
        namespace.wait(pod, "Ready")?;
    }
    let pod = namespace.read(&["pod", "web"])?;
    let sidecar = &pod["spec"]["initContainers"][1];
    assert_eq!(sidecar["name"], "outrider-proxy", "{pod:#}");
    let limits = json!({"cpu": "1", "memory": "64Mi"});
    assert_eq!(sidecar["resources"]["limits"], limits);
    let address = pod["status"]["podIP"].as_str().context("an address")?;
    // What is answered at `/` is a probe that the pod declares.
    let at = |port: u16| {
        let url = format!("http://{address}:{port}/no-probe");
        get(&namespace, "stranger", &[&url])
    };
    let answer = at(8081)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = at(8080)?;
    assert_refused(&answer, 403, "http_request_denied", "plaintext_refused");

    let log = ["logs", "web", "--container", "outrider-proxy"];
    let log = namespace.kubectl(&log)?;
    assert!(log.contains("DEBUG"), "{log}");
    let others = namespace.read(&["pod", "stranger"])?;
    assert!(others["spec"]["initContainers"].is_null(), "{others:#}");
    Ok(())
}

#[test]
fn a_job_with_a_classic_sidecar_ends() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("job")?;
    let job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "classic"},
        "spec": {"backoffLimit": 0, "template": {
            "metadata": {"annotations": {"outrider.mesh/sidecar": "classic"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "work",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sleep", "3"],
                }],
            },
        }},
    });
    namespace.apply(&job.to_string())?;
    namespace.wait("job/classic", "Complete")
}

/// What `helm install --wait` has installed injects, enforces and goes. It has three replicas, and an authority
/// that is kept elsewhere.
#[test]
fn a_mesh_that_helm_has_installed_serves() -> Result<()> {
    // Installed once, so that its images are there.
    let outrider = Outrider::installed()?;
    outrider.remove()?;
    let authority = Authority::stranger()?;
    keep(outrider.cluster(), &authority)?;
    let helm = |arguments: &[&str]| -> Result<()> {
        let system = ["--namespace", SYSTEM];
        run(
            &mut outrider.helm(&[arguments, &system].concat())?,
            2 * PATIENCE,
        )?
        .success()?;
        Ok(())
    };
    let chart = mesh_tests::programs::root().join("manifests/helm/outrider");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let values = format!("profile=ha,ca.secret={KEPT}");
    helm(&["install", "outrider", chart, "--wait", "--set", &values])?;
    called(&outrider, &web())?;
    every_replica_signs_with(&outrider, &authority)?;
    helm(&["uninstall", "outrider"])?;
    outrider.uninstall()
}

/// The Secret of an authority, before there is a mesh.
fn keep(cluster: &Cluster, authority: &Authority) -> Result<()> {
    cluster.kubectl(&["create", "namespace", SYSTEM])?;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": KEPT, "namespace": SYSTEM},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": authority.certificate(), "tls.key": authority.key()},
    });
    cluster.apply(&secret.to_string())
}

fn every_replica_signs_with(outrider: &Outrider, authority: &Authority) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let expected = kubernetes_replicas::authority(authority.certificate(), folder.path())?;
    let namespace = outrider.cluster().namespace("asks")?;
    accounts(&namespace, &["order"])?;
    namespace.apply(&pod("order", "order", "outrider-proxy"))?;
    namespace.wait("pod/order", "Ready")?;
    let replicas = outrider.control_plane_addresses()?;
    assert_eq!(replicas.len(), 3, "three replicas");
    for address in replicas {
        let signs = issuer_at(&namespace, &format!("{address}:15012"), folder.path())?;
        assert_eq!(signs, expected, "{address}");
    }
    assert_eq!(bundle(&namespace)?.trim(), authority.certificate().trim());
    Ok(())
}
