//! Time: every call has some, it travels with the call, and what it ends is told exactly.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{self, Connection, exchange};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::metrics::reaches;
use mesh_tests::peers::Language::Go;
use mesh_tests::peers::{grpc_calls, grpc_hop, grpc_server};
use mesh_tests::wait::becomes;
use mesh_tests::{App, Mesh, Service, Workload, quiet};

use crate::common::{assert_refused, get, healthy, refusals};
use crate::traffic::{Chain, counted, instances, time_left};

const PROXY_STATUS: &str = "proxy-status";

#[test]
fn a_timeout_is_504_and_says_so() -> Result<()> {
    let _alone = quiet::alone();
    let (apps, mesh) = instances(1, "timeouts: {request: 300ms}")?;
    healthy(&mesh)?;
    apps[0].behave(Behaviour::Hang);
    let begin = Instant::now();
    let response = get(&mesh, "/")?;
    let took = begin.elapsed();
    assert_refused(&response, 504, "request_timeout");
    assert_eq!(
        response.header(PROXY_STATUS),
        Some(
            "outrider; error=http_response_timeout; details=\"request_timeout\"; \
             not_retried=\"deadline_too_close\""
        )
    );
    let expected = Duration::from_millis(300)..Duration::from_millis(800);
    assert!(expected.contains(&took), "{took:?}");
    refusals(&mesh, "order-1", "outbound", "request_timeout", 1.0)?;
    apps[0].behave(Behaviour::Usual);
    healthy(&mesh)
}

#[test]
fn an_attempt_has_a_timeout_of_its_own() -> Result<()> {
    let policy = "timeouts: {request: 5s, backendRequest: 200ms}\nretry: {attempts: 0}";
    let (apps, mesh) = instances(1, policy)?;
    healthy(&mesh)?;
    apps[0].behave(Behaviour::Hang);
    let response = get(&mesh, "/")?;
    assert_refused(&response, 504, "attempt_timeout");
    assert_eq!(
        response.header(PROXY_STATUS),
        Some(
            "outrider; error=http_response_timeout; details=\"attempt_timeout\"; \
             not_retried=\"disabled\""
        )
    );
    refusals(&mesh, "order-1", "outbound", "attempt_timeout", 1.0)
}

#[test]
fn a_call_without_a_policy_has_fifteen_seconds() -> Result<()> {
    let (apps, mesh) = instances(1, "retry: {attempts: 1}")?;
    healthy(&mesh)?;
    let left = time_left(&apps[0].last().context("a request")?).context("its time")?;
    assert!((14_000..=15_000).contains(&left), "{left} ms");
    Ok(())
}

#[test]
fn the_meshs_own_default_is_for_every_service() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("traffic", "{timeouts: {request: 4s}}")
        .start()?;
    healthy(&mesh)?;
    let left = time_left(&app.last().context("a request")?).context("its time")?;
    assert!((3_000..=4_000).contains(&left), "{left} ms");
    mesh.write(
        "traffic.yaml",
        &traffic_policy("billing", "timeouts: {request: 2s}"),
    )?;
    becomes("the Service's own is for this one", &true, || {
        get(&mesh, "/")?;
        let left = app.last().and_then(|request| time_left(&request));
        Ok(left.is_some_and(|left| left <= 2_000))
    })
}

#[test]
fn a_deadline_travels_through_two_hops() -> Result<()> {
    let chain = Chain::start("timeouts: {request: 3s}", "timeouts: {request: 10s}")?;
    let at = chain.mesh.http("shopper-1")?;
    assert_eq!(http::get(at, "order", "/chain")?.status, 200);
    let first = chain.order.last().context("a request at order")?;
    let first = time_left(&first).context("order's time")?;
    let second = chain.billing.iter().find_map(App::last);
    let second = time_left(&second.context("a request at billing")?).context("billing's time")?;
    assert!((1_000..=3_000).contains(&first), "{first} ms");
    assert!(second <= first, "{second} ms after {first} ms");
    // What the app of the middle hop had to do: hand the context on.
    let port = chain.mesh.sidecar("order-1")?.workload.telemetry_port;
    reaches(port, "outrider_context_total", &[("result", "kept")], 1.0)?;
    let lost = [("result", "lost")];
    let none = counted(&chain.mesh, "order-1", "outrider_context_total", &lost)?;
    assert_eq!(none, 0.0);
    Ok(())
}

#[test]
fn what_the_caller_has_given_up_ends_at_the_last_hop() -> Result<()> {
    let chain = Chain::start("timeouts: {request: 500ms}", "timeouts: {request: 10s}")?;
    let at = chain.mesh.http("shopper-1")?;
    assert_eq!(http::get(at, "order", "/chain")?.status, 200);
    chain
        .billing
        .iter()
        .for_each(|app| app.behave(Behaviour::Hang));
    assert_eq!(http::get(at, "order", "/chain")?.status, 504);
    refusals(&chain.mesh, "order-1", "outbound", "deadline_exceeded", 1.0)
}

#[test]
fn context_that_an_app_loses_is_counted_and_its_time_with_it() -> Result<()> {
    let chain = Chain::start("timeouts: {request: 3s}", "timeouts: {request: 10s}")?;
    chain.hands_context_on(false)?;
    let at = chain.mesh.http("shopper-1")?;
    for _ in 0..3 {
        assert_eq!(http::get(at, "order", "/chain")?.status, 200);
    }
    let port = chain.mesh.sidecar("order-1")?.workload.telemetry_port;
    reaches(port, "outrider_context_total", &[("result", "lost")], 3.0)?;
    let last = chain.billing.iter().find_map(App::last);
    let left = time_left(&last.context("a request at billing")?).context("its time")?;
    assert!(left > 9_000, "{left} ms: billing's own");
    Ok(())
}

#[test]
fn work_whose_time_has_run_out_does_not_reach_the_app() -> Result<()> {
    let (apps, mesh) = instances(1, "timeouts: {request: 5s}")?;
    let call = |state: &str| {
        let head = format!("GET /late HTTP/1.1\r\nHost: billing\r\ntracestate: {state}\r\n\r\n");
        exchange(mesh.http("order-1")?, head)
    };
    let response = call("outrider=t0.a1")?;
    assert_refused(&response, 504, "deadline_exceeded");
    assert_eq!(
        response.header(PROXY_STATUS),
        Some("outrider; error=http_response_timeout; details=\"deadline_exceeded\"")
    );
    assert_eq!(apps[0].count("/late"), 0);
    refusals(&mesh, "order-1", "outbound", "deadline_exceeded", 1.0)?;
    // Less than the policy gives; and what is no member of ours limits nothing.
    assert_eq!(call("outrider=t2000.a1,other=1")?.status, 200);
    let left = time_left(&apps[0].last().context("a request")?).context("its time")?;
    assert!(left <= 2_000, "{left} ms");
    assert_eq!(call("outrider=garbage")?.status, 200);
    assert_eq!(call("other=t0.a1")?.status, 200);
    Ok(())
}

#[test]
fn grpc_timeout_travels_through_two_hops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let billing = grpc_server(Go, folder.path())?;
    let order = Workload::new("order-1")?;
    let hop = grpc_hop(folder.path(), order.http_port, "billing")?;
    let order = order.port("app", hop.port, Some("grpc"));
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("order").port(80, "app", Some("grpc")))
        .service(Service::new("billing").port(80, "app", Some("grpc")))
        .workload(Workload::new("shopper-1")?)
        .workload(order)
        .workload(Workload::new("billing-1")?.port("app", billing.port, Some("grpc")))
        .file(
            "order.yaml",
            traffic_policy("order", "timeouts: {request: 2s}"),
        )
        .start()?;
    let port = mesh.http("shopper-1")?.port();
    let remaining = |case: &str| -> Result<i64> {
        let answers = grpc_calls(Go, port, "order", &[case])?;
        let told = answers[0]["messages"][0].as_str();
        Ok(told.with_context(|| format!("{}", answers[0]))?.parse()?)
    };
    let callers = remaining("via_for:1")?;
    assert!(
        (1..=1_000).contains(&callers),
        "{callers} ms of the caller's second"
    );
    let policys = remaining("via:Remaining")?;
    assert!(
        (1_000..=2_000).contains(&policys),
        "{policys} ms of the policy's two seconds"
    );
    Ok(())
}

#[test]
fn a_grpc_timeout_that_is_none_is_refused() -> Result<()> {
    let (apps, mesh) = instances(1, "timeouts: {request: 5s}")?;
    for garbage in [
        "soon",
        "1",
        "m",
        "-1m",
        "123456789m",
        "1.5S",
        "99999999999H",
    ] {
        let head = format!(
            "POST /shop.Billing/Charge HTTP/1.1\r\nHost: billing\r\nContent-Type: application/grpc\r\n\
             TE: trailers\r\ngrpc-timeout: {garbage}\r\nContent-Length: 0\r\n\r\n"
        );
        let response = exchange(mesh.http("order-1")?, head)?;
        assert_eq!(
            response.reason(),
            Some("bad_timeout"),
            "{garbage}: {}",
            response.head
        );
        assert_eq!(response.header("grpc-status"), Some("13"), "{garbage}");
    }
    assert_eq!(apps[0].requests().len(), 0);
    refusals(&mesh, "order-1", "outbound", "bad_timeout", 7.0)
}

#[test]
fn a_streaming_response_is_not_cut_by_the_request_timeout() -> Result<()> {
    let (apps, mesh) = instances(1, "timeouts: {request: 300ms, backendRequest: 200ms}")?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("GET /drip HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    assert_eq!(connection.head()?.status, 200);
    assert_eq!(connection.exactly(1)?, b"1");
    assert!(connection.silent(Duration::from_millis(600))?, "it goes on");
    apps[0].release();
    assert_eq!(connection.exactly(1)?, b"2");
    Ok(())
}

#[test]
fn a_stream_that_nothing_comes_on_is_ended() -> Result<()> {
    let (_apps, mesh) = instances(1, "timeouts: {streamIdle: 300ms}")?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("GET /drip HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    assert_eq!(connection.head()?.status, 200);
    assert_eq!(connection.rest()?, b"1", "closed before the second byte");
    healthy(&mesh)
}
