//! Headers that say who is calling: removed from what an app sends, set from TLS.

use anyhow::Result;
use mesh_tests::http::exchange;
use mesh_tests::manifest::spiffe_id;
use mesh_tests::peers::{curl_run, h2_field, h2_raw, nginx};
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::{App, Mesh};
use serde_json::json;

use crate::common::http_mesh;

const FORWARDED: &str = "x-forwarded-client-cert";

/// What the app must be told of a call by order.
fn verified() -> String {
    format!("By={};URI={}", spiffe_id("billing"), spiffe_id("order"))
}

/// No identity but the verified one is in the head that the app got.
#[track_caller]
fn assert_only_verified(app: &App, case: &str) {
    let Some(seen) = app.last() else {
        panic!("{case}: nothing reached the app")
    };
    assert_eq!(
        seen.headers(FORWARDED),
        [verified()],
        "{case}:\n{}",
        seen.head
    );
    let whole = format!("{}{}", seen.head, seen.trailers).to_lowercase();
    assert!(!whole.contains("spoofed"), "{case}:\n{whole}");
}

#[test]
fn the_app_is_told_who_calls() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    exchange(
        mesh.http("order-1")?,
        "GET / HTTP/1.1\r\nHost: billing\r\n\r\n",
    )?;
    assert_only_verified(&app, "plain");
    Ok(())
}

#[test]
fn spoofed_names_are_removed_in_every_spelling() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let spoofed = format!("By=spoofed;URI={}", spiffe_id("admin"));
    for name in [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "X-FORWARDED-CLIENT-CERT",
        "x_forwarded_client_cert",
        "X-Forwarded_Client-Cert",
        "l5d-client-id",
        "L5d-Client-Id",
        "l5d_client_id",
        "x-outrider-peer",
        "X-Outrider-Identity",
        "x_outrider_peer",
    ] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: billing\r\n{name}: {spoofed}\r\n{name}: {spoofed}\r\n\r\n"
        );
        assert_eq!(
            exchange(mesh.http("order-1")?, request)?.status,
            200,
            "{name}"
        );
        assert_only_verified(&app, name);
    }
    Ok(())
}

#[test]
fn connection_cannot_remove_what_the_sidecar_sets() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let request = "GET / HTTP/1.1\r\nHost: billing\r\nConnection: x-forwarded-client-cert, X-Hop\r\n\
                   X-Hop: 1\r\nX-Kept: 1\r\n\r\n";
    assert_eq!(exchange(mesh.http("order-1")?, request)?.status, 200);
    assert_only_verified(&app, "named in Connection");
    let seen = app.requests().remove(0);
    assert_eq!(
        (seen.header("x-hop"), seen.header("x-kept")),
        (None, Some("1")),
        "{}",
        seen.head
    );
    Ok(())
}

#[test]
fn hop_by_hop_headers_end_at_the_sidecar() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let request = "GET / HTTP/1.1\r\nHost: billing\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
                   Upgrade: foo\r\nTE: trailers\r\nConnection: keep-alive, TE\r\n\r\n";
    assert_eq!(exchange(mesh.http("order-1")?, request)?.status, 200);
    let seen = app.requests().remove(0);
    for name in ["keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(seen.header(name), None, "{}", seen.head);
    }
    Ok(())
}

#[test]
fn trailers_carry_no_identity() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let request = "POST /echo HTTP/1.1\r\nHost: billing\r\nTE: trailers\r\nConnection: TE\r\n\
                   Trailer: x-forwarded-client-cert\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\nok\r\n0\r\nx-forwarded-client-cert: spoofed\r\nx_forwarded_client_cert: spoofed\r\n\
                   l5d-client-id: spoofed\r\nX-Sum: 1\r\n\r\n";
    let response = exchange(mesh.http("order-1")?, request)?;
    if response.status == 200 {
        assert_only_verified(&app, "trailers");
    } else {
        assert_eq!(response.status, 400, "{}", response.head);
        assert!(app.requests().is_empty());
    }
    Ok(())
}

#[test]
fn spoofing_over_http_2_is_no_better() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site =
        "location / { return 200 \"$http_x_forwarded_client_cert|$http_l5d_client_id\\n\"; }";
    let nginx = nginx(folder.path(), "nginx", "http2", site)?;
    let mesh = Mesh::pair(nginx.port, Some("kubernetes.io/h2c"))?
        .setting("defaultDeny", false)
        .start()?;
    let url = format!("http://{}/", mesh.http("order-1")?);
    let finished = curl_run(&[
        "--http2-prior-knowledge",
        "-H",
        "Host: billing",
        "-H",
        "X-Forwarded-Client-Cert: spoofed",
        "-H",
        "l5d-client-id: spoofed",
        &url,
    ])?
    .success()?;
    assert_eq!(finished.stdout, format!("{}|\n", verified()));
    Ok(())
}

#[test]
fn a_peer_of_the_mesh_cannot_speak_for_another() -> Result<()> {
    // Straight to the port between sidecars, with a certificate of order's own.
    let (app, mesh) = http_mesh(Some("http"))?;
    let ours = Authority::of_mesh(&mesh.state_dir())?;
    let order = ours.issue(&Leaf::of("order")?, mesh.folder(), "order")?;
    let mut fields = vec![
        [":method", "GET"],
        [":scheme", "http"],
        [":authority", "billing"],
        [":path", "/straight"],
    ];
    let port = app.port().to_string();
    for name in [
        "x-outrider-port",
        "x-outrider-target-port",
        "x-outrider-target",
    ] {
        fields.push([name, &port]);
    }
    for name in [
        "x-forwarded-client-cert",
        "x_forwarded_client_cert",
        "l5d-client-id",
    ] {
        fields.push([name, "spoofed"]);
    }
    let steps = json!([{"headers": fields, "end": true}, {"read": 1}]);
    let frames = h2_raw(mesh.mesh_port("billing-1")?.port(), Some(&order), &steps)?;
    assert!(h2_field(&frames, 1, ":status").is_some(), "{frames:?}");
    if !app.requests().is_empty() {
        assert_only_verified(&app, "straight to the mesh port");
    }
    Ok(())
}
