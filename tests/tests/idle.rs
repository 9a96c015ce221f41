//! What ends because nothing happens: streams, opaque connections, connecting.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::http::{Connection, exchange, local};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::metrics::reaches;
use mesh_tests::ports::free_port;
use mesh_tests::{App, Mesh, quiet};
use rustix::process::Signal;

use crate::common::{assert_refused, get, healthy, refusals};
use crate::traffic::{instances, retries};

const IDLE: Duration = Duration::from_millis(400);

/// The head and the first byte of an answer whose second byte waits.
fn half_answered(mesh: &Mesh) -> Result<Connection> {
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("GET /drip HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    assert_eq!(connection.head()?.status, 200);
    assert_eq!(connection.exactly(1)?, b"1");
    Ok(connection)
}

#[test]
fn a_stream_that_pauses_for_too_long_is_cut_and_counted_as_such() -> Result<()> {
    let _alone = quiet::alone();
    let (apps, mesh) = instances(1, "timeouts: {streamIdle: 400ms}")?;
    let begin = Instant::now();
    let mut connection = half_answered(&mesh)?;
    connection.closed()?;
    let took = begin.elapsed();
    assert!(
        (IDLE..IDLE + Duration::from_secs(1)).contains(&took),
        "{took:?}"
    );
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let labels = [("response_code", "200"), ("response_flags", "SI")];
    reaches(port, "istio_requests_total", &labels, 1.0)?;
    assert_eq!(apps[0].count("/drip"), 1, "it is not sent again");
    healthy(&mesh)
}

#[test]
fn a_stream_that_pauses_for_less_goes_on() -> Result<()> {
    let (apps, mesh) = instances(1, "timeouts: {streamIdle: 5s}")?;
    let mut connection = half_answered(&mesh)?;
    assert!(connection.silent(Duration::from_millis(300))?);
    apps[0].release();
    assert_eq!(connection.exactly(1)?, b"2");
    assert_eq!(connection.get("billing", "/")?.status, 200);
    Ok(())
}

#[test]
fn without_a_limit_a_stream_may_pause_for_as_long_as_it_likes() -> Result<()> {
    let (apps, mesh) = instances(1, "timeouts: {streamIdle: 0s, request: 200ms}")?;
    let mut connection = half_answered(&mesh)?;
    assert!(connection.silent(Duration::from_millis(800))?);
    apps[0].release();
    assert_eq!(connection.exactly(1)?, b"2");
    Ok(())
}

/// An app that sends back what it gets.
fn echo() -> Result<u16> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || -> std::io::Result<()> {
                let mut buffer = [0; 1024];
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return stream.shutdown(Shutdown::Write),
                        length => stream.write_all(&buffer[..length])?,
                    }
                }
            });
        }
    });
    Ok(port)
}

fn echo_mesh(policy: &str) -> Result<Mesh> {
    Mesh::pair(echo()?, Some("tcp"))?
        .setting("defaultDeny", false)
        .file("traffic.yaml", traffic_policy("billing", policy))
        .start()
}

#[test]
fn an_idle_opaque_connection_is_closed_and_a_busy_one_is_not() -> Result<()> {
    let _alone = quiet::alone();
    let mesh = echo_mesh("timeouts: {tcpIdle: 400ms}")?;
    let at = mesh.upstream("order-1", "billing", 80)?;
    let open = || -> Result<Connection> {
        let mut connection = Connection::open(at)?;
        connection.send("hello")?;
        assert_eq!(connection.exactly(5)?, b"hello");
        Ok(connection)
    };
    let (mut busy, mut idle) = (open()?, open()?);
    let begin = Instant::now();
    while begin.elapsed() < 5 * IDLE {
        busy.send("x")?;
        assert_eq!(busy.exactly(1)?, b"x");
        assert!(busy.silent(IDLE / 8)?, "it is open");
    }
    let begin = Instant::now();
    idle.closed()?;
    assert!(begin.elapsed() < IDLE, "it was closed long since");
    busy.closed()?;
    let took = begin.elapsed();
    assert!((IDLE / 2..IDLE * 4).contains(&took), "{took:?}");
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let source = [("reporter", "source")];
    reaches(port, "istio_tcp_connections_closed_total", &source, 2.0)
}

#[test]
fn a_limit_for_streams_is_none_for_opaque_connections() -> Result<()> {
    let mesh = echo_mesh("timeouts: {streamIdle: 100ms}")?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("hello")?;
    assert_eq!(connection.exactly(5)?, b"hello");
    assert!(connection.silent(Duration::from_millis(600))?);
    connection.send("again")?;
    assert_eq!(connection.exactly(5)?, b"again");
    Ok(())
}

const CONNECT: &str = "timeouts: {connect: 300ms}\n\
     outlierDetection: {consecutiveGatewayErrors: 0, failurePercent: 0}";

#[test]
fn connecting_to_a_sidecar_that_says_nothing_is_given_up() -> Result<()> {
    let _alone = quiet::alone();
    let (apps, mut mesh) = instances(1, &format!("{CONNECT}\nretry: {{attempts: 0}}"))?;
    // Its kernel takes the connection, and nobody shakes hands.
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    let begin = Instant::now();
    let response = get(&mesh, "/")?;
    let took = begin.elapsed();
    assert_refused(&response, 503, "connect_failed");
    assert_eq!(
        response.header("proxy-status"),
        Some(
            "outrider; error=connection_refused; details=\"connect_failed\"; not_retried=\"disabled\""
        )
    );
    let expected = Duration::from_millis(300)..Duration::from_millis(1_000);
    assert!(expected.contains(&took), "{took:?}");
    refusals(&mesh, "order-1", "outbound", "connect_failed", 1.0)?;
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    healthy(&mesh)?;
    assert_eq!(
        apps[0].count("/"),
        0,
        "what was refused is not served later"
    );
    Ok(())
}

#[test]
fn what_did_not_connect_goes_to_another_instance_whatever_its_method() -> Result<()> {
    let _alone = quiet::alone();
    let spec = format!("{CONNECT}\nloadBalancing: {{algorithm: RoundRobin}}");
    let (apps, mut mesh) = instances(2, &spec)?;
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    for _ in 0..4 {
        let post = "POST /echo HTTP/1.1\r\nHost: billing\r\nContent-Length: 5\r\n\r\nhello";
        let begin = Instant::now();
        let response = exchange(mesh.http("order-1")?, post)?;
        assert_eq!((response.status, response.text()), (200, "hello".into()));
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert_eq!(App::count(&apps[1], "/echo"), 4);
    assert!(retries(&mesh, "connect_failed")? >= 1.0);
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    healthy(&mesh)
}

#[test]
fn an_opaque_connection_goes_to_another_instance_too() -> Result<()> {
    use mesh_tests::{Service, Workload};
    let _alone = quiet::alone();
    let (port, tcp) = (echo()?, Some("tcp"));
    let mut mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", tcp))
        .workload(Workload::new("order-1")?.upstream("billing", 80)?)
        .workload(Workload::new("billing-1")?.port("app", port, tcp))
        .workload(Workload::new("billing-2")?.port("app", port, tcp))
        .file("traffic.yaml", traffic_policy("billing", CONNECT))
        .start()?;
    mesh.process("billing-1")?.signal(Signal::STOP)?;
    for _ in 0..6 {
        let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
        connection.send("hello")?;
        assert_eq!(connection.exactly(5)?, b"hello");
    }
    mesh.process("billing-2")?.signal(Signal::STOP)?;
    // The connection to it is there already: nothing says that it is stopped but silence.
    mesh.process("billing-2")?.kill()?;
    Connection::open(mesh.upstream("order-1", "billing", 80)?)?.closed()?;
    refusals(&mesh, "order-1", "outbound", "connect_failed", 1.0)?;
    mesh.process("billing-1")?.signal(Signal::CONT)?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("hello")?;
    assert_eq!(connection.exactly(5)?, b"hello");
    Ok(())
}
