//! The certificates of authorities, read from a trust bundle's PEM. Pure.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::time;

/// One authority that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Authority {
    pub(crate) subject: String,
    /// Hexadecimal.
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    pub(crate) seconds_left: i64,
}

/// The certificates of a PEM text, in its order.
///
/// # Errors
/// It is not PEM, or one is no certificate.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("broken PEM: {error}"))?;
    match certificates.is_empty() {
        true => Err("no certificate in it".to_owned()),
        false => Ok(certificates),
    }
}

/// Every authority of a trust bundle; `now` is seconds since 1970.
///
/// # Errors
/// As [`certificates`].
pub(crate) fn read(pem: &[u8], now: i64) -> Result<Vec<Authority>, String> {
    let certificates = certificates(pem)?;
    certificates.iter().map(|der| authority(der, now)).collect()
}

fn authority(der: &CertificateDer<'_>, now: i64) -> Result<Authority, String> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| format!("not an X.509 certificate: {error}"))?;
    let life = Life::of(der)?;
    Ok(Authority {
        subject: certificate.subject().to_string(),
        serial: certificate.raw_serial_as_string().replace(':', ""),
        not_before: life.not_before,
        not_after: life.not_after,
        seconds_left: life.left(now),
    })
}

/// From when to when a certificate is good, seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl Life {
    /// Of a certificate (DER).
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let validity = certificate.validity();
        Ok(Self {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// From one end to the other.
    pub(crate) fn whole(self) -> i64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// Negative: it is over.
    pub(crate) fn left(self, now: i64) -> i64 {
        self.not_after.saturating_sub(now)
    }
}

impl Authority {
    /// A row of the table.
    pub(super) fn row(&self) -> [String; 4] {
        [
            self.subject.clone(),
            self.serial.clone(),
            time::moment(self.not_after),
            time::left(self.seconds_left),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrider_certs::authority::CertificateAuthority;

    use super::*;

    #[test]
    fn an_authority_lasts_for_years() {
        let folder = tempfile::tempdir().unwrap();
        let domain = "shop.example".parse().unwrap();
        let now = SystemTime::now();
        let authority = CertificateAuthority::load_or_create(folder.path(), &domain, now).unwrap();
        let pem = authority.trust_bundle().to_pem();
        let read = read(pem.as_bytes(), time::unix(now)).unwrap();
        assert_eq!(read.len(), 1);
        assert!(read[0].seconds_left > 9 * 365 * 86_400, "{read:?}");
        assert!(!read[0].serial.is_empty() && !read[0].serial.contains(':'));
    }

    #[test]
    fn what_is_none_is_said() {
        assert_eq!(read(b"", 0).unwrap_err(), "no certificate in it");
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(read(broken, 0).unwrap_err().starts_with("not an X.509"));
    }
}
