//! The certificate authority of a trust domain: issues workloads' certificates.
//!
//! Owns what stands in a certificate. Everything in it comes from the authenticated identity and from here;
//! of the request it takes the public key and nothing else.
//!
//! Sources: X.509-SVID §2 to §4, RFC 5280 §4.

mod made;
mod probe;
mod server;
mod store;

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::bundle::{BundleError, TrustBundle};
use crate::csr::{CsrError, VerifiedRequest};
use crate::key::{KeyError, PrivateKey};
use crate::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::svid::{Svid, SvidError};

pub use made::NewAuthority;
pub use server::{ServerCertificate, ServerCertificateError};
pub use store::StoreError;

/// How far NotBefore lies in the past, for peers whose clocks are behind; never more than a quarter of the
/// lifetime, or a short certificate would be due for renewal ([`Svid::renew_at`]) when it is issued.
const BACK_DATED: Duration = Duration::from_secs(5 * 60);
/// Certificates count in seconds.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);
/// Random bytes in a serial number; RFC 5280 §4.1.2.2 allows 20, the CA/Browser Forum asks for 8.
const SERIAL_LEN: usize = 16;

/// Why the authority cannot be had, or did not issue a certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The identity is of another trust domain.
    #[error("{id}: expected a workload of the trust domain {expected}")]
    TrustDomain {
        /// Who asked.
        id: SpiffeId,
        /// The authority's trust domain.
        expected: TrustDomain,
    },
    /// The authority's own certificate has ended.
    #[error("the authority's certificate has expired: expected a valid one (replace it)")]
    Expired,
    /// The authority's own certificate is not valid yet; a clock is wrong.
    #[error(
        "the authority's certificate is not yet valid: expected a valid one (is the clock right?)"
    )]
    NotYetValid,
    /// Less than certificates can express.
    #[error("certificate lifetime of {0:?}: expected at least {SHORTEST_LIFETIME:?}")]
    Lifetime(Duration),
    /// A time that certificates cannot express.
    #[error("time {0:?}: expected one between the years 1970 and 9999")]
    Time(SystemTime),
    /// The system has no randomness to give.
    #[error("no random bytes from the system: expected {SERIAL_LEN}")]
    Random,
    /// An ID that a certificate cannot hold.
    #[error("{id} cannot stand in a certificate: {cause}")]
    Name {
        /// Whose certificate it would be.
        id: SpiffeId,
        /// The encoder's reason.
        #[source]
        cause: rcgen::Error,
    },
    /// The signature failed.
    #[error("cannot sign a certificate for {id}: {cause}")]
    Sign {
        /// Whose certificate it would be.
        id: SpiffeId,
        /// The signer's reason.
        #[source]
        cause: rcgen::Error,
    },
    /// A key of the control plane's own could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The control plane's own request.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The control plane's own certificate.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The trust domain is so long that no workload's ID could be in it.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// The authority's certificate is not a trust anchor.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// A certificate as issued.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The workload's certificate in DER, then the intermediates up to the trust bundle, if any.
    pub chain: Vec<CertificateDer<'static>>,
    /// From when on it is valid; in the past, see the module.
    pub not_before: SystemTime,
    /// Until when it is valid; never beyond the authority's own certificate.
    pub not_after: SystemTime,
}

/// The signing key and certificate of a trust domain. The key does not leave it.
#[derive(Debug)]
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    /// What goes into every chain after the workload's certificate: nothing if the authority is the root.
    intermediates: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl CertificateAuthority {
    /// Issues a certificate for `id` and the request's public key, valid for `lifetime` from `now` on.
    ///
    /// It has one URI SAN (the ID) and no other name, is for TLS servers and clients, cannot sign others,
    /// is back-dated five minutes (or a quarter of a short `lifetime`), and ends with the authority's own
    /// certificate at the latest.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        request: &VerifiedRequest,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Certificate, AuthorityError> {
        if id.trust_domain_str() != self.bundle.trust_domain().as_ref() {
            return Err(AuthorityError::TrustDomain {
                id: id.clone(),
                expected: self.bundle.trust_domain().clone(),
            });
        }
        let (not_before, not_after) = self.validity(lifetime, now)?;
        let params = leaf_params(id, not_before, not_after)?;
        let certificate = params
            .signed_by(request.public_key(), &self.issuer)
            .map_err(|cause| AuthorityError::Sign {
                id: id.clone(),
                cause,
            })?;
        let mut chain = vec![CertificateDer::from(certificate)];
        chain.extend_from_slice(&self.intermediates);
        Ok(Certificate {
            chain,
            not_before: not_before.into(),
            not_after: not_after.into(),
        })
    }

    /// Issues a certificate with a key of its own, for the control plane itself.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue_svid(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Svid, AuthorityError> {
        let key = PrivateKey::generate()?;
        let request = VerifiedRequest::try_from(key.signing_request()?.as_slice())?;
        let certificate = self.issue(&request, id, lifetime, now)?;
        Ok(Svid::new(key, certificate.chain)?)
    }

    /// The same authority among others that are trusted besides: those to come, and those of before whose
    /// certificates have not ended yet.
    ///
    /// # Errors
    /// [`AuthorityError::Bundle`]: they are of another trust domain, or too many.
    pub fn trusting(mut self, others: &TrustBundle) -> Result<Self, AuthorityError> {
        self.bundle = self.bundle.union(others)?;
        Ok(self)
    }

    /// What peers need to verify the certificates that this authority issues, and those of the authorities
    /// that are trusted besides.
    pub fn trust_bundle(&self) -> TrustBundle {
        self.bundle.clone()
    }

    /// The beginning of the authority's own certificate, or of the last to begin in its chain.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The end of the authority's own certificate, or of the first to end in its chain.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// NotBefore and NotAfter, in whole seconds.
    fn validity(
        &self,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(OffsetDateTime, OffsetDateTime), AuthorityError> {
        if lifetime < SHORTEST_LIFETIME {
            return Err(AuthorityError::Lifetime(lifetime));
        }
        if now >= self.not_after {
            return Err(AuthorityError::Expired);
        }
        if now < self.not_before {
            return Err(AuthorityError::NotYetValid);
        }
        let not_before = now
            .checked_sub(BACK_DATED.min(lifetime / 4))
            .ok_or(AuthorityError::Time(now))?
            .max(self.not_before);
        // Without an end of its own, a certificate ends with the authority's.
        let not_after = now
            .checked_add(lifetime)
            .map_or(self.not_after, |end| end.min(self.not_after));
        Ok((date_time(not_before)?, date_time(not_after)?))
    }
}

fn leaf_params(
    id: &SpiffeId,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, AuthorityError> {
    let uri = id
        .as_str()
        .try_into()
        .map_err(|cause| AuthorityError::Name {
            id: id.clone(),
            cause,
        })?;
    let mut params = CertificateParams::default();
    params.not_before = not_before;
    params.not_after = not_after;
    params.serial_number = Some(random_serial()?);
    // An empty subject makes rcgen mark the SAN critical, as RFC 5280 §4.2.1.6 asks.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Positive, unpredictable, unique (RFC 5280 §4.1.2.2). rcgen's default is a hash of the public key, which
/// would give a renewed key the serial number of its predecessor.
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; SERIAL_LEN];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Random)?;
    // The first bit is the sign; the second keeps the number's length constant and it from being zero.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn date_time(time: SystemTime) -> Result<OffsetDateTime, AuthorityError> {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).ok();
    since_epoch
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(AuthorityError::Time(time))
}
