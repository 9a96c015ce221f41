//! SVIDs, trust bundles and the files that must be whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use outrider_certs::LeafError;
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::bundle::{BundleError, PemError, TrustBundle};
use outrider_certs::csr::VerifiedRequest;
use outrider_certs::file::write_atomic;
use outrider_certs::key::PrivateKey;
use outrider_certs::svid::{Svid, SvidError, retry_delay};
use proptest::prelude::*;
use rcgen::{BasicConstraints, IsCa};
use support::{Ca, DAY, HOUR, dns, id, new_year, trust_domain, uri};
use tempfile::TempDir;

const ORDER: &str = "spiffe://shop.example/ns/shop/sa/order";

fn authority() -> CertificateAuthority {
    let directory = TempDir::new().unwrap();
    CertificateAuthority::load_or_create(directory.path(), &trust_domain(), new_year()).unwrap()
}

#[test]
fn a_key_and_its_certificate_make_an_svid() {
    let key = PrivateKey::generate().unwrap();
    let request = VerifiedRequest::try_from(key.signing_request().unwrap().as_slice()).unwrap();
    let issued = authority()
        .issue(&request, &id("order"), DAY, new_year())
        .unwrap();
    let svid = Svid::new(key, issued.chain.clone()).unwrap();
    assert_eq!(*svid.id(), id("order"));
    assert_eq!(svid.not_before(), issued.not_before);
    assert_eq!(svid.not_after(), issued.not_after);
    assert_eq!(svid.chain(), issued.chain);
    let other = PrivateKey::generate().unwrap();
    assert_eq!(
        Svid::new(other, issued.chain).unwrap_err(),
        SvidError::KeyMismatch
    );
}

#[test]
fn what_is_not_a_workloads_certificate_is_no_svid() {
    let ca = Ca::new("anything");
    let svid = |chain| Svid::new(PrivateKey::generate().unwrap(), chain).unwrap_err();
    assert_eq!(svid(vec![]), SvidError::EmptyChain);
    let cases = [
        (vec![], LeafError::NoUriSan),
        (vec![dns("order.shop")], LeafError::NoUriSan),
        (vec![uri(ORDER), uri(ORDER)], LeafError::ManyUriSans),
    ];
    for (names, expected) in cases {
        assert_eq!(
            svid(ca.leaf(names, |_| {}).chain),
            SvidError::Leaf(expected)
        );
    }
    assert_eq!(
        svid(vec![b"x".to_vec().into()]),
        SvidError::Leaf(LeafError::Malformed)
    );
    let mut longer = ca.leaf(vec![uri(ORDER)], |_| {}).chain[0].to_vec();
    longer.push(0);
    assert_eq!(
        svid(vec![longer.into()]),
        SvidError::Leaf(LeafError::Malformed)
    );
    let authority = ca.leaf(vec![uri(ORDER)], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_eq!(svid(authority.chain), SvidError::Authority);
    let backwards = ca.leaf(vec![uri(ORDER)], |params| {
        params.not_after = params.not_before;
    });
    assert_eq!(svid(backwards.chain), SvidError::Validity);
}

#[test]
fn a_secret_is_not_in_debug_output() {
    let svid = authority()
        .issue_svid(&id("order"), DAY, new_year())
        .unwrap();
    let text = format!("{svid:?}");
    assert!(text.contains("PrivateKey(P-256, secret)"), "{text}");
}

proptest! {
    /// The key is never that of the certificate: whatever can be read is refused for that at the latest.
    #[test]
    fn no_certificate_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut der = LEAF.with(Vec::clone);
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        if cut {
            der.truncate(end.index(der.len()));
        }
        let key = PrivateKey::generate().unwrap();
        prop_assert!(Svid::new(key, vec![der.into()]).is_err());
    }

    #[test]
    fn renewal_comes_between_a_third_and_a_half(
        jitter in prop_oneof![0.0..=1.0, any::<f64>()],
        seconds in 60_u64..1_000_000,
    ) {
        let lifetime = Duration::from_secs(seconds);
        let svid = AUTHORITY.with(|authority| {
            authority.issue_svid(&id("order"), lifetime, new_year()).unwrap()
        });
        let whole = svid.not_after().duration_since(svid.not_before()).unwrap();
        let wait = svid.renew_at(jitter).duration_since(svid.not_before()).unwrap();
        let share = wait.as_secs_f64() / whole.as_secs_f64();
        prop_assert!((0.3333..=0.5001).contains(&share), "{share}");
    }

    #[test]
    fn retries_wait_from_100_ms_to_30_s(
        attempt in any::<u32>(),
        jitter in prop_oneof![0.0..=1.0, any::<f64>()],
    ) {
        let wait = retry_delay(attempt, jitter);
        prop_assert!((Duration::from_millis(100)..=Duration::from_secs(30)).contains(&wait));
        prop_assert!(wait <= retry_delay(attempt.saturating_add(1), jitter));
    }
}

thread_local! {
    static AUTHORITY: CertificateAuthority = authority();
    static LEAF: Vec<u8> = Ca::new("any").leaf(vec![uri(ORDER)], |_| {}).chain[0].to_vec();
}

#[test]
fn retries_double() {
    let millis = |attempt| retry_delay(attempt, 0.0).as_millis();
    assert_eq!([0, 1, 2, 7, 8].map(millis), [100, 200, 400, 12_800, 15_000]);
    assert_eq!(retry_delay(0, 1.0), Duration::from_millis(200));
    assert_eq!(retry_delay(u32::MAX, 1.0), Duration::from_secs(30));
    assert_eq!(retry_delay(0, f64::NAN), Duration::from_millis(100));
}

#[test]
fn a_bundle_is_the_same_after_pem_in_any_order() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let anchors = vec![one.der(), two.der(), one.der()];
    let bundle = TrustBundle::new(trust_domain(), anchors).unwrap();
    assert_eq!(bundle.anchors().len(), 2);
    assert_eq!(*bundle.trust_domain(), trust_domain());
    let again = TrustBundle::from_pem(trust_domain(), bundle.to_pem().as_bytes()).unwrap();
    assert_eq!(again, bundle);
    // Our PEM is what others write.
    let single = TrustBundle::new(trust_domain(), vec![one.der()]).unwrap();
    assert_eq!(single.to_pem(), one.pem());
    let backwards = two.pem() + "some comment\n" + &one.pem();
    assert_eq!(
        TrustBundle::from_pem(trust_domain(), backwards.as_bytes()),
        Ok(bundle)
    );
}

#[test]
fn what_is_not_an_authority_is_no_bundle() {
    let ca = Ca::new("one");
    let bundle = |anchors| TrustBundle::new(trust_domain(), anchors).unwrap_err();
    assert_eq!(bundle(vec![]), BundleError::Empty);
    assert_eq!(bundle(vec![ca.der(); 65]), BundleError::TooMany(65));
    let garbage = vec![ca.der(), b"x".to_vec().into()];
    let cause = LeafError::Malformed;
    assert_eq!(bundle(garbage), BundleError::Malformed { index: 2, cause });
    let leaf = ca.leaf(vec![uri(ORDER)], |_| {}).chain;
    assert_eq!(bundle(leaf), BundleError::NotAuthority(1));
    let found = "spiffe://other.example";
    let other = Ca::with("x", |params| params.subject_alt_names = vec![uri(found)]);
    assert_eq!(
        bundle(vec![other.der()]),
        BundleError::TrustDomain {
            index: 1,
            found: found.into(),
            expected: trust_domain(),
        }
    );

    let pem = |text: &str| TrustBundle::from_pem(trust_domain(), text.as_bytes()).unwrap_err();
    assert_eq!(pem(""), BundleError::Pem(PemError::NoCertificate));
    let leaked = ca.pem() + &ca.key_pem();
    assert_eq!(pem(&leaked), BundleError::Pem(PemError::PrivateKey));
    let cut = &ca.pem()[..100];
    assert!(matches!(pem(cut), BundleError::Pem(PemError::Syntax(_))));
}

#[test]
fn a_file_has_its_mode_and_replaces_the_old_one() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    for (text, mode) in [("one", 0o600), ("two", 0o644), ("three", 0o600)] {
        write_atomic(&path, text.as_bytes(), mode).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    // A directory cannot be replaced by a file.
    let path = directory.path().join("file");
    fs::create_dir(&path).unwrap();
    let error = write_atomic(&path, b"text", 0o600).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let error = write_atomic(&directory.path().join("none/file"), b"text", 0o600).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_reader_never_sees_a_part() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    let contents = [vec![b'a'; 100_000], vec![b'b'; 50_000]];
    write_atomic(&path, &contents[0], 0o600).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..100 {
                write_atomic(&path, &contents[round % 2], 0o600).unwrap();
            }
        });
        let mut seen = 0;
        while !writer.is_finished() || seen == 0 {
            let found = fs::read(&path).unwrap();
            assert!(contents.contains(&found), "{} bytes", found.len());
            seen += 1;
        }
    });
}

#[test]
fn renewal_is_planned_from_the_certificate_not_from_now() {
    let now = SystemTime::now();
    let directory = TempDir::new().unwrap();
    let authority =
        CertificateAuthority::load_or_create(directory.path(), &trust_domain(), now).unwrap();
    let svid = authority.issue_svid(&id("order"), HOUR, now).unwrap();
    // 65 minutes from 5 minutes ago.
    let third = Duration::from_secs(65 * 60 / 3);
    let error = svid
        .renew_at(0.0)
        .duration_since(svid.not_before() + third)
        .unwrap_or_else(|early| early.duration());
    assert!(error < Duration::from_millis(1), "{error:?}");
}
