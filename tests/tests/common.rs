//! What several topics share.

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{self, Response};
use mesh_tests::{App, Mesh};

/// `order-1` calls `billing-1`, whose app keeps what it was sent; anyone may call.
pub(crate) fn http_mesh(protocol: Option<&str>) -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), protocol)?
        .setting("defaultDeny", false)
        .start()?;
    Ok((app, mesh))
}

/// `GET path` of `billing` from `order-1`, on a connection of its own.
pub(crate) fn get(mesh: &Mesh, path: &str) -> Result<Response> {
    http::get(mesh.http("order-1")?, "billing", path)
}

/// The mesh serves a request still: what every hostile test ends with.
pub(crate) fn healthy(mesh: &Mesh) -> Result<()> {
    let response = get(mesh, "/healthy").context("a healthy request")?;
    ensure!(
        response.status == 200,
        "a healthy request got {}",
        response.head
    );
    Ok(())
}

/// Fails unless a sidecar answered by itself with this status and reason.
#[track_caller]
pub(crate) fn assert_refused(response: &Response, status: u16, reason: &str) {
    assert_eq!(
        (response.status, response.reason()),
        (status, Some(reason)),
        "{}\n{}",
        response.head,
        response.text()
    );
}

/// Waits until a sidecar has counted `least` refusals for a reason.
pub(crate) fn refusals(
    mesh: &Mesh,
    workload: &str,
    direction: &str,
    reason: &str,
    least: f64,
) -> Result<()> {
    let port = mesh.sidecar(workload)?.workload.telemetry_port;
    let labels = [("direction", direction), ("reason", reason)];
    mesh_tests::metrics::reaches(port, "outrider_refusals_total", &labels, least)
}
