//! The certificate authority: what it issues, and its files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use outrider_certs::authority::{AuthorityError, CertificateAuthority, StoreError};
use outrider_certs::bundle::PemError;
use outrider_certs::csr::VerifiedRequest;
use outrider_certs::key::{KeyError, PrivateKey};
use outrider_certs::spiffe::SpiffeId;
use support::{DAY, HOUR, id, new_year, trust_domain};
use tempfile::TempDir;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const MINUTE: Duration = Duration::from_secs(60);

fn create(directory: &Path) -> CertificateAuthority {
    load(directory, new_year()).unwrap()
}

fn load(directory: &Path, now: SystemTime) -> Result<CertificateAuthority, AuthorityError> {
    CertificateAuthority::load_or_create(directory, &trust_domain(), now)
}

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

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_certificate_says_what_a_workload_may_and_no_more() {
    let directory = TempDir::new().unwrap();
    let issued = create(directory.path())
        .issue(&request(), &id("order"), DAY, new_year())
        .unwrap();
    assert_eq!(issued.chain.len(), 1);
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names,
        [GeneralName::URI("spiffe://shop.example/ns/shop/sa/order")]
    );
    // RFC 5280 §4.2.1.6: critical, as the subject is empty.
    assert!(san.critical);
    assert_eq!(certificate.subject().iter_rdn().count(), 0);
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && usage.other.is_empty());
    assert!(!usage.any && !usage.code_signing);
    assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
}

#[test]
fn a_certificate_is_back_dated_and_ends_when_asked() {
    let directory = TempDir::new().unwrap();
    let authority = create(directory.path());
    let now = new_year();
    for (lifetime, back_dated) in [
        (DAY, 5 * MINUTE),
        (20 * MINUTE, 5 * MINUTE),
        // Of a short life it takes a quarter.
        (8 * MINUTE, 2 * MINUTE),
        (Duration::from_secs(4), Duration::from_secs(1)),
    ] {
        let issued = authority
            .issue(&request(), &id("order"), lifetime, now)
            .unwrap();
        assert_eq!(issued.not_before, now - back_dated);
        assert_eq!(issued.not_after, now + lifetime);
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let validity = certificate.validity();
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs() as i64
        };
        assert_eq!(validity.not_before.timestamp(), seconds(issued.not_before));
        assert_eq!(validity.not_after.timestamp(), seconds(issued.not_after));
    }
}

#[test]
fn a_new_certificate_is_not_yet_due_for_renewal() {
    let directory = TempDir::new().unwrap();
    let authority = create(directory.path());
    for seconds in [4, 30, 600, 86_400] {
        let lifetime = Duration::from_secs(seconds);
        let svid = authority
            .issue_svid(&id("order"), lifetime, new_year())
            .unwrap();
        assert!(svid.renew_at(0.0) > new_year(), "{seconds} s");
        assert!(
            svid.renew_at(1.0) < new_year() + lifetime / 2,
            "{seconds} s"
        );
    }
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let directory = TempDir::new().unwrap();
    let authority = create(directory.path());
    let request = request();
    let serials: BTreeSet<Vec<u8>> = (0..20)
        .map(|_| {
            let issued = authority
                .issue(&request, &id("order"), DAY, new_year())
                .unwrap();
            let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
            certificate.raw_serial().to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 20);
    assert!(
        serials
            .iter()
            .all(|serial| serial.len() == 16 && serial[0] < 0x80)
    );
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let directory = TempDir::new().unwrap();
    let authority = create(directory.path());
    let end = authority.not_after();
    let issue = |lifetime, now| authority.issue(&request(), &id("order"), lifetime, now);
    assert_eq!(issue(DAY, end - HOUR).unwrap().not_after, end);
    assert_eq!(issue(Duration::MAX, new_year()).unwrap().not_after, end);
    let last = issue(DAY, end - Duration::from_secs(1)).unwrap();
    assert_eq!(last.not_after, end);
    assert!(matches!(issue(DAY, end), Err(AuthorityError::Expired)));
    let early = issue(DAY, new_year() - DAY);
    assert!(matches!(early, Err(AuthorityError::NotYetValid)));
    let none = issue(Duration::from_millis(999), new_year());
    assert!(matches!(none, Err(AuthorityError::Lifetime(_))));
}

#[test]
fn another_trust_domain_gets_no_certificate() {
    let directory = TempDir::new().unwrap();
    let foreign: SpiffeId = "spiffe://other.example/ns/shop/sa/order".parse().unwrap();
    let error = create(directory.path())
        .issue(&request(), &foreign, DAY, new_year())
        .unwrap_err();
    let AuthorityError::TrustDomain { id, expected } = error else {
        panic!("{error:?}");
    };
    assert_eq!((id, expected), (foreign, trust_domain()));
}

#[test]
fn the_authority_is_the_same_after_a_restart() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("deep").join("state");
    let first = create(&directory);
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("ca.key")), 0o600);
    let again = load(&directory, new_year() + DAY).unwrap();
    assert_eq!(first.trust_bundle(), again.trust_bundle());
    let mut names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    // Nothing temporary is left behind.
    assert_eq!(names, ["ca.crt", "ca.key"]);
    let other = TempDir::new().unwrap();
    assert_ne!(first.trust_bundle(), create(other.path()).trust_bundle());
}

#[test]
fn those_who_start_at_once_get_the_same_authority() {
    let directory = TempDir::new().unwrap();
    let bundles: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| create(directory.path()).trust_bundle()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
}

#[test]
fn a_lost_certificate_is_made_anew_for_the_key() {
    // As after a crash between the two files.
    let directory = TempDir::new().unwrap();
    create(directory.path());
    let key = fs::read(directory.path().join("ca.key")).unwrap();
    fs::remove_file(directory.path().join("ca.crt")).unwrap();
    let authority = create(directory.path());
    assert_eq!(fs::read(directory.path().join("ca.key")).unwrap(), key);
    assert!(
        authority
            .issue(&request(), &id("order"), DAY, new_year())
            .is_ok()
    );
}

#[test]
fn a_key_that_is_lost_open_or_broken_is_not_replaced() {
    let directory = TempDir::new().unwrap();
    create(directory.path());
    let key = directory.path().join("ca.key");
    let refused = || store_error(load(directory.path(), new_year()));
    set_mode(&key, 0o640);
    assert!(matches!(refused(), StoreError::KeyMode { mode: 0o640, .. }));
    set_mode(&key, 0o604);
    assert!(matches!(refused(), StoreError::KeyMode { mode: 0o604, .. }));
    set_mode(&key, 0o600);

    fs::write(&key, "").unwrap();
    let error = refused();
    let StoreError::Key { cause, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(cause, KeyError::Pem(PemError::NoPrivateKey)));

    fs::remove_file(&key).unwrap();
    assert!(matches!(refused(), StoreError::KeyMissing { path } if path == key));
}

#[test]
fn a_certificate_that_is_broken_is_not_replaced() {
    let directory = TempDir::new().unwrap();
    create(directory.path());
    let (crt, key) = (
        directory.path().join("ca.crt"),
        directory.path().join("ca.key"),
    );
    let refused = || store_error(load(directory.path(), new_year()));

    let text = fs::read_to_string(&crt).unwrap();
    fs::write(&crt, &text[..text.len() / 2]).unwrap();
    assert!(matches!(
        refused(),
        StoreError::Pem {
            cause: PemError::Syntax(_),
            ..
        }
    ));
    fs::write(&crt, "").unwrap();
    assert!(matches!(
        refused(),
        StoreError::Pem {
            cause: PemError::NoCertificate,
            ..
        }
    ));
    fs::write(&crt, format!("{text}{}", fs::read_to_string(&key).unwrap())).unwrap();
    assert!(matches!(
        refused(),
        StoreError::Pem {
            cause: PemError::PrivateKey,
            ..
        }
    ));
}

#[test]
fn a_key_of_another_certificate_is_an_error() {
    let directory = TempDir::new().unwrap();
    create(directory.path());
    let key = directory.path().join("ca.key");
    let refused = || store_error(load(directory.path(), new_year()));

    let other = TempDir::new().unwrap();
    create(other.path());
    fs::copy(other.path().join("ca.key"), &key).unwrap();
    assert!(matches!(refused(), StoreError::KeyMismatch { .. }));
}

#[test]
fn another_trust_domain_or_an_ended_authority_is_not_loaded() {
    let directory = TempDir::new().unwrap();
    let end = create(directory.path()).not_after();
    let other = "other.example".parse().unwrap();
    let result = CertificateAuthority::load_or_create(directory.path(), &other, new_year());
    let error = store_error(result);
    let StoreError::TrustDomain {
        found, expected, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((found.as_str(), expected), ("spiffe://shop.example", other));
    assert!(matches!(
        load(directory.path(), end),
        Err(AuthorityError::Expired)
    ));
    assert!(load(directory.path(), end - DAY).is_ok());
}
