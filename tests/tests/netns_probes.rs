//! Health probes of the machine, which has no identity: of every kind, on what is declared, and on
//! nothing else. The mesh is strict.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::placed::Placed;
use mesh_tests::programs::grpc_go;
use mesh_tests::wait::{PATIENCE, until};
use serde_json::{Value, json};

use crate::netns_common::{config, grpc, json_lines, metrics, nginx, redis, workload};

const REFUSED: &str = "outrider; error=http_request_denied; details=\"plaintext_refused\"";

fn counted(mesh: &Placed, workload: &str, name: &str, label: (&str, &str)) -> Result<f64> {
    Ok(metrics(mesh, workload)?.sum(name, &[label]))
}

fn probed(mesh: &Placed, workload: &str, kind: &str) -> Result<f64> {
    counted(mesh, workload, "outrider_probes_total", ("kind", kind))
}

fn refused(mesh: &Placed, workload: &str) -> Result<f64> {
    let reason = ("reason", "plaintext_refused");
    counted(mesh, workload, "outrider_refusals_total", reason)
}

#[test]
fn each_kind_of_probe_reaches_the_app_where_it_is_declared() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // An app may heed a header rather than the path.
    let sites = "server { listen 8080; listen 8081; \
                 location = /healthz { return 200 '$http_host $http_x_original_url $http_cookie'; } \
                 location / { return 200 'secret'; } }";
    let web = nginx(folder.path(), "web", sites)?;
    let probe = "{httpGet: {path: \"/healthz?full=1\", port: web}}";
    let yaml = [
        config(""),
        workload(
            "web-1",
            &format!(
                ", ports: [{{name: web, port: 8080}}, {{port: 8081}}], probes: [{probe}]{web}"
            ),
        ),
        workload(
            "cache-1",
            &format!(
                ", ports: [{{port: 6379}}, {{port: 6380}}], \
                 probes: [{{tcpSocket: {{port: 6379}}}}, {{tcpSocket: {{port: 6380}}}}]{}",
                redis()?
            ),
        ),
        workload(
            "echo-1",
            &format!(
                ", ports: [{{port: 50051}}], probes: [{{grpc: {{port: 50051}}}}]{}",
                grpc(50051)?
            ),
        ),
    ];
    let mesh = Placed::start("probing", &[("mesh.yaml", &yaml.concat())])?;
    http(&mesh)?;
    tcp(&mesh)?;
    grpc_health(&mesh)
}

fn http(mesh: &Placed) -> Result<()> {
    let at = |port: u16| {
        anyhow::Ok(format!(
            "http://{}:{port}",
            mesh.addresses("web-1", "web-1")?[0]
        ))
    };
    let healthy = format!("{}/healthz?full=1", at(8080)?);
    let answer = mesh.curl_from_outside(&[
        &healthy,
        "-H",
        "Host: admin.internal",
        "-H",
        "X-Original-URL: /admin",
        "-H",
        "Cookie: role=admin",
    ])?;
    let host = at(8080)?.replace("http://", "");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, &*format!("{host}  "))
    );
    for url in [
        format!("{}/healthz", at(8080)?),
        format!("{}/healthz?full=1&more", at(8080)?),
        format!("{}/", at(8080)?),
        format!("{}/healthz?full=1", at(8081)?),
    ] {
        let answer = mesh.curl_from_outside(&[&url])?;
        let got = (answer.status, answer.header("proxy-status"));
        assert_eq!(got, (403, Some(REFUSED)), "{url}: {answer:?}");
    }
    assert_eq!(probed(mesh, "web-1", "http")?, 1.0);
    assert_eq!(refused(mesh, "web-1")?, 4.0);
    Ok(())
}

/// A secret or a name in a declaration opens nothing to who does not know it.
#[test]
fn of_headers_those_reach_the_app_that_its_probe_declares() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let leaf = Leaf::uris(&[])?.dns("nobody.example")?;
    let identity = Authority::stranger()?.issue(&leaf, folder.path(), "web")?;
    let sites = format!(
        "server {{ listen 8080; location = /healthz {{ return 200 '$http_host $http_x_key $http_cookie'; }} \
         location = /moved {{ return 301 /login; }} }} \
         server {{ listen 8443 ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2; \
         if ($http_host !~ ^shop.example$) {{ return 421; }} \
         location = /healthz {{ if ($http_x_key != k) {{ return 401; }} return 204; }} \
         location = /moved {{ return 302 /login; }} }}",
        identity.certificate.display(),
        identity.key.display()
    );
    let web = nginx(folder.path(), "web", &sites)?;
    let headers = "httpHeaders: [{name: Host, value: shop.example}, {name: X-Key, value: k}]";
    let probes = [
        format!("{{httpGet: {{path: /healthz, port: 8080, {headers}}}}}"),
        "{httpGet: {path: /moved, port: 8080}}".to_owned(),
        format!("{{httpGet: {{path: /healthz, port: 8443, scheme: HTTPS, {headers}}}}}"),
        format!("{{httpGet: {{path: /moved, port: 8443, scheme: HTTPS, {headers}}}}}"),
        "{httpGet: {path: /healthz, port: 8080, scheme: HTTPS}}".to_owned(),
        "{httpGet: {path: /healthz, port: 8444, scheme: HTTPS}}".to_owned(),
    ];
    let ports = "ports: [{port: 8080}, {port: 8443}, {port: 8444}]";
    let fields = format!(", {ports}, probes: [{}]{web}", probes.join(", "));
    let yaml = [config(""), workload("web-1", &fields)].concat();
    let mesh = Placed::start("headers", &[("mesh.yaml", &yaml)])?;
    let address = mesh.addresses("web-1", "web-1")?[0].clone();
    let ask = |url: &str, headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        let arguments: Vec<&str> = [url].into_iter().chain(headers).collect();
        mesh.curl_from_outside(&arguments)
    };
    let own = format!("{address}:8080");
    for (sent, seen) in [
        (
            &["Host: shop.example", "X-Key: k", "Cookie: c"][..],
            "shop.example k ".to_owned(),
        ),
        (&["Host: admin.example", "X-Key: k"], format!("{own} k ")),
        (
            &["Host: shop.example", "X-Key: guessed"],
            "shop.example  ".to_owned(),
        ),
        (&[], format!("{own}  ")),
    ] {
        let answer = ask(&format!("http://{own}/healthz"), sent)?;
        assert_eq!((answer.status, answer.body), (200, seen), "{sent:?}");
    }
    // What it would be led to is no probe.
    let answer = ask(&format!("http://{own}/moved"), &[])?;
    assert_eq!((answer.status, answer.header("location")), (301, None));
    assert_eq!(probed(&mesh, "web-1", "http")?, 5.0);

    let telemetry = mesh.telemetry("web-1")?;
    let both = ["Host: shop.example", "X-Key: k"];
    for (path, sent, status, text) in [
        ("8443/healthz", &both[..], 204, ""),
        ("8443/healthz", &both[..1], 401, ""),
        ("8443/healthz", &both[1..], 421, ""),
        ("8443/moved", &both, 302, ""),
        ("8443/healthz?x", &both, 404, "no HTTPS probe of this port"),
        ("8443/", &both, 404, "no HTTPS probe of this port"),
        ("8444/healthz", &both, 503, "the app does not listen"),
        ("8080/healthz", &both, 503, "no TLS with the app"),
    ] {
        let answer = ask(&format!("{telemetry}/probe/https/{path}"), sent)?;
        let told = (answer.status, answer.header("location"));
        assert_eq!(told, (status, None), "{path}: {answer:?}");
        assert!(answer.body.starts_with(text), "{path}: {answer:?}");
        assert!(
            !text.is_empty() || answer.body.is_empty(),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(probed(&mesh, "web-1", "https")?, 4.0);
    // In plaintext it is no probe.
    let answer = ask(&format!("http://{address}:8443/healthz"), &both)?;
    let got = (answer.status, answer.header("proxy-status"));
    assert_eq!(got, (403, Some(REFUSED)), "{answer:?}");
    Ok(())
}

/// The connection is made, and nothing may be said on it.
fn tcp(mesh: &Placed) -> Result<()> {
    let address = mesh.addresses("cache-1", "cache-1")?[0].parse()?;
    let connect = |port: u16| {
        let to = SocketAddr::new(address, port);
        mesh.machine.within(|| Ok(TcpStream::connect(to)?))
    };
    let reads = |stream: &mut TcpStream, within: Duration| {
        stream.set_read_timeout(Some(within))?;
        anyhow::Ok(stream.read(&mut [0; 8]).map_err(|error| error.kind()))
    };
    let mut probe = connect(6379)?;
    until("the probe is counted", PATIENCE, || {
        Ok(probed(mesh, "cache-1", "tcp")? == 1.0)
    })?;
    let silent = reads(&mut probe, Duration::from_millis(100))?;
    assert_eq!(silent, Err(ErrorKind::WouldBlock), "it stays open");
    probe.write_all(b"PING\r\n")?;
    let ended = reads(&mut probe, PATIENCE)?;
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    assert_eq!(refused(mesh, "cache-1")?, 1.0);
    // The sidecar is asked whether the app listens.
    let telemetry = mesh.telemetry("cache-1")?;
    for (port, status) in [(6379, 200), (6380, 503), (6381, 404)] {
        let answer = mesh.curl_from_outside(&[&format!("{telemetry}/probe/tcp/{port}")])?;
        assert_eq!(answer.status, status, "{port}: {answer:?}");
    }
    assert_eq!(probed(mesh, "cache-1", "tcp")?, 2.0);
    // Nobody listens there, and so the probe fails.
    let ended = reads(&mut connect(6380)?, PATIENCE)?;
    assert_eq!(ended, Err(ErrorKind::ConnectionReset));
    assert_eq!(probed(mesh, "cache-1", "tcp")?, 2.0);
    Ok(())
}

fn grpc_health(mesh: &Placed) -> Result<()> {
    let host = &mesh.addresses("echo-1", "echo-1")?[0];
    let mut client = mesh.command(&grpc_go()?)?;
    client.args(["client", "--host", host, "--port", "50051"]);
    let answers = json_lines(client.args(["health", "unary:hello"]))?;
    let codes: Vec<&Value> = answers.iter().map(|answer| &answer["code"]).collect();
    assert_eq!(codes, [0, 7], "{answers:?}");
    assert_eq!(answers[0]["messages"], json!(["\u{8}\u{1}"]), "serving");
    let details = answers[1]["details"].as_str().unwrap_or_default();
    assert!(details.contains("plaintext_refused"), "{details}");
    assert_eq!(probed(mesh, "echo-1", "grpc")?, 1.0);
    assert_eq!(refused(mesh, "echo-1")?, 1.0);
    // The same health check, of the declared service and of another one.
    let host = mesh.addresses("echo-1", "echo-1")?[0].clone();
    for (message, status) in [
        (&b"\0\0\0\0\0"[..], None),
        (b"\0\0\0\0\x03\x0a\x01x", Some("7")),
    ] {
        let file = mesh.logs().join("message");
        std::fs::write(&file, message)?;
        let answer = mesh.curl_from_outside(&[
            "--http2-prior-knowledge",
            "-H",
            "Content-Type: application/grpc",
            "-H",
            "TE: trailers",
            "--data-binary",
            &format!("@{}", file.display()),
            &format!("http://{host}:50051/grpc.health.v1.Health/Check"),
        ])?;
        assert_eq!(answer.status, 200, "{answer:?}");
        // What the app answers has its status in trailers.
        assert_eq!(answer.header("grpc-status"), status, "{answer:?}");
    }
    assert_eq!(probed(mesh, "echo-1", "grpc")?, 2.0);
    assert_eq!(refused(mesh, "echo-1")?, 2.0);
    Ok(())
}
