//! Many clients of one app share the connection between two sidecars: what some of them do must
//! not be felt by the others.

use anyhow::Result;
use mesh_tests::http::Connection;

use crate::common::{get, http_mesh};

/// Far more than every buffer between a client and the app holds.
const LARGE: usize = 32 << 20;

#[test]
fn clients_that_stop_reading_do_not_hold_up_others() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut stopped = Vec::new();
    for _ in 0..12 {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send(format!(
            "GET /zeros/{LARGE} HTTP/1.1\r\nHost: billing\r\n\r\n"
        ))?;
        assert_eq!(connection.head()?.status, 200);
        stopped.push(connection);
    }
    for size in 1..20 {
        assert_eq!(get(&mesh, &format!("/zeros/{size}"))?.body.len(), size);
    }
    Ok(())
}

#[test]
fn clients_that_leave_at_once_cut_nobody_off() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut reader = Connection::open(mesh.http("order-1")?)?;
    reader.send(format!(
        "GET /zeros/{LARGE} HTTP/1.1\r\nHost: billing\r\n\r\n"
    ))?;
    assert_eq!(reader.head()?.status, 200);
    for _ in 0..5 {
        let mut leaving = Vec::new();
        for _ in 0..100 {
            let mut connection = Connection::open(mesh.http("order-1")?)?;
            connection.send("GET /zeros/100000 HTTP/1.1\r\nHost: billing\r\n\r\n")?;
            leaving.push(connection);
        }
        drop(leaving);
    }
    assert_eq!(reader.exactly(LARGE)?.len(), LARGE);
    let source = mesh.sidecar("order-1")?.metrics()?;
    assert_eq!(
        source.sum("istio_requests_total", &[("response_flags", "UC")]),
        0.0
    );
    Ok(())
}

#[test]
fn a_chunked_get_keeps_its_body() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "GET /echo HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )?;
    let response = connection.response()?;
    assert_eq!(
        (response.status, response.text()),
        (200, "hello".to_owned())
    );
    assert_eq!(app.last().map(|request| request.body.len()), Some(5));
    Ok(())
}
