//! What may break while traffic flows, and must not break it.

use anyhow::Result;
use mesh_tests::load::Load;
use mesh_tests::manifest::{account, policy};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, metrics};

use crate::common::{get, healthy, http_mesh};

const EXPIRY: &str = "outrider_certificate_expiry_timestamp_seconds";

#[test]
fn the_control_plane_may_be_killed_and_restarted_under_load() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let load = Load::start(2, mesh.http("order-1")?, "billing", "/zeros/100");
    load.goes_on(200)?;
    for _ in 0..2 {
        mesh.control_plane()?.kill()?;
        load.goes_on(500)?;
        for name in ["order-1", "billing-1"] {
            becomes("the sidecar says that it is cut off", &0.0, || {
                mesh.metrics(name)?
                    .value("outrider_control_plane_connected")
            })?;
        }
        mesh.start_control_plane()?;
        for name in ["order-1", "billing-1"] {
            becomes("the sidecar is connected again", &1.0, || {
                mesh.metrics(name)?
                    .value("outrider_control_plane_connected")
            })?;
        }
        load.goes_on(500)?;
    }
    load.finish()?;
    // What the new one says is heard.
    mesh.write(
        "policy.yaml",
        &policy("billing", "billing", "ALLOW", "- sources: []"),
    )?;
    becomes("an edit decides", &403, || Ok(get(&mesh, "/")?.status))
}

#[test]
fn new_connections_are_made_while_the_control_plane_is_away() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    mesh.control_plane()?.kill()?;
    for _ in 0..20 {
        healthy(&mesh)?;
    }
    mesh.process("billing-1")?.terminate()?;
    mesh.process("billing-1")?.exit(PATIENCE)?;
    // Its age is told, so that somebody can be woken.
    until("the age of what it knows grows", PATIENCE, || {
        Ok(mesh
            .metrics("order-1")?
            .value("outrider_config_age_seconds")?
            >= 1.0)
    })
}

#[test]
fn certificates_are_replaced_under_load() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("certificateLifetime", "12s")
        .start()?;
    let load = Load::start(2, mesh.http("order-1")?, "billing", "/zeros/100");
    load.goes_on(100)?;
    for round in 1..=2 {
        for name in ["order-1", "billing-1"] {
            let before = mesh.metrics(name)?.value(EXPIRY)?;
            until(
                &format!("{name} renews its certificate ({round})"),
                PATIENCE,
                || {
                    load.unharmed()?;
                    Ok(mesh.metrics(name)?.value(EXPIRY)? > before)
                },
            )?;
        }
        load.goes_on(300)?;
    }
    load.finish()?;
    for name in ["order-1", "billing-1"] {
        let renewals = mesh.metrics(name)?;
        let total = renewals.sum("outrider_certificate_renewals_total", &[]);
        // Not in a loop either: a renewal each third to half of a lifetime.
        assert!((2.0..=30.0).contains(&total), "{name}: {total} renewals");
    }
    Ok(())
}

#[test]
fn an_open_connection_outlives_the_certificate_it_was_made_with() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = mesh_tests::peers::redis(folder.path())?;
    let mesh = Mesh::pair(redis.port, Some("redis"))?
        .setting("defaultDeny", false)
        .setting("certificateLifetime", "6s")
        .start()?;
    let mut connection =
        mesh_tests::http::Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    let first = mesh.metrics("order-1")?.value(EXPIRY)?;
    until("the first certificate has expired", PATIENCE, || {
        connection.send("PING\r\n")?;
        assert_eq!(connection.exactly(7)?, b"+PONG\r\n");
        Ok(mesh_tests::pki::seconds() as f64 > first + 1.0)
    })?;
    connection.send("PING\r\n")?;
    assert_eq!(connection.exactly(7)?, b"+PONG\r\n");
    Ok(())
}

#[test]
fn a_certificate_that_cannot_be_renewed_is_alarmed_and_used_to_its_end() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("certificateLifetime", "9s")
        .start()?;
    healthy(&mesh)?;
    mesh.control_plane()?.kill()?;
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let name = "outrider_certificate_renewals_total";
    until("a renewal has failed", PATIENCE, || {
        let failed: f64 = mesh
            .metrics("order-1")?
            .select(name, &[])
            .filter(|sample| sample.label("result") != "ok")
            .map(|sample| sample.value)
            .sum();
        Ok(failed >= 1.0)
    })?;
    healthy(&mesh)?;
    let expiry = mesh.metrics("order-1")?.value(EXPIRY)?;
    mesh.start_control_plane()?;
    until("it is renewed after all", PATIENCE, || {
        Ok(mesh.metrics("order-1")?.value(EXPIRY)? > expiry)
    })?;
    becomes("calls are served", &200, || Ok(get(&mesh, "/")?.status))?;
    metrics::reaches(port, "outrider_control_plane_connected", &[], 1.0)
}

#[test]
fn the_callees_sidecar_may_be_restarted_under_load_of_two() -> Result<()> {
    use mesh_tests::{Service, Workload};
    let apps = [App::start()?, App::start()?];
    let mut mesh = Mesh::builder()
        .setting("defaultDeny", true)
        .setting("drainTimeout", "2s")
        .service(Service::new("billing").port(80, "app", Some("http")))
        .workload(Workload::new("billing-1")?.port("app", apps[0].port(), Some("http")))
        .workload(Workload::new("billing-2")?.port("app", apps[1].port(), Some("http")))
        .workload(Workload::new("order-1")?)
        .file(
            "policy.yaml",
            policy(
                "billing",
                "billing",
                "ALLOW",
                &format!("- sources: [{}]", account("order")),
            ),
        )
        .start()?;
    let load = Load::start(2, mesh.http("order-1")?, "billing", "/zeros/100");
    load.goes_on(100)?;
    for name in ["billing-1", "billing-2"] {
        mesh.process(name)?.terminate()?;
        mesh.process(name)?.exit(PATIENCE)?;
        load.goes_on(200)?;
        mesh.start_sidecar(name)?;
        mesh.ready(name)?;
        load.goes_on(200)?;
    }
    load.finish()?;
    Ok(())
}

#[test]
fn a_stopped_sidecar_does_not_stop_the_control_plane() -> Result<()> {
    use rustix::process::Signal;
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    // Its stream stays open, and nobody reads it.
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    let name = "outrider_control_plane_resource_version";
    let version = mesh.control_plane_metrics()?.value(name)?;
    for round in 0..50 {
        let rules = format!("- name: round-{round}");
        mesh.write(
            "policy.yaml",
            &policy("billing", "billing", "ALLOW", &rules),
        )?;
    }
    let order = "- sources: []";
    mesh.write("order.yaml", &policy("order", "billing", "DENY", order))?;
    let admin = mesh.control_plane_admin();
    metrics::reaches(admin, name, &[], version + 1.0)?;
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    until("it catches up with the newest version", PATIENCE, || {
        let newest = mesh.control_plane_metrics()?.value(name)?;
        let labels = [("workload", "billing-1")];
        let acknowledged = "outrider_control_plane_acknowledged_version";
        Ok(mesh.control_plane_metrics()?.sum(acknowledged, &labels) >= newest)
    })?;
    becomes("calls are served", &200, || Ok(get(&mesh, "/")?.status))?;
    Ok(())
}
