//! Trust bundles: the certificates of a trust domain's authorities.
//!
//! Source: SPIFFE Trust Domain and Bundle §4.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use crate::leaf::{self, LeafError};
use crate::pem;
use crate::spiffe::TrustDomain;

pub use crate::pem::PemError;

/// The most authorities in a bundle; a rotation has two.
const MAX_ANCHORS: usize = 64;

/// Why certificates are not a trust bundle.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// Not PEM with certificates.
    #[error("trust bundle: {0}")]
    Pem(#[from] PemError),
    /// No authority: nobody could be trusted.
    #[error("empty trust bundle: expected at least one certificate")]
    Empty,
    /// More authorities than any rotation needs.
    #[error("trust bundle of {0} certificates: expected at most {MAX_ANCHORS}")]
    TooMany(usize),
    /// Not an X.509 certificate.
    #[error("certificate {index} of the trust bundle: {cause}")]
    Malformed {
        /// Which one, counted from 1.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: LeafError,
    },
    /// A certificate that may not sign others.
    #[error("certificate {0} of the trust bundle is not an authority's: expected CA:true")]
    NotAuthority(usize),
    /// An authority that names another trust domain.
    #[error("certificate {index} of the trust bundle is of {found}: expected spiffe://{expected}")]
    TrustDomain {
        /// Which one, counted from 1.
        index: usize,
        /// The URI in the certificate.
        found: String,
        /// The trust domain of the bundle.
        expected: TrustDomain,
    },
    /// Two bundles that are not of one trust domain.
    #[error("trust bundle of {found}: expected one of {expected}")]
    OtherDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Whose it should be.
        expected: TrustDomain,
    },
    /// X.509, but not usable as a trust anchor.
    #[error("certificate {index} of the trust bundle cannot be a trust anchor: {cause}")]
    Unusable {
        /// Which one, counted from 1.
        index: usize,
        /// rustls's reason.
        #[source]
        cause: rustls::Error,
    },
}

/// The authorities of one trust domain, at least one. Equal bundles trust the same authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    // Sorted and without duplicates, so that equality does not depend on the order in a file; shared,
    // since every workload of a mesh has the same.
    anchors: Arc<Vec<CertificateDer<'static>>>,
}

impl TrustBundle {
    /// A bundle of these authorities.
    ///
    /// # Errors
    /// [`BundleError`]: each certificate must be that of an authority (`CA:true`) and, if it names a trust
    /// domain (X.509-SVID §3), of this one.
    pub fn new(
        trust_domain: TrustDomain,
        mut anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if anchors.is_empty() {
            return Err(BundleError::Empty);
        }
        if anchors.len() > MAX_ANCHORS {
            return Err(BundleError::TooMany(anchors.len()));
        }
        for (position, anchor) in anchors.iter().enumerate() {
            check_anchor(position + 1, anchor, &trust_domain)?;
        }
        anchors.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        anchors.dedup();
        Ok(Self {
            trust_domain,
            anchors: Arc::new(anchors),
        })
    }

    /// A bundle from PEM text (RFC 7468).
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        Self::new(trust_domain, pem::certificates(text)?)
    }

    /// All authorities of both.
    ///
    /// # Errors
    /// [`BundleError`]: `other` is of another trust domain, or they are too many.
    pub fn union(&self, other: &Self) -> Result<Self, BundleError> {
        if self.trust_domain != other.trust_domain {
            return Err(BundleError::OtherDomain {
                found: other.trust_domain.clone(),
                expected: self.trust_domain.clone(),
            });
        }
        let anchors = self.anchors.iter().chain(&*other.anchors);
        Self::new(self.trust_domain.clone(), anchors.cloned().collect())
    }

    /// Whether every authority of `other` is trusted.
    pub fn includes(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && other.anchors.iter().all(|anchor| self.has(anchor))
    }

    /// The authorities of both, if there are any.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let common = self.anchors.iter().filter(|anchor| other.has(anchor));
        let anchors: Vec<_> = common.cloned().collect();
        let comparable = self.trust_domain == other.trust_domain && !anchors.is_empty();
        comparable.then(|| Self {
            trust_domain: self.trust_domain.clone(),
            anchors: Arc::new(anchors),
        })
    }

    fn has(&self, anchor: &CertificateDer<'_>) -> bool {
        let found = self
            .anchors
            .binary_search_by(|own| own.as_ref().cmp(anchor.as_ref()));
        found.is_ok()
    }

    /// The bundle as PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.anchors)
    }

    /// Whose authorities these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities' certificates in DER, sorted.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    pub(crate) fn root_store(&self) -> Result<RootCertStore, rustls::Error> {
        let mut store = RootCertStore::empty();
        for anchor in &*self.anchors {
            store.add(anchor.clone())?;
        }
        Ok(store)
    }
}

fn check_anchor(
    index: usize,
    der: &CertificateDer<'_>,
    trust_domain: &TrustDomain,
) -> Result<(), BundleError> {
    let malformed = |cause| BundleError::Malformed { index, cause };
    let certificate = leaf::parse_certificate(der).map_err(malformed)?;
    if !leaf::is_authority(&certificate).map_err(malformed)? {
        return Err(BundleError::NotAuthority(index));
    }
    if let Some(found) = foreign_domain(&certificate, trust_domain).map_err(malformed)? {
        return Err(BundleError::TrustDomain {
            index,
            found,
            expected: trust_domain.clone(),
        });
    }
    RootCertStore::empty()
        .add(der.clone())
        .map_err(|cause| BundleError::Unusable { index, cause })
}

/// The SPIFFE URI of an authority that is not that of `trust_domain`, if there is one. Authorities made
/// outside the mesh may carry none.
pub(crate) fn foreign_domain(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
    trust_domain: &TrustDomain,
) -> Result<Option<String>, LeafError> {
    let expected = trust_domain.uri();
    let foreign = leaf::uri_names(certificate)?
        .into_iter()
        .find(|uri| uri.starts_with("spiffe:") && *uri != expected);
    Ok(foreign.map(|uri| uri.chars().take(300).collect()))
}
