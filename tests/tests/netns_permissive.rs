//! Plaintext in permissive mode: on which ports, of which protocols, and until when.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use mesh_tests::Process;
use mesh_tests::placed::Placed;
use mesh_tests::programs::{grpc_go, python, script};
use mesh_tests::wait::{PATIENCE, until};
use serde_json::json;

use crate::netns_common::{
    account, allow, config, grpc, json_lines, machine, metrics, nginx, redis, service, websockets,
    workload,
};

const REFUSED: &str = "outrider; error=http_request_denied; details=\"plaintext_refused\"";
const DENIED: &str = "outrider; error=http_request_denied; details=\"authorization_denied\"";

/// `http://ADDRESS:PORT/` of a workload, for both families.
fn urls(mesh: &Placed, workload: &str, port: u16) -> Result<Vec<String>> {
    let addresses = mesh.addresses("client-1", workload)?;
    Ok(addresses
        .iter()
        .map(|address| match address.contains(':') {
            true => format!("http://[{address}]:{port}/"),
            false => format!("http://{address}:{port}/"),
        })
        .collect())
}

#[test]
fn a_port_may_be_permissive_where_its_workload_is_strict_and_the_other_way_round() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = |port: u16| {
        format!(
            "server {{ listen [::]:{port} ipv6only=off; \
             return 200 'of {port} $http_x_forwarded_client_cert'; }}"
        )
    };
    let server = nginx(folder.path(), "web", &[site(8080), site(8081)].concat())?;
    let ports = |of_8080: &str, of_8081: &str| {
        format!(", ports: [{{port: 8080{of_8080}}}, {{port: 8081{of_8081}}}]{server}")
    };
    let yaml = [
        config(""),
        workload("strict-1", &ports(", mtls: Permissive", "")),
        workload(
            "permissive-1",
            &[", mtls: Permissive", &ports("", ", mtls: Strict")].concat(),
        ),
        workload("client-1", ""),
        allow("strict", &machine("")),
        allow(
            "permissive",
            &machine(", networkAttributes: {ports: [8080, 8081]}"),
        ),
    ];
    let mesh = Placed::start("ports", &[("mesh.yaml", &yaml.concat())])?;
    // An identity that somebody writes down is none.
    let forged = "x-forwarded-client-cert: URI=spiffe://shop.example/ns/shop/sa/client";
    for workload in ["strict-1", "permissive-1"] {
        for url in urls(&mesh, workload, 8080)? {
            let answer = mesh.curl_from_outside(&["--header", forged, &url])?;
            assert_eq!(
                (answer.status, &answer.body[..]),
                (200, "of 8080 "),
                "{url}"
            );
        }
        for url in urls(&mesh, workload, 8081)? {
            let answer = mesh.curl_from_outside(&["--header", forged, &url])?;
            let got = (answer.status, answer.header("proxy-status"));
            assert_eq!(got, (403, Some(REFUSED)), "{url}");
        }
        let metrics = metrics(&mesh, workload)?;
        let plaintext = [
            ("reporter", "destination"),
            ("connection_security_policy", "none"),
            ("source_principal", "unknown"),
            ("response_code", "200"),
        ];
        assert_eq!(metrics.sum("istio_requests_total", &plaintext), 2.0);
        let refused = [("direction", "inbound"), ("reason", "plaintext_refused")];
        assert_eq!(metrics.sum("outrider_refusals_total", &refused), 2.0);
    }
    Ok(())
}

#[test]
fn websockets_and_http2_without_tls_pass_where_policy_lets_them() -> Result<()> {
    let unary = ", grpc: [{service: outrider.test.Echo, method: Unary}]";
    let yaml = [
        config(", mtls: Permissive"),
        workload(
            "chat-1",
            &[", ports: [{port: 8090}]", &websockets(8090)?].concat(),
        ),
        workload(
            "echo-1",
            &[", ports: [{port: 50051}]", &grpc(50051)?].concat(),
        ),
        workload("client-1", ""),
        allow("chat", &machine("")),
        allow("echo", &machine(unary)),
    ];
    let mesh = Placed::start("h2c", &[("mesh.yaml", &yaml.concat())])?;
    let mut client = mesh.command(&python()?)?;
    let url = urls(&mesh, "chat-1", 8090)?[0].replace("http:", "ws:");
    client.arg(script("ws_peer.py")).args(["client", &url]);
    let seen = json_lines(&mut client)?;
    assert_eq!(seen[0]["messages"], json!(["same", "same", "same"]));
    let upgraded = [
        ("response_code", "101"),
        ("connection_security_policy", "none"),
    ];
    let counted = metrics(&mesh, "chat-1")?.sum("istio_requests_total", &upgraded);
    assert_eq!(counted, 1.0);

    // HTTP/2 with prior knowledge, as gRPC speaks it.
    let host = &mesh.addresses("client-1", "echo-1")?[0];
    let mut client = mesh.command(&grpc_go()?)?;
    client.args(["client", "--host", host, "--port", "50051"]);
    let answers = json_lines(client.args(["unary:hello", "fail:5:no such order"]))?;
    assert_eq!(answers[0]["messages"], json!(["hello"]), "{answers:?}");
    assert_eq!(answers[1]["code"], 7, "{answers:?}");
    let proxy_status = &answers[1]["initial"]["proxy-status"];
    let proxy_status = proxy_status
        .as_str()
        .or(answers[1]["trailing"]["proxy-status"].as_str());
    assert_eq!(proxy_status, Some(DENIED), "{answers:?}");
    Ok(())
}

/// And a drain waits for what is open.
#[test]
fn a_websocket_in_plaintext_is_an_open_connection() -> Result<()> {
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nhost: chat\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let yaml = [
        config(", mtls: Permissive"),
        workload(
            "chat-1",
            &[", ports: [{port: 8090}]", &websockets(8090)?].concat(),
        ),
        workload("client-1", ""),
        allow("chat", &machine("")),
    ];
    let mesh = Placed::start("upgraded", &[("mesh.yaml", &yaml.concat())])?;
    let to = SocketAddr::new(mesh.addresses("client-1", "chat-1")?[0].parse()?, 8090);
    let mut open = mesh.machine.within(|| Ok(TcpStream::connect(to)?))?;
    open.set_read_timeout(Some(PATIENCE))?;
    open.write_all(UPGRADE)?;
    let mut status = [0; 12];
    open.read_exact(&mut status)?;
    assert_eq!(&status, b"HTTP/1.1 101");
    let inbound = || -> Result<f64> {
        let labels = [("direction", "inbound")];
        Ok(metrics(&mesh, "chat-1")?.sum("outrider_open_connections", &labels))
    };
    // Told once a second.
    until("it is counted", PATIENCE, || Ok(inbound()? == 1.0))?;
    drop(open);
    until("it is counted no more", PATIENCE, || Ok(inbound()? == 0.0))
}

#[test]
fn what_is_open_under_mutual_tls_survives_a_mesh_that_turns_strict() -> Result<()> {
    let rules = format!("{}, {}", account("client"), machine(""));
    let yaml = [
        workload("cache-1", &[", ports: [{port: 6379}]", &redis()?].concat()),
        workload("client-1", ""),
        service("cache", "cache", "{port: 6379}"),
        allow("cache", &rules),
    ];
    let permissive = config(", mtls: Permissive");
    let mesh = Placed::start(
        "rollout",
        &[("config.yaml", &permissive), ("mesh.yaml", &yaml.concat())],
    )?;
    let mut plaintext = Vec::new();
    for address in mesh.addresses("client-1", "cache-1")? {
        let to = SocketAddr::new(address.parse()?, 6379);
        let mut open = mesh.machine.within(|| Ok(TcpStream::connect(to)?))?;
        open.set_read_timeout(Some(PATIENCE))?;
        open.write_all(b"PING\r\n")?;
        let mut pong = [0; 7];
        open.read_exact(&mut pong)?;
        assert_eq!(&pong, b"+PONG\r\n", "{to}");
        plaintext.push(open);
    }
    // One connection, on which it asks again and again.
    let mut ping = mesh.inside("client-1", "redis-cli", "redis-tools")?;
    ping.args(["-h", "cache", "-r", "-1", "-i", "0.01", "PING"]);
    let ping = Process::start("ping", &mesh.logs(), &mut ping)?;
    let pongs = || ping.log().matches("PONG").count();
    until("it is answered", PATIENCE, || Ok(pongs() > 3))?;

    fs::write(mesh.folder.path().join("config.yaml"), config(""))?;
    for open in &mut plaintext {
        assert_eq!(open.read(&mut [0; 1]).unwrap_or(0), 0, "it ends, by itself");
    }
    let so_far = pongs();
    until("it is answered still", PATIENCE, || {
        Ok(pongs() > so_far + 10)
    })?;
    let labels = [("connection_security_policy", "mutual_tls")];
    let opened = metrics(&mesh, "cache-1")?.sum("istio_tcp_connections_opened_total", &labels);
    assert_eq!(opened, 1.0, "on the same connection: {}", ping.log());
    let plain = [("connection_security_policy", "none")];
    let metrics = metrics(&mesh, "cache-1")?;
    for counter in ["opened", "closed"] {
        let counter = format!("istio_tcp_connections_{counter}_total");
        assert_eq!(metrics.sum(&counter, &plain), 2.0, "{counter}");
    }
    Ok(())
}
