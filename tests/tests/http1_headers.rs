//! HTTP/1.1: names of headers, and their size.

use anyhow::Result;
use mesh_tests::http::{Connection, exchange};

use crate::common::{assert_refused, get, healthy, http_mesh, refusals};

#[test]
fn names_of_headers_keep_a_case_that_http_1_apps_expect() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let response = exchange(
        mesh.http("order-1")?,
        "GET /echo HTTP/1.1\r\nHost: billing\r\nX-Request-Id: 1\r\nSOAPAction: x\r\nX-b3-TraceId: t\r\n\
         lower-case: y\r\nContent-Length: 0\r\n\r\n",
    )?;
    let seen = app.requests().remove(0).head;
    for line in ["Host: billing\r\n", "X-Request-Id: 1\r\n"] {
        assert!(seen.contains(line), "the app must see {line:?}:\n{seen}");
    }
    // Title case, or exactly as sent.
    for (title, sent) in [
        ("Soapaction: x\r\n", "SOAPAction: x\r\n"),
        ("X-B3-Traceid: t\r\n", "X-b3-TraceId: t\r\n"),
        ("Lower-Case: y\r\n", "lower-case: y\r\n"),
    ] {
        assert!(
            seen.contains(title) || seen.contains(sent),
            "{title:?} or {sent:?}:\n{seen}"
        );
    }
    let head = &response.head;
    assert!(head.contains("X-Case-Kept: yes\r\n"), "{head}");
    assert!(
        head.contains("X-Odd-Case: yes\r\n") || head.contains("X-Odd-CASE: yes\r\n"),
        "{head}"
    );
    assert!(head.contains("Content-Length: 0"), "{head}");
    Ok(())
}

#[test]
fn large_headers_pass_both_ways() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    for size in [8 * 1024, 20 * 1024, 60 * 1024] {
        let value = "v".repeat(size);
        connection.send(format!(
            "GET /echo HTTP/1.1\r\nHost: billing\r\nX-Large: {value}\r\n\r\n"
        ))?;
        assert_eq!(connection.response()?.status, 200, "{size}");
        let seen = app
            .last()
            .and_then(|request| Some(request.header("x-large")?.len()));
        assert_eq!(seen, Some(size));

        let response = connection.get("billing", &format!("/header/{size}"))?;
        assert_eq!(response.status, 200, "{size}: {:?}", response.reason());
        assert_eq!(response.header("x-large").map(str::len), Some(size));
    }
    Ok(())
}

#[test]
fn many_headers_pass() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let headers: String = (0..90)
        .map(|index| format!("X-Header-{index}: {index}\r\n"))
        .collect();
    let request = format!("GET /echo HTTP/1.1\r\nHost: billing\r\n{headers}\r\n");
    assert_eq!(exchange(mesh.http("order-1")?, request)?.status, 200);
    let seen = app.requests().remove(0);
    assert!((0..90).all(|index| seen.header(&format!("x-header-{index}")).is_some()));
    Ok(())
}

#[test]
fn a_header_beyond_the_limit_is_431() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let value = "v".repeat(100 * 1024);
    let request = format!("GET /large HTTP/1.1\r\nHost: billing\r\nX-Large: {value}\r\n\r\n");
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    // The answer may come before all of it is written.
    let _ = connection.send(request);
    assert_refused(&connection.response()?, 431, "header_too_large");
    assert!(app.requests().is_empty());
    refusals(&mesh, "order-1", "outbound", "header_too_large", 1.0)?;
    healthy(&mesh)
}

#[test]
fn a_flood_of_headers_or_a_long_target_is_refused() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let flood: String = (0..10_000)
        .map(|index| format!("X-{index}: 1\r\n"))
        .collect();
    let long = "/p".repeat(64 * 1024);
    for (request, statuses) in [
        (
            format!("GET / HTTP/1.1\r\nHost: billing\r\n{flood}\r\n"),
            [431, 431],
        ),
        (
            format!("GET {long} HTTP/1.1\r\nHost: billing\r\n\r\n"),
            [414, 431],
        ),
    ] {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        let _ = connection.send(&request);
        let response = connection.response()?;
        assert!(statuses.contains(&response.status), "{}", response.head);
    }
    assert!(app.requests().is_empty());
    healthy(&mesh)
}

#[test]
fn an_answer_with_a_header_beyond_the_limit_is_an_error_of_the_apps() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let response = get(&mesh, &format!("/header/{}", 100 * 1024))?;
    assert_eq!(response.status, 502, "{}", response.head);
    assert!(response.reason().is_some(), "{}", response.head);
    healthy(&mesh)
}

#[test]
fn bytes_beyond_ascii_in_a_value_arrive_as_they_were_sent() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut request = b"GET /echo HTTP/1.1\r\nHost: billing\r\nX-Name: ".to_vec();
    request.extend([0xc3, 0xa9, 0xff]);
    request.extend(b"\r\n\r\n");
    let response = exchange(mesh.http("order-1")?, request)?;
    // Rejected, or forwarded byte for byte: never something else.
    match response.status {
        200 => assert_eq!(
            app.requests()[0].header("x-name"),
            Some("\u{c3}\u{a9}\u{ff}")
        ),
        400 => assert!(app.requests().is_empty()),
        _ => panic!("{}", response.head),
    }
    healthy(&mesh)
}
