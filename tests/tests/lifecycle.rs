//! A sidecar's beginning and end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::http::{self, Connection};
use mesh_tests::peers::{Language, grpc_server, h2_raw, nginx};
use mesh_tests::wait::{PATIENCE, becomes, holds, until};
use mesh_tests::{App, Mesh, Service, Workload};
use serde_json::json;

use crate::common::{healthy, http_mesh};

/// A mesh whose authority exists and whose control plane does not run.
fn without_control_plane(app: &App) -> Result<Mesh> {
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .prepare()?;
    mesh.start_control_plane()?;
    mesh.control_plane()?.kill()?;
    Ok(mesh)
}

#[test]
fn ready_only_with_a_certificate_and_policy() -> Result<()> {
    let app = App::start()?;
    let mut mesh = without_control_plane(&app)?;
    for name in ["order-1", "billing-1"] {
        mesh.start_sidecar(name)?;
    }
    for name in ["order-1", "billing-1"] {
        let port = mesh.sidecar(name)?.workload.telemetry_port;
        becomes("alive", &200, || Ok(http::fetch(port, "/live")?.status))?;
        holds("not ready", Duration::from_millis(300), || {
            Ok(http::fetch(port, "/ready")?.status == 503)
        })?;
        assert_eq!(http::fetch(port, "/metrics")?.status, 200);
    }
    // Nothing is let in or out meanwhile.
    let served = Connection::open(mesh.http("order-1")?)
        .and_then(|mut connection| connection.get("billing", "/"))
        .is_ok_and(|response| response.status == 200);
    assert!(
        !served && app.requests().is_empty(),
        "traffic flowed without a certificate"
    );

    mesh.start_control_plane()?;
    for name in ["order-1", "billing-1"] {
        mesh.ready(name)?;
    }
    healthy(&mesh)
}

#[test]
fn the_control_plane_says_ready_once_it_has_a_mesh() -> Result<()> {
    let mut mesh = Mesh::pair(8080, Some("http"))?.prepare()?;
    let good = std::fs::read_to_string(mesh.config_dir().join("service-billing.yaml"))?;
    mesh.write(
        "service-billing.yaml",
        &good.replace("selector", "selektor"),
    )?;
    let started = mesh.start_control_plane();
    if started.is_ok() {
        anyhow::bail!("it said that it was ready with a directory that is bad");
    }
    // Whether it waits for the file to be mended or ends, it says why.
    let log = mesh.control_plane()?.log();
    assert!(
        log.contains("service-billing.yaml") && log.contains("selektor"),
        "{log}"
    );
    mesh.write("service-billing.yaml", &good)?;
    if !mesh.control_plane()?.running() {
        return mesh.start_control_plane();
    }
    let admin = mesh.control_plane_admin();
    becomes("ready", &200, || Ok(http::fetch(admin, "/ready")?.status))
}

#[test]
fn what_is_in_flight_is_finished_before_the_callees_sidecar_ends() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    let mut in_flight = held_request(&app, &mesh)?;
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    mesh.process("billing-1")?.terminate()?;
    becomes("no longer ready", &503, || {
        Ok(http::fetch(port, "/ready")?.status)
    })?;
    assert!(
        mesh.process("billing-1")?.running(),
        "it waits for what is in flight"
    );
    app.release();
    let response = in_flight.response()?;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    let status = mesh.process("billing-1")?.exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    Ok(())
}

/// A request that the app holds until it is told to let go.
fn held_request(app: &App, mesh: &Mesh) -> Result<Connection> {
    let received = app.received();
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    until("the app has the request", PATIENCE, || {
        Ok(app.received() > received)
    })?;
    Ok(connection)
}

#[test]
fn what_is_in_flight_is_finished_before_the_callers_sidecar_ends() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    let mut idle = Connection::open(mesh.http("order-1")?)?;
    assert_eq!(idle.get("billing", "/")?.status, 200);
    let mut in_flight = held_request(&app, &mesh)?;
    mesh.process("order-1")?.terminate()?;
    // A connection without a request is closed; the one with a request is told that it is the last.
    idle.closed()?;
    assert!(
        mesh.process("order-1")?.running(),
        "it waits for what is in flight"
    );
    app.release();
    let response = in_flight.response()?;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(
        response.header("connection"),
        Some("close"),
        "{}",
        response.head
    );
    in_flight.closed()?;
    let status = mesh.process("order-1")?.exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn http_2_clients_are_told_by_goaway() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nginx = nginx(
        folder.path(),
        "nginx",
        "http2",
        "location / { return 200 \"ok\\n\"; }",
    )?;
    let mut mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let port = mesh.http("order-1")?.port();
    let request = json!([
        [":method", "GET"],
        [":scheme", "http"],
        [":authority", "billing"],
        [":path", "/"]
    ]);
    let steps = json!([{"headers": request, "end": true}, {"read": 1}, {"read": 0}]);
    let client = std::thread::spawn(move || h2_raw(port, None, &steps));
    let telemetry = mesh.sidecar("order-1")?.workload.telemetry_port;
    let labels = [("response_code", "200"), ("reporter", "source")];
    mesh_tests::metrics::reaches(telemetry, "istio_requests_total", &labels, 1.0)?;
    mesh.process("order-1")?.terminate()?;
    let frames = client
        .join()
        .map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let goaway = frames.iter().find(|frame| frame.get("goaway").is_some());
    let goaway = goaway.with_context(|| format!("GOAWAY: {frames:?}"))?;
    assert_eq!(goaway["goaway"], 0, "NO_ERROR");
    assert!(mesh.process("order-1")?.exit(PATIENCE)?.success());
    Ok(())
}

#[test]
fn a_drain_ends_at_its_deadline() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("drainTimeout", "1s")
        .start()?;
    let mut in_flight = held_request(&app, &mesh)?;
    let start = Instant::now();
    mesh.process("billing-1")?.terminate()?;
    mesh.process("billing-1")?.exit(PATIENCE)?;
    let took = start.elapsed();
    let bounds = Duration::from_millis(900)..Duration::from_secs(8);
    assert!(bounds.contains(&took), "it took {took:?}");
    // The caller is told, and not left waiting.
    let response = in_flight.response()?;
    // What was cut may be sent again, and then there is nobody to connect to.
    assert_eq!(response.status, 503, "{}", response.head);
    assert_eq!(response.reason(), Some("connect_failed"));
    Ok(())
}

#[test]
fn an_idle_sidecar_ends_at_once() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    for name in ["order-1", "billing-1"] {
        let start = Instant::now();
        mesh.process(name)?.terminate()?;
        let status = mesh.process(name)?.exit(PATIENCE)?;
        assert!(status.success(), "{name}: {status}");
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "{name} took {took:?} of a drain of 10 s"
        );
    }
    let start = Instant::now();
    mesh.control_plane()?.terminate()?;
    let status = mesh.control_plane()?.exit(PATIENCE)?;
    assert!(status.success(), "the control plane: {status}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn open_tcp_connections_may_end_by_themselves_during_a_drain() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = mesh_tests::peers::redis(folder.path())?;
    let mut mesh = Mesh::pair(redis.port, Some("redis"))?
        .setting("defaultDeny", false)
        .start()?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("PING\r\n")?;
    connection.exactly(7)?;
    let telemetry = mesh.sidecar("billing-1")?.workload.telemetry_port;
    mesh.process("billing-1")?.terminate()?;
    becomes("no longer ready", &503, || {
        Ok(http::fetch(telemetry, "/ready")?.status)
    })?;
    connection.send("PING\r\n")?;
    assert_eq!(
        connection.exactly(7)?,
        b"+PONG\r\n",
        "the connection goes on"
    );
    connection.send("QUIT\r\n")?;
    assert_eq!(connection.exactly(5)?, b"+OK\r\n");
    connection.closed()?;
    assert!(mesh.process("billing-1")?.exit(PATIENCE)?.success());
    Ok(())
}

#[test]
fn a_long_grpc_stream_outlives_whatever_is_not_its_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = grpc_server(Language::Go, folder.path())?;
    let mesh = Mesh::pair(server.port, Some("grpc"))?
        .setting("defaultDeny", false)
        .start()?;
    let port = mesh.http("order-1")?.port();
    let answers = mesh_tests::peers::grpc_calls(Language::Go, port, "billing", &["bidi:2000"])?;
    assert_eq!(answers[0]["code"], 0, "{}", answers[0]["details"]);
    assert_eq!(answers[0]["messages"].as_array().map(Vec::len), Some(2000));
    Ok(())
}

#[test]
fn the_admin_address_is_for_this_machine_and_tells_all() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let workload = mesh.sidecar("order-1")?.workload.clone();
    let config = http::fetch(workload.admin_port, "/config")?;
    let config: serde_json::Value = serde_json::from_slice(&config.body)?;
    let text = config.to_string();
    for part in [
        "billing",
        "shop.example",
        "spiffe://shop.example/ns/shop/sa/order",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("PRIVATE KEY"), "no key is shown");
    // An app that is talked into asking its own sidecar must not be able to stop it.
    let request = "POST /quit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    for port in [workload.admin_port, workload.telemetry_port] {
        assert_eq!(
            http::exchange(http::local(port), request)?.status,
            404,
            "{port}"
        );
    }
    assert!(mesh.process("order-1")?.running());
    assert_eq!(
        mesh.sidecar("billing-1")?
            .metrics()?
            .sum("outrider_refusals_total", &[]),
        0.0
    );
    Ok(())
}

#[test]
fn an_app_is_held_until_nobody_calls_it_if_its_workload_goes() -> Result<()> {
    let apps = [App::start()?, App::start()?];
    let mut builder = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("http")))
        .workload(Workload::new("order-1")?);
    for (app, name) in apps.iter().zip(["billing-1", "billing-2"]) {
        builder = builder.workload(Workload::new(name)?.port("app", app.port(), Some("http")));
    }
    let mesh = builder.start()?;
    let call = || -> Result<u16> {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        Ok(connection.get("billing", "/")?.status)
    };
    until("both instances are called", PATIENCE, || {
        assert_eq!(call()?, 200);
        Ok(apps.iter().all(|app| !app.requests().is_empty()))
    })?;
    let leaving = mesh.sidecar("billing-2")?.workload.clone();
    let ask = |path| http::fetch(leaving.telemetry_port, path);

    // Whoever asks changes nothing.
    let stays = ask("/hold")?;
    assert_eq!(
        (stays.status, stays.text()),
        (200, "this workload stays\n".into())
    );
    assert_eq!(ask("/ready")?.status, 200);

    let yaml = format!("{}  terminating: true\n", leaving.yaml());
    mesh.write("workload-billing-2.yaml", &yaml)?;
    becomes("it hears of that", &"draining\n".to_owned(), || {
        Ok(ask("/ready")?.text())
    })?;
    let held = ask("/hold")?;
    let expected = "nobody calls this workload any more\n";
    assert_eq!((held.status, held.text()), (200, expected.into()));
    let called = apps[1].requests().len();
    for _ in 0..20 {
        assert_eq!(call()?, 200);
    }
    assert_eq!(apps[1].requests().len(), called);
    Ok(())
}
