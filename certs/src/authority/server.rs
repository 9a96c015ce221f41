//! Certificates of ordinary TLS servers, for clients that know host names and no identities: the API
//! server, which calls the control plane's webhooks.
//!
//! They have no URI SAN and are not for clients, so that no part of the mesh takes one for an identity.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, ServerName};

use super::{AuthorityError, CertificateAuthority, random_serial};
use crate::key::{KeyError, PrivateKey};
use crate::svid;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServerCertificateError {
    /// The authority is not in a state to issue any.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It would be nobody's.
    #[error("a server's certificate without a name: expected a DNS name or an address")]
    NoName,
    /// A name that a certificate cannot hold.
    #[error("{name} cannot stand in a certificate: {cause}")]
    Name {
        /// As it was given.
        name: String,
        /// The encoder's reason.
        #[source]
        cause: rcgen::Error,
    },
    /// Its key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signature failed.
    #[error("cannot sign a server's certificate: {0}")]
    Sign(#[source] rcgen::Error),
}

/// A server's key with the certificate of its names.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl ServerCertificate {
    /// The certificates in DER, the server's first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When to get the next one, as [`crate::svid::Svid::renew_at`].
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        svid::renewal(self.not_before, self.not_after, jitter)
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }
}

impl CertificateAuthority {
    /// Issues a certificate for a server of these names, with a key of its own, valid for `lifetime` from
    /// `now` on, and in the past as those of workloads.
    ///
    /// # Errors
    /// [`ServerCertificateError`].
    pub fn issue_server(
        &self,
        names: &[ServerName<'_>],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, ServerCertificateError> {
        if names.is_empty() {
            return Err(ServerCertificateError::NoName);
        }
        let (not_before, not_after) = self.validity(lifetime, now)?;
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.iter().map(alt_name).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = PrivateKey::generate()?;
        let certificate = params
            .signed_by(key.pair().as_ref(), &self.issuer)
            .map_err(ServerCertificateError::Sign)?;
        let mut chain = vec![CertificateDer::from(certificate)];
        chain.extend_from_slice(&self.intermediates);
        Ok(ServerCertificate {
            key,
            chain,
            not_before: not_before.into(),
            not_after: not_after.into(),
        })
    }
}

fn alt_name(name: &ServerName<'_>) -> Result<SanType, ServerCertificateError> {
    let wrong = |cause| ServerCertificateError::Name {
        name: name.to_str().into_owned(),
        cause,
    };
    match name {
        ServerName::DnsName(dns) => {
            let dns = dns.as_ref().try_into().map_err(wrong)?;
            Ok(SanType::DnsName(dns))
        }
        ServerName::IpAddress(address) => Ok(SanType::IpAddress((*address).into())),
        // There is no other kind yet.
        _ => Err(wrong(rcgen::Error::InvalidNameType)),
    }
}
