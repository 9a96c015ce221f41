//! What the kubelet asks of apps, where it would learn nothing or be refused once connections are
//! intercepted: it asks the sidecar instead, which asks the app. TCP, since the sidecar accepts every
//! connection, and HTTPS, since the sidecar lets nobody in by TLS who has no identity.

use outrider_api::annotations::{Annotations, SidecarKind};
use outrider_api::sidecar::{AppProbe, TELEMETRY_PORT};
use serde_json::json;

use super::Operations;
use super::check::OWN_PORTS;
use super::pod::{Asked, Container, Spec};

/// What is not about connections that are intercepted, or whose port nobody can know, stays as it is.
pub(super) fn redirect(
    spec: &Spec,
    annotations: &Annotations,
    kind: SidecarKind,
    operations: &mut Operations,
) {
    let init = spec.init_containers.iter().enumerate();
    // They start before a classic sidecar, which could not answer for them.
    let init =
        init.filter(|(_, container)| kind == SidecarKind::Native && container.is_native_sidecar());
    let init = init.map(|found| ("initContainers", found));
    let containers = spec.containers.iter().enumerate();
    let containers = containers.map(|found| ("containers", found));
    for (list, (index, container)) in init.chain(containers) {
        for (field, asked) in all(container) {
            let path = format!("/spec/{list}/{index}/{field}");
            redirect_one(container, annotations, asked, &path, operations);
        }
    }
}

/// With where each is in the container.
fn all(container: &Container) -> impl Iterator<Item = (&'static str, &Asked)> {
    let hooks = container.lifecycle.as_ref();
    let all = [
        ("livenessProbe", container.liveness_probe.as_ref()),
        ("readinessProbe", container.readiness_probe.as_ref()),
        ("startupProbe", container.startup_probe.as_ref()),
        (
            "lifecycle/postStart",
            hooks.and_then(|hooks| hooks.post_start.as_ref()),
        ),
        (
            "lifecycle/preStop",
            hooks.and_then(|hooks| hooks.pre_stop.as_ref()),
        ),
    ];
    let present = |(field, asked): (_, Option<_>)| Some((field, asked?));
    all.into_iter().filter_map(present)
}

fn redirect_one(
    container: &Container,
    annotations: &Annotations,
    asked: &Asked,
    path: &str,
    operations: &mut Operations,
) {
    let is_intercepted =
        |port: &u16| !annotations.exclude_inbound_ports.contains(port) && !OWN_PORTS.contains(port);
    let port = |port| container.port_number(port).filter(is_intercepted);
    match (&asked.tcp_socket, &asked.http_get) {
        // Kubernetes takes no hook of this kind.
        (Some(tcp), None) if tcp.host.is_empty() && !path.contains("/lifecycle/") => {
            let Some(port) = port(&tcp.port) else { return };
            let asked = AppProbe::Tcp { port }.to_string();
            operations.remove(&format!("{path}/tcpSocket"));
            operations.add(
                &format!("{path}/httpGet"),
                json!({"path": asked, "port": TELEMETRY_PORT, "scheme": "HTTP"}),
            );
        }
        (None, Some(get)) if get.host.is_empty() && get.scheme == "HTTPS" => {
            let Some(port) = port(&get.port) else { return };
            // As the kubelet reads it.
            let target = format!("/{}", get.path.strip_prefix('/').unwrap_or(&get.path));
            let target = target.as_str();
            let asked = AppProbe::Https { port, target }.to_string();
            // Its headers stay.
            operations.add(&format!("{path}/httpGet/path"), json!(asked));
            operations.add(&format!("{path}/httpGet/port"), json!(TELEMETRY_PORT));
            operations.add(&format!("{path}/httpGet/scheme"), json!("HTTP"));
        }
        _ => {}
    }
}
