//! Bootstrap tokens: which are accepted, and why the others are not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outrider_certs::key::KeyError;
use outrider_certs::spiffe::SpiffeIdError;
use outrider_certs::token::{
    AUDIENCE, IssuerError, MAX_TOKEN_LEN, TokenError, TokenIssuer, Unverified,
};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use support::{HOUR, id, new_year};
use tempfile::TempDir;

const SECOND: Duration = Duration::from_secs(1);

/// An issuer, and the key that it keeps on disk, for forging.
struct Fixture {
    issuer: TokenIssuer,
    secret: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let issuer = TokenIssuer::load_or_create(directory.path()).unwrap();
        let pem = fs::read(directory.path().join("token.key")).unwrap();
        let secret = PrivatePkcs8KeyDer::from_pem_slice(&pem).unwrap();
        let secret = secret.secret_pkcs8_der().to_vec();
        Self { issuer, secret }
    }

    fn mint(&self) -> String {
        self.issuer.mint(&id("order"), HOUR, new_year()).unwrap()
    }

    /// A token with any claims, signed with the right key.
    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&Header::new(Algorithm::ES256), claims)
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_ec_der(&self.secret)).unwrap()
    }

    fn refusal(&self, token: &str) -> TokenError {
        self.issuer
            .verifier()
            .verify(token, new_year())
            .expect_err("the token was accepted")
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn claims() -> Value {
    json!({
        "aud": AUDIENCE,
        "sub": id("order").as_str(),
        "nbf": seconds(new_year()),
        "exp": seconds(new_year() + HOUR),
    })
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

#[test]
fn a_token_names_its_own_identity_whoever_presents_it() {
    let fixture = Fixture::new();
    let verifier = fixture.issuer.verifier();
    let (order, billing) = (fixture.mint(), {
        fixture
            .issuer
            .mint(&id("billing"), HOUR, new_year())
            .unwrap()
    });
    // As often as it is replayed.
    for _ in 0..3 {
        assert_eq!(verifier.verify(&order, new_year()), Ok(id("order")));
        assert_eq!(verifier.verify(&billing, new_year()), Ok(id("billing")));
    }
    // One token's identity under another's signature is neither.
    let parts = |token: &str| token.split('.').map(String::from).collect::<Vec<_>>();
    let (mut mixed, other) = (parts(&order), parts(&billing));
    mixed[1] = other[1].clone();
    assert_eq!(fixture.refusal(&mixed.join(".")), TokenError::Signature);
}

#[test]
fn a_token_is_valid_for_its_time_only() {
    let fixture = Fixture::new();
    let token = fixture.mint();
    let verifier = fixture.issuer.verifier();
    let end = new_year() + HOUR;
    assert_eq!(verifier.verify(&token, end - SECOND), Ok(id("order")));
    assert_eq!(verifier.verify(&token, end), Err(TokenError::Expired));
    assert_eq!(
        verifier.verify(&token, end + HOUR * 9999),
        Err(TokenError::Expired)
    );
    // Back-dated for clocks that are behind, not more.
    let start = new_year() - Duration::from_secs(300);
    assert_eq!(verifier.verify(&token, start), Ok(id("order")));
    assert_eq!(
        verifier.verify(&token, start - SECOND),
        Err(TokenError::NotYetValid)
    );
    assert_eq!(
        verifier.verify(&token, SystemTime::UNIX_EPOCH),
        Err(TokenError::NotYetValid)
    );
}

#[test]
fn the_audience_must_be_ours() {
    let fixture = Fixture::new();
    for audience in [
        json!("another-service"),
        json!(""),
        json!([]),
        json!(["another-service", "outrider"]),
        json!(AUDIENCE.to_uppercase()),
    ] {
        let token = fixture.sign(&changed("aud", audience));
        assert_eq!(fixture.refusal(&token), TokenError::Audience);
    }
    let several = fixture.sign(&changed("aud", json!(["another-service", AUDIENCE])));
    let verified = fixture.issuer.verifier().verify(&several, new_year());
    assert_eq!(verified, Ok(id("order")));
}

#[test]
fn another_key_is_refused() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    assert_eq!(fixture.refusal(&other.mint()), TokenError::Signature);
}

#[test]
fn the_algorithm_is_not_the_tokens_to_choose() {
    let fixture = Fixture::new();
    let body = fixture.mint().split('.').nth(1).unwrap().to_owned();
    for alg in ["none", "None", "NONE", "nOnE", "", "es256", "ES512"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{body}.{signature}");
            assert_eq!(fixture.refusal(&token), TokenError::Algorithm(alg.into()));
        }
    }
    // HS256 with the public key, which is no secret, as the secret.
    let pair = KeyPair::try_from(fixture.secret.as_slice()).unwrap();
    for secret in [
        pair.public_key_raw().to_vec(),
        pair.public_key_pem().into_bytes(),
    ] {
        let key = EncodingKey::from_secret(&secret);
        let token = encode(&Header::new(Algorithm::HS256), &claims(), &key).unwrap();
        assert_eq!(
            fixture.refusal(&token),
            TokenError::Algorithm("HS256".into())
        );
        // The same signature, under the name of the right algorithm.
        let (_, rest) = token.split_once('.').unwrap();
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        assert_eq!(
            fixture.refusal(&format!("{header}.{rest}")),
            TokenError::Signature
        );
    }
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let key = EncodingKey::from_ec_der(&p384.serialize_der());
    let token = encode(&Header::new(Algorithm::ES384), &claims(), &key).unwrap();
    assert_eq!(
        fixture.refusal(&token),
        TokenError::Algorithm("ES384".into())
    );
}

#[test]
fn keys_in_the_header_are_not_believed() {
    let (fixture, attacker) = (Fixture::new(), Fixture::new());
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("../../dev/null".into());
    header.jku = Some("https://attacker.example/keys".into());
    let token = attacker.sign_with(&header, &claims());
    assert_eq!(fixture.refusal(&token), TokenError::Signature);
}

#[test]
fn critical_extensions_are_refused() {
    let fixture = Fixture::new();
    let body = fixture.mint().split('.').nth(1).unwrap().to_owned();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","crit":["exp"]}"#);
    assert_eq!(
        fixture.refusal(&format!("{header}.{body}.AAAA")),
        TokenError::Critical
    );
}

#[test]
fn claims_that_are_missing_or_of_another_type_are_refused() {
    let fixture = Fixture::new();
    for name in ["aud", "exp", "nbf", "sub"] {
        let token = fixture.sign(&without(name));
        assert_eq!(fixture.refusal(&token), TokenError::MissingClaim(name));
        let token = fixture.sign(&changed(name, Value::Null));
        assert_eq!(fixture.refusal(&token), TokenError::MissingClaim(name));
    }
    for (name, value) in [
        ("exp", json!("9999999999")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!(true)),
        ("sub", json!(["spiffe://shop.example/ns/shop/sa/order"])),
        ("aud", json!({"outrider-control-plane": true})),
    ] {
        let token = fixture.sign(&changed(name, value.clone()));
        assert_eq!(
            fixture.refusal(&token),
            TokenError::Claims,
            "{name} {value}"
        );
    }
}

#[test]
fn a_subject_that_is_not_a_workload_is_refused() {
    let fixture = Fixture::new();
    for (subject, cause) in [
        ("", SpiffeIdError::Scheme),
        ("system:serviceaccount:shop:order", SpiffeIdError::Scheme),
        (
            "spiffe://shop.example/ns/../sa/order",
            SpiffeIdError::RelativeSegment,
        ),
        (
            "spiffe://shop.example/ns/shop/sa/order\0",
            SpiffeIdError::Control(0),
        ),
        ("spiffe://shop.example", SpiffeIdError::Path),
    ] {
        let token = fixture.sign(&changed("sub", json!(subject)));
        assert_eq!(
            fixture.refusal(&token),
            TokenError::Subject(cause),
            "{subject:?}"
        );
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let fixture = Fixture::new();
    let whole = fixture.mint();
    let long = "a".repeat(MAX_TOKEN_LEN + 1);
    let broken_header = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode("[]"));
    let cases = [
        ("", TokenError::Malformed),
        ("..", TokenError::Header),
        ("a.b", TokenError::Malformed),
        ("!.b.c", TokenError::Malformed),
        (&format!("{whole}.x"), TokenError::Malformed),
        (&format!("{whole}\n"), TokenError::Malformed),
        (&format!("{whole}="), TokenError::Malformed),
        (&format!("Bearer {whole}"), TokenError::Malformed),
        (&broken_header, TokenError::Header),
        (&long, TokenError::TooLong(MAX_TOKEN_LEN + 1)),
    ];
    for (token, expected) in cases {
        assert_eq!(fixture.refusal(token), expected, "{token:?}");
    }
    let stripped = whole.rsplit_once('.').unwrap().0.to_owned() + ".";
    assert_eq!(fixture.refusal(&stripped), TokenError::Signature);
}

#[test]
fn the_key_is_kept_for_its_owner_only() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state");
    let token = TokenIssuer::load_or_create(&directory)
        .unwrap()
        .mint(&id("order"), HOUR, new_year())
        .unwrap();
    let path = directory.join("token.key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    // The same key after a restart.
    let again = TokenIssuer::load_or_create(&directory).unwrap();
    assert_eq!(again.verifier().verify(&token, new_year()), Ok(id("order")));

    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let error = TokenIssuer::load_or_create(&directory).unwrap_err();
    assert!(
        matches!(error, IssuerError::KeyMode { mode: 0o644, .. }),
        "{error:?}"
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::write(
        &path,
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
            .unwrap()
            .serialize_pem(),
    )
    .unwrap();
    let error = TokenIssuer::load_or_create(&directory).unwrap_err();
    assert!(
        matches!(
            error,
            IssuerError::Key {
                cause: KeyError::NotP256,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_lifetime_that_cannot_be_expressed_is_refused() {
    let fixture = Fixture::new();
    for lifetime in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
        let error = fixture
            .issuer
            .mint(&id("order"), lifetime, new_year())
            .unwrap_err();
        assert!(
            matches!(error, IssuerError::Lifetime(l) if l == lifetime),
            "{error:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let fixture = Fixture::new();
        let mut token = fixture.mint();
        let at = at.index(token.len());
        prop_assume!(token[at..=at] != to);
        token.replace_range(at..=at, &to);
        prop_assert!(fixture.issuer.verifier().verify(&token, new_year()).is_err());
    }

    #[test]
    fn no_text_makes_it_panic(token in "\\PC{0,100}|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){2}") {
        let fixture = Fixture::new();
        prop_assert!(fixture.issuer.verifier().verify(&token, new_year()).is_err());
    }
}

#[test]
fn what_a_token_of_another_issuer_says_of_itself() {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = |claims: &str| {
        let header = encode(r#"{"alg":"RS256","kid":"cluster"}"#);
        format!("{header}.{}.{}", encode(claims), encode("signature"))
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    // Claims, whether for us, whether expired.
    let table = [
        (
            r#"{"aud":["outrider-control-plane"],"exp":1001}"#,
            true,
            false,
        ),
        (r#"{"aud":"outrider-control-plane","exp":1000}"#, true, true),
        (
            r#"{"aud":["https://kubernetes.default.svc"],"exp":1001}"#,
            false,
            false,
        ),
        (
            r#"{"sub":"system:serviceaccount:shop:order"}"#,
            false,
            false,
        ),
    ];
    for (claims, for_us, expired) in table {
        let token = Unverified::parse(&token(claims)).unwrap();
        assert_eq!(
            (token.is_for_us(), token.has_expired(now)),
            (for_us, expired),
            "{claims}"
        );
    }
    let refused = [
        (
            "a".repeat(MAX_TOKEN_LEN + 1),
            TokenError::TooLong(MAX_TOKEN_LEN + 1),
        ),
        ("opaque".to_owned(), TokenError::Malformed),
        ("a.b.c.d".to_owned(), TokenError::Malformed),
        ("a.!.c".to_owned(), TokenError::Malformed),
        (token("[]"), TokenError::Claims),
        (token(r#"{"aud":7}"#), TokenError::Claims),
    ];
    for (token, error) in refused {
        assert_eq!(Unverified::parse(&token).unwrap_err(), error, "{token}");
    }
}
