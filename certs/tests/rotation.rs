//! Authorities that follow one another: what is trusted beside the one that signs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use outrider_certs::authority::{AuthorityError, CertificateAuthority, NewAuthority, StoreError};
use outrider_certs::bundle::{BundleError, TrustBundle};
use outrider_certs::spiffe::TrustDomain;
use support::{DAY, id, new_year, trust_domain};

const LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn made(trust_domain: &TrustDomain) -> NewAuthority {
    NewAuthority::generate(trust_domain, LIFETIME, new_year()).unwrap()
}

fn parse(new: &NewAuthority) -> Result<CertificateAuthority, AuthorityError> {
    CertificateAuthority::from_pem(
        (Path::new("secret/tls.crt"), new.certificate.as_bytes()),
        (Path::new("secret/tls.key"), new.key.as_bytes()),
        &trust_domain(),
    )
}

#[test]
fn what_is_generated_can_be_read_back_and_lives_as_long_as_asked() {
    let new = made(&trust_domain());
    let authority = parse(&new).unwrap();
    assert_eq!(authority.not_after(), new_year() + LIFETIME);
    let svid = authority.issue_svid(&id("order"), DAY, new_year()).unwrap();
    assert_eq!(svid.id(), &id("order"));
    assert!(!format!("{new:?}").contains("PRIVATE"));
}

#[test]
fn an_error_says_where_the_text_was_read() {
    let (one, other) = (made(&trust_domain()), made(&trust_domain()));
    let mixed = NewAuthority {
        certificate: one.certificate.clone(),
        key: other.key,
    };
    let Err(AuthorityError::Store(StoreError::KeyMismatch { key, certificate })) = parse(&mixed)
    else {
        panic!("a key of another certificate was taken");
    };
    assert_eq!(key, Path::new("secret/tls.key"));
    assert_eq!(certificate, Path::new("secret/tls.crt"));
    let foreign = made(&"elsewhere.example".parse().unwrap());
    assert!(matches!(
        parse(&foreign),
        Err(AuthorityError::Store(StoreError::TrustDomain { .. }))
    ));
}

#[test]
fn an_authority_among_others() {
    let (old, new) = (made(&trust_domain()), made(&trust_domain()));
    let old = parse(&old).unwrap().trust_bundle();
    let new = parse(&new).unwrap();
    let alone = new.trust_bundle();
    assert!(!alone.includes(&old));
    let both = new.trusting(&old).unwrap().trust_bundle();
    assert_eq!(both.anchors().len(), 2);
    assert!(both.includes(&old) && both.includes(&alone) && both.includes(&both));
    assert!(!old.includes(&both));
    assert_eq!(both, old.union(&alone).unwrap());
    assert_eq!(both.intersection(&old), Some(old.clone()));
    assert_eq!(old.intersection(&alone), None);
}

#[test]
fn another_mesh_is_never_trusted_besides() {
    let domain: TrustDomain = "elsewhere.example".parse().unwrap();
    // Of a corporate root, which names no trust domain, this alone would tell.
    let text = made(&domain).certificate;
    let foreign = TrustBundle::from_pem(domain, text.as_bytes()).unwrap();
    let authority = parse(&made(&trust_domain())).unwrap();
    let own = authority.trust_bundle();
    assert!(!own.includes(&foreign));
    assert!(matches!(
        authority.trusting(&foreign),
        Err(AuthorityError::Bundle(BundleError::OtherDomain { .. }))
    ));
}
