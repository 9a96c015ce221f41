//! One reason for each refusal, each retry and each failure that stands: the same in `Proxy-Status`,
//! in the access log and in the metric.

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{Connection, Response, exchange};
use mesh_tests::manifest::{route, service_ref, traffic_policy};
use mesh_tests::peers::Language::Go;
use mesh_tests::peers::{grpc_behave, grpc_calls, grpc_server};
use mesh_tests::ports::free_port;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Service, Workload, eventually};
use serde_json::Value;

use crate::common::refusals;
use crate::traffic::{NO_BREAKER, not_retried, retries, time_left};

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

/// Every member of the list, in order.
fn proxy_status(response: &Response) -> Vec<&str> {
    let fields = response.headers.iter();
    let ours = fields.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-status"));
    ours.map(|(_, value)| value.as_str()).collect()
}

/// What stands in an answer where the log line of its request is this one; `None`: nothing.
fn story(line: &Value) -> Option<String> {
    let parameter = |name| Some(format!("; {name}=\"{}\"", field(line, name)?));
    let said = ["retried", "not_retried"].map(parameter);
    let said: String = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| format!("outrider{said}"))
}

/// Two instances of billing that are asked in turn; what fails is sent again once.
fn two_instances(ports: [u16; 2], protocol: &str, more: &str) -> Result<Mesh> {
    let (name, yaml) = policy(&format!(
        "loadBalancing: {{algorithm: RoundRobin}}\n\
         retryBudget: {{budget: {{percent: 100}}, minRetryRate: {{count: 1000}}}}\n\
         retry: {{attempts: 1{more}}}"
    ));
    let mut builder = Mesh::builder()
        .setting("defaultDeny", false)
        .setting("accessLog", true)
        .sidecar_argument("--log-format=json")
        .service(Service::new("billing").port(80, "app", Some(protocol)))
        .workload(Workload::new(CALLER)?)
        .file(name, yaml);
    for (index, port) in ports.into_iter().enumerate() {
        let name = format!("billing-{}", index + 1);
        builder = builder.workload(Workload::new(&name)?.port("app", port, Some(protocol)));
    }
    builder.start()
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
        let response = call(&mesh, method, path)?;
        assert_eq!(response.status, 503);
        let line = logged(&mut mesh, path)?;
        assert_eq!(field(&line, "not_retried"), Some(why), "{line}");
        assert_eq!(field(&line, "reason"), Some(""), "the app's own: {line}");
        assert_eq!(not_retried(&mesh, why)?, 1.0);
        assert_eq!(proxy_status(&response), [story(&line).context("a story")?]);
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
    assert_eq!(
        proxy_status(&response),
        [
            "outrider; error=http_response_timeout; details=\"attempt_timeout\"; not_retried=\"not_idempotent\""
        ]
    );
    let line = logged(&mut mesh, "/hangs")?;
    assert_eq!(
        field(&line, "not_retried"),
        Some("not_idempotent"),
        "{line}"
    );

    app.behave(Behaviour::Usual);
    let response = call(&mesh, "GET", "/well")?;
    assert_eq!(response.status, 200);
    assert!(proxy_status(&response).is_empty(), "{}", response.head);
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

#[test]
fn a_retry_has_one_reason_everywhere() -> Result<()> {
    const CALLS: usize = 6;
    let apps = [App::start()?, App::start()?];
    let mut mesh = two_instances([apps[0].port(), apps[1].port()], "http", "")?;
    apps[0].behave(Behaviour::Status(503));
    let mut retried = 0;
    for call_number in 0..CALLS {
        let path = format!("/mended/{call_number}");
        let response = call(&mesh, "GET", &path)?;
        assert_eq!(response.status, 200);
        let line = logged(&mut mesh, &path)?;
        assert_eq!(
            proxy_status(&response),
            Vec::from_iter(story(&line)),
            "{line}"
        );
        if let Some(reason) = field(&line, "retried") {
            assert_eq!(reason, "status", "{line}");
            retried += 1;
        }
        assert_eq!(field(&line, "not_retried"), None, "{line}");
    }
    assert!(retried >= 1, "no call met the instance that fails");
    assert_eq!(retries(&mesh, "status")?, f64::from(retried));

    apps[1].behave(Behaviour::Status(503));
    let response = call(&mesh, "GET", "/lost")?;
    assert_eq!((response.status, response.reason()), (503, None));
    assert_eq!(
        proxy_status(&response),
        ["outrider; retried=\"status\"; not_retried=\"attempts_exhausted\""]
    );
    let line = logged(&mut mesh, "/lost")?;
    assert_eq!(field(&line, "retried"), Some("status"), "{line}");
    assert_eq!(not_retried(&mesh, "attempts_exhausted")?, 1.0);
    Ok(())
}

#[test]
fn what_the_callees_sidecar_says_stands_before_what_the_callers_says() -> Result<()> {
    let mut mesh = two_instances([free_port()?, free_port()?], "http", "")?;
    let response = call(&mesh, "GET", "/gone")?;
    assert_eq!(
        (response.status, response.reason()),
        (503, Some("app_unreachable"))
    );
    assert_eq!(
        proxy_status(&response),
        [
            "outrider; error=connection_refused; details=\"app_unreachable\"",
            "outrider; retried=\"unprocessed\"; not_retried=\"attempts_exhausted\""
        ]
    );
    let line = logged(&mut mesh, "/gone")?;
    assert_eq!(field(&line, "retried"), Some("unprocessed"), "{line}");
    assert_eq!(retries(&mesh, "unprocessed")?, 1.0);
    Ok(())
}

#[test]
fn a_retry_of_a_grpc_call_has_one_reason_everywhere() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let servers = [
        grpc_server(Go, folder.path())?,
        grpc_server(Go, folder.path())?,
    ];
    let ports = [servers[0].port, servers[1].port];
    let mut mesh = two_instances(ports, "grpc", ", nonIdempotent: true")?;
    let at = mesh.http(CALLER)?.port();
    let ask = |cases: &[&str]| grpc_calls(Go, at, "billing", cases);
    grpc_behave(&servers[0], "status 14")?;
    let answers = ask(&["unary:x"; 6])?;
    let said = answers.iter().map(|answer| {
        assert_eq!(answer["code"], 0, "{answer}");
        &answer["initial"]["proxy-status"]
    });
    let mended = said.filter(|said| !said.is_null()).inspect(|said| {
        assert_eq!(*said, "outrider; retried=\"grpc_status\"");
    });
    let mended = mended.count();
    assert!(mended >= 1, "no call met the server that fails");
    assert_eq!(retries(&mesh, "grpc_status")?, mended as f64);

    grpc_behave(&servers[1], "status 14")?;
    let answer = &ask(&["unary:x"])?[0];
    assert_eq!(answer["code"], 14);
    // Without a body the head is the trailers.
    assert_eq!(
        answer["trailing"]["proxy-status"],
        "outrider; retried=\"grpc_status\"; not_retried=\"attempts_exhausted\""
    );
    let process = mesh.process(CALLER)?;
    let exhausted = eventually("a line about the failure", PATIENCE, || {
        let log = process.log();
        let mut lines = log.lines().rev().flat_map(serde_json::from_str::<Value>);
        Ok(lines.find(|line| field(line, "not_retried").is_some()))
    })?;
    assert_eq!(
        story(&exhausted).as_deref(),
        answer["trailing"]["proxy-status"].as_str()
    );
    assert_eq!(not_retried(&mesh, "attempts_exhausted")?, 1.0);
    Ok(())
}
