//! A workload's own certificate with its key (X.509-SVID), and when to get the next one.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::key::PrivateKey;
use crate::leaf::{Leaf, LeafError};
use crate::spiffe::SpiffeId;

/// The shortest and the longest wait between two attempts to renew.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Why a chain and a key are not an SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("empty certificate chain: expected the workload's certificate first")]
    EmptyChain,
    /// The first certificate is not a workload's.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The first certificate may sign others (X.509-SVID §4.1 forbids it).
    #[error("certificate of an authority (CA:true): expected a workload's")]
    Authority,
    /// The certificate ends before it begins.
    #[error("certificate that ends before it begins: expected NotAfter after NotBefore")]
    Validity,
    /// The certificate is for another key.
    #[error("certificate for another key: expected one for the key that asked for it")]
    KeyMismatch,
}

/// A key, and the certificate chain that says whose it is. Clones share the key.
#[derive(Debug, Clone)]
pub struct Svid {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Svid {
    /// Puts a key and a chain together; the workload's certificate comes first, then any intermediates.
    ///
    /// # Errors
    /// [`SvidError`]: the first certificate must have exactly one URI SAN, a SPIFFE ID, not be an
    /// authority's, and be for this key. Its signature and its time are the peers' to judge.
    pub fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        let leaf = Leaf::parse(chain.first().ok_or(SvidError::EmptyChain)?)?;
        if leaf.is_authority {
            return Err(SvidError::Authority);
        }
        if leaf.not_after <= leaf.not_before {
            return Err(SvidError::Validity);
        }
        if leaf.public_key_info != key.public_key_info() {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self {
            key,
            chain,
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// Who it says the holder is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The certificates in DER, the workload's first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// When to ask for the next certificate: between a third and a half of the lifetime, so that two thirds
    /// of it remain for an outage of the control plane. `jitter`, from 0 to 1, spreads workloads that
    /// started together.
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        renewal(self.not_before, self.not_after, jitter)
    }
}

/// Of a certificate of whatever kind.
pub(crate) fn renewal(not_before: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    let wait = lifetime.mul_f64(1.0 / 3.0 + unit(jitter) / 6.0);
    not_before.checked_add(wait).unwrap_or(not_after)
}

/// How long to wait after a failed attempt to renew (the first is number 0): doubling from 100 ms to 30 s.
/// `jitter`, from 0 to 1, spreads each wait between its value and twice that.
pub fn retry_delay(attempt: u32, jitter: f64) -> Duration {
    let doubled = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(attempt));
    doubled
        .min(RETRY_LAST / 2)
        .mul_f64(1.0 + unit(jitter))
        .min(RETRY_LAST)
}

/// `Duration::mul_f64` panics on what is not a number.
fn unit(jitter: f64) -> f64 {
    if jitter.is_nan() {
        return 0.0;
    }
    jitter.clamp(0.0, 1.0)
}
