//! What a TLS session is between peers that accept each other: its version, key exchange and protocol, and
//! when it may be resumed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_certs::authority::CertificateAuthority;
use outrider_certs::tls::{
    ClientAuth, IdentityError, PeerError, TlsError, client_config, handshake_reason, peer,
    server_config,
};
use rustls::{
    AlertDescription, CertificateError, Error, HandshakeKind, NamedGroup, PeerIncompatible,
    ProtocolVersion,
};
use support::tls::{
    BILLING, H2, Mesh, client_of, complete, handshake, raw_client, raw_server, reason,
};
use support::{Ca, HOUR, id, trust_domain, uri};

#[test]
fn two_workloads_meet_with_hybrid_key_exchange() {
    let mesh = Mesh::new();
    let done = handshake(&mesh.client(), &mesh.server());
    complete(&done);
    for side in [&done.client, &done.server] {
        assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(side.alpn_protocol(), Some(b"h2".as_slice()));
        let group = side.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        // No second round trip: the first key share was the right one.
        assert_eq!(side.handshake_kind(), Some(HandshakeKind::Full));
    }
    let now = SystemTime::now();
    let seen = peer(done.server.peer_certificates(), &trust_domain(), now).unwrap();
    assert_eq!(seen.id, id("order"));
    assert_eq!(seen.not_after, mesh.order.not_after());
    let seen = peer(done.client.peer_certificates(), &trust_domain(), now).unwrap();
    assert_eq!(seen.id, id("billing"));
}

#[test]
fn the_client_does_not_send_a_server_name() {
    // Not even if it is given a name that could be sent; the ClientHello is plaintext.
    let name = "billing.shop".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Mesh::new().client(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(hello.windows(2).any(|window| window == b"h2"));
    assert!(!hello.windows(12).any(|window| window == b"billing.shop"));
}

#[test]
fn another_protocol_is_refused() {
    let mesh = Mesh::new();
    let bundle = mesh.authority.trust_bundle();
    let client = client_config(
        Some(&mesh.order),
        &bundle,
        mesh.billing.id(),
        &[b"http/1.1"],
    )
    .unwrap();
    let done = handshake(&client, &mesh.server());
    assert_eq!(done.server_result, Err(Error::NoApplicationProtocol));
    assert_eq!(reason(&done.server_result), "protocol");
}

#[test]
fn tls_1_2_is_refused_on_both_sides() {
    let mesh = Mesh::new();
    let old_client = raw_client(None, &rustls::version::TLS12);
    let done = handshake(&old_client, &mesh.server());
    assert_eq!(
        done.server_result,
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
        ))
    );
    assert_eq!(
        done.client_result,
        Err(Error::AlertReceived(AlertDescription::ProtocolVersion))
    );
    assert_eq!(reason(&done.server_result), "protocol");

    let ca = Ca::new("anything");
    let old_server = raw_server(ca.leaf(vec![uri(BILLING)], |_| {}), &rustls::version::TLS12);
    let done = handshake(&client_of(&ca), &old_server);
    assert_eq!(
        done.server_result,
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
        ))
    );
    assert_eq!(
        done.client_result,
        Err(Error::AlertReceived(AlertDescription::ProtocolVersion))
    );
}

#[test]
fn sessions_resume_with_the_same_configurations_only() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.client(), mesh.server());
    let kind = |client: &_, server: &_| {
        let done = handshake(client, server);
        complete(&done);
        // The identity is known in a resumed session as well.
        let now = SystemTime::now();
        let seen = peer(done.server.peer_certificates(), &trust_domain(), now).unwrap();
        assert_eq!(seen.id, id("order"));
        done.server.handshake_kind()
    };
    assert_eq!(kind(&client, &server), Some(HandshakeKind::Full));
    assert_eq!(kind(&client, &server), Some(HandshakeKind::Resumed));
    // A configuration made anew, after a renewal or a change of trust, knows no session.
    assert_eq!(kind(&client, &mesh.server()), Some(HandshakeKind::Full));
    assert_eq!(kind(&mesh.client(), &server), Some(HandshakeKind::Full));
}

#[test]
fn a_session_does_not_outlive_the_trust_in_its_authority() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let client = mesh.client();
    complete(&handshake(&client, &mesh.server()));
    // The same server after its trust bundle was replaced; the client still has a ticket.
    let replaced = other.authority.trust_bundle();
    let server = server_config(&mesh.billing, &replaced, ClientAuth::Required, H2).unwrap();
    let done = handshake(&client, &server);
    assert_eq!(
        done.server_result,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    );
}

#[test]
fn a_certificate_that_ends_while_its_session_lives_is_noticed() {
    let mesh = Mesh::new();
    let done = handshake(&mesh.client(), &mesh.server());
    complete(&done);
    let seen = |now| peer(done.server.peer_certificates(), &trust_domain(), now);
    let (start, end) = (mesh.order.not_before(), mesh.order.not_after());
    let second = Duration::from_secs(1);
    assert_eq!(seen(start - second), Err(PeerError::NotYetValid));
    assert_eq!(seen(start).unwrap().id, id("order"));
    assert_eq!(seen(end).unwrap().id, id("order"));
    assert_eq!(seen(end + second), Err(PeerError::Expired));
}

#[test]
fn early_data_is_not_offered_and_not_accepted() {
    let mesh = Mesh::new();
    assert_eq!(mesh.server().max_early_data_size, 0);
    // A client that wants to send early data, to our server.
    let mut eager = (*mesh.client()).clone();
    eager.enable_early_data = true;
    let (eager, server) = (Arc::new(eager), mesh.server());
    complete(&handshake(&eager, &server));
    let name = outrider_certs::tls::server_name();
    let mut second = rustls::ClientConnection::new(eager, name.clone()).unwrap();
    assert!(second.early_data().is_none());

    // Our client, to a server that would take it.
    let ca = Ca::new("anything");
    let identity = ca.leaf(vec![uri(BILLING)], |_| {});
    let mut generous = (*raw_server(identity, &rustls::version::TLS13)).clone();
    generous.max_early_data_size = 1024;
    let (client, generous) = (client_of(&ca), Arc::new(generous));
    complete(&handshake(&client, &generous));
    let mut second = rustls::ClientConnection::new(client.clone(), name.clone()).unwrap();
    assert!(second.early_data().is_none());
    // The server does offer it: with the same session store, a client that asks may send.
    let mut eager = (*client).clone();
    eager.enable_early_data = true;
    let mut third = rustls::ClientConnection::new(Arc::new(eager), name).unwrap();
    assert!(third.early_data().is_some());
}

#[test]
fn garbage_is_a_protocol_error() {
    let mesh = Mesh::new();
    let mut server = rustls::ServerConnection::new(mesh.server()).unwrap();
    server
        .read_tls(&mut b"GET / HTTP/1.1\r\n\r\n".as_slice())
        .unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(matches!(error, Error::InvalidMessage(_)), "{error:?}");
    assert_eq!(handshake_reason(&error), "protocol");
}

#[test]
fn reasons_are_found_inside_io_errors() {
    let expired = Error::InvalidCertificate(CertificateError::Expired);
    let wrapped = io::Error::new(io::ErrorKind::InvalidData, expired);
    assert_eq!(handshake_reason(&wrapped), "expired");
    let identity: Error = IdentityError::Peer(PeerError::NoUriSan).into();
    let wrapped = io::Error::new(io::ErrorKind::InvalidData, identity);
    assert_eq!(handshake_reason(&wrapped), "bad_identity");
    let eof = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
    assert_eq!(handshake_reason(&eof), "timeout_or_eof");
    let timeout = io::Error::from(io::ErrorKind::TimedOut);
    assert_eq!(handshake_reason(&timeout), "timeout_or_eof");
    let other = io::Error::new(io::ErrorKind::InvalidData, Error::DecryptError);
    assert_eq!(handshake_reason(&other), "protocol");
}

#[test]
fn configurations_of_two_trust_domains_are_refused() {
    let mesh = Mesh::new();
    let bundle = mesh.authority.trust_bundle();
    let foreign: outrider_certs::spiffe::SpiffeId =
        "spiffe://other.example/ns/shop/sa/billing".parse().unwrap();
    let error = client_config(None, &bundle, &foreign, &[]).unwrap_err();
    assert!(
        matches!(&error, TlsError::ExpectedTrustDomain { expected, .. } if *expected == foreign),
        "{error:?}"
    );

    let directory = tempfile::tempdir().unwrap();
    let (domain, now) = ("other.example".parse().unwrap(), SystemTime::now());
    let other = CertificateAuthority::load_or_create(directory.path(), &domain, now).unwrap();
    let svid = other.issue_svid(&foreign, HOUR, now).unwrap();
    let error = server_config(&svid, &bundle, ClientAuth::Required, &[]).unwrap_err();
    assert!(
        matches!(&error, TlsError::SvidTrustDomain { svid, .. } if *svid == foreign),
        "{error:?}"
    );
    let error = client_config(Some(&svid), &bundle, &id("billing"), &[]).unwrap_err();
    assert!(
        matches!(error, TlsError::SvidTrustDomain { .. }),
        "{error:?}"
    );
}

#[test]
fn an_authority_outside_the_mesh_serves_with_its_chain() {
    let root = Ca::new("root");
    let intermediate = root.intermediate("intermediate");
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("chain.pem"),
        directory.path().join("key.pem"),
    );
    std::fs::write(&certificate, intermediate.pem() + &root.pem()).unwrap();
    std::fs::write(&key, intermediate.key_pem()).unwrap();
    let authority = CertificateAuthority::from_files(&certificate, &key, &trust_domain()).unwrap();
    let bundle = authority.trust_bundle();
    assert_eq!(bundle.anchors(), [root.der()]);
    let now = SystemTime::now();
    let billing = authority.issue_svid(&id("billing"), HOUR, now).unwrap();
    assert_eq!(billing.chain().len(), 2);
    let order = authority.issue_svid(&id("order"), HOUR, now).unwrap();
    let client = client_config(Some(&order), &bundle, &id("billing"), H2).unwrap();
    let server = server_config(&billing, &bundle, ClientAuth::Required, H2).unwrap();
    complete(&handshake(&client, &server));
}
