//! Peers without an identity, or with a wrong one, on the port between sidecars.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::http::{Connection, local};
use mesh_tests::manifest::spiffe_id;
use mesh_tests::peers::{CLIENT_LIMIT, h2_field, h2_raw};
use mesh_tests::pki::{Authority, Identity, Leaf};
use mesh_tests::process::{Process, command, run};
use mesh_tests::sign::names;
use mesh_tests::tls::Tls;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{Mesh, metrics, programs};
use serde_json::json;

use crate::common::{assert_refused, get, healthy, http_mesh};

/// Waits until `billing-1` has counted a handshake with this result.
fn counted(mesh: &Mesh, result: &str, least: f64) -> Result<()> {
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    let labels = [("direction", "inbound"), ("result", result)];
    metrics::reaches(port, "outrider_tls_handshakes_total", &labels, least)
}

#[test]
fn a_peer_is_refused_in_the_handshake_for_its_certificate() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let address = mesh.mesh_port("billing-1")?;
    let ours = Authority::of_mesh(&mesh.state_dir())?;
    let stranger = Authority::stranger()?;
    let order = spiffe_id("order");
    let long = format!("spiffe://shop.example/ns/shop/sa/{}", "a".repeat(2048));
    let cases = [
        (
            "signed by a stranger",
            Some((&stranger, Leaf::of("order")?)),
            "unknown_issuer",
        ),
        ("none", None, "no_certificate"),
        (
            "expired",
            Some((&ours, Leaf::of("order")?.expired())),
            "expired",
        ),
        (
            "not yet valid",
            Some((&ours, Leaf::of("order")?.not_yet_valid())),
            "not_yet_valid",
        ),
        (
            "another trust domain",
            Some((
                &ours,
                Leaf::uris(&["spiffe://other.example/ns/shop/sa/order"])?,
            )),
            "wrong_trust_domain",
        ),
        (
            "two names",
            Some((&ours, Leaf::uris(&[&order, &spiffe_id("billing")])?)),
            "bad_identity",
        ),
        (
            "the same name twice",
            Some((&ours, Leaf::uris(&[&order, &order])?)),
            "bad_identity",
        ),
        (
            "a DNS name only",
            Some((&ours, Leaf::uris(&[])?.dns("order")?)),
            "bad_identity",
        ),
        (
            "not a SPIFFE ID",
            Some((&ours, Leaf::uris(&["https://shop.example/order"])?)),
            "bad_identity",
        ),
        (
            "an ID of another form",
            Some((
                &ours,
                Leaf::uris(&["spiffe://shop.example/ns/shop/sa/../sa/order"])?,
            )),
            "bad_identity",
        ),
        (
            "an ID with a query",
            Some((&ours, Leaf::uris(&[&format!("{order}?x")])?)),
            "bad_identity",
        ),
        (
            "a long ID",
            Some((&ours, Leaf::uris(&[&long])?)),
            "bad_identity",
        ),
    ];
    let mut expected = std::collections::BTreeMap::<&str, f64>::new();
    for (case, certificate, result) in cases {
        let identity = match certificate {
            Some((authority, leaf)) => Some(authority.issue(&leaf, mesh.folder(), "peer")?),
            None => None,
        };
        let refused = Tls::connect(address, identity.as_ref()).and_then(|mut tls| tls.accepted());
        assert!(refused.is_err(), "{case} was accepted");
        let count = expected.entry(result).or_default();
        *count += 1.0;
        counted(&mesh, result, *count).context(case)?;
    }
    let sum = mesh.metrics("billing-1")?;
    for (result, count) in expected {
        let labels = [("direction", "inbound"), ("result", result)];
        assert_eq!(
            sum.sum("outrider_tls_handshakes_total", &labels),
            count,
            "{result}"
        );
    }
    assert!(app.requests().is_empty());
    healthy(&mesh)
}

#[test]
fn a_certificate_that_may_sign_others_is_refused() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let ours = Authority::of_mesh(&mesh.state_dir())?;
    let identity = ours.issue(&Leaf::of("order")?.authority(), mesh.folder(), "peer")?;
    let address = mesh.mesh_port("billing-1")?;
    let refused = Tls::connect(address, Some(&identity)).and_then(|mut tls| tls.accepted());
    assert!(refused.is_err(), "CA:true was accepted");
    healthy(&mesh)
}

/// An identity that a mesh's authority signed, as the control plane would.
fn insider(mesh: &Mesh, account: &str) -> Result<Identity> {
    let ours = Authority::of_mesh(&mesh.state_dir())?;
    ours.issue(&Leaf::of(account)?, mesh.folder(), account)
}

#[test]
fn a_sidecar_shows_exactly_the_identity_of_its_token() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let order = insider(&mesh, "order")?;
    for (workload, account) in [("billing-1", "billing"), ("order-1", "order")] {
        let mut tls = Tls::connect(mesh.mesh_port(workload)?, Some(&order))?;
        tls.accepted()?;
        let certificates = tls.certificates();
        let leaf = certificates.first().context("a certificate")?;
        assert_eq!(
            names(leaf, mesh.folder())?,
            format!("URI:{}", spiffe_id(account))
        );
        assert_eq!(format!("{:?}", tls.version()), "Some(TLSv1_3)");
        // Post-quantum and classical at once.
        assert_eq!(tls.key_exchange().as_deref(), Some("X25519MLKEM768"));
    }
    counted(&mesh, "ok", 1.0)
}

#[test]
fn older_tls_is_refused() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let order = insider(&mesh, "order")?;
    let connect = |version: &str| {
        let mut openssl = command(&programs::find("openssl", "openssl")?)?;
        openssl
            .args(["s_client", version, "-alpn", "h2", "-connect"])
            .arg(mesh.mesh_port("billing-1")?.to_string())
            .arg("-cert")
            .arg(&order.certificate)
            .arg("-key")
            .arg(&order.key);
        run(&mut openssl, CLIENT_LIMIT)
    };
    let current = connect("-tls1_3")?;
    assert!(
        current.stdout.contains("New, TLSv1.3"),
        "{}",
        current.output()
    );
    let older = connect("-tls1_2")?;
    assert!(!older.status.success(), "{}", older.output());
    assert!(
        older.output().contains("alert protocol version"),
        "{}",
        older.output()
    );
    counted(&mesh, "protocol", 1.0)
}

#[test]
fn plaintext_and_noise_are_closed() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let noise: [&[u8]; 3] = [
        b"GET /smuggled HTTP/1.1\r\nHost: billing\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &[0xff; 2000],
    ];
    for bytes in noise {
        let mut connection = Connection::open(mesh.mesh_port("billing-1")?)?;
        connection.send(bytes)?;
        let rest = String::from_utf8_lossy(&connection.rest()?).into_owned();
        assert!(!rest.contains("HTTP"), "{rest}");
    }
    counted(&mesh, "protocol", 3.0)?;
    assert!(app.requests().is_empty());
    healthy(&mesh)
}

#[test]
fn half_open_handshakes_are_ended_and_hold_nobody_up() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let before = mesh.process("billing-1")?.resident()?;
    let address = mesh.mesh_port("billing-1")?;
    let mut half_open = Vec::new();
    for index in 0..200 {
        let mut connection = Connection::open(address)?;
        // Nothing, or the beginning of a ClientHello.
        if index % 2 == 0 {
            connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")?;
        }
        half_open.push(connection);
    }
    for _ in 0..20 {
        healthy(&mesh)?;
    }
    let grown = mesh
        .process("billing-1")?
        .resident()?
        .saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    for mut connection in half_open {
        connection.rest()?;
    }
    counted(&mesh, "timeout_or_eof", 200.0)?;
    healthy(&mesh)
}

#[test]
fn a_server_with_another_identity_gets_no_request() -> Result<()> {
    let app = mesh_tests::App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .prepare()?;
    mesh.start_control_plane()?;
    mesh.start_sidecar("order-1")?;
    mesh.ready("order-1")?;
    // In the place of billing's sidecar: one of this mesh, but not billing's.
    let other = insider(&mesh, "mallory")?;
    let mut start = command(&programs::find("openssl", "openssl")?)?;
    start
        .args([
            "s_server", "-quiet", "-alpn", "h2", "-Verify", "1", "-accept",
        ])
        .arg(mesh.mesh_port("billing-1")?.to_string())
        .arg("-cert")
        .arg(&other.certificate)
        .arg("-key")
        .arg(&other.key)
        .arg("-CAfile")
        .arg(mesh.state_dir().join("ca.crt"));
    let server = Process::start("impostor", &mesh.logs(), &mut start)?;
    until("a handshake is refused", PATIENCE, || {
        Ok(get(&mesh, "/secret")?.reason() == Some("tls_handshake_failed"))
    })?;
    assert_refused(&get(&mesh, "/secret")?, 503, "tls_handshake_failed");
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let labels = [("direction", "outbound"), ("result", "wrong_identity")];
    metrics::reaches(port, "outrider_tls_handshakes_total", &labels, 1.0)?;
    assert!(!server.log().contains("secret"), "{}", server.log());
    drop(server);
    mesh.start_sidecar("billing-1")?;
    mesh.ready("billing-1")?;
    becomes("the real one answers", &200, || Ok(get(&mesh, "/")?.status))
}

#[test]
fn a_tunnel_leads_to_the_apps_ports_and_nowhere_else() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let order = insider(&mesh, "order")?;
    let port = mesh.mesh_port("billing-1")?.port();
    let workload = &mesh.sidecar("billing-1")?.workload;
    let outside = std::net::TcpListener::bind(local(mesh_tests::ports::free_port()?))?;
    outside.set_nonblocking(true)?;
    for target in [
        format!("127.0.0.1:{}", outside.local_addr()?.port()),
        format!("127.0.0.1:{}", workload.admin_port),
        format!("127.0.0.1:{}", workload.mesh_port),
        format!("127.0.0.1:{}", workload.http_port),
        "169.254.169.254:80".into(),
        "[::1]:22".into(),
        "billing".into(),
        String::new(),
    ] {
        let steps = json!([
            {"headers": [[":method", "CONNECT"], [":authority", target]]},
            {"data": "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"},
            {"read": 1},
        ]);
        let frames = h2_raw(port, Some(&order), &steps)?;
        let status = h2_field(&frames, 1, ":status").unwrap_or("reset");
        assert!(!status.starts_with('2'), "CONNECT {target}: {frames:?}");
    }
    assert!(
        outside.accept().is_err(),
        "a tunnel led outside of the app's ports"
    );
    healthy(&mesh)
}

#[test]
fn keys_and_authority_are_private_and_kept_over_a_restart() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    for secret in ["ca.key", "token.key"] {
        let mode = fs::metadata(mesh.state_dir().join(secret))?
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let before = fs::read(mesh.state_dir().join("ca.crt"))?;
    mesh.control_plane()?.kill()?;
    mesh.start_control_plane()?;
    assert_eq!(fs::read(mesh.state_dir().join("ca.crt"))?, before);
    // What the second one issues is trusted by those whom the first one served.
    mesh.process("order-1")?.kill()?;
    mesh.start_sidecar("order-1")?;
    mesh.ready("order-1")?;
    healthy(&mesh)
}

#[test]
fn an_authority_given_as_files_signs() -> Result<()> {
    let app = mesh_tests::App::start()?;
    let folder = tempfile::tempdir()?;
    // Made by a mesh before, and moved elsewhere since.
    let (_app, first) = http_mesh(Some("http"))?;
    for name in ["ca.crt", "ca.key"] {
        fs::copy(first.state_dir().join(name), folder.path().join(name))?;
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .control_plane_argument("--ca-cert")
        .control_plane_argument(path("ca.crt"))
        .control_plane_argument("--ca-key")
        .control_plane_argument(path("ca.key"))
        .prepare()?;
    mesh.start_control_plane()?;
    assert!(
        !mesh.state_dir().join("ca.key").exists(),
        "no other key is made"
    );
    fs::copy(path("ca.crt"), mesh.state_dir().join("ca.crt"))?;
    for name in ["order-1", "billing-1"] {
        mesh.start_sidecar(name)?;
        mesh.ready(name)?;
    }
    healthy(&mesh)
}

#[test]
fn a_refused_peer_is_counted_once_and_named_nowhere() -> Result<()> {
    // Strangers must not be able to fill the metrics with names.
    let (_app, mesh) = http_mesh(Some("http"))?;
    let stranger = Authority::stranger()?;
    let address = mesh.mesh_port("billing-1")?;
    let before = mesh.metrics("billing-1")?.samples.len();
    for index in 0..30 {
        let leaf = Leaf::of(&format!("stranger-{index}"))?;
        let identity = stranger.issue(&leaf, mesh.folder(), "stranger")?;
        let refused = Tls::connect(address, Some(&identity)).and_then(|mut tls| tls.accepted());
        assert!(refused.is_err());
    }
    counted(&mesh, "unknown_issuer", 30.0)?;
    let after = mesh.metrics("billing-1")?.samples;
    assert!(
        after.len() <= before + 2,
        "{before} series, then {}",
        after.len()
    );
    let named = after
        .iter()
        .find(|sample| sample.labels.values().any(|v| v.contains("stranger")));
    assert!(named.is_none(), "{named:?}");
    Ok(())
}
