//! A certificate authority that someone else made, given as files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;

use outrider_certs::authority::{AuthorityError, CertificateAuthority, StoreError};
use outrider_certs::csr::VerifiedRequest;
use outrider_certs::key::PrivateKey;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use support::{Ca, DAY, id, new_year, trust_domain, uri};
use tempfile::TempDir;

fn store_error(result: Result<CertificateAuthority, AuthorityError>) -> StoreError {
    match result {
        Err(AuthorityError::Store(error)) => error,
        other => panic!("not an error of the store: {other:?}"),
    }
}

fn request() -> VerifiedRequest {
    let key = PrivateKey::generate().unwrap();
    VerifiedRequest::try_from(key.signing_request().unwrap().as_slice()).unwrap()
}

/// Writes the two files and loads them.
fn from_files(certificate: &str, key: &str) -> Result<CertificateAuthority, AuthorityError> {
    let directory = TempDir::new().unwrap();
    let (crt, secret) = (
        directory.path().join("crt.pem"),
        directory.path().join("key.pem"),
    );
    fs::write(&crt, certificate).unwrap();
    fs::write(&secret, key).unwrap();
    CertificateAuthority::from_files(&crt, &secret, &trust_domain())
}

#[test]
fn authorities_of_others_are_taken_with_any_common_key() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "corporate root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let authority = from_files(&pem, &key.serialize_pem()).unwrap();
        assert!(
            authority
                .issue(&request(), &id("order"), DAY, new_year())
                .is_ok()
        );
    }
}

#[test]
fn authorities_of_others_must_fit() {
    let (ca, other) = (Ca::new("one"), Ca::new("two"));
    let refused =
        |certificate: &Ca, key: &Ca| store_error(from_files(&certificate.pem(), &key.key_pem()));
    assert!(matches!(
        refused(&ca, &other),
        StoreError::KeyMismatch { .. }
    ));

    let foreign = Ca::with("x", |p| {
        p.subject_alt_names = vec![uri("spiffe://other.example")]
    });
    let error = refused(&foreign, &foreign);
    assert!(
        matches!(&error, StoreError::TrustDomain { found, .. } if found == "spiffe://other.example"),
        "{error:?}"
    );
    let workload = Ca::with("x", |p| p.is_ca = IsCa::ExplicitNoCa);
    assert!(matches!(
        refused(&workload, &workload),
        StoreError::NotAuthority { .. }
    ));
    let usage = Ca::with("x", |p| {
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature]
    });
    assert!(matches!(
        refused(&usage, &usage),
        StoreError::NotAuthority { .. }
    ));

    // A chain that does not lead from the signer to the root.
    let broken = from_files(&(ca.pem() + &other.pem()), &ca.key_pem());
    let error = store_error(broken);
    assert!(
        matches!(
            &error,
            StoreError::Unusable {
                cause: rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn files_that_are_not_there_are_named() {
    let missing = Path::new("/nonexistent/ca.pem");
    let result = CertificateAuthority::from_files(missing, missing, &trust_domain());
    let error = store_error(result);
    assert!(
        matches!(&error, StoreError::Io { path, cause }
            if path == missing && cause.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
    assert!(error.to_string().starts_with("/nonexistent/ca.pem: "));
}
