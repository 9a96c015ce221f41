//! Bodies stream: in constant memory, as fast as their reader reads.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::Mesh;
use mesh_tests::http::{self, Connection};
use mesh_tests::peers::{curl_run, nginx};
use mesh_tests::wait::{PATIENCE, until};

use crate::common::{get, healthy, http_mesh};

const GIBIBYTE: u64 = 1 << 30;
/// How much more either sidecar may hold while a body passes.
const GROWTH: u64 = 64 << 20;

/// What each sidecar holds at rest.
fn at_rest(mesh: &mut Mesh) -> Result<Vec<(String, u64)>> {
    get(mesh, "/warm")?;
    ["order-1", "billing-1"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), mesh.process(name)?.resident()?)))
        .collect()
}

/// Fails if either sidecar ever held much more than at rest.
fn bounded(mesh: &mut Mesh, before: &[(String, u64)]) -> Result<()> {
    for (name, rest) in before {
        let grown = mesh.process(name)?.peak()?.saturating_sub(*rest);
        ensure!(grown < GROWTH, "{name} held {} MiB more", grown >> 20);
    }
    Ok(())
}

/// Sends a request with a body of that many zeros, chunked or with its length.
fn upload(address: SocketAddr, length: u64, chunked: bool) -> Result<http::Response> {
    let framing = if chunked {
        "Transfer-Encoding: chunked".into()
    } else {
        format!("Content-Length: {length}")
    };
    let mut connection = Connection::open(address)?;
    connection.send(format!(
        "POST /sink HTTP/1.1\r\nHost: billing\r\n{framing}\r\n\r\n"
    ))?;
    let block = vec![0; 1 << 20];
    for _ in 0..length / block.len() as u64 {
        if chunked {
            connection.send(format!("{:x}\r\n", block.len()))?;
        }
        connection.send(&block)?;
        if chunked {
            connection.send("\r\n")?;
        }
    }
    if chunked {
        connection.send("0\r\n\r\n")?;
    }
    connection.response()
}

#[test]
fn a_gibibyte_goes_up_in_constant_memory() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    let before = at_rest(&mut mesh)?;
    for (turn, chunked) in [(1, false), (2, true)] {
        let response = upload(mesh.http("order-1")?, GIBIBYTE, chunked)?;
        assert_eq!(response.text(), GIBIBYTE.to_string(), "{}", response.head);
        assert!(app.received() >= turn * GIBIBYTE);
        bounded(&mut mesh, &before)?;
    }
    Ok(())
}

#[test]
fn a_gibibyte_comes_down_in_constant_memory() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let before = at_rest(&mut mesh)?;
    let url = format!("http://{}/zeros/{GIBIBYTE}", mesh.http("order-1")?);
    let finished = curl_run(&[
        "-f",
        "-H",
        "Host: billing",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        url.as_str(),
    ])?
    .success()?;
    assert_eq!(finished.stdout, GIBIBYTE.to_string());
    bounded(&mut mesh, &before)
}

#[test]
fn a_gibibyte_goes_both_ways_over_http_2() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::File::create(folder.path().join("large"))?.set_len(GIBIBYTE)?;
    let site = format!(
        "root {}; location /sink {{ client_max_body_size 2g; proxy_pass http://127.0.0.1:SINK; \
         proxy_request_buffering off; }}",
        folder.path().display()
    );
    let sink = mesh_tests::App::start()?;
    let site = site.replace("SINK", &sink.port().to_string());
    let nginx = nginx(folder.path(), "nginx", "http2", &site)?;
    let mut mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let at = mesh.http("order-1")?;
    let h2 = ["--http2-prior-knowledge", "-f", "-H", "Host: billing"];
    let run = |more: &[&str]| curl_run(&[&h2, more].concat())?.success();
    run(&["-o", "/dev/null", &format!("http://{at}/nginx/nginx.conf")])?;
    let before: Vec<_> = ["order-1", "billing-1"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), mesh.process(name)?.resident()?)))
        .collect::<Result<_>>()?;

    let down = run(&[
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
        &format!("http://{at}/large"),
    ])?;
    assert_eq!(down.stdout, GIBIBYTE.to_string());
    bounded(&mut mesh, &before)?;
    let large = folder.path().join("large").display().to_string();
    let up = run(&["-T", &large, &format!("http://{at}/sink")])?;
    assert_eq!(up.stdout, GIBIBYTE.to_string());
    bounded(&mut mesh, &before)
}

#[test]
fn a_reader_that_stops_makes_the_sender_stop() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    let before = at_rest(&mut mesh)?;
    let received = app.received();
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection
        .stream
        .set_write_timeout(Some(Duration::from_secs(1)))?;
    connection.send(format!(
        "POST /stall HTTP/1.1\r\nHost: billing\r\nContent-Length: {GIBIBYTE}\r\n\r\n"
    ))?;
    let block = vec![0; 1 << 20];
    let mut sent = 0;
    while sent < 256 && connection.stream.write_all(&block).is_ok() {
        sent += 1;
    }
    assert!(
        sent < 64,
        "{sent} MiB were taken although the app reads nothing"
    );
    bounded(&mut mesh, &before)?;
    // The others are not held up by the one that stands still.
    healthy(&mesh)?;
    app.release();
    until("the app reads on", PATIENCE, || {
        Ok(app.received() > received + (1 << 20))
    })?;
    Ok(())
}

#[test]
fn a_client_that_stops_reading_makes_the_app_stop() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let before = at_rest(&mut mesh)?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(format!(
        "GET /zeros/{GIBIBYTE} HTTP/1.1\r\nHost: billing\r\n\r\n"
    ))?;
    assert_eq!(connection.head()?.status, 200);
    // Neither sidecar's memory moves any more: all that can be under way is.
    for _ in 0..20 {
        healthy(&mesh)?;
        bounded(&mut mesh, &before)?;
    }
    // What was held back comes once it is read.
    let mut left = GIBIBYTE;
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        let count = connection
            .exactly(1)
            .map(|_| 1 + drain(&mut connection, &mut block))?;
        left = left.saturating_sub(count);
    }
    bounded(&mut mesh, &before)
}

/// Reads what has come, past the connection's own buffer.
fn drain(connection: &mut Connection, block: &mut [u8]) -> u64 {
    let buffered = connection.take_buffered().len() as u64;
    let read = connection.stream.read(block).unwrap_or(0) as u64;
    buffered + read
}

#[test]
fn a_body_that_breaks_off_is_not_taken_for_whole() -> Result<()> {
    use std::net::TcpListener;
    let listener = TcpListener::bind(http::local(mesh_tests::ports::free_port()?))?;
    let mesh = Mesh::pair(listener.local_addr()?.port(), Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n",
    ];
    for answer in answers {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send("GET / HTTP/1.1\r\nHost: billing\r\n\r\n")?;
        let (mut app, _) = listener.accept()?;
        let mut head = [0; 4096];
        ensure!(app.read(&mut head)? > 0, "the app was sent a request");
        app.write_all(answer.as_bytes())?;
        drop(app);
        let response = connection.response();
        let whole = response
            .as_ref()
            .is_ok_and(|response| response.status == 200);
        assert!(!whole, "{answer:?} was taken for whole: {response:?}");
    }
    Ok(())
}
