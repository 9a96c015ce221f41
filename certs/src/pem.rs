//! PEM text (RFC 7468): the one encoder and the one decoder of this crate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a text is not the list of certificates that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The PEM armour or its base64 is broken.
    #[error("broken PEM: {0}")]
    Syntax(String),
    /// Nothing between the lines `BEGIN CERTIFICATE` and `END CERTIFICATE`.
    #[error("no certificate in it: expected PEM with at least one BEGIN CERTIFICATE line")]
    NoCertificate,
    /// A key where only certificates belong; such a file is handed to many readers.
    #[error("holds a private key: expected certificates only")]
    PrivateKey,
    /// No private key of a kind that is known.
    #[error("no private key in it: expected PEM with BEGIN PRIVATE KEY (PKCS#8)")]
    NoPrivateKey,
    /// More than one private key, and no telling which is meant.
    #[error("holds more than one private key: expected one")]
    ManyPrivateKeys,
}

/// The certificates of a PEM text, in the order of the text; at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        match section.map_err(|error| PemError::Syntax(error.to_string()))? {
            (SectionKind::Certificate, der) => found.push(CertificateDer::from(der)),
            (
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey,
                _,
            ) => return Err(PemError::PrivateKey),
            // Comments in PEM form (parameters, public keys) say nothing that could be misread.
            _ => {}
        }
    }
    if found.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok(found)
}

/// The one private key of a PEM text.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let mut keys = PrivateKeyDer::pem_slice_iter(text);
    let key = match keys.next() {
        None => return Err(PemError::NoPrivateKey),
        Some(key) => key.map_err(|error| PemError::Syntax(error.to_string()))?,
    };
    match keys.next() {
        None => Ok(key),
        Some(Ok(_)) => Err(PemError::ManyPrivateKeys),
        Some(Err(error)) => Err(PemError::Syntax(error.to_string())),
    }
}

/// Certificates as PEM, 64 characters a line.
pub(crate) fn encode_certificates(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = STANDARD.encode(certificate.as_ref());
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(64));
            text.push_str(&rest);
            text.push('\n');
            rest = tail;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
