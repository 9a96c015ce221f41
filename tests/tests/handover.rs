//! A sidecar that is replaced by another process, under load.

use anyhow::Result;
use mesh_tests::http::Connection;
use mesh_tests::load::Load;
use mesh_tests::wait::{PATIENCE, until};

use crate::common::{get, healthy, http_mesh};

const CALLS: u64 = 200;

#[test]
fn no_call_is_lost_when_the_callees_sidecar_is_replaced() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let load = Load::start(8, mesh.http("order-1")?, "billing", "/");
    load.goes_on(CALLS)?;
    let mut before = mesh.replace_sidecar("billing-1")?;
    assert!(before.exit(PATIENCE)?.success(), "{}", before.log());
    load.goes_on(CALLS)?;
    load.finish()?;
    Ok(())
}

#[test]
fn no_connection_is_lost_when_the_callers_sidecar_is_replaced() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let load = Load::of_connections(8, mesh.http("order-1")?, "billing", "/");
    load.goes_on(CALLS)?;
    for _ in 0..3 {
        let mut before = mesh.replace_sidecar("order-1")?;
        assert!(before.exit(PATIENCE)?.success(), "{}", before.log());
        load.goes_on(CALLS)?;
    }
    load.finish()?;
    Ok(())
}

#[test]
fn what_is_in_flight_is_finished_by_the_process_that_has_it() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    let mut held = Connection::open(mesh.http("order-1")?)?;
    held.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    until("the app has the request", PATIENCE, || {
        Ok(app.received() > 0)
    })?;
    let mut callers = mesh.replace_sidecar("order-1")?;
    let mut callees = mesh.replace_sidecar("billing-1")?;
    assert_eq!(get(&mesh, "/meanwhile")?.status, 200);
    assert!(callers.running() && callees.running(), "each has a request");
    app.release();
    assert_eq!(held.response()?.status, 200);
    for process in [&mut callers, &mut callees] {
        assert!(process.exit(PATIENCE)?.success(), "{}", process.log());
    }
    Ok(())
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let before = mesh.sidecar_mut("billing-1")?.process.take();
    let load = Load::start(2, mesh.http("order-1")?, "billing", "/");
    load.goes_on(CALLS)?;
    // Its token is none: it never gets a certificate.
    mesh.start_sidecar_with("billing-1", "no.token.at-all")?;
    mesh.process("billing-1")?
        .wait_for_log("took over the ports", PATIENCE)?;
    load.goes_on(CALLS)?;
    mesh.process("billing-1")?.kill()?;
    load.goes_on(CALLS)?;
    mesh.sidecar_mut("billing-1")?.process = before;
    load.finish()?;
    // The next one takes over as if there had been no other.
    let mut before = mesh.replace_sidecar("billing-1")?;
    assert!(before.exit(PATIENCE)?.success(), "{}", before.log());
    healthy(&mesh)
}
