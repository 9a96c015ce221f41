//! WebSocket and other upgrades: a tunnel once the app has agreed, and nothing before.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::Mesh;
use mesh_tests::http::{Connection, Response, local};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::peers::{CLIENT_LIMIT, python_peer, python_server};
use mesh_tests::ports::free_port;
use mesh_tests::process::run;
use serde_json::{Value, json};

use crate::common::{assert_refused, healthy, http_mesh, refusals};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: billing\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn the_library_talks_to_itself_through_the_mesh() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = python_server(folder.path(), "ws_peer.py", &[])?;
    for protocol in [Some("http"), Some("kubernetes.io/ws"), None] {
        let mesh = Mesh::pair(server.port, protocol)?
            .setting("defaultDeny", false)
            .start()?;
        let port = mesh.upstream("order-1", "billing", 80)?.port();
        let visit = |path: &str| -> Result<Value> {
            let mut client = python_peer("ws_peer.py")?;
            client.args(["client", &format!("ws://127.0.0.1:{port}{path}")]);
            let finished = run(&mut client, CLIENT_LIMIT)?.success()?;
            serde_json::from_str(&finished.stdout).context("JSON")
        };
        let seen = visit("/")?;
        assert_eq!(
            seen["messages"],
            json!(["same", "same", "same"]),
            "{protocol:?}"
        );
        assert_eq!(seen["pong"], true);
        assert_eq!(seen["close"], json!([1000, ""]));
        assert_eq!(visit("/greet")?["messages"][0], "welcome", "{protocol:?}");
        assert_eq!(
            visit("/leave")?["close"],
            json!([4001, "gone"]),
            "{protocol:?}"
        );
        let refused = visit("/refuse")?;
        assert_eq!(
            (&refused["status"], &refused["body"]),
            (&json!(403), &json!("not here\n"))
        );
    }
    Ok(())
}

/// A mesh whose app hands each connection to the test.
fn raw_app() -> Result<(TcpListener, Mesh)> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let port = listener.local_addr()?.port();
    let mesh = Mesh::pair(port, Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    Ok((listener, mesh))
}

fn read_head(stream: &mut TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[test]
fn bytes_sent_with_the_101_are_not_lost() -> Result<()> {
    let (listener, mesh) = raw_app()?;
    let mut client = Connection::open(mesh.http("order-1")?)?;
    client.send(UPGRADE)?;
    let (mut app, _) = listener.accept()?;
    let head = read_head(&mut app)?;
    assert!(
        head.to_lowercase().contains("upgrade: websocket\r\n"),
        "{head}"
    );
    assert!(head.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{head}");
    app.write_all(format!("{SWITCHING}early").as_bytes())?;
    assert_eq!(client.response()?.status, 101);
    assert_eq!(client.exactly(5)?, b"early");
    client.send("to the app")?;
    let mut got = [0; 10];
    app.read_exact(&mut got)?;
    assert_eq!(&got, b"to the app");
    // Either side may end its half and still be heard.
    client.finish_sending()?;
    assert_eq!(app.read(&mut got)?, 0);
    app.write_all(b"last")?;
    assert_eq!(client.exactly(4)?, b"last");
    drop(app);
    client.closed()
}

#[test]
fn nothing_reaches_the_app_before_it_has_agreed() -> Result<()> {
    let (listener, mesh) = raw_app()?;
    let mut client = Connection::open(mesh.http("order-1")?)?;
    client.send(format!(
        "{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n"
    ))?;
    let (mut app, _) = listener.accept()?;
    read_head(&mut app)?;
    app.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut byte = [0; 1];
    let early = app.read(&mut byte);
    assert!(early.is_err(), "the app got {early:?} before its 101");
    // It refuses: what came early was a request after all, and not the app's first one.
    app.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n")?;
    let response = client.response()?;
    assert_eq!((response.status, response.text().as_str()), (403, "no\n"));
    Ok(())
}

#[test]
fn an_upgrade_that_is_allowed_for_one_path_is_refused_for_another() -> Result<()> {
    use mesh_tests::manifest::policy;
    let (listener, mesh) = raw_app()?;
    let rules = "- http: [{paths: [{type: Exact, value: /chat}]}]";
    mesh.write("policy.yaml", &policy("chat", "billing", "ALLOW", rules))?;
    let address = mesh.http("order-1")?;
    mesh_tests::wait::becomes("another path is refused", &403, || {
        let mut client = Connection::open(address)?;
        client.send(UPGRADE.replace("/chat", "/other"))?;
        let Ok((mut app, _)) = accept_now(&listener) else {
            return Ok(client.response()?.status);
        };
        read_head(&mut app)?;
        app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        Ok(client.response()?.status)
    })?;
    listener.set_nonblocking(false)?;
    let mut client = Connection::open(address)?;
    client.send(UPGRADE)?;
    let (mut app, _) = listener.accept()?;
    read_head(&mut app)?;
    app.write_all(SWITCHING.as_bytes())?;
    assert_eq!(client.response()?.status, 101);
    Ok(())
}

/// A connection that arrives within a tenth of a second, if any.
fn accept_now(listener: &TcpListener) -> Result<(TcpStream, std::net::SocketAddr)> {
    listener.set_nonblocking(true)?;
    let found = mesh_tests::eventually("a connection", Duration::from_millis(100), || {
        Ok(listener.accept().ok())
    })?;
    found.0.set_nonblocking(false)?;
    Ok(found)
}

#[test]
fn an_upgrade_to_http_2_is_not_made() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let mut client = Connection::open(mesh.http("order-1")?)?;
    client.send(
        "GET /echo HTTP/1.1\r\nHost: billing\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    )?;
    let response = client.response()?;
    assert!(matches!(response.status, 200 | 400), "{}", response.head);
    for seen in app.requests() {
        assert!(seen.header("upgrade").is_none(), "{}", seen.head);
        assert!(seen.header("http2-settings").is_none(), "{}", seen.head);
    }
    healthy(&mesh)
}

#[test]
fn a_tunnel_that_is_not_read_holds_the_sender_back() -> Result<()> {
    let (listener, mut mesh) = raw_app()?;
    let before = mesh.process("order-1")?.resident()?;
    let mut client = Connection::open(mesh.http("order-1")?)?;
    client.send(UPGRADE)?;
    let (mut app, _) = listener.accept()?;
    read_head(&mut app)?;
    app.write_all(SWITCHING.as_bytes())?;
    assert_eq!(client.response()?.status, 101);
    let mut stream = client.stream.try_clone()?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let block = vec![7; 1 << 20];
    let sent = (0..256)
        .take_while(|_| stream.write_all(&block).is_ok())
        .count();
    assert!(sent < 64, "{sent} MiB were taken although nobody reads");
    for name in ["order-1", "billing-1"] {
        let grown = mesh.process(name)?.resident()?.saturating_sub(before);
        assert!(grown < 32 << 20, "{name} holds {grown} bytes more");
    }
    // The rest is read once the app does.
    let reader = thread::spawn(move || -> Result<u64> {
        app.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(std::io::copy(&mut app, &mut std::io::sink())?)
    });
    drop(stream);
    drop(client);
    let read = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    assert!(
        read >= (sent as u64) << 20,
        "{read} bytes of {sent} MiB arrived"
    );
    Ok(())
}

#[test]
fn an_upgraded_connection_counts_as_one() -> Result<()> {
    let (listener, mesh) = raw_app()?;
    let limit = "limits: {maxConnections: 1, maxRequests: 1}";
    mesh.write("traffic.yaml", &traffic_policy("billing", limit))?;
    let address = mesh.http("order-1")?;
    let app = thread::spawn(move || -> Result<()> {
        for stream in listener.incoming() {
            let mut stream = stream?;
            thread::spawn(move || -> Result<()> {
                loop {
                    let answer = match read_head(&mut stream)?.contains("websocket") {
                        true => SWITCHING,
                        false => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    };
                    stream.write_all(answer.as_bytes())?;
                }
            });
        }
        Ok(())
    });
    let upgrade = || -> Result<(Response, Connection)> {
        let mut client = Connection::open(address)?;
        client.send(UPGRADE)?;
        Ok((client.response()?, client))
    };
    // Those that were there before the policy is in force count, too.
    let mut open = Vec::new();
    let refused = loop {
        let (response, connection) = upgrade()?;
        match response.status {
            101 => open.push(connection),
            _ => break response,
        }
    };
    assert!(!open.is_empty());
    assert_refused(&refused, 503, "too_many_connections");
    refusals(&mesh, "order-1", "outbound", "too_many_connections", 1.0)?;
    let response = mesh_tests::http::get(address, "billing", "/")?;
    assert_eq!(response.status, 200, "a request is none");
    drop(open);
    mesh_tests::wait::becomes("there is room again", &101, || Ok(upgrade()?.0.status))?;
    assert!(!app.is_finished());
    Ok(())
}
