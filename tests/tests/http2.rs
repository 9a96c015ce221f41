//! HTTP/2 from an app through two sidecars to an app, and frames that nobody should send.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::peers::{Server, curl_run, h2_field, h2_raw, nginx};
use mesh_tests::process::{command, run};
use mesh_tests::{App, Mesh, programs};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{healthy, http_mesh, refusals};

const SITE: &str =
    "location / { return 200 \"$server_protocol $request_method $http_host $http_x_large\\n\"; }";

/// nginx speaking HTTP/2 only, in the mesh.
fn h2_mesh() -> Result<(TempDir, Server, Mesh)> {
    let folder = tempfile::tempdir()?;
    let nginx = nginx(folder.path(), "nginx", "http2", SITE)?;
    let mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    Ok((folder, nginx, mesh))
}

#[test]
fn curl_speaks_http_2_to_an_app_that_does() -> Result<()> {
    let (_folder, _nginx, mesh) = h2_mesh()?;
    for address in [
        mesh.http("order-1")?,
        mesh.upstream("order-1", "billing", 80)?,
    ] {
        let url = format!("http://{address}/some?query");
        let finished = curl_run(&[
            "--http2-prior-knowledge",
            "-i",
            "-H",
            "Host: billing",
            "-H",
            "X-Large: v",
            &url,
        ])?
        .success()?;
        assert!(
            finished.stdout.starts_with("HTTP/2 200"),
            "{}",
            finished.stdout
        );
        assert!(
            finished.stdout.ends_with("HTTP/2.0 GET billing v\n"),
            "{}",
            finished.stdout
        );
    }
    Ok(())
}

#[test]
fn large_headers_pass_over_http_2() -> Result<()> {
    let (_folder, _nginx, mesh) = h2_mesh()?;
    let large = "v".repeat(60 * 1024);
    let url = format!("http://{}/", mesh.http("order-1")?);
    let header = format!("X-Large: {large}");
    let arguments = [
        "--http2-prior-knowledge",
        "-i",
        "-H",
        "Host: billing",
        "-H",
        header.as_str(),
        &url,
    ];
    let finished = curl_run(&arguments)?.success()?;
    assert!(
        finished.stdout.starts_with("HTTP/2 200"),
        "{:.200}",
        finished.stdout
    );
    assert!(
        finished.stdout.ends_with(&format!("{large}\n")),
        "the value arrived whole"
    );
    Ok(())
}

#[test]
fn a_header_beyond_the_limit_is_431_over_http_2() -> Result<()> {
    let (_folder, _nginx, mesh) = h2_mesh()?;
    // curl would not send so much.
    let port = mesh.http("order-1")?.port();
    let large = "v".repeat(100 * 1024);
    let with = |count: usize| -> Result<Vec<Value>> {
        let mut fields = vec![
            [":method", "GET"],
            [":scheme", "http"],
            [":authority", "billing"],
            [":path", "/"],
        ];
        fields.extend(std::iter::repeat_n(["x-large", &large], count));
        let steps = json!([{"headers": fields, "end": true}, {"read": 1}]);
        h2_raw(port, None, &steps)
    };
    let frames = with(1)?;
    assert_eq!(h2_field(&frames, 1, ":status"), Some("431"), "{frames:?}");
    assert_eq!(
        h2_field(&frames, 1, "proxy-status"),
        Some("outrider; error=http_request_error; details=\"header_too_large\"")
    );
    refusals(&mesh, "order-1", "outbound", "header_too_large", 1.0)?;
    // So much is not even measured: the connection ends.
    let frames = with(4)?;
    assert_eq!(h2_field(&frames, 1, ":status"), None, "{frames:?}");
    let closed = frames.iter().any(|frame| frame["end"] == "closed");
    assert!(closed, "{frames:?}");
    let url = format!("http://{}/", mesh.http("order-1")?);
    let fine = curl_run(&["--http2-prior-knowledge", "-f", "-H", "Host: billing", &url])?;
    fine.success()?;
    Ok(())
}

#[test]
fn the_limit_holds_for_answers_over_http_2() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let twice =
        "location / { add_header X-Twice $http_x_large$http_x_large; return 200 \"ok\\n\"; }";
    let nginx = nginx(folder.path(), "nginx", "http2", twice)?;
    let mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let url = format!("http://{}/", mesh.http("order-1")?);
    for (kib, expected) in [(30, "HTTP/2 200"), (40, "HTTP/2 502"), (1, "HTTP/2 200")] {
        let header = format!("X-Large: {}", "v".repeat(kib * 1024));
        let finished = curl_run(&[
            "--http2-prior-knowledge",
            "-i",
            "-H",
            "Host: billing",
            "-H",
            header.as_str(),
            &url,
        ])?
        .success()?;
        assert!(
            finished.stdout.starts_with(expected),
            "{kib} KiB twice: {:.300}",
            finished.stdout
        );
    }
    Ok(())
}

#[test]
fn connect_is_not_offered_over_http_2_either() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let port = mesh.http("order-1")?.port();
    for target in ["billing:80", "169.254.169.254:80", "localhost:22"] {
        let steps = json!([
            {"headers": [[":method", "CONNECT"], [":authority", target]]},
            {"data": "GET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n"},
            {"read": 1},
        ]);
        let frames = h2_raw(port, None, &steps)?;
        let status = h2_field(&frames, 1, ":status");
        assert_eq!(status, Some("405"), "CONNECT {target}: {frames:?}");
    }
    assert!(app.requests().is_empty(), "{:?}", app.requests());
    refusals(&mesh, "order-1", "outbound", "method_not_allowed", 3.0)?;
    healthy(&mesh)
}

#[test]
fn h2load_gets_no_error() -> Result<()> {
    let (_folder, _nginx, mesh) = h2_mesh()?;
    let mut h2load = command(&programs::find("h2load", "nghttp2-client")?)?;
    h2load
        .args([
            "-n",
            "4000",
            "-c",
            "4",
            "-m",
            "32",
            "-H",
            ":authority: billing",
        ])
        .arg(format!("http://{}/", mesh.http("order-1")?));
    let finished = run(&mut h2load, Duration::from_secs(60))?.success()?;
    let expected = "requests: 4000 total, 4000 started, 4000 done, 4000 succeeded, 0 failed";
    assert!(finished.stdout.contains(expected), "{}", finished.stdout);
    assert!(
        finished.stdout.contains("status codes: 4000 2xx"),
        "{}",
        finished.stdout
    );
    Ok(())
}

#[test]
fn nghttp_gets_many_streams_over_one_connection() -> Result<()> {
    let (_folder, _nginx, mesh) = h2_mesh()?;
    let mut nghttp = command(&programs::find("nghttp", "nghttp2-client")?)?;
    nghttp
        .args(["-n", "-s", "-m", "50", "-H", ":authority: billing"])
        .arg(format!("http://{}/", mesh.http("order-1")?));
    let finished = run(&mut nghttp, Duration::from_secs(60))?.success()?;
    let answered = finished
        .stdout
        .lines()
        .filter(|line| line.contains(" 200 "))
        .count();
    assert_eq!(answered, 50, "{}", finished.stdout);
    Ok(())
}

/// A request's fields, with some replaced or added.
fn request(changes: &[(&str, &str)]) -> Value {
    let mut fields = vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "billing"),
        (":path", "/smuggled"),
    ];
    for (name, value) in changes {
        match fields.iter_mut().find(|(present, _)| present == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    json!(fields)
}

#[test]
fn malformed_fields_are_a_stream_error_and_reach_no_app() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let port = mesh.http("order-1")?.port();
    let mut duplicate = request(&[]);
    if let Some(fields) = duplicate.as_array_mut() {
        fields.insert(3, json!([":path", "/other"]));
    }
    let cases = [
        ("duplicate :path", duplicate),
        ("CRLF in a value", request(&[("x-a", "b\r\nHost: other")])),
        ("NUL in a value", request(&[("x-a", "b\0c")])),
        (
            "space in :path",
            request(&[(":path", "/ HTTP/1.1\r\nX: y")]),
        ),
        ("empty :path", request(&[(":path", "")])),
        ("upper case", request(&[("X-Upper", "b")])),
        ("connection", request(&[("connection", "close")])),
        (
            "transfer-encoding",
            request(&[("transfer-encoding", "chunked")]),
        ),
        ("te", request(&[("te", "gzip")])),
        ("host differs", request(&[("host", "other")])),
        ("space in a name", request(&[("x y", "b")])),
        ("unknown pseudo-header", request(&[(":other", "b")])),
        (
            "no :method",
            json!([
                [":scheme", "http"],
                [":authority", "billing"],
                [":path", "/"]
            ]),
        ),
        (
            "content-length against no body",
            request(&[("content-length", "5")]),
        ),
        ("method with a space", request(&[(":method", "GET /x")])),
    ];
    for (case, headers) in cases {
        let steps = json!([{"headers": headers, "end": true}, {"read": 1}]);
        let frames = h2_raw(port, None, &steps)?;
        let status = h2_field(&frames, 1, ":status");
        let reset = frames.iter().any(|frame| frame.get("reset").is_some());
        let goaway = frames
            .iter()
            .any(|frame| frame["goaway"].as_u64().is_some_and(|code| code > 0));
        let closed = frames.iter().any(|frame| frame["end"] == "closed");
        let refused = status == Some("400") || reset || goaway || closed;
        assert!(refused, "{case}: {frames:?}");
        assert!(
            app.requests().is_empty(),
            "{case} reached the app: {:?}",
            app.requests()
        );
    }
    healthy(&mesh)
}

#[test]
fn a_flood_of_resets_is_cut_off_or_costs_little() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let before = mesh.process("order-1")?.resident()?;
    let port = mesh.http("order-1")?.port();
    let mut steps = Vec::new();
    for index in 0..3_000 {
        let stream = 1 + 2 * index;
        steps.push(json!({"headers": request(&[]), "stream": stream, "end": true}));
        steps.push(json!({"reset": stream}));
    }
    steps.push(json!({"headers": request(&[]), "stream": 6_001, "end": true}));
    steps.push(json!({"read": 6_001}));
    let frames = h2_raw(port, None, &Value::Array(steps))?;
    let ended = frames
        .iter()
        .any(|frame| frame.get("goaway").is_some() || frame["end"] == "closed");
    let answered = h2_field(&frames, 6_001, ":status").is_some();
    assert!(ended || answered, "{:?}", frames.last());
    let grown = mesh.process("order-1")?.peak()?.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    healthy(&mesh)
}

#[test]
fn trailers_of_a_request_beyond_the_limit_are_431_over_http_2() -> Result<()> {
    // nginx passes a request on, and so answers it, when all of it is there.
    let app = App::start()?;
    let site = format!(
        "location / {{ proxy_http_version 1.1; proxy_pass http://127.0.0.1:{}; }}",
        app.port()
    );
    let folder = tempfile::tempdir()?;
    let nginx = nginx(folder.path(), "nginx", "http2", &site)?;
    let mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let port = mesh.http("order-1")?.port();
    let head = [
        [":method", "POST"],
        [":scheme", "http"],
        [":authority", "billing"],
        [":path", "/echo"],
    ];
    let steps = json!([
        {"headers": head},
        {"data": "hello"},
        {"headers": [["x-large", "v".repeat(65 * 1024)]], "end": true},
        {"read": 1},
        // On the same connection.
        {"headers": head, "stream": 3},
        {"data": "hello", "stream": 3, "end": true},
        {"read": 3},
    ]);
    let frames = h2_raw(port, None, &steps)?;
    assert_eq!(h2_field(&frames, 1, ":status"), Some("431"), "{frames:?}");
    assert_eq!(
        h2_field(&frames, 1, "proxy-status"),
        Some("outrider; error=http_request_error; details=\"header_too_large\"")
    );
    assert_eq!(h2_field(&frames, 3, ":status"), Some("200"), "{frames:?}");
    refusals(&mesh, "order-1", "outbound", "header_too_large", 1.0)?;
    assert_eq!(app.requests().len(), 1);
    Ok(())
}

#[test]
fn a_header_block_that_never_ends_is_cut_off() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let before = mesh.process("order-1")?.resident()?;
    let port = mesh.http("order-1")?.port();
    // HEADERS without END_HEADERS, then CONTINUATION frames of 16,384 bytes, 64 MiB in all.
    let headers = "000001".to_owned() + "01" + "00" + "00000001" + "82";
    let continuation = "004000".to_owned() + "09" + "00" + "00000001" + &"00".repeat(16_384);
    let steps = json!([
        {"hex": headers},
        {"hex": continuation, "repeat": 4_096},
        {"read": 0},
    ]);
    let frames = h2_raw(port, None, &steps)?;
    assert!(
        frames.iter().any(|frame| frame["end"] == "closed"),
        "{frames:?}"
    );
    let grown = mesh.process("order-1")?.peak()?.saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!(app.requests().len(), 1);
    healthy(&mesh)
}

#[test]
fn floods_of_small_frames_harm_nobody() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let before = mesh.process("order-1")?.resident()?;
    let port = mesh.http("order-1")?.port();
    let floods = [
        ("PING", "0000080600000000000000000000000000"),
        ("SETTINGS", "000000040000000000"),
        ("WINDOW_UPDATE", "00000408000000000000000001"),
        ("PRIORITY", "00000502000000000100000000ff"),
    ];
    for (name, hex) in floods {
        // They are not read: what the sidecar has to answer must not pile up without bound.
        let steps = json!([{"hex": hex, "repeat": 200_000}]);
        h2_raw(port, None, &steps)?;
        let grown = mesh.process("order-1")?.peak()?.saturating_sub(before);
        assert!(grown < 32 << 20, "{name}: {grown} bytes more");
        healthy(&mesh)?;
    }
    Ok(())
}
