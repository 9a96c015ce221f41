//! The kubelet's probes of pods with a sidecar, which nobody lets in by policy: it sees what the app answers,
//! good or bad, and does with the container what it does without a sidecar.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::http::fetch;
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Image, Namespace, PATIENCE, SIDECAR, TOOLS, container_status};
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::programs::{find, grpc_go};
use mesh_tests::wait::{holds, until};
use serde_json::{Value, json};

const GRPC: &str = "outrider.test/grpc-go:1";

/// Of an nginx with these directives in its server, which has its files in `/tmp/www`.
fn nginx(server: &str) -> String {
    format!(
        "daemon off; error_log stderr; pid /tmp/nginx.pid; events {{}} http {{ access_log off; \
         client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; \
         uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server {{ root /tmp/www; {server} }} }}"
    )
}

/// A pod of one container `app`, with these fields.
fn pod(image: &str, script: &str, port: u16, probes: &Value) -> String {
    let mut container = json!({
        "name": "app",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-ec", script],
        "ports": [{"name": "app", "containerPort": port}],
    });
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        container[kind] = probes[kind].clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probed"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    })
    .to_string()
}

/// Waits for an event with this message, which the kubelet writes about the pod.
fn told(namespace: &Namespace, message: &str) -> Result<()> {
    namespace.eventually(message, &["events"], |events| {
        let mut events = events["items"].as_array()?.iter();
        let said = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
        events
            .any(|event| event["reason"] == "Unhealthy" && said(event).starts_with(message))
            .then_some(())
    })
}

/// Waits until the kubelet has started the app so often, and it is ready or not; the sidecar was started once.
fn app_is(namespace: &Namespace, restarts: u64, ready: bool) -> Result<()> {
    let what = format!("the app was started again {restarts} times, ready: {ready}");
    let pod = namespace.eventually(&what, &["pod", "probed"], |pod| {
        let app = container_status(pod, "app").ok()?;
        (app["restartCount"] == restarts && app["ready"] == ready).then(|| pod.clone())
    })?;
    let sidecar = container_status(&pod, SIDECAR)?;
    assert_eq!(sidecar["restartCount"], 0, "{pod:#}");
    Ok(())
}

#[test]
fn the_kubelet_sees_over_http_whether_an_app_has_started_and_lives() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("probes")?;
    // What is no file is 404.
    let nginx = nginx("listen 8080;");
    let script = format!(
        "/bin/busybox mkdir /tmp/www; touch /tmp/www/lives; printf '%s' \"{nginx}\" >/tmp/c
         exec /usr/sbin/nginx -c /tmp/c"
    );
    let http = |path: &str, failures: u32| json!({"httpGet": {"path": path, "port": "app"}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": failures});
    let probes = json!({
        "startupProbe": http("/started", 1000),
        "livenessProbe": http("/lives", 3),
        "readinessProbe": http("/started?ready", 3),
    });
    namespace.apply(&pod(TOOLS, &script, 8080, &probes))?;
    for restarts in 0..2 {
        app_is(&namespace, restarts, false)?;
        if restarts == 0 {
            // What the app answers, and not the sidecar, which would refuse with 403.
            told(
                &namespace,
                "Startup probe failed: HTTP probe failed with statuscode: 404",
            )?;
        }
        namespace.exec("probed/app", &["touch", "/tmp/www/started"])?;
        namespace.wait("pod/probed", "Ready")?;
        app_is(&namespace, restarts, true)?;
        if restarts == 0 {
            namespace.exec("probed/app", &["/bin/busybox", "rm", "/tmp/www/lives"])?;
            told(
                &namespace,
                "Liveness probe failed: HTTP probe failed with statuscode: 404",
            )?;
        }
    }
    Ok(())
}

#[test]
fn the_kubelet_sees_over_tcp_and_grpc_whether_an_app_has_started_and_lives() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("probes")?;
    let mut image = Image::new(GRPC)
        .libraries()
        .option("--user", "65532")
        .option("--folder", "/tmp")
        .file(&find("busybox", "busybox")?, "/bin/busybox")
        .file(&grpc_go()?, "/grpc-go");
    for applet in ["sh", "sleep", "touch"] {
        image = image.option("--link", &format!("/bin/{applet}=busybox"));
    }
    namespace.cluster().load(&image.make()?)?;
    // The server goes when it is told to; the container stays.
    let script = "/grpc-go server --host 0.0.0.0 --port 50051 & \
                  while [ ! -e /tmp/stop ]; do sleep 0.2; done; kill $!; sleep 1000000";
    let grpc = json!({"grpc": {"port": 50051}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3});
    let tcp = json!({"tcpSocket": {"port": "app"}, "periodSeconds": 1, "failureThreshold": 60});
    let probes = json!({"startupProbe": tcp, "livenessProbe": grpc, "readinessProbe": grpc});
    namespace.apply(&pod(GRPC, script, 50051, &probes))?;
    namespace.wait("pod/probed", "Ready")?;
    let telemetry = namespace.port_forward("pod/probed", 15020)?;
    let probed = |kind: &str| -> Result<f64> {
        let metrics = Metrics::scrape(telemetry.port())?;
        Ok(metrics.sum("outrider_probes_total", &[("kind", kind)]))
    };
    assert!(probed("tcp")? >= 1.0, "the startup probe was let through");
    let before = probed("grpc")?;
    until("the others are let through", PATIENCE, || {
        Ok(probed("grpc")? >= before + 6.0)
    })?;
    holds("the app lives", Duration::from_secs(2), || {
        let pod = namespace.read(&["pod", "probed"])?;
        let app = container_status(&pod, "app")?;
        Ok(app["restartCount"] == 0 && app["ready"] == true)
    })?;

    namespace.exec("probed/app", &["touch", "/tmp/stop"])?;
    told(&namespace, "Liveness probe failed: ")?;
    app_is(&namespace, 1, true)?;
    namespace.wait("pod/probed", "Ready")
}

/// What the sidecar accepts is no sign of an app that listens.
#[test]
fn the_kubelet_sees_over_tcp_whether_an_app_listens() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("probes")?;
    // It listens while there is a file.
    let script = format!(
        "printf '%s' '{}' >/tmp/c
         while [ ! -e /tmp/go ]; do sleep 0.2; done
         /usr/sbin/nginx -c /tmp/c &
         while [ -e /tmp/go ]; do sleep 0.2; done
         kill $!; sleep 1000000",
        nginx("listen 8080;")
    );
    let tcp = |failures: u32| json!({"tcpSocket": {"port": "app"}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": failures});
    let probes = json!({
        "startupProbe": tcp(1000),
        "livenessProbe": tcp(3),
        "readinessProbe": tcp(1),
    });
    namespace.apply(&pod(TOOLS, &script, 8080, &probes))?;
    let failed = |probe: &str| {
        let message = format!("{probe} probe failed: HTTP probe failed with statuscode: 503");
        told(&namespace, &message)
    };
    failed("Startup")?;
    app_is(&namespace, 0, false)?;
    namespace.exec("probed/app", &["touch", "/tmp/go"])?;
    namespace.wait("pod/probed", "Ready")?;
    app_is(&namespace, 0, true)?;
    namespace.exec("probed/app", &["/bin/busybox", "rm", "/tmp/go"])?;
    failed("Liveness")?;
    app_is(&namespace, 1, false)
}

#[test]
fn the_kubelet_sees_over_https_what_an_app_answers_to_the_headers_of_a_probe() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("probes")?;
    let folder = tempfile::tempdir()?;
    let leaf = Leaf::uris(&[])?.dns("nobody.example")?;
    let identity = Authority::stranger()?.issue(&leaf, folder.path(), "app")?;
    let text = |path: &std::path::Path| std::fs::read_to_string(path);
    let server = "listen 8443 ssl; ssl_certificate /tmp/crt; ssl_certificate_key /tmp/key; \
                  location / { if ($http_host != shop.example) { return 421; } \
                  if ($http_authorization != \"Bearer s\") { return 401; } try_files $uri =500; }";
    // Without the file it is 500.
    let script = format!(
        "/bin/busybox mkdir /tmp/www; printf '%s' '{}' >/tmp/c
         printf '%s' '{}' >/tmp/crt; printf '%s' '{}' >/tmp/key
         exec /usr/sbin/nginx -c /tmp/c",
        nginx(server),
        text(&identity.certificate)?,
        text(&identity.key)?
    );
    let headers = json!([
        {"name": "Host", "value": "shop.example"},
        {"name": "Authorization", "value": "Bearer s"},
    ]);
    let ready = json!({
        "httpGet": {"path": "/ready?deep", "port": "app", "scheme": "HTTPS", "httpHeaders": headers},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        "failureThreshold": 1,
    });
    namespace.apply(&pod(
        TOOLS,
        &script,
        8443,
        &json!({"readinessProbe": ready}),
    ))?;
    let failed = "Readiness probe failed: HTTP probe failed with statuscode: 500";
    told(&namespace, failed)?;
    namespace.exec("probed/app", &["touch", "/tmp/www/ready"])?;
    namespace.wait("pod/probed", "Ready")?;
    app_is(&namespace, 0, true)?;

    // A stranger gets nothing but this probe, and without its headers.
    let telemetry = namespace.port_forward("pod/probed", 15020)?;
    for (path, status) in [
        ("/probe/https/8443/ready?deep", 421),
        ("/probe/https/8443/ready", 404),
        ("/probe/https/8443/", 404),
        ("/probe/https/8444/ready?deep", 404),
        ("/probe/tcp/8443", 404),
    ] {
        assert_eq!(fetch(telemetry.port(), path)?.status, status, "{path}");
    }
    let metrics = Metrics::scrape(telemetry.port())?;
    let probed = metrics.sum("outrider_probes_total", &[("kind", "https")]);
    assert!(probed >= 3.0, "{probed}");

    namespace.exec("probed/app", &["/bin/busybox", "rm", "/tmp/www/ready"])?;
    app_is(&namespace, 0, false).context("it answers 500 again")
}
