//! Authorities of our own making: a key, and a certificate that it signs itself.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, SanType,
};

use super::{AuthorityError, StoreError, date_time, random_serial};
use crate::key::PrivateKey;
use crate::spiffe::TrustDomain;

/// For peers whose clocks are behind when the mesh begins.
const BACK_DATED: Duration = Duration::from_secs(60 * 60);

/// A new authority in PEM, to be kept somewhere and read back with [`CertificateAuthority::from_pem`].
pub struct NewAuthority {
    /// The certificate, signed by its own key.
    pub certificate: String,
    /// The key (PKCS#8), a secret.
    pub key: String,
}

impl NewAuthority {
    /// Makes one that lives for `lifetime` from `now` on.
    ///
    /// # Errors
    /// [`AuthorityError`]: no key could be made, or `now` and `lifetime` are beyond what certificates express.
    pub fn generate(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let private = PrivateKey::generate()?;
        let path = Path::new("the new certificate");
        Ok(Self {
            certificate: self_signed(path, &private, trust_domain, lifetime, now)?,
            key: private.to_pem(),
        })
    }
}

impl fmt::Debug for NewAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAuthority")
            .field("certificate", &self.certificate)
            .field("key", &"secret")
            .finish()
    }
}

pub(super) fn self_signed(
    path: &Path,
    key: &PrivateKey,
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: SystemTime,
) -> Result<String, AuthorityError> {
    let sign = |cause| StoreError::Sign {
        path: path.into(),
        cause,
    };
    let uri = trust_domain.uri().try_into().map_err(sign)?;
    let mut params = CertificateParams::default();
    params.not_before = date_time(
        now.checked_sub(BACK_DATED)
            .ok_or(AuthorityError::Time(now))?,
    )?;
    params.not_after = date_time(now.checked_add(lifetime).ok_or(AuthorityError::Time(now))?)?;
    params.serial_number = Some(random_serial()?);
    // The name tells authorities apart, so that a verifier that knows several tries the right one.
    let fingerprint = params.key_identifier(key.pair().as_ref());
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Outrider");
    name.push(DnType::CommonName, format!("CA {}", hex(&fingerprint, 8)));
    params.distinguished_name = name;
    // X.509-SVID §3: an authority carries the ID of its trust domain, without a path.
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key.pair().as_ref()).map_err(sign)?;
    Ok(certificate.pem())
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes
        .iter()
        .take(count)
        .map(|b| format!("{b:02x}"))
        .collect()
}
