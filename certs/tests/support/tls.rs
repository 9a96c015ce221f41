//! TLS peers in memory: ours, and ones that present and believe anything.

use std::sync::Arc;
use std::time::SystemTime;

use outrider_certs::authority::CertificateAuthority;
use outrider_certs::svid::Svid;
use outrider_certs::tls::{
    ClientAuth, HANDSHAKE_REASONS, IdentityError, client_config, handshake_reason, server_config,
};
use rcgen::{CertificateParams, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error,
    ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Ca, DAY, RawIdentity, id, trust_domain};

pub const H2: &[&[u8]] = &[b"h2"];
pub const ORDER: &str = "spiffe://shop.example/ns/shop/sa/order";
pub const BILLING: &str = "spiffe://shop.example/ns/shop/sa/billing";

/// An authority of ours, with a caller and a callee.
pub struct Mesh {
    pub authority: CertificateAuthority,
    pub order: Svid,
    pub billing: Svid,
}

impl Mesh {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority =
            CertificateAuthority::load_or_create(directory.path(), &trust_domain(), now).unwrap();
        let svid = |name| authority.issue_svid(&id(name), DAY, now).unwrap();
        let (order, billing) = (svid("order"), svid("billing"));
        Self {
            authority,
            order,
            billing,
        }
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        let bundle = self.authority.trust_bundle();
        client_config(Some(&self.order), &bundle, self.billing.id(), H2).unwrap()
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let bundle = self.authority.trust_bundle();
        server_config(&self.billing, &bundle, ClientAuth::Required, H2).unwrap()
    }
}

/// Believes every server.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub fn raw_client(
    identity: Option<RawIdentity>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    Arc::new(match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain, identity.key)
            .unwrap(),
        None => builder.with_no_client_auth(),
    })
}

pub fn raw_server(
    identity: RawIdentity,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    Arc::new(config)
}

/// Our server, with a certificate of an authority that signs anything.
pub fn server_of(ca: &Ca, clients: ClientAuth) -> Arc<ServerConfig> {
    let mesh = Mesh::new();
    // The server's own certificate is of no interest here: the client believes everything.
    server_config(&mesh.billing, &ca.bundle(), clients, &[]).unwrap()
}

/// Our client, that calls billing and trusts that authority.
pub fn client_of(ca: &Ca) -> Arc<ClientConfig> {
    client_config(None, &ca.bundle(), &id("billing"), &[]).unwrap()
}

pub fn identity_error(result: &Result<(), Error>) -> IdentityError {
    match result {
        Err(Error::InvalidCertificate(CertificateError::Other(other))) => other
            .0
            .downcast_ref::<IdentityError>()
            .unwrap_or_else(|| panic!("not an identity error: {other:?}"))
            .clone(),
        other => panic!("not an identity error: {other:?}"),
    }
}

/// What our server says to a client with such a certificate, and our client to a server with it.
pub fn refused_both_ways(
    names: impl Fn() -> Vec<SanType>,
    change: impl Fn(&mut CertificateParams),
) -> (Result<(), Error>, Result<(), Error>) {
    let ca = Ca::new("anything");
    let client = raw_client(Some(ca.leaf(names(), &change)), &rustls::version::TLS13);
    let by_server = handshake(&client, &server_of(&ca, ClientAuth::Required)).server_result;
    // Optional means that none is needed, not that any will do.
    let optional = handshake(&client, &server_of(&ca, ClientAuth::Optional)).server_result;
    assert_eq!(reason(&by_server), reason(&optional));
    let server = raw_server(ca.leaf(names(), &change), &rustls::version::TLS13);
    let by_client = handshake(&client_of(&ca), &server).client_result;
    (by_server, by_client)
}

pub fn reason(result: &Result<(), Error>) -> &'static str {
    let label = handshake_reason(result.as_ref().expect_err("the handshake succeeded"));
    assert!(HANDSHAKE_REASONS.contains(&label), "{label} is not listed");
    label
}

pub fn complete(done: &Handshake) {
    assert_eq!(done.client_result, Ok(()));
    assert_eq!(done.server_result, Ok(()));
    assert!(!done.client.is_handshaking() && !done.server.is_handshaking());
}

pub struct Handshake {
    pub client: Connection,
    pub server: Connection,
    pub client_result: Result<(), Error>,
    pub server_result: Result<(), Error>,
}

/// Carries bytes between the two until neither has any, alerts and session tickets included.
pub fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Handshake {
    let client = ClientConnection::new(client.clone(), outrider_certs::tls::server_name()).unwrap();
    let server = ServerConnection::new(server.clone()).unwrap();
    let mut both = Handshake {
        client: client.into(),
        server: server.into(),
        client_result: Ok(()),
        server_result: Ok(()),
    };
    loop {
        let there = carry(&mut both.client, &mut both.server, &mut both.server_result);
        let back = carry(&mut both.server, &mut both.client, &mut both.client_result);
        if !there && !back {
            return both;
        }
    }
}

fn carry(from: &mut Connection, to: &mut Connection, result: &mut Result<(), Error>) -> bool {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let moved = !bytes.is_empty();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && result.is_ok() {
        to.read_tls(&mut rest).unwrap();
        *result = to.process_new_packets().map(|_| ());
    }
    moved
}
