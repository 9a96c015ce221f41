//! Logs: as text or as JSON, with a line for each request where that is wanted.

use anyhow::{Context, Result};
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{App, Mesh, http};
use serde_json::Value;

use crate::common::{get, healthy, http_mesh};

/// The lines of a log that are JSON; fails at one that is not.
fn json_lines(log: &str) -> Result<Vec<Value>> {
    log.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("JSON, not {line:?}")))
        .collect()
}

#[test]
fn every_line_is_json_where_that_is_asked_for() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("accessLog", true)
        .control_plane_argument("--log-format=json")
        .sidecar_argument("--log-format=json")
        .start()?;
    healthy(&mesh)?;
    http::get(mesh.http("order-1")?, "nowhere", "/a\"b")?;
    let logs = [
        mesh.control_plane()?.log(),
        mesh.process("order-1")?.log(),
        mesh.process("billing-1")?.log(),
    ];
    for log in logs {
        let lines = json_lines(&log)?;
        assert!(!lines.is_empty());
        for line in lines {
            assert!(line["timestamp"].is_string(), "{line}");
            assert!(line["level"].is_string(), "{line}");
        }
    }
    Ok(())
}

#[test]
fn the_access_log_is_an_option() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("accessLog", true)
        .sidecar_argument("--log-format=json")
        .start()?;
    get(&mesh, "/status/404?who=me")?;
    for name in ["order-1", "billing-1"] {
        let line = mesh_tests::eventually("a line for the request", PATIENCE, || {
            let lines = json_lines(&mesh.process(name)?.log())?;
            Ok(lines
                .into_iter()
                .find(|line| line.to_string().contains("/status/404")))
        })?;
        let text = line.to_string();
        for part in ["GET", "404", "billing"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // A query may hold what nobody should find in a log.
        assert!(!text.contains("who=me"), "{text}");
    }
    // A refusal names its reason.
    http::get(mesh.http("order-1")?, "nowhere", "/lost")?;
    until("a line for the refusal", PATIENCE, || {
        let lines = json_lines(&mesh.process("order-1")?.log())?;
        Ok(lines
            .iter()
            .any(|line| line.to_string().contains("unknown_destination")))
    })?;

    let (_app, mut mesh) = http_mesh(Some("http"))?;
    get(&mesh, "/unlogged")?;
    healthy(&mesh)?;
    for name in ["order-1", "billing-1"] {
        let log = mesh.process(name)?.log();
        assert!(!log.contains("/unlogged"), "{log}");
    }
    Ok(())
}

#[test]
fn the_level_can_be_changed_while_running() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    let admin = http::local(mesh.sidecar("order-1")?.workload.admin_port);
    let post = |path: &str| {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        http::exchange(admin, request)
    };
    assert_eq!(post("/log?level=nonsense=nonsense=nonsense")?.status, 400);
    assert_eq!(post("/log?level=debug")?.status, 200);
    let before = mesh.process("order-1")?.log().matches("DEBUG").count();
    until("the log has more to say", PATIENCE, || {
        let mut connection = http::Connection::open(mesh.http("order-1")?)?;
        connection.get("billing", "/")?;
        Ok(mesh.process("order-1")?.log().matches("DEBUG").count() > before)
    })
}

#[test]
fn no_secret_is_in_any_log() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("accessLog", true)
        .control_plane_argument("--log-level=trace")
        .sidecar_argument("--log-level=trace")
        .start()?;
    let request = "GET / HTTP/1.1\r\nHost: billing\r\nAuthorization: Bearer of-the-app\r\n\
                   Cookie: session=of-the-app\r\n\r\n";
    http::exchange(mesh.http("order-1")?, request)?;
    let tokens: Vec<String> = ["order-1", "billing-1"]
        .iter()
        .map(|name| {
            Ok(std::fs::read_to_string(
                mesh.folder().join(format!("{name}.token")),
            )?)
        })
        .collect::<Result<_>>()?;
    let logs = [
        mesh.control_plane()?.log(),
        mesh.process("order-1")?.log(),
        mesh.process("billing-1")?.log(),
    ];
    for log in logs {
        for token in &tokens {
            let signature = token.rsplit('.').next().context("a signature")?;
            assert!(!log.contains(signature), "a token is in a log");
        }
        assert!(!log.contains("PRIVATE KEY"), "a key is in a log");
    }
    Ok(())
}
