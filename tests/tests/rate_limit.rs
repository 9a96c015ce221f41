//! How much a workload takes: rate limits for each peer, and requests at once in its app.
//!
//! The limits here are for hours, so that none fills while a test runs.

use anyhow::{Context, Result};
use mesh_tests::http::{self, Connection, Response};
use mesh_tests::manifest::account;
use mesh_tests::metrics::reaches;
use mesh_tests::peers::{Language, grpc_calls, grpc_server};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::{assert_refused, get, refusals};

/// A RateLimitPolicy on `billing`; `spec` is YAML, indented by nothing.
fn limits(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: RateLimitPolicy\n\
         metadata: {{name: billing, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: billing}}]\n{spec}"
    )
}

/// `order-1` and `mallory-1` call `billing-1`; anyone may.
fn limited_mesh(spec: &str) -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .workload(Workload::new("mallory-1")?.upstream("billing", 80)?)
        .setting("defaultDeny", false)
        .file("limits.yaml", limits(spec))
        .start()?;
    Ok((app, mesh))
}

fn get_as(mesh: &Mesh, workload: &str) -> Result<Response> {
    http::get(mesh.http(workload)?, "billing", "/")
}

fn counted(mesh: &Mesh, limit: &str, result: &str, least: f64) -> Result<()> {
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    let labels = [
        ("policy", "shop/billing"),
        ("limit", limit),
        ("result", result),
    ];
    reaches(port, "outrider_rate_limit_total", &labels, least)
}

#[test]
fn each_peer_has_its_own_share_and_is_told_what_is_left() -> Result<()> {
    let (app, mesh) = limited_mesh("limits: [{name: per-peer, requests: 3, interval: 1h}]")?;
    for left in [
        "\"per-peer\";r=2;t=",
        "\"per-peer\";r=1;t=",
        "\"per-peer\";r=0;t=",
    ] {
        let response = get_as(&mesh, "order-1")?;
        assert_eq!(response.status, 200, "{}", response.head);
        let policy = response.header("ratelimit-policy");
        assert_eq!(policy, Some("\"per-peer\";q=3;w=3600"));
        let told = response.header("ratelimit").context("RateLimit")?;
        assert!(told.starts_with(left), "{told}");
        assert_eq!(response.header("retry-after"), None);
    }
    let refused = get_as(&mesh, "order-1")?;
    assert_refused(&refused, 429, "rate_limited");
    // Three in an hour: one more after twenty minutes, less what has passed.
    let wait: u32 = refused
        .header("retry-after")
        .context("Retry-After")?
        .parse()?;
    assert!((1100..=1200).contains(&wait), "{wait}");
    let told = format!("\"per-peer\";r=0;t={wait}");
    assert_eq!(refused.header("ratelimit"), Some(told.as_str()));

    assert_eq!(get_as(&mesh, "mallory-1")?.status, 200);
    assert_eq!(app.requests().len(), 4);
    counted(&mesh, "per-peer", "allowed", 4.0)?;
    counted(&mesh, "per-peer", "refused", 1.0)?;
    refusals(&mesh, "billing-1", "inbound", "rate_limited", 1.0)
}

#[test]
fn a_limit_counts_the_sources_and_ports_that_it_names() -> Result<()> {
    let (app, other) = (App::start()?, App::start()?);
    let spec = format!(
        "limits:\n- {{name: order, requests: 1, interval: 1h, sources: [{}]}}\n\
         - {{name: other, requests: 2, interval: 1h, ports: [{}]}}",
        account("order"),
        other.port()
    );
    let http = Some("http");
    let service = Service::new("billing").port(80, app.port(), http);
    let billing = Workload::new("billing-1")?.port("app", app.port(), http);
    let mesh = Mesh::builder()
        .service(service.port(81, other.port(), http))
        .workload(billing.port("other", other.port(), http))
        .workload(Workload::new("order-1")?)
        .workload(Workload::new("mallory-1")?)
        .setting("defaultDeny", false)
        .file("limits.yaml", limits(&spec))
        .start()?;
    assert_eq!(get_as(&mesh, "order-1")?.status, 200);
    assert_refused(&get_as(&mesh, "order-1")?, 429, "rate_limited");
    for _ in 0..3 {
        let response = get_as(&mesh, "mallory-1")?;
        assert_eq!(response.status, 200, "{}", response.head);
        assert_eq!(response.header("ratelimit"), None);
    }
    let statuses: Vec<u16> = (0..3)
        .map(|_| Ok(http::get(mesh.http("mallory-1")?, "billing:81", "/")?.status))
        .collect::<Result<_>>()?;
    assert_eq!(statuses, [200, 200, 429]);
    Ok(())
}

#[test]
fn workers_share_what_a_peer_may_have() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .sidecar_argument("--workers=3")
        .file(
            "limits.yaml",
            limits("limits: [{name: per-peer, requests: 5, interval: 1h}]"),
        )
        .start()?;
    let mut allowed = 0;
    for _ in 0..15 {
        allowed += usize::from(get(&mesh, "/")?.status == 200);
    }
    assert_eq!((allowed, app.requests().len()), (5, 5));
    Ok(())
}

#[test]
fn an_edit_keeps_what_was_used_up_of_the_limits_that_it_leaves_alone() -> Result<()> {
    let one = "{name: one, requests: 1, interval: 1h}";
    let (_app, mesh) = limited_mesh(&format!("limits: [{one}]"))?;
    assert_eq!(get(&mesh, "/")?.status, 200);
    assert_refused(&get(&mesh, "/")?, 429, "rate_limited");

    let other = "{name: other, requests: 9, interval: 1h}";
    mesh.write("limits.yaml", &limits(&format!("limits: [{other}, {one}]")))?;
    until("the edit is in force", PATIENCE, || {
        assert_refused(&get(&mesh, "/")?, 429, "rate_limited");
        let metrics = mesh.metrics("billing-1")?;
        let mut series = metrics.select("outrider_rate_limit_total", &[("limit", "other")]);
        Ok(series.next().is_some())
    })?;

    mesh.write("limits.yaml", &limits(&format!("limits: [{other}]")))?;
    becomes("the limit is gone", &200, || Ok(get(&mesh, "/")?.status))?;
    // The other was not charged for what the first refused.
    let told = get(&mesh, "/")?;
    let told = told.header("ratelimit").context("RateLimit")?;
    assert!(told.starts_with("\"other\";r=7;"), "{told}");
    mesh.remove("limits.yaml")?;
    becomes("no limit is told of", &None, || {
        Ok(get(&mesh, "/")?.header("ratelimit").map(str::to_owned))
    })
}

/// A request that is in the app until it is released.
fn held(mesh: &Mesh, app: &App) -> Result<Connection> {
    let before = app.requests().len();
    let connection = asked(mesh)?;
    until("the request is in the app", PATIENCE, || {
        Ok(app.requests().len() > before)
    })?;
    Ok(connection)
}

fn asked(mesh: &Mesh) -> Result<Connection> {
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    Ok(connection)
}

#[test]
fn what_the_app_has_no_room_for_is_shed() -> Result<()> {
    let (app, mesh) = limited_mesh("concurrency: {maxRequests: 1}")?;
    let mut inside = held(&mesh, &app)?;
    let shed = get(&mesh, "/")?;
    assert_refused(&shed, 503, "overloaded");
    assert_eq!(shed.header("retry-after"), Some("1"));
    refusals(&mesh, "billing-1", "inbound", "overloaded", 1.0)?;
    app.release();
    assert_eq!(inside.response()?.status, 200);
    becomes("there is room again", &200, || Ok(get(&mesh, "/")?.status))
}

#[test]
fn a_line_waits_for_room_and_is_bounded() -> Result<()> {
    let (app, mesh) = limited_mesh("concurrency: {maxRequests: 1, maxQueued: 1, maxWait: 1m}")?;
    let mut inside = held(&mesh, &app)?;
    let mut waiting = asked(&mesh)?;
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    reaches(port, "outrider_queued_requests", &[], 1.0)?;
    assert_refused(&get(&mesh, "/")?, 503, "overloaded");
    assert_eq!(app.requests().len(), 1);
    app.release();
    assert_eq!(inside.response()?.status, 200);
    assert_eq!(waiting.response()?.status, 200);
    becomes("nobody waits", &0.0, || {
        mesh.metrics("billing-1")?.value("outrider_queued_requests")
    })
}

#[test]
fn nobody_waits_for_longer_than_the_policy_says() -> Result<()> {
    let (app, mesh) = limited_mesh("concurrency: {maxRequests: 1, maxQueued: 9, maxWait: 20ms}")?;
    let _inside = held(&mesh, &app)?;
    assert_refused(&get(&mesh, "/")?, 503, "overloaded");
    assert_eq!(app.requests().len(), 1);
    Ok(())
}

#[test]
fn nobody_waits_for_longer_than_their_time_lasts() -> Result<()> {
    let (app, mesh) = limited_mesh("concurrency: {maxRequests: 1, maxQueued: 9, maxWait: 1m}")?;
    let _inside = held(&mesh, &app)?;
    let head = "GET / HTTP/1.1\r\nHost: billing\r\ntracestate: outrider=t200.a1\r\n\r\n";
    let response = http::exchange(mesh.http("order-1")?, head)?;
    assert_refused(&response, 504, "deadline_exceeded");
    becomes("nobody waits", &0.0, || {
        mesh.metrics("billing-1")?.value("outrider_queued_requests")
    })?;
    assert_eq!(app.requests().len(), 1);
    Ok(())
}

#[test]
fn grpc_is_told_in_its_own_words() -> Result<()> {
    for language in [Language::Go, Language::Python] {
        let folder = tempfile::tempdir()?;
        let server = grpc_server(language, folder.path())?;
        let mesh = Mesh::pair(server.port, Some("grpc"))?
            .setting("defaultDeny", false)
            .file(
                "limits.yaml",
                limits("limits: [{name: per-peer, requests: 1, interval: 1h}]"),
            )
            .start()?;
        let port = mesh.http("order-1")?.port();
        let answers = grpc_calls(language, port, "billing", &["unary:one", "unary:two"])?;
        assert_eq!(answers[0]["code"], 0, "{answers:#?}");
        assert_eq!(answers[1]["code"], 8, "{answers:#?}");
    }
    Ok(())
}

#[test]
fn an_opaque_connection_counts_as_one() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("tcp"))?
        .setting("defaultDeny", false)
        .file(
            "limits.yaml",
            limits("limits: [{name: per-peer, requests: 2, interval: 1h}]"),
        )
        .start()?;
    let upstream = mesh.upstream("order-1", "billing", 80)?;
    for _ in 0..2 {
        let mut connection = Connection::open(upstream)?;
        assert_eq!(connection.get("billing", "/")?.status, 200);
        assert_eq!(connection.get("billing", "/")?.status, 200);
    }
    let mut refused = Connection::open(upstream)?;
    let _ = refused.send("GET / HTTP/1.1\r\nHost: billing\r\n\r\n");
    refused.closed()?;
    assert_eq!(app.connections(), 2);
    refusals(&mesh, "billing-1", "inbound", "rate_limited", 1.0)
}
