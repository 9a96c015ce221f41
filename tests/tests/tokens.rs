//! Who gets a certificate from a running control plane, and for which identity.

use std::process::Command;

use anyhow::{Context, Result};
use mesh_tests::manifest::spiffe_id;
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::pki::{
    claims, hmac_token, seconds, sign_token, sign_token_with_another_key, signing_request,
    unsigned_token,
};
use mesh_tests::process::{command, run};
use mesh_tests::sign::{Signed, describe, names, sign};
use mesh_tests::wait::{PATIENCE, holds, until};
use mesh_tests::{App, Mesh, http, metrics, programs};
use serde_json::{Value, json};

use crate::common::healthy;

/// A control plane with the Workloads of a pair, and no sidecar.
fn control_plane() -> Result<Mesh> {
    let mut mesh = Mesh::pair(8080, Some("http"))?.prepare()?;
    mesh.start_control_plane()?;
    Ok(mesh)
}

/// Waits until refusals with this reason were counted.
fn refused(mesh: &Mesh, reason: &str, least: f64) -> Result<()> {
    let name = "outrider_control_plane_certificates_refused_total";
    metrics::reaches(
        mesh.control_plane_admin(),
        name,
        &[("reason", reason)],
        least,
    )
}

fn changed(claim: &str, value: Value) -> Value {
    let mut claims = claims("order");
    claims[claim] = value;
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims("order");
    if let Some(claims) = claims.as_object_mut() {
        claims.remove(claim);
    }
    claims
}

#[track_caller]
fn assert_code(signed: &Signed, code: u16, case: &str) {
    assert_eq!(signed.code, code, "{case}: {}", signed.message);
    assert!(
        signed.chain.is_empty(),
        "{case}: a certificate came with it"
    );
}

const UNAUTHENTICATED: u16 = 16;
const PERMISSION_DENIED: u16 = 7;
const INVALID_ARGUMENT: u16 = 3;
const RESOURCE_EXHAUSTED: u16 = 8;

#[test]
fn a_token_gets_a_certificate_for_its_identity() -> Result<()> {
    let mesh = control_plane()?;
    let request = signing_request(&[], false)?;
    for token in [
        mesh.token("order")?,
        sign_token(&mesh.state_dir(), &claims("order"))?,
    ] {
        let signed = sign(&mesh, Some(&token), &request)?;
        assert_eq!(signed.code, 0, "{}", signed.message);
        let leaf = signed.chain.first().context("a certificate")?;
        assert_eq!(
            names(leaf, &mesh.logs())?,
            format!("URI:{}", spiffe_id("order"))
        );
    }
    let issued = "outrider_control_plane_certificates_issued_total";
    metrics::reaches(mesh.control_plane_admin(), issued, &[], 2.0)
}

#[test]
fn what_a_request_asks_for_is_never_granted() -> Result<()> {
    let mesh = control_plane()?;
    let token = mesh.token("order")?;
    for (asked, authority) in [
        (vec![spiffe_id("billing")], false),
        (vec![spiffe_id("order"), spiffe_id("billing")], false),
        (vec![spiffe_id("order")], true),
        (
            (0..20)
                .map(|index| spiffe_id(&format!("a{index}")))
                .collect(),
            true,
        ),
    ] {
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        let request = signing_request(&asked, authority)?;
        let signed = sign(&mesh, Some(&token), &request)?;
        if signed.code != 0 {
            assert_code(&signed, INVALID_ARGUMENT, "a request with names");
            continue;
        }
        let leaf = signed.chain.first().context("a certificate")?;
        assert_eq!(
            names(leaf, &mesh.logs())?,
            format!("URI:{}", spiffe_id("order"))
        );
        let usage = describe(
            leaf,
            &mesh.logs(),
            &["-ext", "basicConstraints,keyUsage,extendedKeyUsage"],
        )?;
        assert!(!usage.contains("CA:TRUE"), "{usage}");
        assert!(!usage.contains("Certificate Sign"), "{usage}");
        assert!(usage.contains("TLS Web Client Authentication"), "{usage}");
        let subject = describe(leaf, &mesh.logs(), &["-subject"])?;
        assert_eq!(subject.trim(), "subject=", "no name but the identity");
    }
    Ok(())
}

#[test]
fn a_bad_token_gets_nothing() -> Result<()> {
    let mesh = control_plane()?;
    let state = mesh.state_dir();
    let request = signing_request(&[], false)?;
    let now = seconds();
    let good = sign_token(&state, &claims("order"))?;
    let (head, signature) = good.rsplit_once('.').context("three parts")?;
    let mut flipped = signature.to_owned();
    let first = if flipped.starts_with('A') { "B" } else { "A" };
    flipped.replace_range(..1, first);
    let cases = [
        ("none", None, "no_token"),
        (
            "expired",
            Some(sign_token(&state, &changed("exp", json!(now - 600)))?),
            "token_expired",
        ),
        (
            "not yet valid",
            Some(sign_token(&state, &changed("nbf", json!(now + 600)))?),
            "token_not_yet_valid",
        ),
        (
            "another audience",
            Some(sign_token(&state, &changed("aud", json!("kubernetes")))?),
            "token_audience",
        ),
        (
            "no audience",
            Some(sign_token(&state, &without("aud"))?),
            "token_",
        ),
        (
            "no expiry",
            Some(sign_token(&state, &without("exp"))?),
            "token_",
        ),
        (
            "no subject",
            Some(sign_token(&state, &without("sub"))?),
            "token_",
        ),
        (
            "another key",
            Some(sign_token_with_another_key(&claims("order"))?),
            "token_signature",
        ),
        (
            "alg none",
            Some(unsigned_token(&claims("order"))?),
            "token_algorithm",
        ),
        (
            "HMAC under the public key",
            Some(hmac_token(&state, &claims("order"))?),
            "token_algorithm",
        ),
        (
            "a changed signature",
            Some(format!("{head}.{flipped}")),
            "token_signature",
        ),
        ("no signature", Some(format!("{head}.")), "token_"),
        ("two parts", Some(head.to_owned()), "token_malformed"),
        ("garbage", Some("garbage".into()), "token_malformed"),
        ("a giant", Some("a".repeat(9_000)), "token_too_long"),
        (
            "a subject that is no workload",
            Some(sign_token(&state, &changed("sub", json!("root")))?),
            "token_subject",
        ),
        (
            "a subject of another form",
            Some(sign_token(
                &state,
                &changed("sub", json!("spiffe://shop.example/ns/shop/sa/../sa/order")),
            )?),
            "token_subject",
        ),
    ];
    for (case, token, reason) in cases {
        let before = mesh.control_plane_metrics()?;
        let signed = sign(&mesh, token.as_deref(), &request)?;
        assert_code(&signed, UNAUTHENTICATED, case);
        // The reason is counted, under a name that fits.
        let after = mesh.control_plane_metrics()?;
        let name = "outrider_control_plane_certificates_refused_total";
        let counted = after.select(name, &[]).any(|sample| {
            let label = sample.label("reason");
            label.starts_with(reason)
                && sample.value == before.sum(name, &[("reason", label)]) + 1.0
        });
        assert!(
            counted,
            "{case}: {:?}",
            after.select(name, &[]).collect::<Vec<_>>()
        );
        let secret = token.filter(|token| token.len() > 20);
        assert!(
            secret.is_none_or(|token| !signed.message.contains(&token)),
            "{}",
            signed.message
        );
    }
    Ok(())
}

#[test]
fn an_identity_that_is_not_in_the_mesh_gets_nothing() -> Result<()> {
    let mesh = control_plane()?;
    let request = signing_request(&[], false)?;
    for subject in [
        spiffe_id("mallory"),
        "spiffe://shop.example/ns/other/sa/order".into(),
        "spiffe://other.example/ns/shop/sa/order".into(),
        "spiffe://shop.example/ns/outrider-system/sa/control-plane".into(),
    ] {
        let token = sign_token(&mesh.state_dir(), &changed("sub", json!(subject)))?;
        let signed = sign(&mesh, Some(&token), &request)?;
        assert_code(&signed, PERMISSION_DENIED, &subject);
    }
    refused(&mesh, "unknown_identity", 4.0)
}

/// A request (DER) made by openssl.
fn openssl_request(mesh: &Mesh, arguments: &[&str]) -> Result<Vec<u8>> {
    let file = mesh.logs().join("request.der");
    let mut openssl: Command = command(&programs::find("openssl", "openssl")?)?;
    openssl
        .args([
            "req",
            "-new",
            "-nodes",
            "-subj",
            "/",
            "-outform",
            "DER",
            "-keyout",
            "/dev/null",
        ])
        .args(arguments)
        .arg("-out")
        .arg(&file);
    run(&mut openssl, CLIENT_LIMIT)?.success()?;
    Ok(std::fs::read(file)?)
}

#[test]
fn a_bad_request_gets_nothing() -> Result<()> {
    let mesh = control_plane()?;
    let token = mesh.token("order")?;
    let good = signing_request(&[], false)?;
    let mut forged = good.clone();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let mut trailing = good.clone();
    trailing.extend(b"trailing");
    let cases = [
        ("empty", Vec::new()),
        ("garbage", b"garbage".to_vec()),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("a signature that does not verify", forged),
        ("trailing bytes", trailing),
        ("a giant", vec![0x30; 17_000]),
        (
            "RSA of 1024 bits",
            openssl_request(&mesh, &["-newkey", "rsa:1024"])?,
        ),
        (
            "secp256k1",
            openssl_request(
                &mesh,
                &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            )?,
        ),
    ];
    for (case, request) in cases {
        let signed = sign(&mesh, Some(&token), &request)?;
        assert_code(&signed, INVALID_ARGUMENT, case);
    }
    let strong = openssl_request(&mesh, &["-newkey", "rsa:2048"])?;
    assert_eq!(
        sign(&mesh, Some(&token), &strong)?.code,
        0,
        "RSA of 2048 bits is fine"
    );
    Ok(())
}

#[test]
fn one_identity_that_asks_without_end_is_limited_and_others_are_not() -> Result<()> {
    let mesh = control_plane()?;
    let token = mesh.token("order")?;
    let request = signing_request(&[], false)?;
    let mut limited = None;
    for _ in 0..200 {
        let signed = sign(&mesh, Some(&token), &request)?;
        if signed.code != 0 {
            limited = Some(signed);
            break;
        }
    }
    assert_code(
        &limited.context("200 in a row were granted")?,
        RESOURCE_EXHAUSTED,
        "too many",
    );
    refused(&mesh, "rate_limited", 1.0)?;
    let other = sign(&mesh, Some(&mesh.token("billing")?), &request)?;
    assert_eq!(other.code, 0, "{}", other.message);
    Ok(())
}

#[test]
fn a_sidecar_with_another_workloads_token_never_gets_ready() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .prepare()?;
    mesh.start_control_plane()?;
    let replayed = mesh.token("order")?;
    mesh.start_sidecar_with("billing-1", &replayed)?;
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    until("it is alive", PATIENCE, || {
        Ok(http::fetch(port, "/live")?.status == 200)
    })?;
    let admin = mesh.control_plane_admin();
    let ended = "outrider_control_plane_streams_ended_total";
    metrics::reaches(admin, ended, &[("reason", "wrong_identity")], 1.0)?;
    holds(
        "it is not ready",
        std::time::Duration::from_millis(500),
        || Ok(http::fetch(port, "/ready")?.status == 503),
    )?;
    // With its own token it is.
    mesh.process("billing-1")?.kill()?;
    for name in ["billing-1", "order-1"] {
        mesh.start_sidecar(name)?;
        mesh.ready(name)?;
    }
    healthy(&mesh)
}

#[test]
fn a_sidecar_with_a_bad_token_says_why_and_recovers_with_a_good_one() -> Result<()> {
    let app = App::start()?;
    let mut mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .prepare()?;
    mesh.start_control_plane()?;
    let expired = sign_token(&mesh.state_dir(), &changed("exp", json!(seconds() - 600)))?;
    mesh.start_sidecar_with("order-1", &expired)?;
    mesh.process("order-1")?.wait_for_log("expired", PATIENCE)?;
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    assert_eq!(http::fetch(port, "/ready")?.status, 503);
    // The token's file is read again at each attempt.
    std::fs::write(mesh.folder().join("order-1.token"), mesh.token("order")?)?;
    mesh.ready("order-1")
}

#[test]
fn minting_is_refused_for_what_is_not_an_identity() -> Result<()> {
    let mesh = control_plane()?;
    for identity in [
        "order",
        "spiffe://shop.example/order",
        "spiffe://shop.example/ns/shop/sa/a/b",
    ] {
        let finished = mesh.mint(&["--spiffe", identity])?;
        assert!(
            !finished.status.success(),
            "{identity}: {}",
            finished.output()
        );
        assert_eq!(finished.stdout, "", "no token for {identity}");
    }
    Ok(())
}
