//! Identity.Sign over real TLS: who gets a certificate, and what is in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as expected"
)]

mod harness;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::{Mesh, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use outrider_certs::CertificateDer;
use outrider_certs::key::PrivateKey;
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::tls;
use outrider_certs::token::{AUDIENCE, TokenIssuer};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

fn csr() -> Vec<u8> {
    PrivateKey::generate().unwrap().signing_request().unwrap()
}

/// A token with the control plane's own key and these claims.
fn token(mesh: &Mesh, audience: &str, subject: &str, expires: SystemTime) -> String {
    let pem = fs::read(mesh.state("token.key")).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).unwrap();
    let expires = expires.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "aud": audience, "sub": subject, "exp": expires, "nbf": 0, "iat": 0,
    });
    jsonwebtoken::encode(
        &Header::new(Algorithm::ES256),
        &claims,
        &EncodingKey::from_ec_der(key.secret_pkcs8_der()),
    )
    .unwrap()
}

#[tokio::test]
async fn a_token_is_checked_and_each_refusal_counted() {
    let mesh = Mesh::shop().await;
    let order = mesh.id("order");
    let now = SystemTime::now();
    let later = now + Duration::from_secs(60);
    let other_key = tempfile::tempdir().unwrap();
    let forged = TokenIssuer::load_or_create(other_key.path())
        .unwrap()
        .mint(&order, Duration::from_secs(60), now)
        .unwrap();
    let good = mesh.token("order");
    let (_, rest) = good.split_once('.').unwrap();
    // {"alg":"none"}
    let none = format!("eyJhbGciOiJub25lIn0.{rest}");
    let unsigned = format!("{}.", none.rsplit_once('.').unwrap().0);
    let own = |audience, subject: &str, expires| token(&mesh, audience, subject, expires);
    let table = [
        (String::new(), Code::Unauthenticated, "no_token"),
        (
            "Basic b3JkZXI6".to_owned(),
            Code::Unauthenticated,
            "no_token",
        ),
        (
            format!("Bearer {forged}"),
            Code::Unauthenticated,
            "token_signature",
        ),
        (
            format!(
                "Bearer {}",
                own(AUDIENCE, order.as_str(), now - Duration::from_secs(3600))
            ),
            Code::Unauthenticated,
            "token_expired",
        ),
        (
            format!("Bearer {}", own("another", order.as_str(), later)),
            Code::Unauthenticated,
            "token_audience",
        ),
        (
            format!(
                "Bearer {}",
                own(AUDIENCE, "spiffe://shop.example/ns/../sa/order", later)
            ),
            Code::Unauthenticated,
            "token_subject",
        ),
        (
            format!("Bearer {none}"),
            Code::Unauthenticated,
            "token_algorithm",
        ),
        (
            format!("Bearer {unsigned}"),
            Code::Unauthenticated,
            "token_algorithm",
        ),
        (
            format!(
                "Bearer {}",
                own(AUDIENCE, "spiffe://shop.example/ns/shop/sa/nobody", later)
            ),
            Code::PermissionDenied,
            "unknown_identity",
        ),
        (
            format!(
                "Bearer {}",
                own(AUDIENCE, "spiffe://bank.example/ns/shop/sa/order", later)
            ),
            Code::PermissionDenied,
            "unknown_identity",
        ),
    ];
    for (authorization, code, reason) in table {
        let series = format!("certificates_refused_total{{reason=\"{reason}\"}}");
        let before = mesh.metric(&series).await;
        let status = mesh.sign(&authorization, csr()).await.unwrap_err();
        assert_eq!(status.code(), code, "{reason}: {status}");
        assert_eq!(mesh.metric(&series).await, before + 1.0, "{reason}");
    }
    assert_eq!(mesh.metric("certificates_issued_total").await, 0.0);
    mesh.sign(&format!("bearer {good}"), csr()).await.unwrap();
    assert_eq!(mesh.metric("certificates_issued_total").await, 1.0);
}

#[tokio::test]
async fn a_certificate_is_the_tokens_whatever_the_request_asks_for() {
    let mesh = Mesh::shop().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "billing");
    let named = params.serialize_request(&key).unwrap().der().to_vec();

    // Replayed: a token is good until it expires, and always for the same identity.
    let bearer = format!("Bearer {}", mesh.token("order"));
    for _ in 0..2 {
        let response = mesh.sign(&bearer, named.clone()).await.unwrap();
        let chain: Vec<CertificateDer<'_>> = response
            .certificate_chain_der
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let now = SystemTime::now();
        let peer = tls::peer(Some(&chain), &mesh.trust_domain(), now).unwrap();
        assert_eq!(peer.id, mesh.id("order"));
        let day = Duration::from_secs(24 * 3600);
        assert!(peer.not_after <= now + day, "{:?}", peer.not_after);
        let anchors: Vec<_> = response
            .trust_anchors_der
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        assert_eq!(anchors, mesh.bundle().anchors());
    }
}

/// A request that asks for another workload's names.
fn greedy() -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["billing.shop".to_owned()]).unwrap();
    let id = "spiffe://shop.example/ns/shop/sa/billing".try_into();
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(id.unwrap()));
    params.serialize_request(&key).unwrap().der().to_vec()
}

#[tokio::test]
async fn a_bad_request_is_refused() {
    let mesh = Mesh::shop().await;
    let bearer = format!("Bearer {}", mesh.token("order"));
    let mut damaged = csr();
    *damaged.last_mut().unwrap() ^= 1;
    for bad in [
        Vec::new(),
        vec![0; 100],
        damaged,
        vec![0x30; 17 * 1024],
        greedy(),
    ] {
        let status = mesh.sign(&bearer, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // More than a message may have.
    assert!(mesh.sign(&bearer, vec![0; 64 * 1024]).await.is_err());
    mesh.sign(&bearer, csr()).await.unwrap();
}

#[tokio::test]
async fn one_identity_that_asks_a_lot_is_limited_and_others_are_not() {
    let mesh = Mesh::shop().await;
    let bearer = format!("Bearer {}", mesh.token("order"));
    let mut refused = 0;
    for _ in 0..200 {
        if let Err(status) = mesh.sign(&bearer, csr()).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            refused += 1;
            break;
        }
    }
    assert!(refused > 0, "200 certificates at once were issued");
    let other = format!("Bearer {}", mesh.token("billing"));
    mesh.sign(&other, csr()).await.unwrap();
}

#[tokio::test]
async fn a_mesh_without_the_workload_does_not_renew_its_certificate() {
    let mesh = Mesh::shop().await;
    let bearer = format!("Bearer {}", mesh.token("billing"));
    mesh.sign(&bearer, csr()).await.unwrap();
    mesh.write(
        "shop.yaml",
        &harness::SHOP.replace("serviceAccount: billing", "serviceAccount: b"),
    );
    eventually("billing to be unknown", async || {
        let answer = mesh.sign(&bearer, csr()).await;
        answer.is_err_and(|status| status.code() == Code::PermissionDenied)
    })
    .await;
}

#[tokio::test]
async fn half_open_handshakes_and_garbage_hold_up_nobody() {
    let mesh = Mesh::shop().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(mesh.listen()).await.unwrap());
    }
    let mut garbage = TcpStream::connect(mesh.listen()).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, or a reset.
    let _ = harness::within("the end", garbage.read_to_end(&mut answer)).await;
    mesh.svid("order").await;
    mesh.metric_becomes("tls_handshakes_total{result=\"protocol\"}", 1.0)
        .await;
}

#[tokio::test]
async fn the_control_plane_proves_who_it_is() {
    let mesh = Mesh::shop().await;
    let expected = SpiffeId::workload(&mesh.trust_domain(), "outrider-system", "other").unwrap();
    let config = tls::client_config(None, &mesh.bundle(), &expected, &[b"h2"]).unwrap();
    let stream = TcpStream::connect(mesh.listen()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    assert!(connector.connect(tls::server_name(), stream).await.is_err());
}

#[tokio::test]
async fn its_own_certificate_is_renewed_in_time() {
    let short = harness::SHOP.replace("defaultDeny: true", "certificateLifetime: 3s");
    let mesh = Mesh::start(&[("shop.yaml", &short)]).await;
    mesh.ready().await;
    let expiry = "certificate_expiry_timestamp_seconds";
    let first = mesh.metric(expiry).await;
    eventually("a renewal", async || mesh.metric(expiry).await > first).await;
    mesh.svid("order").await;
}
