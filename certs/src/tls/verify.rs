//! The verifiers that rustls calls inside a handshake: the chain first, then the identity.
//!
//! A peer with a wrong identity fails the handshake itself, so that no code after it can forget to look.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::peer::{PeerCertificate, PeerError, peer};
use super::{ClientAuth, TlsError};
use crate::bundle::TrustBundle;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Why a handshake was refused although the chain was good. Found inside [`rustls::Error`] by
/// [`super::handshake_reason`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The certificate does not identify a workload of this mesh.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A workload of this mesh, but not the one that was called.
    #[error("peer {presented}: expected {expected}")]
    WrongIdentity {
        /// Who should be there.
        expected: SpiffeId,
        /// Who is.
        presented: SpiffeId,
    },
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// Takes any workload of a trust domain as a client.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl ClientVerifier {
    pub(super) fn new(
        bundle: &TrustBundle,
        clients: ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let roots = bundle.root_store().map_err(TlsError::Anchors)?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = match clients {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        Ok(Self {
            chain: builder.build()?,
            trust_domain: bundle.trust_domain().clone(),
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(unknown_if_unsigned)?;
        identity(end_entity, &self.trust_domain, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes exactly one workload as the server.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    trust_domain: TrustDomain,
    expected: SpiffeId,
}

impl ServerVerifier {
    pub(super) fn new(
        bundle: &TrustBundle,
        expected: &SpiffeId,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            roots: bundle.root_store().map_err(TlsError::Anchors)?,
            algorithms: provider.signature_verification_algorithms,
            trust_domain: bundle.trust_domain().clone(),
            expected: expected.clone(),
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
        .map_err(unknown_if_unsigned)?;
        let presented = identity(end_entity, &self.trust_domain, now)?.id;
        if presented != self.expected {
            return Err(IdentityError::WrongIdentity {
                expected: self.expected.clone(),
                presented,
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The check that both verifiers make once the chain is good; the same that [`peer`] makes later.
fn identity(
    end_entity: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
    now: UnixTime,
) -> Result<PeerCertificate, IdentityError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let found = peer(Some(std::slice::from_ref(end_entity)), trust_domain, now)?;
    Ok(found)
}

/// A chain that ends at an authority of the right name with another key is as unknown as any other. The
/// error is told apart here because a bad signature on the handshake itself is something else: a peer that
/// does not hold the key of its certificate.
fn unknown_if_unsigned(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            CertificateError::UnknownIssuer.into()
        }
        other => other,
    }
}
