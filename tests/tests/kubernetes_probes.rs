//! The kubelet's probes of pods with a sidecar, which nobody lets in by policy: it sees what the app answers,
//! good or bad, and does with the container what it does without a sidecar.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Image, Namespace, PATIENCE, TOOLS};
use mesh_tests::metrics::Metrics;
use mesh_tests::programs::{find, grpc_go};
use mesh_tests::wait::{holds, until};
use serde_json::{Value, json};

const GRPC: &str = "outrider.test/grpc-go:1";

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
        let app = &pod["status"]["containerStatuses"][0];
        (app["restartCount"] == restarts && app["ready"] == ready).then(|| pod.clone())
    })?;
    let sidecar = &pod["status"]["initContainerStatuses"][1];
    assert_eq!(sidecar["name"], "outrider-proxy", "{pod:#}");
    assert_eq!(sidecar["restartCount"], 0, "{pod:#}");
    Ok(())
}

#[test]
fn the_kubelet_sees_over_http_whether_an_app_has_started_and_lives() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("probes")?;
    // What is no file is 404.
    let nginx = "daemon off; error_log stderr; pid /tmp/nginx.pid; events {} http { access_log off; \
                 client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; \
                 uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; \
                 server { listen 8080; root /tmp/www; } }";
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
        let app = &pod["status"]["containerStatuses"][0];
        Ok(app["restartCount"] == 0 && app["ready"] == true)
    })?;

    namespace.exec("probed/app", &["touch", "/tmp/stop"])?;
    told(&namespace, "Liveness probe failed: ")?;
    app_is(&namespace, 1, true)?;
    namespace.wait("pod/probed", "Ready")
}
