//! Private keys of workloads: ECDSA on P-256.
//!
//! Owns the making of keys and what is signed with them outside TLS: the certificate signing request. A key
//! is written to disk only by [`crate::authority`] and [`crate::token`], for the control plane's own two.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::pem::{self, PemError};

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system's cryptography failed.
    #[error("cannot generate a P-256 key: {0}")]
    Generate(#[source] rcgen::Error),
    /// The request could not be signed.
    #[error("cannot sign a certificate request: {0}")]
    Request(#[source] rcgen::Error),
    /// Not PEM, or not one private key.
    #[error("private key: {0}")]
    Pem(#[from] PemError),
    /// PEM, but not of a key that is understood.
    #[error("private key of an unknown kind: expected PKCS#8")]
    Unreadable(#[source] rcgen::Error),
    /// A key of another algorithm.
    #[error("private key of another algorithm: expected ECDSA on P-256")]
    NotP256,
}

/// An ECDSA key on P-256. Clones share it; `Debug` does not show it.
#[derive(Clone)]
pub struct PrivateKey(Arc<KeyPair>);

impl PrivateKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self(Arc::new(pair)))
    }

    /// A PKCS#10 request (RFC 2986) in DER that asks for nothing: an empty subject, no extensions. The
    /// identity comes from the caller's token, so there is nothing else to say than the public key.
    ///
    /// # Errors
    /// [`KeyError::Request`].
    pub fn signing_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(self.0.as_ref())
            .map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }

    /// The secret itself, PKCS#8 in DER (RFC 5958), for rustls.
    pub fn to_pkcs8_der(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der())
    }

    pub(crate) fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let pair = pair_from_der(&pem::private_key(text)?)?;
        if !pair.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(KeyError::NotP256);
        }
        Ok(Self(Arc::new(pair)))
    }

    pub(crate) fn pair(&self) -> &Arc<KeyPair> {
        &self.0
    }

    /// The point, uncompressed (SEC 1 §2.3.3).
    pub(crate) fn public_point(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7).
    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// A key of any algorithm, for a certificate authority that someone else made.
pub(crate) fn pair_from_der(der: &PrivateKeyDer<'_>) -> Result<KeyPair, KeyError> {
    KeyPair::try_from(der).map_err(KeyError::Unreadable)
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(P-256, secret)")
    }
}
