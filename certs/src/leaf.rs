//! What the mesh reads of a workload's certificate: its one SPIFFE ID, its validity and its public key.
//!
//! The only place where identities are taken from certificates, so that a handshake, a resumed session and
//! a certificate of one's own are judged alike. It judges contents, not signatures.
//!
//! Source: X.509-SVID §2 (one URI SAN), §5.2 (leaf validation).

use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use crate::spiffe::{SpiffeId, SpiffeIdError};

/// The context-specific tag of a URI in a SubjectAltName (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// Why a certificate is not a workload's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not an X.509 certificate, or one with broken extensions.
    #[error("malformed certificate: expected X.509 version 3 in DER")]
    Malformed,
    /// No URI among the names: a DNS name is no identity here.
    #[error("certificate without a URI SAN: expected exactly one, a SPIFFE ID")]
    NoUriSan,
    /// Several URIs among the names, and no telling which is meant.
    #[error("certificate with several URI SANs: expected exactly one, a SPIFFE ID")]
    ManyUriSans,
    /// The URI is not a SPIFFE ID of a workload.
    #[error("certificate with a URI SAN that is not a workload's: {0}")]
    NotSpiffe(#[source] SpiffeIdError),
}

/// A workload's certificate, read.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) is_authority: bool,
    /// SubjectPublicKeyInfo in DER.
    pub(crate) public_key_info: Vec<u8>,
}

impl Leaf {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, LeafError> {
        let certificate = parse_certificate(der)?;
        let uri = match uri_names(&certificate)?.as_slice() {
            [] => return Err(LeafError::NoUriSan),
            [uri] => *uri,
            [_, _, ..] => return Err(LeafError::ManyUriSans),
        };
        let id = uri.parse().map_err(LeafError::NotSpiffe)?;
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: system_time(validity.not_before)?,
            not_after: system_time(validity.not_after)?,
            is_authority: is_authority(&certificate)?,
            public_key_info: certificate.public_key().raw.to_vec(),
        })
    }
}

/// A certificate and nothing after it.
pub(crate) fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(LeafError::Malformed),
    }
}

/// All URIs of the SubjectAltName; a second SubjectAltName is malformed.
pub(crate) fn uri_names<'c>(
    certificate: &'c X509Certificate<'_>,
) -> Result<Vec<&'c str>, LeafError> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let Some(extension) = extension else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for name in &extension.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // A URI that the parser could not read must not vanish from the count.
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => return Err(LeafError::Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

/// Whether the certificate may sign others (BasicConstraints, RFC 5280 §4.2.1.9).
pub(crate) fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, LeafError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| LeafError::Malformed)?;
    Ok(constraints.is_some_and(|extension| extension.value.ca))
}

pub(crate) fn system_time(time: ASN1Time) -> Result<SystemTime, LeafError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    };
    time.ok_or(LeafError::Malformed)
}
