//! Who may connect to whom, where bytes are opaque; and connections that stop being allowed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::http::{Connection, local};
use mesh_tests::manifest::{account, policy};
use mesh_tests::ports::free_port;
use mesh_tests::wait::{PATIENCE, becomes, holds, until};
use mesh_tests::{Mesh, Service, Workload};

use crate::common::refusals;

/// An app that greets and echoes, and counts who came.
struct Greeter {
    port: u16,
    came: Arc<AtomicUsize>,
}

fn greeter() -> Result<Greeter> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let port = listener.local_addr()?.port();
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || -> std::io::Result<()> {
                stream.write_all(b"hello")?;
                let mut reader = stream.try_clone()?;
                std::io::copy(&mut reader, &mut stream)?;
                Ok(())
            });
        }
    });
    Ok(Greeter { port, came })
}

/// The greeter behind `billing-1`, called by `order-1` and `mallory-1`.
fn tcp_mesh(action: &str, rules: &str) -> Result<(Greeter, Mesh)> {
    let greeter = greeter()?;
    let mesh = Mesh::pair(greeter.port, Some("tcp"))?
        .workload(Workload::new("mallory-1")?.upstream("billing", 80)?)
        .setting("defaultDeny", action == "ALLOW")
        .file("policy.yaml", policy("billing", "billing", action, rules))
        .start()?;
    Ok((greeter, mesh))
}

/// A connection that is greeted.
fn connect(mesh: &Mesh, from: &str) -> Result<Connection> {
    let mut connection = Connection::open(mesh.upstream(from, "billing", 80)?)?;
    let greeting = connection.exactly(5)?;
    ensure!(greeting == b"hello", "{greeting:?}");
    Ok(connection)
}

/// A connection that is closed without a byte.
fn refused(mesh: &Mesh, from: &str) -> Result<()> {
    let mut connection = Connection::open(mesh.upstream(from, "billing", 80)?)?;
    let _ = connection.send("let me in");
    connection.closed()
}

#[test]
fn a_connection_is_closed_before_the_app_sees_it() -> Result<()> {
    let (greeter, mesh) = tcp_mesh("ALLOW", &format!("- sources: [{}]", account("order")))?;
    let mut connection = connect(&mesh, "order-1")?;
    connection.send("ping")?;
    assert_eq!(connection.exactly(4)?, b"ping");
    refused(&mesh, "mallory-1")?;
    refusals(&mesh, "billing-1", "inbound", "authorization_denied", 1.0)?;
    assert_eq!(greeter.came.load(Ordering::SeqCst), 1);
    Ok(())
}

#[test]
fn conditions_on_http_never_allow_and_always_deny() -> Result<()> {
    let http = "- http: [{methods: [GET]}]";
    let (greeter, mesh) = tcp_mesh("ALLOW", http)?;
    refused(&mesh, "order-1")?;
    assert_eq!(greeter.came.load(Ordering::SeqCst), 0);
    let deny = format!(
        "- sources: [{}]\n  http: [{{methods: [DELETE]}}]",
        account("mallory")
    );
    let (_greeter, mesh) = tcp_mesh("DENY", &deny)?;
    connect(&mesh, "order-1")?;
    refused(&mesh, "mallory-1")
}

#[test]
fn ports_are_conditions_of_connections_too() -> Result<()> {
    let (greeter, other) = (greeter()?, greeter()?);
    let allow = |ports: &str| {
        let rules = format!("- networkAttributes: {{ports: [{ports}]}}");
        policy("billing", "billing", "ALLOW", &rules)
    };
    let mesh = Mesh::builder()
        .setting("defaultDeny", true)
        .service(
            Service::new("billing")
                .port(80, greeter.port, Some("tcp"))
                .port(81, other.port, Some("tcp")),
        )
        .workload(
            Workload::new("billing-1")?
                .port("app", greeter.port, Some("tcp"))
                .port("other", other.port, Some("tcp")),
        )
        .workload(Workload::new("order-1")?.upstream("billing", 80)?)
        .file("policy.yaml", allow(&other.port.to_string()))
        .start()?;
    refused(&mesh, "order-1")?;
    assert_eq!(greeter.came.load(Ordering::SeqCst), 0);
    mesh.write(
        "policy.yaml",
        &allow(&format!("{}, {}", greeter.port, other.port)),
    )?;
    becomes("the port is allowed", &true, || {
        Ok(connect(&mesh, "order-1").is_ok())
    })
}

#[test]
fn an_open_connection_that_is_no_longer_allowed_is_ended() -> Result<()> {
    let both = format!("- sources: [{}, {}]", account("order"), account("mallory"));
    let (_greeter, mesh) = tcp_mesh("ALLOW", &both)?;
    let mut order = connect(&mesh, "order-1")?;
    let mut mallory = connect(&mesh, "mallory-1")?;
    mallory.send("ping")?;
    assert_eq!(mallory.exactly(4)?, b"ping");

    let only_order = format!("- sources: [{}]", account("order"));
    mesh.write(
        "policy.yaml",
        &policy("billing", "billing", "ALLOW", &only_order),
    )?;
    mallory.closed()?;
    refusals(&mesh, "billing-1", "inbound", "authorization_denied", 1.0)?;
    // The one that is still allowed goes on.
    order.send("still here")?;
    assert_eq!(order.exactly(10)?, b"still here");
    refused(&mesh, "mallory-1")
}

#[test]
fn an_open_connection_outlives_changes_that_still_allow_it() -> Result<()> {
    let rules = format!("- sources: [{}]", account("order"));
    let (_greeter, mesh) = tcp_mesh("ALLOW", &rules)?;
    let mut connection = connect(&mesh, "order-1")?;
    let version = mesh
        .metrics("billing-1")?
        .value("outrider_config_version")?;
    let more = format!(
        "{rules}\n- name: another\n  sources: [{}]",
        account("mallory")
    );
    mesh.write("policy.yaml", &policy("billing", "billing", "ALLOW", &more))?;
    until("the sidecar has the change", PATIENCE, || {
        Ok(mesh
            .metrics("billing-1")?
            .value("outrider_config_version")?
            > version)
    })?;
    holds("the connection is open", Duration::from_millis(300), || {
        connection.send("x")?;
        Ok(connection.exactly(1)? == b"x")
    })
}

#[test]
fn bytes_in_flight_when_a_connection_is_ended_are_cut_for_both_sides() -> Result<()> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let allow = format!("- sources: [{}]", account("order"));
    let mesh = Mesh::pair(listener.local_addr()?.port(), Some("tcp"))?
        .setting("defaultDeny", true)
        .file("policy.yaml", policy("billing", "billing", "ALLOW", &allow))
        .start()?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("first")?;
    let (mut app, _) = listener.accept()?;
    app.read_exact(&mut [0; 5])?;
    mesh.write("policy.yaml", &policy("billing", "billing", "ALLOW", ""))?;
    connection.closed()?;
    app.set_read_timeout(Some(Duration::from_secs(20)))?;
    let ended = app.read(&mut [0; 1]);
    assert!(
        !matches!(ended, Ok(1)),
        "the app is told that its peer is gone: {ended:?}"
    );
    Ok(())
}
