//! Certificate signing requests (PKCS#10, RFC 2986): all that is taken from one is a public key.
//!
//! Owns the judgement of bytes from a workload. The identity in the certificate comes from elsewhere (the
//! bootstrap token), so a request that asks for names or rights is refused rather than ignored: whoever
//! sends it expects something that will not happen.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKeyInfo;

/// The largest request that is looked at, in bytes; one with an RSA-8192 key has about 2,500.
pub const MAX_REQUEST_LEN: usize = 16 * 1024;

/// NIST SP 800-131A: RSA under 2048 bits is not allowed any more.
const MIN_RSA_BITS: usize = 2048;
/// What verifiers take at most, and a bound on what a stranger's key may cost.
const MAX_RSA_BITS: usize = 8192;

/// Why a certificate signing request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Over [`MAX_REQUEST_LEN`].
    #[error("certificate request of {0} bytes: expected at most {MAX_REQUEST_LEN}")]
    TooLarge(usize),
    /// Not PKCS#10 in DER.
    #[error("malformed certificate request: expected PKCS#10 in DER")]
    Malformed,
    /// Bytes after the request.
    #[error("certificate request with {0} bytes after its end: expected none")]
    TrailingBytes(usize),
    /// A key of a kind that the mesh does not use.
    #[error(
        "certificate request with a key of another kind: expected P-256, P-384, Ed25519 or RSA"
    )]
    KeyKind,
    /// An RSA key of a length that is not accepted.
    #[error(
        "certificate request with an RSA key of {0} bits: expected {MIN_RSA_BITS} to {MAX_RSA_BITS}"
    )]
    RsaLength(usize),
    /// Signed with an algorithm that does not belong to the key, or that is broken (SHA-1).
    #[error(
        "certificate request signed with another algorithm: expected the key's own with SHA-256 or stronger"
    )]
    SignatureAlgorithm,
    /// The sender does not hold the private key.
    #[error("certificate request with a bad signature: expected one by the key inside")]
    Signature,
    /// Asks for names.
    #[error(
        "certificate request asks for alternative names: expected none, the identity comes from the token"
    )]
    AlternativeNames,
    /// Asks to be a certificate authority.
    #[error("certificate request asks to be an authority (CA:true): expected no such extension")]
    Authority,
    /// Asks for other extensions.
    #[error("certificate request asks for extensions: expected none")]
    Extensions,
}

impl CsrError {
    /// A bounded name for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "csr_too_large",
            Self::Malformed => "csr_malformed",
            Self::TrailingBytes(_) => "csr_trailing_bytes",
            Self::KeyKind => "csr_key_kind",
            Self::RsaLength(_) => "csr_rsa_length",
            Self::SignatureAlgorithm => "csr_signature_algorithm",
            Self::Signature => "csr_signature",
            Self::AlternativeNames => "csr_alternative_names",
            Self::Authority => "csr_authority",
            Self::Extensions => "csr_extensions",
        }
    }
}

/// A request whose sender has shown to hold the private key; nothing but the public key is left of it.
#[derive(Debug, Clone)]
pub struct VerifiedRequest {
    public_key: SubjectPublicKeyInfo,
}

impl VerifiedRequest {
    pub(crate) fn public_key(&self) -> &SubjectPublicKeyInfo {
        &self.public_key
    }
}

impl TryFrom<&[u8]> for VerifiedRequest {
    type Error = CsrError;

    fn try_from(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_REQUEST_LEN {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::TrailingBytes(rest.len()));
        }
        let key = &request.certification_request_info.subject_pki;
        check_algorithms(key, &request.signature_algorithm.algorithm)?;
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        check_attributes(&request)?;
        let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::KeyKind)?;
        Ok(Self { public_key })
    }
}

/// The key must be of a kind that is accepted, and the signature of that kind too: the verifier picks its
/// algorithm from the signature and would otherwise read the key's bytes as those of another kind.
fn check_algorithms(key: &ParsedKeyInfo<'_>, signature: &Oid<'_>) -> Result<(), CsrError> {
    let kind = &key.algorithm.algorithm;
    let accepted: &[Oid<'_>] = if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = key.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|any| any.as_oid().ok());
        match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => {}
            Some(_) | None => return Err(CsrError::KeyKind),
        }
        &[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384]
    } else if *kind == OID_SIG_ED25519 {
        &[OID_SIG_ED25519]
    } else if *kind == OID_PKCS1_RSAENCRYPTION {
        check_rsa_length(key)?;
        &[
            OID_PKCS1_SHA256WITHRSA,
            OID_PKCS1_SHA384WITHRSA,
            OID_PKCS1_SHA512WITHRSA,
            OID_PKCS1_RSASSAPSS,
        ]
    } else {
        return Err(CsrError::KeyKind);
    };
    if !accepted.contains(signature) {
        return Err(CsrError::SignatureAlgorithm);
    }
    Ok(())
}

fn check_rsa_length(key: &ParsedKeyInfo<'_>) -> Result<(), CsrError> {
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
        return Err(CsrError::Malformed);
    };
    // The length is that of the number; zeros before it must not make a short key long.
    let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
    let digits = rsa.modulus.get(zeros..).unwrap_or_default();
    let bits = digits
        .first()
        .map_or(0, |first| digits.len() * 8 - first.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(CsrError::RsaLength(bits));
    }
    Ok(())
}

/// Looks at every attribute: a second extension request must not hide behind a first.
fn check_attributes(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
            continue;
        };
        // The gravest demand names the refusal.
        let mut refusal = None;
        for extension in &asked.extensions {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(CsrError::Authority);
                }
                ParsedExtension::SubjectAlternativeName(_) => {
                    refusal = Some(CsrError::AlternativeNames);
                }
                _ => refusal = refusal.or(Some(CsrError::Extensions)),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
    }
    Ok(())
}
