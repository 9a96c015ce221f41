//! Who gets through a handshake, who does not, and with which cause.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, SystemTime};

use outrider_certs::spiffe::SpiffeIdError;
use outrider_certs::tls::{
    ClientAuth, IdentityError, PeerError, client_config, peer, server_config,
};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::{AlertDescription, CertificateError, Error};
use support::tls::{
    BILLING, H2, Mesh, ORDER, client_of, complete, handshake, identity_error, raw_client,
    raw_server, reason, refused_both_ways, server_of,
};
use support::{Ca, dns, id, trust_domain, uri};

#[test]
fn a_client_without_a_certificate_is_refused_or_anonymous() {
    let mesh = Mesh::new();
    let bundle = mesh.authority.trust_bundle();
    let client = client_config(None, &bundle, mesh.billing.id(), H2).unwrap();
    let done = handshake(&client, &mesh.server());
    assert_eq!(done.server_result, Err(Error::NoCertificatesPresented));
    assert_eq!(reason(&done.server_result), "no_certificate");
    assert_eq!(
        done.client_result,
        Err(Error::AlertReceived(AlertDescription::CertificateRequired))
    );
    assert_eq!(reason(&done.client_result), "no_certificate");

    let optional = server_config(&mesh.billing, &bundle, ClientAuth::Optional, H2).unwrap();
    let done = handshake(&client, &optional);
    complete(&done);
    let nobody = peer(
        done.server.peer_certificates(),
        &trust_domain(),
        SystemTime::now(),
    );
    assert_eq!(nobody, Err(PeerError::NoCertificate));

    let done = handshake(&mesh.client(), &optional);
    complete(&done);
    let now = SystemTime::now();
    let seen = peer(done.server.peer_certificates(), &trust_domain(), now).unwrap();
    assert_eq!(seen.id, id("order"));
}

#[test]
fn another_authority_is_unknown() {
    let (ours, theirs) = (Mesh::new(), Mesh::new());
    let done = handshake(&theirs.client(), &ours.server());
    // The client is the first to see a certificate.
    assert_eq!(
        done.client_result,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
    assert_eq!(reason(&done.client_result), "unknown_issuer");
    assert_eq!(
        done.server_result,
        Err(Error::AlertReceived(AlertDescription::UnknownCA))
    );
    assert_eq!(reason(&done.server_result), "unknown_issuer");

    let stranger = Ca::new("stranger").leaf(vec![uri(ORDER)], |_| {});
    let client = raw_client(Some(stranger), &rustls::version::TLS13);
    let server = server_of(&Ca::new("ours"), ClientAuth::Required);
    let done = handshake(&client, &server);
    assert_eq!(
        done.server_result,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
}

#[test]
fn another_authority_of_the_same_name_is_unknown() {
    let (ours, theirs) = (Ca::new("twin"), Ca::new("twin"));
    let client = raw_client(
        Some(theirs.leaf(vec![uri(ORDER)], |_| {})),
        &rustls::version::TLS13,
    );
    let by_server = handshake(&client, &server_of(&ours, ClientAuth::Required)).server_result;
    let server = raw_server(
        theirs.leaf(vec![uri(BILLING)], |_| {}),
        &rustls::version::TLS13,
    );
    let by_client = handshake(&client_of(&ours), &server).client_result;
    let unknown = Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    assert_eq!(by_server, unknown);
    assert_eq!(by_client, unknown);
}

#[test]
fn another_trust_domain_of_the_same_authority_is_refused() {
    let foreign = "spiffe://other.example/ns/shop/sa/billing";
    let (by_server, by_client) = refused_both_ways(|| vec![uri(foreign)], |_| {});
    let expected = IdentityError::Peer(PeerError::TrustDomain {
        id: foreign.parse().unwrap(),
        expected: trust_domain(),
    });
    assert_eq!(identity_error(&by_server), expected);
    assert_eq!(identity_error(&by_client), expected);
    assert_eq!(reason(&by_server), "wrong_trust_domain");
    assert_eq!(reason(&by_client), "wrong_trust_domain");
}

#[test]
fn an_expired_certificate_is_refused() {
    let (by_server, by_client) = refused_both_ways(
        || vec![uri(BILLING)],
        |params| params.not_after = (SystemTime::now() - Duration::from_secs(60)).into(),
    );
    for result in [by_server, by_client] {
        assert!(
            matches!(
                result,
                Err(Error::InvalidCertificate(
                    CertificateError::ExpiredContext { .. }
                ))
            ),
            "{result:?}"
        );
        assert_eq!(reason(&result), "expired");
    }
}

#[test]
fn a_certificate_that_is_not_yet_valid_is_refused() {
    let (by_server, by_client) = refused_both_ways(
        || vec![uri(BILLING)],
        |params| params.not_before = (SystemTime::now() + Duration::from_secs(60)).into(),
    );
    for result in [by_server, by_client] {
        assert!(
            matches!(
                result,
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidYetContext { .. }
                ))
            ),
            "{result:?}"
        );
        assert_eq!(reason(&result), "not_yet_valid");
    }
}

#[test]
fn names_other_than_one_spiffe_id_are_refused() {
    type Names = fn() -> Vec<SanType>;
    let cases: [(Names, PeerError); 4] = [
        (|| vec![uri(BILLING), uri(ORDER)], PeerError::ManyUriSans),
        (|| vec![dns("billing.shop")], PeerError::NoUriSan),
        (Vec::new, PeerError::NoUriSan),
        (
            || vec![uri("https://shop.example/ns/shop/sa/billing")],
            PeerError::NotSpiffe(SpiffeIdError::Scheme),
        ),
    ];
    for (names, expected) in cases {
        let (by_server, by_client) = refused_both_ways(names, |_| {});
        for result in [by_server, by_client] {
            assert_eq!(
                identity_error(&result),
                IdentityError::Peer(expected.clone())
            );
            assert_eq!(reason(&result), "bad_identity");
        }
    }
}

#[test]
fn a_dns_name_beside_the_spiffe_id_is_no_obstacle() {
    let ca = Ca::new("anything");
    let server = raw_server(
        ca.leaf(vec![dns("billing.shop"), uri(BILLING)], |_| {}),
        &rustls::version::TLS13,
    );
    complete(&handshake(&client_of(&ca), &server));
}

#[test]
fn an_authority_is_not_a_workload() {
    let (by_server, by_client) = refused_both_ways(
        || vec![uri(BILLING)],
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
    );
    for result in [by_server, by_client] {
        // rustls hands webpki's CaUsedAsEndEntity on without a name of its own.
        let Err(Error::InvalidCertificate(CertificateError::Other(cause))) = &result else {
            panic!("{result:?}");
        };
        assert_eq!(cause.0.to_string(), "CaUsedAsEndEntity");
        assert_eq!(reason(&result), "bad_identity");
    }
}

#[test]
fn a_certificate_for_another_purpose_is_refused() {
    let (by_server, by_client) = refused_both_ways(
        || vec![uri(BILLING)],
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
    );
    for result in [by_server, by_client] {
        assert!(
            matches!(
                result,
                Err(Error::InvalidCertificate(
                    CertificateError::InvalidPurposeContext { .. }
                ))
            ),
            "{result:?}"
        );
        assert_eq!(reason(&result), "bad_identity");
    }
}

#[test]
fn another_workload_of_the_mesh_is_not_the_one_called() {
    let mesh = Mesh::new();
    let bundle = mesh.authority.trust_bundle();
    let client = client_config(Some(&mesh.order), &bundle, &id("user"), H2).unwrap();
    let done = handshake(&client, &mesh.server());
    assert_eq!(
        identity_error(&done.client_result),
        IdentityError::WrongIdentity {
            expected: id("user"),
            presented: id("billing"),
        }
    );
    assert_eq!(reason(&done.client_result), "wrong_identity");
    assert_eq!(
        done.server_result,
        Err(Error::AlertReceived(AlertDescription::CertificateUnknown))
    );
    assert_eq!(reason(&done.server_result), "bad_identity");
}
