//! Finished rustls configurations: TLS 1.3 only, both sides verified, X25519MLKEM768 preferred.
//!
//! Owns every TLS setting of the mesh. A configuration is built once per certificate and shared; a new
//! certificate or trust bundle means a new configuration, whose tickets have another key and whose session
//! store is empty, so that nothing can be resumed across a change of trust. 0-RTT is off on both sides: early data can be replayed.

mod peer;
mod reason;
mod verify;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, kx_group};
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use crate::authority::ServerCertificate;
use crate::bundle::TrustBundle;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::svid::Svid;

pub use peer::{PeerCertificate, PeerError, peer};
pub use reason::{HANDSHAKE_REASONS, handshake_reason};
pub use verify::IdentityError;

use verify::{ClientVerifier, ServerVerifier};

/// Tickets that a server hands out with a handshake. A client uses one for the next connection, and gets
/// the next one with it.
const SERVER_TICKETS: usize = 1;
/// Tickets that a client keeps. One configuration has one peer identity, hence one name in rustls's cache,
/// and rustls keeps at most 8 tickets a name.
const CLIENT_TICKETS: usize = 8;

/// Why no configuration could be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate's trust domain is not the bundle's.
    #[error(
        "certificate of {svid} with the trust bundle of {bundle}: expected the same trust domain"
    )]
    SvidTrustDomain {
        /// The certificate's identity.
        svid: SpiffeId,
        /// Whose bundle it is.
        bundle: TrustDomain,
    },
    /// The peer's trust domain is not the bundle's: no peer could pass.
    #[error("peer {expected} with the trust bundle of {bundle}: expected the same trust domain")]
    ExpectedTrustDomain {
        /// The peer that is expected.
        expected: SpiffeId,
        /// Whose bundle it is.
        bundle: TrustDomain,
    },
    /// rustls does not take the bundle's certificates as trust anchors.
    #[error("trust bundle: {0}")]
    Anchors(#[source] rustls::Error),
    /// rustls cannot verify clients with this bundle.
    #[error("client verifier: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// The cryptography lacks TLS 1.3.
    #[error("TLS 1.3: {0}")]
    Version(#[source] rustls::Error),
    /// No key for session tickets could be made.
    #[error("session tickets: {0}")]
    Tickets(#[source] rustls::Error),
    /// rustls does not take the certificate and its key.
    #[error("certificate and key: {0}")]
    Certificate(#[source] rustls::Error),
}

/// Whether a server takes clients without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Between sidecars: the handshake fails without one.
    Required,
    /// At the control plane's port: a sidecar that asks for its first certificate has none. One that is
    /// presented is verified all the same.
    Optional,
}

/// The server's side: presents `svid`, takes clients of the bundle's trust domain.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    svid: &Svid,
    bundle: &TrustBundle,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    check_svid(svid, bundle)?;
    let provider = provider();
    let verifier = ClientVerifier::new(bundle, clients, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(svid.chain().to_vec(), private_key(svid))
        .map_err(TlsError::Certificate)?;
    config.alpn_protocols = protocols(alpn);
    // What is to be remembered of a session is in its ticket: a server that a thousand workloads call
    // remembers nothing. The key is the configuration's own, and changes every six hours.
    config.ticketer = Ticketer::new().map_err(TlsError::Tickets)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = SERVER_TICKETS;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The side of a server that is known by its host name, and asks nobody who they are.
///
/// # Errors
/// [`TlsError`].
pub fn named_server_config(
    certificate: &ServerCertificate,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let key = PrivateKeyDer::Pkcs8(certificate.key().to_pkcs8_der());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_no_client_auth()
        .with_single_cert(certificate.chain().to_vec(), key)
        .map_err(TlsError::Certificate)?;
    config.alpn_protocols = protocols(alpn);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The client's side: presents `svid` if there is one, and takes exactly the server `expected`. Connect
/// with [`server_name`].
///
/// # Errors
/// [`TlsError`].
pub fn client_config(
    svid: Option<&Svid>,
    bundle: &TrustBundle,
    expected: &SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    if let Some(svid) = svid {
        check_svid(svid, bundle)?;
    }
    if expected.trust_domain_str() != bundle.trust_domain().as_ref() {
        return Err(TlsError::ExpectedTrustDomain {
            expected: expected.clone(),
            bundle: bundle.trust_domain().clone(),
        });
    }
    let provider = provider();
    let verifier = ServerVerifier::new(bundle, expected, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        // "Dangerous" is any verifier but the web's, which knows no SPIFFE IDs.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match svid {
        Some(svid) => builder
            .with_client_auth_cert(svid.chain().to_vec(), private_key(svid))
            .map_err(TlsError::Certificate)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::in_memory_sessions(CLIENT_TICKETS);
    config.enable_early_data = false;
    // Peers have identities, not host names; there is nothing to say, and nothing for others to read.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The name to give to rustls when connecting. It is never sent and never compared: the expected identity
/// is part of the configuration. (An address from RFC 5737's examples, which rustls never puts into SNI.)
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)).into())
}

fn check_svid(svid: &Svid, bundle: &TrustBundle) -> Result<(), TlsError> {
    if svid.id().trust_domain_str() == bundle.trust_domain().as_ref() {
        return Ok(());
    }
    Err(TlsError::SvidTrustDomain {
        svid: svid.id().clone(),
        bundle: bundle.trust_domain().clone(),
    })
}

/// aws-lc-rs with the key exchanges of the mesh, best first. The hybrid one keeps what is recorded today
/// unreadable to tomorrow's quantum computers (draft-ietf-tls-ecdhe-mlkem).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn private_key(svid: &Svid) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(svid.key().to_pkcs8_der())
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
