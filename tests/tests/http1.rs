//! HTTP/1.1 from an app through two sidecars to an app, and back: messages.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::Mesh;
use mesh_tests::http::{self, Connection, Response};
use mesh_tests::peers::{curl_run, nginx};

use crate::common::{assert_refused, get, healthy, http_mesh, refusals};

#[test]
fn one_connection_carries_many_requests() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    for index in 0..20 {
        let response = connection.get("billing", &format!("/echo?n={index}"))?;
        assert_eq!(response.status, 200, "{}", response.head);
    }
    let paths: Vec<String> = app
        .requests()
        .into_iter()
        .map(|request| request.path)
        .collect();
    let expected: Vec<String> = (0..20).map(|index| format!("/echo?n={index}")).collect();
    assert_eq!(paths, expected);
    assert!(
        app.connections() <= 2,
        "the app's connections are reused: {}",
        app.connections()
    );
    Ok(())
}

#[test]
fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    for address in [
        mesh.http("order-1")?,
        mesh.upstream("order-1", "billing", 80)?,
    ] {
        let mut connection = Connection::open(address)?;
        let requests: String = (1..=8)
            .map(|size| format!("GET /zeros/{size} HTTP/1.1\r\nHost: billing\r\n\r\n"))
            .collect();
        connection.send(requests)?;
        for size in 1..=8 {
            let response = connection.response()?;
            assert_eq!((response.status, response.body.len()), (200, size));
        }
    }
    Ok(())
}

#[test]
fn pipelined_bodies_stay_with_their_requests() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "POST /echo HTTP/1.1\r\nHost: billing\r\nContent-Length: 5\r\n\r\nfirst\
         POST /echo HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n\
         GET /echo HTTP/1.1\r\nHost: billing\r\n\r\n",
    )?;
    for expected in ["first", "second", ""] {
        assert_eq!(connection.response()?.text(), expected);
    }
    let bodies: Vec<Vec<u8>> = app
        .requests()
        .into_iter()
        .map(|request| request.body)
        .collect();
    assert_eq!(bodies, [b"first".to_vec(), b"second".to_vec(), Vec::new()]);
    Ok(())
}

#[test]
fn a_request_comes_out_as_it_went_in() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "PATCH /a/b%20c/?x=1&y=%2F&&z HTTP/1.1\r\nHost: billing.shop:80\r\nAccept: a\r\nAccept: b\r\n\
         X-Empty:\r\nCookie: a=1; b=2\r\nContent-Length: 0\r\n\r\n",
    )?;
    assert_eq!(connection.response()?.status, 200);
    let seen = app.requests().remove(0);
    assert!(
        seen.head
            .starts_with("PATCH /a/b%20c/?x=1&y=%2F&&z HTTP/1.1\r\n"),
        "{}",
        seen.head
    );
    assert_eq!(seen.headers("host"), ["billing.shop:80"]);
    assert_eq!(seen.headers("accept"), ["a", "b"]);
    assert_eq!(seen.headers("x-empty"), [""]);
    assert_eq!(seen.headers("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.headers("content-length"), ["0"]);
    Ok(())
}

#[test]
fn chunked_bodies_and_trailers_go_both_ways() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "POST /chunked HTTP/1.1\r\nHost: billing\r\nTE: trailers\r\nConnection: TE\r\n\
         Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n",
    )?;
    connection.send("5;name=value\r\nhello\r\n")?;
    connection.send("7\r\n, world\r\n0\r\nX-Check: 7\r\n\r\n")?;
    let response = connection.response()?;
    assert_eq!(response.text(), "first second");
    assert_eq!(response.trailer("x-sum"), Some("42"), "{}", response.head);
    let seen = app.requests().remove(0);
    assert_eq!(seen.body, b"hello, world");
    assert!(
        seen.trailers.to_lowercase().contains("x-check: 7"),
        "{:?}",
        seen.trailers
    );
    assert_eq!(connection.get("billing", "/echo")?.status, 200);
    Ok(())
}

#[test]
fn trailers_of_a_request_beyond_the_limit_are_431() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let address = mesh.http("order-1")?;
    let with = |trailers: &str| -> Result<Response> {
        let mut connection = Connection::open(address)?;
        connection
            .send("POST /echo HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        connection.send(format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))?;
        connection.response()
    };
    let large = |bytes| format!("X-Large: {}\r\n", "v".repeat(bytes));
    let many = |count| -> String {
        let fields = (0..count).map(|number| format!("X-{number}: v\r\n"));
        fields.collect()
    };
    for fits in [large(60 * 1024), many(100)] {
        let response = with(&fits)?;
        assert_eq!((response.status, response.text()), (200, "hello".into()));
    }
    for (count, exceeds) in [large(65 * 1024), many(101)].into_iter().enumerate() {
        let response = with(&exceeds)?;
        assert_refused(&response, 431, "header_too_large");
        assert_eq!(response.header("connection"), Some("close"));
        let expected = (count + 1) as f64;
        refusals(&mesh, "order-1", "outbound", "header_too_large", expected)?;
    }
    healthy(&mesh)
}

#[test]
fn a_chunked_request_streams_before_it_ends() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "POST /sink HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    )?;
    // The head and the first chunk are at the app while the request goes on.
    mesh_tests::wait::until(
        "the app has the first chunk",
        mesh_tests::wait::PATIENCE,
        || Ok(app.received() > 5),
    )?;
    assert!(app.requests().is_empty());
    connection.send("0\r\n\r\n")?;
    assert_eq!(connection.response()?.text(), "5");
    Ok(())
}

#[test]
fn expect_continue_is_the_apps_to_answer() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send(
        "POST /continue HTTP/1.1\r\nHost: billing\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )?;
    assert_eq!(connection.response()?.status, 100);
    connection.send("body")?;
    assert_eq!(connection.response()?.status, 200);
    assert_eq!(app.requests().remove(0).body, b"body");

    // A client that does not wait for it.
    connection.send(
        "POST /continue HTTP/1.1\r\nHost: billing\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nmore",
    )?;
    let mut response = connection.response()?;
    while response.status == 100 {
        response = connection.response()?;
    }
    assert_eq!(response.status, 200);
    assert_eq!(connection.get("billing", "/zeros/3")?.body.len(), 3);
    Ok(())
}

#[test]
fn curl_waits_for_100_and_sends_its_body() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let url = format!("http://{}/continue", mesh.http("order-1")?);
    let finished = curl_run(&[
        "-v",
        "-H",
        "Host: billing",
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "30",
        "--data-binary",
        "from curl",
        &url,
    ])?
    .success()?;
    assert!(
        finished.stderr.contains("HTTP/1.1 100 Continue"),
        "{}",
        finished.stderr
    );
    assert_eq!(app.requests().remove(0).body, b"from curl");
    Ok(())
}

#[test]
fn an_early_answer_arrives_while_the_request_is_still_sent() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection
        .send("POST /early HTTP/1.1\r\nHost: billing\r\nContent-Length: 100000000\r\n\r\n")?;
    connection.send(vec![0; 1000])?;
    let response = connection.response()?;
    assert_eq!((response.status, response.text().as_str()), (413, "early"));
    // What is left of the body must never be read as a request.
    let _ = connection.send("GET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n");
    let _ = connection.finish_sending();
    let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
    assert!(!rest.contains("HTTP/1.1 200"), "{rest}");
    healthy(&mesh)
}

#[test]
fn an_answer_without_a_body_leaves_the_connection_in_step() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    connection.send("HEAD /zeros/1000 HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    let head = connection.head()?;
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("1000"))
    );

    let response = connection.get("billing", "/status/204")?;
    assert_eq!(
        (response.status, response.header("content-length")),
        (204, None)
    );
    assert_eq!(response.header("transfer-encoding"), None);

    let response = connection.get("billing", "/status/304")?;
    assert_eq!(
        (response.status, response.header("etag")),
        (304, Some("\"e\""))
    );
    assert_eq!(response.header("transfer-encoding"), None);

    let response = connection.get("billing", "/status/500")?;
    assert_eq!(
        (response.status, response.body.len(), response.reason()),
        (500, 0, None)
    );
    assert_eq!(connection.get("billing", "/zeros/3")?.body.len(), 3);
    Ok(())
}

#[test]
fn interim_answers_do_not_end_the_exchange() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    for _ in 0..3 {
        let mut response = connection.get("billing", "/hints")?;
        if response.status == 103 {
            response = connection.response()?;
        }
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
    Ok(())
}

#[test]
fn http_1_0_and_connection_close_end_the_connection() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let address = mesh.http("order-1")?;
    for request in [
        "GET /zeros/3 HTTP/1.0\r\nHost: billing\r\n\r\n",
        "GET /zeros/3 HTTP/1.1\r\nHost: billing\r\nConnection: close\r\n\r\n",
    ] {
        let mut connection = Connection::open(address)?;
        connection.send(request)?;
        let response = connection.head()?;
        assert_eq!(response.status, 200, "{request}: {}", response.head);
        assert_eq!(connection.rest()?, [0; 3], "{request}");
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_midway_harms_nobody() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    for _ in 0..20 {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection
            .send("POST /sink HTTP/1.1\r\nHost: billing\r\nContent-Length: 100\r\n\r\nhalf")?;
    }
    for _ in 0..20 {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    }
    healthy(&mesh)?;
    app.release();
    healthy(&mesh)
}

#[test]
fn undeclared_http_is_detected_on_a_port_of_its_own() -> Result<()> {
    let (_app, mesh) = http_mesh(None)?;
    let response = http::get(
        mesh.upstream("order-1", "billing", 80)?,
        "billing",
        "/zeros/7",
    )?;
    assert_eq!((response.status, response.body.len()), (200, 7));
    // It was seen as HTTP, not carried as opaque bytes.
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let labels = [("response_code", "200"), ("reporter", "source")];
    mesh_tests::metrics::reaches(port, "istio_requests_total", &labels, 1.0)
}

#[test]
fn nginx_serves_curl_through_the_mesh() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("site");
    std::fs::create_dir(&root)?;
    let content: String = (0..200_000).map(|line| format!("line {line}\n")).collect();
    std::fs::write(root.join("large.txt"), &content)?;
    let site = format!(
        "root {};\nlocation /old {{ return 301 /large.txt; }}",
        root.display()
    );
    let nginx = nginx(folder.path(), "nginx", "", &site)?;
    let mesh = Mesh::pair(nginx.port, Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    let at = mesh.http("order-1")?;
    let fetch = |path: &str, more: &[&str]| {
        let url = format!("http://{at}{path}");
        let mut arguments = vec!["-f", "-H", "Host: billing", url.as_str()];
        arguments.extend(more);
        curl_run(&arguments)
    };
    assert!(
        fetch("/large.txt", &[])?.success()?.stdout == content,
        "the file is whole"
    );
    let ranged = fetch("/large.txt", &["-r", "0-5"])?.success()?;
    assert_eq!(ranged.stdout, "line 0");
    let head = fetch("/old", &["-I"])?.success()?;
    assert!(head.stdout.starts_with("HTTP/1.1 301"), "{}", head.stdout);
    assert_eq!(
        fetch("/missing", &[])?.status.code(),
        Some(22),
        "404 is nginx's own"
    );
    Ok(())
}

#[test]
fn wrk_gets_no_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nginx = nginx(
        folder.path(),
        "nginx",
        "",
        "location / { return 200 \"hello\\n\"; }",
    )?;
    let mesh = Mesh::pair(nginx.port, Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    let mut wrk = mesh_tests::process::command(&mesh_tests::programs::find("wrk", "wrk")?)?;
    wrk.args(["-t", "1", "-c", "32", "-d", "2s", "-H", "Host: billing"])
        .arg(format!("http://{}/", mesh.http("order-1")?));
    let finished = mesh_tests::process::run(&mut wrk, Duration::from_secs(30))?.success()?;
    assert!(
        finished.stdout.contains("requests in"),
        "{}",
        finished.stdout
    );
    assert!(!finished.stdout.contains("Non-2xx"), "{}", finished.stdout);
    assert!(
        !finished.stdout.contains("Socket errors"),
        "{}",
        finished.stdout
    );
    Ok(())
}

#[test]
fn an_app_that_closes_its_connections_costs_no_request() -> Result<()> {
    // What the sidecar kept of a connection that has ended must not fail the next request.
    let (_app, mesh) = http_mesh(Some("http"))?;
    for index in 0..100 {
        let response = get(&mesh, "/close")?;
        assert_eq!(response.status, 200, "{index}: {}", response.head);
    }
    Ok(())
}
