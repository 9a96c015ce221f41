//! When an instance is left out, and what one sidecar may have open to a Service.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::app::Behaviour;
use mesh_tests::http::Connection;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh};
use rustix::process::Signal;

use crate::common::{assert_refused, get, healthy, refusals};
use crate::traffic::{breaker_is, counted, instances, transitions};

const STATE: &str = "outrider_endpoint_state";

/// How many breakers are in a state.
fn in_state(mesh: &Mesh, state: &str) -> Result<f64> {
    let labels = [("service", "shop/billing"), ("state", state)];
    counted(mesh, "order-1", STATE, &labels)
}

fn call(mesh: &Mesh, times: usize) -> Result<()> {
    for _ in 0..times {
        get(mesh, "/")?;
    }
    Ok(())
}

#[test]
fn an_endpoint_that_fails_in_a_row_is_ejected_and_let_back_in_by_a_probe() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "retry: {attempts: 0}\n\
         outlierDetection: {maxEjectedPercent: 100, consecutiveGatewayErrors: 3, failurePercent: 0, baseEjection: 500ms, maxEjection: 500ms}",
    )?;
    healthy(&mesh)?;
    breaker_is(&mesh, "billing-1", "closed")?;
    apps[0].behave(Behaviour::Status(503));
    for _ in 0..3 {
        let response = get(&mesh, "/bad")?;
        assert_eq!(
            (response.status, response.reason()),
            (503, None),
            "the app's own"
        );
    }
    breaker_is(&mesh, "billing-1", "open")?;
    let response = get(&mesh, "/bad")?;
    assert_refused(&response, 503, "circuit_open");
    assert_eq!(
        response.header("proxy-status"),
        Some("outrider; error=destination_unavailable; details=\"circuit_open\"")
    );
    assert_eq!(apps[0].count("/bad"), 3, "the app is left alone");
    refusals(&mesh, "order-1", "outbound", "circuit_open", 1.0)?;
    let opened = transitions(&mesh, "billing-1", "open", "consecutive_gateway_errors")?;
    assert_eq!(opened, 1.0);

    // A probe that fails ejects it again.
    until("a probe fails", PATIENCE, || {
        get(&mesh, "/bad")?;
        Ok(transitions(&mesh, "billing-1", "open", "probe_failed")? >= 1.0)
    })?;
    apps[0].behave(Behaviour::Usual);
    until("a probe succeeds", PATIENCE, || {
        get(&mesh, "/good")?;
        Ok(transitions(&mesh, "billing-1", "closed", "probe_succeeded")? >= 1.0)
    })?;
    breaker_is(&mesh, "billing-1", "closed")?;
    assert_eq!(
        (in_state(&mesh, "open")?, in_state(&mesh, "half_open")?),
        (0.0, 0.0)
    );
    healthy(&mesh)
}

#[test]
fn an_apps_own_errors_eject_it_only_if_the_policy_says_so() -> Result<()> {
    let own = |spec: &str| -> Result<([App; 1], Mesh)> {
        let (mut apps, mesh) = instances(1, spec)?;
        apps[0].behave(Behaviour::Status(500));
        Ok(([apps.remove(0)], mesh))
    };
    let (apps, mesh) = own("retry: {attempts: 0}")?;
    call(&mesh, 50)?;
    assert_eq!(apps[0].count("/"), 50);
    assert_eq!(in_state(&mesh, "closed")?, 1.0);

    let (apps, mesh) = own(
        "retry: {attempts: 0}\noutlierDetection: {maxEjectedPercent: 100, consecutiveErrors: 5}",
    )?;
    call(&mesh, 10)?;
    assert_eq!(apps[0].count("/"), 5);
    assert_eq!(
        transitions(&mesh, "billing-1", "open", "consecutive_errors")?,
        1.0
    );
    Ok(())
}

#[test]
fn a_share_of_failures_in_a_window_ejects_it() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "retry: {attempts: 0}\noutlierDetection: {maxEjectedPercent: 100, consecutiveGatewayErrors: 0, failurePercent: 40, minimumRequests: 10}",
    )?;
    // Every other answer, so that there are never two in a row.
    for round in 0..20 {
        apps[0].behave(match round % 2 {
            0 => Behaviour::Usual,
            _ => Behaviour::Status(503),
        });
        get(&mesh, "/")?;
    }
    breaker_is(&mesh, "billing-1", "open")?;
    assert_eq!(
        transitions(&mesh, "billing-1", "open", "failure_percent")?,
        1.0
    );
    assert!(
        (10..20).contains(&apps[0].count("/")),
        "{}",
        apps[0].count("/")
    );
    Ok(())
}

#[test]
fn an_endpoint_that_is_slow_is_ejected_if_the_policy_names_a_latency() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "retry: {attempts: 0}\noutlierDetection: {maxEjectedPercent: 100, latency: 20ms, minimumRequests: 5}",
    )?;
    apps[0].behave(Behaviour::Delay(Duration::from_millis(60)));
    until("it is ejected", PATIENCE, || {
        get(&mesh, "/")?;
        Ok(transitions(&mesh, "billing-1", "open", "latency")? >= 1.0)
    })
}

#[test]
fn no_more_than_the_given_share_is_ejected() -> Result<()> {
    let (apps, mesh) = instances(
        4,
        "retry: {attempts: 0}\n\
         outlierDetection: {consecutiveGatewayErrors: 2, maxEjectedPercent: 50, baseEjection: 1h, maxEjection: 1h}",
    )?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    until("two are ejected", PATIENCE, || {
        call(&mesh, 10)?;
        Ok(in_state(&mesh, "open")? == 2.0)
    })?;
    call(&mesh, 50)?;
    assert_eq!(
        (in_state(&mesh, "open")?, in_state(&mesh, "closed")?),
        (2.0, 2.0)
    );
    assert_eq!(
        get(&mesh, "/")?.reason(),
        None,
        "the others are asked still"
    );
    Ok(())
}

#[test]
fn where_all_are_ejected_the_policy_may_use_them_all() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "retry: {attempts: 0}\n\
         outlierDetection: {maxEjectedPercent: 100, consecutiveGatewayErrors: 2, baseEjection: 1h, maxEjection: 1h, whenAllEjected: UseAll}",
    )?;
    apps[0].behave(Behaviour::Status(503));
    call(&mesh, 2)?;
    breaker_is(&mesh, "billing-1", "open")?;
    let response = get(&mesh, "/asked")?;
    assert_eq!((response.status, response.reason()), (503, None));
    assert_eq!(apps[0].count("/asked"), 1);
    Ok(())
}

#[test]
fn a_health_check_finds_out_without_a_call() -> Result<()> {
    let (apps, mesh) = instances(
        2,
        "retry: {attempts: 0}\n\
         healthCheck: {path: /check, interval: 100ms, timeout: 100ms, unhealthyThreshold: 2, healthyThreshold: 2}",
    )?;
    // From its first use on the Service is known.
    healthy(&mesh)?;
    until("both are asked", PATIENCE, || {
        Ok(apps.iter().all(|app| app.count("/check") >= 2))
    })?;
    apps[0].behave(Behaviour::Status(503));
    breaker_is(&mesh, "billing-1", "open")?;
    assert!(transitions(&mesh, "billing-1", "open", "health_check")? >= 1.0);
    for _ in 0..20 {
        assert_eq!(get(&mesh, "/")?.status, 200);
    }
    assert_eq!(apps[0].count("/"), 0, "nobody's call found out");
    apps[0].behave(Behaviour::Usual);
    breaker_is(&mesh, "billing-1", "closed")?;
    until("it is called again", PATIENCE, || {
        get(&mesh, "/")?;
        Ok(apps[0].count("/") >= 1)
    })
}

#[test]
fn more_requests_at_once_than_the_limit_are_refused() -> Result<()> {
    let (apps, mesh) = instances(1, "limits: {maxRequests: 2}")?;
    healthy(&mesh)?;
    let held = |_| -> Result<Connection> {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
        Ok(connection)
    };
    let mut held: Vec<Connection> = (0..2).map(held).collect::<Result<_>>()?;
    becomes("two are under way", &2.0, || {
        let service = [("service", "shop/billing")];
        counted(&mesh, "order-1", "outrider_active_requests", &service)
    })?;
    let response = get(&mesh, "/")?;
    assert_refused(&response, 503, "too_many_requests");
    assert_eq!(
        response.header("proxy-status"),
        Some("outrider; error=connection_limit_reached; details=\"too_many_requests\"")
    );
    refusals(&mesh, "order-1", "outbound", "too_many_requests", 1.0)?;
    apps[0].release();
    for connection in &mut held {
        assert_eq!(connection.response()?.status, 200);
    }
    becomes("there is room again", &200, || Ok(get(&mesh, "/")?.status))
}

#[test]
fn more_that_wait_for_a_connection_than_the_limit_are_refused() -> Result<()> {
    let (_apps, mut mesh) = instances(
        1,
        "timeouts: {connect: 20s, request: 20s}\nlimits: {maxPendingRequests: 1}\nretry: {attempts: 0}",
    )?;
    // Its kernel takes the connection, and nobody shakes hands.
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    let mut waits = Connection::open(mesh.http("order-1")?)?;
    waits.send("GET / HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    becomes("one waits", &1.0, || {
        let service = [("service", "shop/billing")];
        counted(&mesh, "order-1", "outrider_pending_requests", &service)
    })?;
    assert_refused(&get(&mesh, "/")?, 503, "too_many_pending");
    refusals(&mesh, "order-1", "outbound", "too_many_pending", 1.0)?;
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    let response = waits.response()?;
    ensure!(response.status == 200, "{}", response.head);
    healthy(&mesh)
}

#[test]
fn a_new_policy_is_in_force_at_the_next_request() -> Result<()> {
    let (apps, mesh) = instances(1, "retry: {attempts: 0}")?;
    apps[0].behave(Behaviour::Status(500));
    call(&mesh, 20)?;
    breaker_is(&mesh, "billing-1", "closed")?;
    let spec = "retry: {attempts: 0}\noutlierDetection: {maxEjectedPercent: 100, consecutiveErrors: 1, baseEjection: 1h, maxEjection: 1h}";
    let policy = mesh_tests::manifest::traffic_policy("billing", spec);
    mesh.write("traffic.yaml", &policy)?;
    becomes(
        "it is ejected at once",
        &Some("circuit_open".to_owned()),
        || Ok(get(&mesh, "/")?.reason().map(str::to_owned)),
    )
}
