//! Where an authority comes from: its own directory, or files that someone else made.
//!
//! Owns `ca.crt` and `ca.key`. The key is written first and never replaced; a certificate that is lost is
//! made anew for the key that is there, and a key that is lost is an error: nothing here silently starts a
//! new authority that the mesh's peers would not know.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;

use super::made::self_signed;
use super::probe::probe;
use super::{AuthorityError, CertificateAuthority};
use crate::bundle::{TrustBundle, foreign_domain};
use crate::file::{self, SecretError};
use crate::key::{self, KeyError, PrivateKey};
use crate::leaf::{self, LeafError};
use crate::pem::{self, PemError};
use crate::spiffe::TrustDomain;

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;

/// Ten years: a root is replaced by adding another to the trust bundle, not by waiting for its end.
const LIFETIME: Duration = Duration::from_secs(3652 * 24 * 60 * 60);

/// What is wrong with an authority's files.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        #[source]
        cause: io::Error,
    },
    /// Others than the owner may read the key.
    #[error("{}: mode {mode:04o}, expected 0600 (run chmod 600)", path.display())]
    KeyMode {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A certificate without its key.
    #[error("{}: missing, expected the key of {CERTIFICATE_FILE} beside it", path.display())]
    KeyMissing {
        /// Where the key should be.
        path: PathBuf,
    },
    /// Not PEM with certificates.
    #[error("{}: {cause}", path.display())]
    Pem {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: PemError,
    },
    /// Not a private key that is understood.
    #[error("{}: {cause}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: KeyError,
    },
    /// Not X.509.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: LeafError,
    },
    /// A certificate that may not sign others.
    #[error("{}: not an authority's certificate, expected CA:true and keyCertSign", path.display())]
    NotAuthority {
        /// The certificate's file.
        path: PathBuf,
    },
    /// An authority of another trust domain.
    #[error("{}: authority of {found}, expected spiffe://{expected}", path.display())]
    TrustDomain {
        /// The certificate's file.
        path: PathBuf,
        /// The URI in the certificate.
        found: String,
        /// The mesh's trust domain.
        expected: TrustDomain,
    },
    /// The key is another's.
    #[error("{}: not the key of the certificate {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate could not be made or read by the signer.
    #[error("{}: {cause}", path.display())]
    Sign {
        /// The certificate's file.
        path: PathBuf,
        /// The signer's reason.
        #[source]
        cause: rcgen::Error,
    },
    /// Peers would refuse what this authority issues (name constraints, a path length of 0 above an
    /// intermediate, a chain in another order).
    #[error("{}: peers would refuse its certificates: {cause}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// The verifier's reason.
        #[source]
        cause: rustls::Error,
    },
}

impl CertificateAuthority {
    /// The authority whose `ca.crt` and `ca.key` are in `directory` (made if it is not
    /// there); a new one if there are none.
    ///
    /// Two processes that start at once in the same directory end up with the same authority.
    ///
    /// # Errors
    /// [`AuthorityError`]: the files cannot be read or written, do not belong together, are for another
    /// trust domain, or have expired; the key's mode is not 0600; the key is missing beside a certificate.
    pub fn load_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let certificate = directory.join(CERTIFICATE_FILE);
        let key = directory.join(KEY_FILE);
        file::create_directory(directory).map_err(|cause| io_error(directory, cause))?;
        create_missing(&certificate, &key, trust_domain, now)?;
        let secret = file::read_secret(&key).map_err(|error| match error {
            SecretError::Io(cause) => io_error(&key, cause),
            SecretError::Mode(mode) => StoreError::KeyMode {
                path: key.clone(),
                mode,
            },
        })?;
        let authority = load(&certificate, &key, &secret, trust_domain)?;
        if now >= authority.not_after {
            return Err(AuthorityError::Expired);
        }
        Ok(authority)
    }

    /// An authority that someone else made: a certificate in PEM with its key (PKCS#8 or SEC 1). If it is an
    /// intermediate, the certificates above it follow, and the last is what peers trust.
    ///
    /// # Errors
    /// [`AuthorityError`], as for [`Self::load_or_create`]; the key's mode is left to whoever mounts it.
    pub fn from_files(
        certificate: &Path,
        key: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let secret = file::read(key).map_err(|cause| io_error(key, cause))?;
        load(certificate, key, &secret, trust_domain)
    }

    /// Like [`Self::from_files`], of what was read elsewhere. The paths are only for messages: they say where
    /// that was.
    ///
    /// # Errors
    /// [`AuthorityError`], as for [`Self::from_files`].
    pub fn from_pem(
        certificate: (&Path, &[u8]),
        key: (&Path, &[u8]),
        trust_domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        parse(certificate, key, trust_domain)
    }
}

/// Makes what is not there. Files are created, never replaced; whoever comes second finds them.
fn create_missing(
    certificate: &Path,
    key: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    if exists(certificate)? {
        if exists(key)? {
            return Ok(());
        }
        return Err(StoreError::KeyMissing { path: key.into() }.into());
    }
    let pem = PrivateKey::generate()?.to_pem();
    create(key, pem.as_bytes(), KEY_MODE)?;
    // The key on disk counts: it may be another process's, or a crash may have come between key and
    // certificate the last time.
    let secret = file::read(key).map_err(|cause| io_error(key, cause))?;
    let private = PrivateKey::from_pem(&secret).map_err(|cause| StoreError::Key {
        path: key.into(),
        cause,
    })?;
    let pem = self_signed(certificate, &private, trust_domain, LIFETIME, now)?;
    create(certificate, pem.as_bytes(), CERTIFICATE_MODE)?;
    Ok(())
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|cause| io_error(path, cause))
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    match file::create_atomic(path, bytes, mode) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(io_error(path, cause)),
    }
}

fn io_error(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Io {
        path: path.into(),
        cause,
    }
}

fn load(
    certificate_path: &Path,
    key_path: &Path,
    secret: &[u8],
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, AuthorityError> {
    let text = file::read(certificate_path).map_err(|cause| io_error(certificate_path, cause))?;
    parse((certificate_path, &text), (key_path, secret), trust_domain)
}

fn parse(
    (path, text): (&Path, &[u8]),
    (key_path, secret): (&Path, &[u8]),
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, AuthorityError> {
    let chain = pem::certificates(text).map_err(|cause| StoreError::Pem {
        path: path.into(),
        cause,
    })?;
    let key = read_key(key_path, secret)?;
    check_signer(path, key_path, chain.first(), &key, trust_domain)?;
    let (not_before, not_after) = common_validity(path, &chain)?;
    let mut intermediates = chain.clone();
    let anchor = intermediates.pop();
    let bundle = TrustBundle::new(trust_domain.clone(), anchor.into_iter().collect())?;
    let issuer = match chain.first() {
        Some(signer) => {
            Issuer::from_ca_cert_der(signer, key).map_err(|cause| StoreError::Sign {
                path: path.into(),
                cause,
            })?
        }
        None => return Err(no_certificate(path).into()),
    };
    let authority = CertificateAuthority {
        issuer,
        intermediates,
        bundle,
        not_before,
        not_after,
    };
    probe(&authority, path)?;
    Ok(authority)
}

fn read_key(path: &Path, secret: &[u8]) -> Result<KeyPair, StoreError> {
    pem::private_key(secret)
        .map_err(KeyError::from)
        .and_then(|der| key::pair_from_der(&der))
        .map_err(|cause| StoreError::Key {
            path: path.into(),
            cause,
        })
}

fn no_certificate(path: &Path) -> StoreError {
    StoreError::Pem {
        path: path.into(),
        cause: PemError::NoCertificate,
    }
}

/// The first certificate must be an authority's, of this trust domain, and for this key.
fn check_signer(
    path: &Path,
    key_path: &Path,
    signer: Option<&CertificateDer<'_>>,
    key: &KeyPair,
    trust_domain: &TrustDomain,
) -> Result<(), StoreError> {
    let malformed = |cause| StoreError::Malformed {
        path: path.into(),
        cause,
    };
    let signer = signer.ok_or_else(|| no_certificate(path))?;
    let certificate = leaf::parse_certificate(signer).map_err(malformed)?;
    let usage = certificate
        .key_usage()
        .map_err(|_| malformed(LeafError::Malformed))?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !may_sign || !leaf::is_authority(&certificate).map_err(malformed)? {
        return Err(StoreError::NotAuthority { path: path.into() });
    }
    if let Some(found) = foreign_domain(&certificate, trust_domain).map_err(malformed)? {
        return Err(StoreError::TrustDomain {
            path: path.into(),
            found,
            expected: trust_domain.clone(),
        });
    }
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(StoreError::KeyMismatch {
            key: key_path.into(),
            certificate: path.into(),
        });
    }
    Ok(())
}

/// When all certificates of the chain are valid.
fn common_validity(
    path: &Path,
    chain: &[CertificateDer<'_>],
) -> Result<(SystemTime, SystemTime), StoreError> {
    let malformed = |cause| StoreError::Malformed {
        path: path.into(),
        cause,
    };
    let mut common: Option<(SystemTime, SystemTime)> = None;
    for der in chain {
        let certificate = leaf::parse_certificate(der).map_err(malformed)?;
        let validity = certificate.validity();
        let start = leaf::system_time(validity.not_before).map_err(malformed)?;
        let end = leaf::system_time(validity.not_after).map_err(malformed)?;
        common = Some(match common {
            Some((latest, earliest)) => (latest.max(start), earliest.min(end)),
            None => (start, end),
        });
    }
    common.ok_or_else(|| no_certificate(path))
}
