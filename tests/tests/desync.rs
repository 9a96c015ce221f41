//! What is not HTTP where HTTP is spoken, and answers that two parsers could read in two ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{Connection, exchange, local};
use mesh_tests::ports::free_port;
use mesh_tests::{App, Mesh};

use crate::common::{assert_refused, get, healthy, http_mesh, refusals};

#[test]
fn connect_is_not_offered() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let outside = TcpListener::bind(local(free_port()?))?;
    outside.set_nonblocking(true)?;
    for target in [
        "billing:80".to_owned(),
        outside.local_addr()?.to_string(),
        "169.254.169.254:80".into(),
        "localhost:22".into(),
    ] {
        // With data that must not be taken for a request.
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n"
        ))?;
        assert_refused(&connection.response()?, 405, "method_not_allowed");
        connection.closed()?;
    }
    assert!(outside.accept().is_err(), "a connection was opened");
    assert!(app.requests().is_empty(), "{:?}", app.requests());
    refusals(&mesh, "order-1", "outbound", "method_not_allowed", 4.0)?;
    healthy(&mesh)
}

#[test]
fn other_protocols_where_http_is_spoken_are_closed() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03",
        b"PRI * HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\0\0",
        b"*1\r\n$4\r\nPING\r\n",
    ];
    for bytes in cases {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send(bytes)?;
        connection.finish_sending()?;
        let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
        ensure!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 400"),
            "{bytes:?}: {rest}"
        );
    }
    assert!(app.requests().is_empty(), "{:?}", app.requests());
    healthy(&mesh)
}

#[test]
fn a_head_that_comes_byte_by_byte_is_a_request_like_any_other() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    for byte in b"POST /echo HTTP/1.1\r\nHost: billing\r\nContent-Length: 2\r\n\r\nok" {
        connection.send([*byte])?;
    }
    assert_eq!(connection.response()?.text(), "ok");
    assert_eq!(app.requests().len(), 1);
    Ok(())
}

#[test]
fn a_head_that_never_ends_is_ended() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send("GET /first HTTP/1.1\r\nHost: bil")?;
        waiting.push(connection);
    }
    healthy(&mesh)?;
    for mut connection in waiting {
        let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
        ensure!(!rest.contains(" 200 "), "{rest}");
    }
    healthy(&mesh)
}

/// An app that answers `/first` with these bytes and everything else as it should, and keeps its
/// connections open.
fn answering(bytes: &'static [u8]) -> Result<Mesh> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, bytes));
        }
    });
    Mesh::pair(port, Some("http"))?
        .setting("defaultDeny", false)
        .start()
}

fn answer(mut stream: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut head = [0; 8192];
    // A head of a request without a body comes in one piece here.
    loop {
        let count = stream.read(&mut head)?;
        let answer = match &head[..count] {
            [] => return Ok(()),
            first if first.starts_with(b"GET /first") => bytes,
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        };
        stream.write_all(answer)?;
    }
}

#[test]
fn an_app_cannot_answer_requests_that_were_not_made() -> Result<()> {
    let answers: [&'static [u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    ];
    for answer in answers {
        let mesh = answering(answer)?;
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        let first = connection.get("billing", "/first")?;
        ensure!(!first.text().contains("poison"), "{}", first.text());
        for _ in 0..5 {
            let response = get(&mesh, "/second")?;
            assert_eq!((response.status, response.text().as_str()), (200, "fine"));
        }
    }
    Ok(())
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_502() -> Result<()> {
    let answers: [&'static [u8]; 6] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\npoison",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nhello",
        b"nonsense\r\n\r\n",
    ];
    for answer in answers {
        let mesh = answering(answer)?;
        let case = String::from_utf8_lossy(answer);
        let response = get(&mesh, "/first").with_context(|| case.to_string())?;
        ensure!(response.status == 502, "{case}: {}", response.head);
        assert_eq!(get(&mesh, "/second")?.text(), "fine", "{case}");
    }
    Ok(())
}

#[test]
fn the_app_gets_one_head_for_one_request() -> Result<()> {
    // What is allowed but unusual, and what becomes of it.
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    let cases = [
        (
            "a fragment",
            "GET /first#fragment HTTP/1.1\r\nHost: billing\r\n\r\n",
        ),
        (
            "empty lines before",
            "\r\n\r\nGET /first HTTP/1.1\r\nHost: billing\r\n\r\n",
        ),
        (
            "a chunk extension",
            "POST /first HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "the coding in capitals",
            "POST /first HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "leading zeros",
            "POST /first HTTP/1.1\r\nHost: billing\r\nContent-Length: 005\r\n\r\nhello",
        ),
    ];
    for (index, (case, message)) in cases.into_iter().enumerate() {
        let response = exchange(mesh.http("order-1")?, message)?;
        ensure!(
            matches!(response.status, 200 | 400),
            "{case}: {}",
            response.head
        );
        let seen = app.requests().len();
        ensure!(seen <= index + 1, "{case}: {seen} requests");
        if let Some(seen) = app.last() {
            // Whoever reads a fragment as part of the path would read another path.
            ensure!(!seen.path.contains('#'), "{case}: {}", seen.head);
            let framings =
                seen.headers("content-length").len() + seen.headers("transfer-encoding").len();
            ensure!(framings <= 1, "{case}: {}", seen.head);
        }
    }
    Ok(())
}
