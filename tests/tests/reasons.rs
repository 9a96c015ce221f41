//! One reason for each refusal and for each failure that stands: the same in `Proxy-Status`, in the
//! access log and in the metric.

use anyhow::Result;
use mesh_tests::app::Behaviour;
use mesh_tests::http::{Connection, Response, exchange};
use mesh_tests::manifest::{route, service_ref, traffic_policy};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, eventually};
use serde_json::Value;

use crate::common::refusals;
use crate::traffic::{NO_BREAKER, not_retried, time_left};

const CALLER: &str = "order-1";

fn logged_mesh(files: &[(&str, String)]) -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mut builder = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("accessLog", true)
        .sidecar_argument("--log-format=json");
    for (name, yaml) in files {
        builder = builder.file(name, yaml.clone());
    }
    Ok((app, builder.start()?))
}

/// A TrafficPolicy that retries whatever the budget says.
fn policy(spec: &str) -> (&'static str, String) {
    let spec = format!("{NO_BREAKER}\n{spec}");
    ("traffic.yaml", traffic_policy("billing", &spec))
}

fn call(mesh: &Mesh, method: &str, path: &str) -> Result<Response> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: 0\r\n\r\n");
    exchange(mesh.http(CALLER)?, head)
}

/// The line of the caller's access log about the last request to a path.
fn logged(mesh: &mut Mesh, path: &str) -> Result<Value> {
    let process = mesh.process(CALLER)?;
    eventually(&format!("a line about {path}"), PATIENCE, || {
        let log = process.log();
        let lines = log.lines().rev().map(serde_json::from_str::<Value>);
        let about = |line: &Value| line.to_string().contains(&format!("\"{path}\""));
        Ok(lines.flatten().find(about))
    })
}

/// The value of a field, which may stand one level below the line itself.
fn field<'l>(line: &'l Value, name: &str) -> Option<&'l str> {
    let nested = line.get("fields").unwrap_or(line);
    nested.get(name).or_else(|| line.get(name))?.as_str()
}

/// Fails unless answer, log and metric all say this.
fn told(
    mesh: &mut Mesh,
    path: &str,
    response: &Response,
    expected: (u16, &str, &str),
) -> Result<()> {
    let (status, reason, flag) = expected;
    assert_eq!(
        (response.status, response.reason()),
        (status, Some(reason)),
        "{}",
        response.head
    );
    let line = logged(mesh, path)?;
    assert_eq!(field(&line, "reason"), Some(reason), "{line}");
    assert_eq!(field(&line, "flag"), Some(flag), "{line}");
    assert!(
        line.to_string().contains(&format!("\"status\":{status}")),
        "{line}"
    );
    refusals(mesh, CALLER, "outbound", reason, 1.0)
}

const RULES: &str = "\
- matches: [{path: {value: /ghost}}]
  backendRefs: [{name: ghost, port: 80}]
- matches: [{path: {value: /late}}]
  timeouts: {request: 200ms}
  backendRefs: [{name: billing, port: 80}]
- matches: [{path: {value: /try}}]
  timeouts: {request: 10s, backendRequest: 200ms}
  retry: {attempts: 0}
  backendRefs: [{name: billing, port: 80}]
- matches: [{path: {value: /well}}]
  backendRefs: [{name: billing, port: 80}]";

#[test]
fn a_refusal_has_one_reason_everywhere() -> Result<()> {
    let rules = route("HTTPRoute", "billing", &service_ref("billing"), RULES);
    let limits = policy("limits: {maxRequests: 1}");
    let (app, mut mesh) = logged_mesh(&[("route.yaml", rules), limits])?;
    let mut refused = |path: &str, expected| -> Result<()> {
        let response = call(&mesh, "GET", path)?;
        told(&mut mesh, path, &response, expected)
    };
    refused("/lost", (404, "no_route", "NR"))?;
    refused("/ghost", (500, "backend_invalid", "NC"))?;
    app.behave(Behaviour::Hang);
    refused("/late", (504, "request_timeout", "UT"))?;
    refused("/try", (504, "attempt_timeout", "UT"))?;
    app.behave(Behaviour::Usual);

    let mut held = Connection::open(mesh.http(CALLER)?)?;
    app.behave(Behaviour::Hang);
    held.send("GET /well HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    becomes("it is under way", &1, || Ok(app.count("/well")))?;
    let response = call(&mesh, "GET", "/well/more")?;
    let expected = (503, "too_many_requests", "UO");
    told(&mut mesh, "/well/more", &response, expected)?;
    app.behave(Behaviour::Usual);
    assert_eq!(held.response()?.status, 200);

    mesh.write(
        "traffic.yaml",
        &policy("faults: [{percent: 100, abort: {}}]").1,
    )?;
    until("a fault is injected", PATIENCE, || {
        Ok(call(&mesh, "GET", "/well/fault")?.reason() == Some("fault_injected"))
    })?;
    let response = call(&mesh, "GET", "/well/fault")?;
    told(
        &mut mesh,
        "/well/fault",
        &response,
        (503, "fault_injected", "FI"),
    )
}

#[test]
fn an_open_circuit_has_one_reason_everywhere() -> Result<()> {
    let spec = "retry: {attempts: 0}\noutlierDetection: {consecutiveGatewayErrors: 1, maxEjectedPercent: 100, baseEjection: 1h, maxEjection: 1h}";
    let file = ("traffic.yaml", traffic_policy("billing", spec));
    let (app, mut mesh) = logged_mesh(&[file])?;
    app.behave(Behaviour::Status(503));
    let response = call(&mesh, "GET", "/first")?;
    assert_eq!((response.status, response.reason()), (503, None));
    let line = logged(&mut mesh, "/first")?;
    assert_eq!(field(&line, "reason"), Some(""), "the app's own: {line}");
    let response = call(&mesh, "GET", "/second")?;
    told(&mut mesh, "/second", &response, (503, "circuit_open", "UH"))
}

#[test]
fn a_stream_that_is_cut_says_why_in_the_log() -> Result<()> {
    let (_app, mut mesh) = logged_mesh(&[policy("timeouts: {streamIdle: 200ms}")])?;
    let mut connection = Connection::open(mesh.http(CALLER)?)?;
    connection.send("GET /drip HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    assert_eq!(connection.head()?.status, 200);
    assert_eq!(connection.rest()?, b"1");
    let line = logged(&mut mesh, "/drip")?;
    assert_eq!(
        field(&line, "reason"),
        Some("stream_idle_timeout"),
        "{line}"
    );
    assert_eq!(field(&line, "flag"), Some("SI"), "{line}");
    Ok(())
}

#[test]
fn a_failure_that_stands_says_why_it_was_not_retried() -> Result<()> {
    let ample = "retryBudget: {budget: {percent: 100}, minRetryRate: {count: 1000}}";
    let (app, mut mesh) = logged_mesh(&[policy(&format!("retry: {{attempts: 1}}\n{ample}"))])?;
    app.behave(Behaviour::Status(503));
    for (method, path, why) in [
        ("POST", "/post", "not_idempotent"),
        ("GET", "/get", "attempts_exhausted"),
    ] {
        assert_eq!(call(&mesh, method, path)?.status, 503);
        let line = logged(&mut mesh, path)?;
        assert_eq!(field(&line, "not_retried"), Some(why), "{line}");
        assert_eq!(field(&line, "reason"), Some(""), "the app's own: {line}");
        assert_eq!(not_retried(&mesh, why)?, 1.0);
    }
    let large = 64 * 1024 + 1;
    let head = format!("PUT /large HTTP/1.1\r\nHost: billing\r\nContent-Length: {large}\r\n\r\n");
    let request = [head.into_bytes(), vec![b'x'; large]].concat();
    assert_eq!(exchange(mesh.http(CALLER)?, request)?.status, 503);
    let line = logged(&mut mesh, "/large")?;
    assert_eq!(field(&line, "not_retried"), Some("body_not_kept"), "{line}");
    let head = "GET /again HTTP/1.1\r\nHost: billing\r\ntracestate: outrider=t5000.a2\r\n\r\n";
    assert_eq!(exchange(mesh.http(CALLER)?, head)?.status, 503);
    let line = logged(&mut mesh, "/again")?;
    assert_eq!(
        field(&line, "not_retried"),
        Some("already_a_retry"),
        "{line}"
    );

    // A timeout that is not retried has both: why it failed, and why that stands.
    app.behave(Behaviour::Usual);
    let spec =
        "timeouts: {request: 5s, backendRequest: 100ms}\nretry: {attempts: 1, onTimeout: true}";
    mesh.write("traffic.yaml", &policy(spec).1)?;
    until("the new policy is in force", PATIENCE, || {
        call(&mesh, "GET", "/")?;
        let left = app.last().and_then(|request| time_left(&request));
        Ok(left.is_some_and(|left| left <= 5_000))
    })?;
    app.behave(Behaviour::Hang);
    let response = call(&mesh, "POST", "/hangs")?;
    let expected = (504, "attempt_timeout", "UT");
    told(&mut mesh, "/hangs", &response, expected)?;
    let line = logged(&mut mesh, "/hangs")?;
    assert_eq!(
        field(&line, "not_retried"),
        Some("not_idempotent"),
        "{line}"
    );

    app.behave(Behaviour::Usual);
    assert_eq!(call(&mesh, "GET", "/well")?.status, 200);
    let line = logged(&mut mesh, "/well")?;
    assert_eq!(field(&line, "not_retried"), None, "{line}");
    assert_eq!(field(&line, "flag"), Some("-"), "{line}");
    Ok(())
}

#[test]
fn an_exhausted_budget_is_why_a_failure_stands() -> Result<()> {
    let none =
        "retry: {attempts: 1}\nretryBudget: {budget: {percent: 0}, minRetryRate: {count: 0}}";
    let (app, mut mesh) = logged_mesh(&[policy(none)])?;
    app.behave(Behaviour::Status(503));
    let response = call(&mesh, "GET", "/get")?;
    assert_eq!((response.status, response.reason()), (503, None));
    let line = logged(&mut mesh, "/get")?;
    assert_eq!(
        field(&line, "not_retried"),
        Some("budget_exhausted"),
        "{line}"
    );
    assert_eq!(not_retried(&mesh, "budget_exhausted")?, 1.0);
    Ok(())
}
