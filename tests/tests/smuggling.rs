//! Requests that two parsers could read in two ways: never more than one of them reaches an app.

use anyhow::{Result, ensure};
use mesh_tests::http::Connection;

use crate::common::{healthy, http_mesh, refusals};

/// Appended to every message: if the app is asked for this, it was smuggled.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n";

/// A `POST /first` with these fields after its Host, and this body.
fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /first HTTP/1.1\r\nHost: billing\r\n{fields}\r\n{body}").into_bytes()
}

/// Sends each message with [`SECOND`] after it, and expects one refusal, the end of the connection,
/// and nothing at the app.
fn assert_all_refused(cases: &[(&str, Vec<u8>)], statuses: &[u16]) -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    for (case, message) in cases {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send([message, SECOND.as_bytes()].concat())?;
        let response = connection.response()?;
        ensure!(
            statuses.contains(&response.status),
            "{case}: {}",
            response.head
        );
        ensure!(
            response.reason().is_some(),
            "{case}: no reason: {}",
            response.head
        );
        let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
        ensure!(rest.is_empty(), "{case}: more than one answer: {rest}");
        ensure!(
            app.requests().is_empty(),
            "{case} reached the app: {:?}",
            app.requests()
        );
    }
    refusals(&mesh, "order-1", "outbound", "bad_request", 1.0)?;
    healthy(&mesh)
}

/// Sends each message with [`SECOND`] after it. Its head may have reached the app before it was seen
/// to be malformed; as a whole it must not have, and nothing after it.
fn assert_all_cut_off(cases: &[(&str, Vec<u8>)]) -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    for (case, message) in cases {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send([message, SECOND.as_bytes()].concat())?;
        let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
        ensure!(!rest.contains("200 OK"), "{case}: {rest}");
        ensure!(
            app.requests().is_empty(),
            "{case} reached the app: {:?}",
            app.requests()
        );
    }
    healthy(&mesh)
}

#[test]
fn length_and_coding_at_once() -> Result<()> {
    let cases = [
        (
            "CL then TE",
            post(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "TE then CL",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "0\r\n\r\n",
            ),
        ),
        (
            "CL of 0 with TE",
            post(
                "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
        ),
    ];
    assert_all_refused(&cases, &[400])
}

#[test]
fn lengths_that_are_no_length() -> Result<()> {
    let cases = [
        (
            "differing",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ),
        (
            "duplicate",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ),
        ("a list", post("Content-Length: 5,5\r\n", "hello")),
        (
            "a list with a space",
            post("Content-Length: 5, 5\r\n", "hello"),
        ),
        ("a sign", post("Content-Length: +5\r\n", "hello")),
        ("negative", post("Content-Length: -5\r\n", "hello")),
        ("empty", post("Content-Length:\r\n", "hello")),
        ("hexadecimal", post("Content-Length: 0x5\r\n", "hello")),
        ("two numbers", post("Content-Length: 5 5\r\n", "hello")),
        ("a fraction", post("Content-Length: 5.0\r\n", "hello")),
        (
            "overflow",
            post("Content-Length: 18446744073709551621\r\n", "hello"),
        ),
        (
            "a long overflow",
            post(&format!("Content-Length: {}\r\n", "9".repeat(100)), "hello"),
        ),
    ];
    assert_all_refused(&cases, &[400])
}

#[test]
fn codings_that_are_not_chunked() -> Result<()> {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let cases: Vec<(&str, Vec<u8>)> = [
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked,chunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer-Encoding: chunk\r\n",
    ]
    .into_iter()
    .map(|fields| (fields, post(fields, body)))
    .collect();
    assert_all_refused(&cases, &[400, 501])
}

#[test]
fn older_versions_with_bodies_of_the_newer() -> Result<()> {
    let chunked =
        b"POST /first HTTP/1.0\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let cases = [("HTTP/1.0 with TE", chunked.to_vec())];
    assert_all_refused(&cases, &[400])?;

    // Whatever comes after a request of HTTP/1.0 without a length belongs to nobody.
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(format!(
        "POST /first HTTP/1.0\r\nHost: billing\r\n\r\n{SECOND}"
    ))?;
    connection.rest()?;
    let paths: Vec<String> = app
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    ensure!(!paths.contains(&"/smuggled".into()), "{paths:?}");
    Ok(())
}

#[test]
fn fields_that_are_no_fields() -> Result<()> {
    let mut cases = vec![
        ("a folded line", post("X-A: 1\r\n folded\r\n", "")),
        (
            "a folded first line",
            b"GET /first HTTP/1.1\r\n Host: billing\r\n\r\n".to_vec(),
        ),
        (
            "space before the colon",
            post("Content-Length : 5\r\n", "hello"),
        ),
        (
            "tab before the colon",
            post("Content-Length\t: 5\r\n", "hello"),
        ),
        ("no name", post(": value\r\n", "")),
        ("no colon", post("Content-Length\r\n", "")),
        ("space in a name", post("X A: 1\r\n", "")),
        ("NUL in a name", post("X\0A: 1\r\n", "")),
        ("NUL in a value", post("X-A: 1\0\r\n", "")),
        ("CR in a value", post("X-A: 1\rContent-Length: 40\r\n", "")),
        ("CR CR LF", post("X-A: 1\r\r\n", "")),
        (
            "LF alone after a field",
            post("X-A: 1\nContent-Length: 0\r\n", ""),
        ),
        (
            "LF alone everywhere",
            b"POST /first HTTP/1.1\nHost: billing\n\n".to_vec(),
        ),
        ("a name beyond ASCII", post("X-\u{e9}: 1\r\n", "")),
        ("a control byte in a value", post("X-A: 1\u{1}\r\n", "")),
        (
            "Content_Length beside",
            post("Content-Length: 0\r\nContent-Length\u{b}: 40\r\n", ""),
        ),
    ];
    cases.push((
        "LF alone at the end of the head",
        b"GET /first HTTP/1.1\r\nHost: billing\r\n\n".to_vec(),
    ));
    assert_all_refused(&cases, &[400])
}

#[test]
fn request_lines_that_are_none() -> Result<()> {
    let line = |line: &str| format!("{line}\r\nHost: billing\r\n\r\n").into_bytes();
    let cases = [
        ("two spaces", line("GET  /first HTTP/1.1")),
        ("a word too many", line("GET /first HTTP/1.1 more")),
        ("no version", line("GET /first")),
        ("a version with a sign", line("GET /first HTTP/+1.1")),
        ("version 2", line("GET /first HTTP/2.0")),
        ("version 1.2 with a space", line("GET /first HTTP/1 .1")),
        ("a tab", line("GET\t/first\tHTTP/1.1")),
        ("a colon in the method", line("GE:T /first HTTP/1.1")),
        ("no method", line(" /first HTTP/1.1")),
        ("a bare path", line("GET first HTTP/1.1")),
        ("a control byte", line("GET /fir\u{1}st HTTP/1.1")),
        (
            "LF alone",
            b"GET /first HTTP/1.1\nHost: billing\r\n\r\n".to_vec(),
        ),
    ];
    assert_all_refused(&cases, &[400, 505])
}

#[test]
fn one_authority_only() -> Result<()> {
    let hosts = |fields: &str| format!("GET /first HTTP/1.1\r\n{fields}\r\n").into_bytes();
    let absolute = |target: &str, host: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
    };
    let cases = [
        ("no Host", hosts("")),
        ("two Hosts", hosts("Host: billing\r\nHost: other\r\n")),
        (
            "the same Host twice",
            hosts("Host: billing\r\nHost: billing\r\n"),
        ),
        ("an empty Host", hosts("Host:\r\n")),
        ("a port out of range", hosts("Host: billing:99999\r\n")),
        ("a port that is none", hosts("Host: billing:http\r\n")),
        ("an empty port and more", hosts("Host: billing::80\r\n")),
        ("a list", hosts("Host: billing, other\r\n")),
        ("a user", hosts("Host: user@billing\r\n")),
        ("a path", hosts("Host: billing/path\r\n")),
        ("a space", hosts("Host: bil ling\r\n")),
        (
            "absolute, and another Host",
            absolute("http://billing/first", "other"),
        ),
        (
            "absolute, and another port",
            absolute("http://billing:80/first", "billing:81"),
        ),
        (
            "absolute, with a user",
            absolute("http://user@billing/first", "billing"),
        ),
    ];
    let (app, mesh) = http_mesh(Some("http"))?;
    for (case, message) in &cases {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send([message, SECOND.as_bytes()].concat())?;
        let response = connection.response()?;
        ensure!(response.status == 400, "{case}: {}", response.head);
        ensure!(
            matches!(response.reason(), Some("bad_authority" | "bad_request")),
            "{case}: {}",
            response.head
        );
        ensure!(
            connection.rest()?.is_empty(),
            "{case}: more than one answer"
        );
        ensure!(
            app.requests().is_empty(),
            "{case} reached the app: {:?}",
            app.requests()
        );
    }
    refusals(&mesh, "order-1", "outbound", "bad_authority", 5.0)?;
    healthy(&mesh)
}

#[test]
fn chunks_that_are_none() -> Result<()> {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(64 * 1024));
    let cases = [
        ("LF alone after the size", chunked("5\nhello\r\n0\r\n\r\n")),
        ("LF alone after the data", chunked("5\r\nhello\n0\r\n\r\n")),
        ("CR alone after the size", chunked("5\rhello\r\n0\r\n\r\n")),
        (
            "CR CR LF after the size",
            chunked("5\r\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "LF in an extension",
            chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ),
        ("an extension without end", chunked(&long)),
        ("data beyond the size", chunked("5\r\nhello!\r\n0\r\n\r\n")),
        ("a size with a sign", chunked("+5\r\nhello\r\n0\r\n\r\n")),
        ("a negative size", chunked("-5\r\nhello\r\n0\r\n\r\n")),
        ("a size with 0x", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        ("no size", chunked("\r\nhello\r\n0\r\n\r\n")),
        (
            "a size that overflows",
            chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "a trailer that is no field",
            chunked("5\r\nhello\r\n0\r\nno colon\r\n\r\n"),
        ),
    ];
    assert_all_cut_off(&cases)
}
