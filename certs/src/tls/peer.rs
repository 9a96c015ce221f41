//! Who is at the other end: the identity in a peer's certificate, checked.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::leaf::{Leaf, LeafError};
use crate::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a peer has no identity in this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No certificate was presented.
    #[error("no client certificate: expected a workload's")]
    NoCertificate,
    /// Not X.509, or with broken extensions.
    #[error("malformed certificate: expected X.509 version 3 in DER")]
    Malformed,
    /// No URI among its names.
    #[error("certificate without a URI SAN: expected exactly one, a SPIFFE ID")]
    NoUriSan,
    /// Several URIs among its names.
    #[error("certificate with several URI SANs: expected exactly one, a SPIFFE ID")]
    ManyUriSans,
    /// Its URI is not a workload's SPIFFE ID.
    #[error("certificate with a URI SAN that is not a workload's: {0}")]
    NotSpiffe(#[source] SpiffeIdError),
    /// A workload of another trust domain.
    #[error("peer {id}: expected the trust domain {expected}")]
    TrustDomain {
        /// Who it is.
        id: SpiffeId,
        /// The trust domain of this mesh.
        expected: TrustDomain,
    },
    /// Its time is over.
    #[error("expired certificate: expected one that is valid now")]
    Expired,
    /// Its time has not come; usually a clock is wrong.
    #[error(
        "certificate that is not yet valid: expected one that is valid now (are the clocks right?)"
    )]
    NotYetValid,
}

impl PeerError {
    /// A bounded name for metrics and logs, one of [`super::HANDSHAKE_REASONS`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed | Self::NoUriSan | Self::ManyUriSans | Self::NotSpiffe(_) => {
                "bad_identity"
            }
            Self::TrustDomain { .. } => "wrong_trust_domain",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

impl From<LeafError> for PeerError {
    fn from(error: LeafError) -> Self {
        match error {
            LeafError::Malformed => Self::Malformed,
            LeafError::NoUriSan => Self::NoUriSan,
            LeafError::ManyUriSans => Self::ManyUriSans,
            LeafError::NotSpiffe(cause) => Self::NotSpiffe(cause),
        }
    }
}

/// A peer's identity, and until when its certificate vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who it is.
    pub id: SpiffeId,
    /// The end of its certificate.
    pub not_after: SystemTime,
}

/// The identity in what rustls calls `peer_certificates()`.
///
/// Ask again on every connection and not only for its contents: in a resumed session the handshake does not
/// verify the certificate once more, so an expired one is noticed here.
///
/// # Errors
/// [`PeerError`]. The chain and the signatures are the handshake's business and not checked.
pub fn peer(
    certificates: Option<&[CertificateDer<'_>]>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<PeerCertificate, PeerError> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerError::NoCertificate)?;
    let leaf = Leaf::parse(leaf)?;
    // rustls-webpki does not know name constraints on URIs, so that nothing but this keeps an authority
    // that serves two trust domains from vouching for the other.
    if leaf.id.trust_domain_str() != trust_domain.as_ref() {
        return Err(PeerError::TrustDomain {
            id: leaf.id,
            expected: trust_domain.clone(),
        });
    }
    if now < leaf.not_before {
        return Err(PeerError::NotYetValid);
    }
    if now > leaf.not_after {
        return Err(PeerError::Expired);
    }
    Ok(PeerCertificate {
        id: leaf.id,
        not_after: leaf.not_after,
    })
}
