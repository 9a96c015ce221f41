//! Certificate signing requests from strangers.
//!
//! The fixtures were made with OpenSSL 3: `openssl req -new -newkey rsa:1024 -nodes -outform DER -subj /CN=x`
//! and so on; our own key library refuses to make most of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::SystemTime;

use outrider_certs::authority::CertificateAuthority;
use outrider_certs::csr::{CsrError, MAX_REQUEST_LEN, VerifiedRequest};
use outrider_certs::key::PrivateKey;
use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use support::{HOUR, dns, id, trust_domain, uri};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113549, 1, 9, 14];

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn refusal(der: &[u8]) -> CsrError {
    VerifiedRequest::try_from(der).expect_err("the request was accepted")
}

#[test]
fn our_own_requests_are_accepted() {
    let key = PrivateKey::generate().unwrap();
    let der = key.signing_request().unwrap();
    assert!(VerifiedRequest::try_from(der.as_slice()).is_ok());
}

#[test]
fn the_accepted_kinds_of_keys() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let p384 = CertificateParams::default()
        .serialize_request(&p384)
        .unwrap();
    let fixtures: [&[u8]; 4] = [
        p384.der(),
        include_bytes!("fixtures/ed25519.csr"),
        include_bytes!("fixtures/rsa2048.csr"),
        include_bytes!("fixtures/rsa2048-pss.csr"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority =
        CertificateAuthority::load_or_create(directory.path(), &trust_domain(), now).unwrap();
    for der in fixtures {
        let verified = VerifiedRequest::try_from(der).unwrap();
        // The certificate has the very key of the request.
        let issued = authority.issue(&verified, &id("order"), HOUR, now).unwrap();
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let key = certificate.public_key().raw;
        assert!(der.windows(key.len()).any(|window| window == key));
    }
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let cases: [(&[u8], CsrError); 4] = [
        (
            include_bytes!("fixtures/rsa1024.csr"),
            CsrError::RsaLength(1024),
        ),
        (
            include_bytes!("fixtures/rsa2048-sha1.csr"),
            CsrError::SignatureAlgorithm,
        ),
        (include_bytes!("fixtures/p521.csr"), CsrError::KeyKind),
        (include_bytes!("fixtures/secp256k1.csr"), CsrError::KeyKind),
    ];
    for (der, expected) in cases {
        assert_eq!(refusal(der), expected);
    }
}

#[test]
fn a_signature_of_another_algorithm_is_refused() {
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA224.
    let sha256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let mut der = PrivateKey::generate().unwrap().signing_request().unwrap();
    let at = der.windows(10).position(|window| window == sha256).unwrap();
    der[at + 9] = 0x01;
    assert_eq!(refusal(&der), CsrError::SignatureAlgorithm);
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let other = PrivateKey::generate().unwrap();
    let (der, theirs) = (
        key.signing_request().unwrap(),
        other.signing_request().unwrap(),
    );
    // The point of the public key is the last of the signed part; put another's there.
    let marker = [0x03, 0x42, 0x00, 0x04];
    let find = |der: &[u8]| der.windows(4).position(|window| window == marker).unwrap();
    let (at, from) = (find(&der), find(&theirs));
    let mut forged = der.clone();
    forged[at..at + 68].copy_from_slice(&theirs[from..from + 68]);
    assert_eq!(refusal(&forged), CsrError::Signature);
}

#[test]
fn requests_for_names_and_rights_are_refused() {
    let own = "spiffe://shop.example/ns/shop/sa/order";
    let ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let cases = [
        (
            request(|p| p.subject_alt_names = vec![dns("billing.shop")]),
            CsrError::AlternativeNames,
        ),
        (
            request(|p| p.subject_alt_names = vec![uri(own)]),
            CsrError::AlternativeNames,
        ),
        (
            request(|p| {
                p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                p.subject_alt_names = vec![uri(own)];
            }),
            CsrError::AlternativeNames,
        ),
        (request(ca), CsrError::Authority),
        (
            request(|p| {
                p.subject_alt_names = vec![uri(own)];
                ca(p);
            }),
            CsrError::Authority,
        ),
        (
            request(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            CsrError::Extensions,
        ),
        (
            request(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            CsrError::Extensions,
        ),
    ];
    for (der, expected) in cases {
        assert_eq!(refusal(&der), expected);
    }
}

#[test]
fn a_second_extension_request_does_not_hide_behind_an_empty_one() {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![dns("billing.shop")];
    let empty = Attribute {
        oid: EXTENSION_REQUEST,
        values: vec![0x31, 0x02, 0x30, 0x00],
    };
    let key = KeyPair::generate().unwrap();
    let der = params
        .serialize_request_with_attributes(&key, vec![empty])
        .unwrap();
    assert_eq!(refusal(der.der()), CsrError::AlternativeNames);
}

#[test]
fn nothing_of_the_request_but_its_key_is_in_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority =
        CertificateAuthority::load_or_create(directory.path(), &trust_domain(), now).unwrap();
    let der = request(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "billing.shop");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
    });
    let verified = VerifiedRequest::try_from(der.as_slice()).unwrap();
    let issued = authority.issue(&verified, &id("order"), HOUR, now).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.subject().iter_rdn().count(), 0);
    for text in ["billing", "masters"] {
        let found = issued.chain[0]
            .windows(text.len())
            .any(|w| w == text.as_bytes());
        assert!(!found, "{text} is in the certificate");
    }
}

#[test]
fn giants_and_garbage_are_refused() {
    assert_eq!(
        refusal(&vec![0x30; MAX_REQUEST_LEN + 1]),
        CsrError::TooLarge(MAX_REQUEST_LEN + 1)
    );
    assert_eq!(refusal(&vec![0x30; MAX_REQUEST_LEN]), CsrError::Malformed);
    assert_eq!(refusal(b""), CsrError::Malformed);
    let pem = b"-----BEGIN CERTIFICATE REQUEST-----\n";
    assert_eq!(refusal(pem), CsrError::Malformed);
    let mut der = PrivateKey::generate().unwrap().signing_request().unwrap();
    der.extend_from_slice(&[0, 0, 0]);
    assert_eq!(refusal(&der), CsrError::TrailingBytes(3));
    let whole = PrivateKey::generate().unwrap().signing_request().unwrap();
    for end in 0..whole.len() {
        assert_eq!(refusal(&whole[..end]), CsrError::Malformed, "{end} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(der in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(VerifiedRequest::try_from(der.as_slice()).is_err());
    }

    /// Whatever is changed in the signed part is noticed. (The envelope around it is not signed.)
    #[test]
    fn a_changed_request_is_refused(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut der = PrivateKey::generate().unwrap().signing_request().unwrap();
        // SEQUENCE with a length of two bytes (81 xx), then the signed SEQUENCE with one of one byte.
        prop_assert_eq!((der[0], der[1], der[3]), (0x30, 0x81, 0x30));
        let signed = 2 + usize::from(der[4]);
        der[3 + at.index(signed)] ^= 1 << bit;
        prop_assert!(VerifiedRequest::try_from(der.as_slice()).is_err());
    }
}
