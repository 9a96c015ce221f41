//! Active health checks: what counts as unhealthy, and what becomes of a Service without one.
//! [`crate::breakers`] has the beginning.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::app::Behaviour;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{App, Mesh};
use rustix::process::Signal;

use crate::common::{assert_refused, get, healthy, refusals};
use crate::traffic::{breaker_is, counted, instances, transitions};

const CHECK: &str = "retry: {attempts: 0}\n\
     healthCheck: {path: /healthz, interval: 100ms, timeout: 100ms, unhealthyThreshold: 2, healthyThreshold: 2}";

/// Both instances are asked.
fn checked() -> Result<(Vec<App>, Mesh)> {
    checked_with("")
}

/// The same with more in the policy.
fn checked_with(spec: &str) -> Result<(Vec<App>, Mesh)> {
    let (apps, mesh) = instances(2, &format!("{CHECK}\n{spec}"))?;
    // From its first use on the Service is known.
    healthy(&mesh)?;
    until("both are asked", PATIENCE, || {
        Ok(apps.iter().all(|app| app.count("/healthz") >= 2))
    })?;
    Ok((apps, mesh))
}

/// The first is left out, and nobody's call has found out.
fn is_left_out(apps: &[App], mesh: &Mesh, path: &str) -> Result<()> {
    breaker_is(mesh, "billing-1", "open")?;
    assert!(transitions(mesh, "billing-1", "open", "health_check")? >= 1.0);
    for _ in 0..20 {
        assert_eq!(get(mesh, path)?.status, 200);
    }
    assert_eq!((apps[0].count(path), apps[1].count(path)), (0, 20));
    Ok(())
}

fn comes_back(apps: &[App], mesh: &Mesh) -> Result<()> {
    breaker_is(mesh, "billing-1", "closed")?;
    assert!(transitions(mesh, "billing-1", "closed", "health_check")? >= 1.0);
    let before = apps[0].count("/back");
    until("it is called again", PATIENCE, || {
        assert_eq!(get(mesh, "/back")?.status, 200);
        Ok(apps[0].count("/back") > before)
    })
}

#[test]
fn an_instance_that_answers_badly_slowly_or_not_at_all_is_left_out() -> Result<()> {
    for (path, behaviour) in [
        ("/error", Behaviour::Status(500)),
        ("/client", Behaviour::Status(404)),
        ("/slow", Behaviour::Delay(Duration::from_millis(250))),
        ("/hang", Behaviour::Hang),
        ("/reset", Behaviour::ResetBeforeHead),
    ] {
        let (apps, mesh) = checked()?;
        apps[0].behave(behaviour);
        is_left_out(&apps, &mesh, path)?;
        apps[0].behave(Behaviour::Usual);
        comes_back(&apps, &mesh)?;
    }
    Ok(())
}

#[test]
fn a_redirect_is_healthy() -> Result<()> {
    let (apps, mesh) = checked()?;
    apps[0].behave(Behaviour::Status(302));
    let asked = apps[0].count("/healthz");
    until("it is asked a few times more", PATIENCE, || {
        Ok(apps[0].count("/healthz") >= asked + 5)
    })?;
    breaker_is(&mesh, "billing-1", "closed")?;
    assert_eq!(
        transitions(&mesh, "billing-1", "open", "health_check")?,
        0.0
    );
    Ok(())
}

#[test]
fn a_sidecar_that_is_stopped_or_killed_is_left_out() -> Result<()> {
    let (apps, mut mesh) = checked()?;
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    is_left_out(&apps, &mesh, "/stopped")?;
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    comes_back(&apps, &mesh)?;
    mesh.process("billing-1")?.kill()?;
    is_left_out(&apps, &mesh, "/killed")?;
    mesh.start_sidecar("billing-1")?;
    mesh.ready("billing-1")?;
    comes_back(&apps, &mesh)
}

#[test]
fn where_none_is_healthy_calls_are_refused_until_one_is() -> Result<()> {
    let (apps, mesh) = checked_with("outlierDetection: {maxEjectedPercent: 100}")?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    breaker_is(&mesh, "billing-1", "open")?;
    breaker_is(&mesh, "billing-2", "open")?;
    assert_refused(&get(&mesh, "/none")?, 503, "circuit_open");
    refusals(&mesh, "order-1", "outbound", "circuit_open", 1.0)?;
    assert_eq!(apps[0].count("/none") + apps[1].count("/none"), 0);
    apps[1].behave(Behaviour::Usual);
    breaker_is(&mesh, "billing-2", "closed")?;
    assert_eq!(get(&mesh, "/one")?.status, 200);
    Ok(())
}

#[test]
fn no_more_than_the_given_share_is_left_out() -> Result<()> {
    let (apps, mesh) = checked()?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    let asked: Vec<usize> = apps.iter().map(|app| app.count("/healthz")).collect();
    until("both are asked often enough", PATIENCE, || {
        let asked = apps.iter().zip(&asked);
        Ok(asked
            .into_iter()
            .all(|(app, before)| app.count("/healthz") >= before + 4))
    })?;
    let states = |state| {
        let labels = [("service", "shop/billing"), ("state", state)];
        counted(&mesh, "order-1", "outrider_endpoint_state", &labels)
    };
    assert_eq!((states("open")?, states("closed")?), (1.0, 1.0));
    assert_eq!(
        get(&mesh, "/")?.reason(),
        None,
        "the other one is asked still"
    );
    Ok(())
}

#[test]
fn without_its_check_an_instance_is_let_back_in() -> Result<()> {
    let (apps, mesh) = checked()?;
    apps[0].behave(Behaviour::Status(404));
    is_left_out(&apps, &mesh, "/checked")?;
    mesh.write(
        "traffic.yaml",
        &traffic_policy("billing", "retry: {attempts: 0}"),
    )?;
    until("it is called again", PATIENCE, || {
        get(&mesh, "/unchecked")?;
        Ok(apps[0].count("/unchecked") > 0)
    })?;
    breaker_is(&mesh, "billing-1", "closed")?;
    let asked = apps[1].count("/healthz");
    for _ in 0..50 {
        get(&mesh, "/")?;
    }
    assert_eq!(apps[1].count("/healthz"), asked, "nobody asks any more");
    Ok(())
}
