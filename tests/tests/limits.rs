//! What one sidecar may have open to a Service: opaque connections, upgrades, requests.

use anyhow::Result;
use mesh_tests::http::{Connection, get};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::{assert_refused, refusals};

/// `order-1` may have two connections to billing, and as many as it likes to stock.
fn two_services(protocol: &str, limit: &str) -> Result<([App; 2], Mesh)> {
    let apps = [App::start()?, App::start()?];
    let service = |name| Service::new(name).port(80, "app", Some(protocol));
    let instance = |name, app: &App| -> Result<Workload> {
        Ok(Workload::new(name)?.port("app", app.port(), Some(protocol)))
    };
    let caller = Workload::new("order-1")?.upstream("billing", 80)?;
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(service("billing"))
        .service(service("stock"))
        .workload(caller.upstream("stock", 80)?)
        .workload(instance("billing-1", &apps[0])?)
        .workload(instance("stock-1", &apps[1])?)
        .file("traffic.yaml", traffic_policy("billing", limit))
        .start()?;
    Ok((apps, mesh))
}

#[test]
fn more_opaque_connections_than_the_limit_are_closed() -> Result<()> {
    let (apps, mesh) = two_services("tcp", "limits: {maxConnections: 2}")?;
    let at = mesh.upstream("order-1", "billing", 80)?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(at)?;
        assert_eq!(connection.get("any", "/")?.status, 200);
        open.push(connection);
    }
    for refused in 1..=3 {
        Connection::open(at)?.closed()?;
        refusals(
            &mesh,
            "order-1",
            "outbound",
            "too_many_connections",
            f64::from(refused),
        )?;
    }
    assert_eq!(apps[0].connections(), 2, "the app sees nothing of it");
    let other = mesh.upstream("order-1", "stock", 80)?;
    let others: Vec<Connection> = (0..5)
        .map(|_| {
            let mut connection = Connection::open(other)?;
            assert_eq!(connection.get("any", "/")?.status, 200);
            Ok(connection)
        })
        .collect::<Result<_>>()?;
    assert_eq!(others.len(), 5, "each Service has its own");
    for connection in &mut open {
        assert_eq!(connection.get("any", "/")?.status, 200, "those go on");
    }
    open.pop();
    until("there is room again", PATIENCE, || {
        Ok(get(at, "any", "/")?.status == 200)
    })?;
    let metrics = mesh.metrics("order-1")?;
    let labels = [
        ("reason", "too_many_connections"),
        ("direction", "outbound"),
    ];
    assert!(metrics.sum("outrider_refusals_total", &labels) >= 3.0);
    Ok(())
}

#[test]
fn a_limit_may_be_raised_while_connections_are_open() -> Result<()> {
    let (_apps, mesh) = two_services("tcp", "limits: {maxConnections: 1}")?;
    let at = mesh.upstream("order-1", "billing", 80)?;
    let mut first = Connection::open(at)?;
    assert_eq!(first.get("any", "/")?.status, 200);
    Connection::open(at)?.closed()?;
    let raised = traffic_policy("billing", "limits: {maxConnections: 2}");
    mesh.write("traffic.yaml", &raised)?;
    let mut second = mesh_tests::eventually("there is room", PATIENCE, || {
        let mut connection = Connection::open(at)?;
        Ok(Some((connection.get("any", "/")?.status, connection)))
    })?;
    assert_eq!(second.0, 200);
    Connection::open(at)?.closed()?;
    assert_eq!(first.get("any", "/")?.status, 200);
    assert_eq!(second.1.get("any", "/")?.status, 200);
    Ok(())
}

#[test]
fn requests_have_a_limit_for_each_service() -> Result<()> {
    let (apps, mesh) = two_services("http", "limits: {maxRequests: 1}")?;
    let at = mesh.http("order-1")?;
    let mut held = Connection::open(at)?;
    held.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    becomes("it is under way", &1, || Ok(apps[0].count("/hold")))?;
    assert_refused(&get(at, "billing", "/")?, 503, "too_many_requests");
    assert_eq!(get(at, "stock", "/")?.status, 200);
    assert_eq!(apps[0].count("/"), 0);
    refusals(&mesh, "order-1", "outbound", "too_many_requests", 1.0)?;
    // A caller that leaves makes room, too.
    drop(held);
    becomes("there is room again", &200, || {
        Ok(get(at, "billing", "/")?.status)
    })
}
