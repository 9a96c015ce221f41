//! From a failed handshake to the label of a metric: a closed list.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::verify::IdentityError;

/// Every value of [`handshake_reason`].
pub const HANDSHAKE_REASONS: [&str; 9] = [
    "no_certificate",
    "unknown_issuer",
    "expired",
    "not_yet_valid",
    "bad_identity",
    "wrong_identity",
    "wrong_trust_domain",
    "protocol",
    "timeout_or_eof",
];

/// Why a handshake failed, as one of [`HANDSHAKE_REASONS`]. `error` is a [`rustls::Error`], an
/// [`io::Error`] around one (as tokio-rustls returns), or an error with one of these as its source.
///
/// What the peer saw arrives as an alert (RFC 8446 §6.2), which says less: an alert "certificate unknown"
/// is `bad_identity` whichever way our identity was wrong.
pub fn handshake_reason(error: &(dyn StdError + 'static)) -> &'static str {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return tls_reason(tls);
        }
        if let Some(identity) = error.downcast_ref::<IdentityError>() {
            return identity_reason(identity);
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // io::Error::source() skips the error inside and goes to that one's source.
            match io.get_ref() {
                Some(inner) => {
                    let inner: &(dyn StdError + 'static) = inner;
                    let found = handshake_reason(inner);
                    return if found == "protocol" {
                        io_reason(io)
                    } else {
                        found
                    };
                }
                None => return io_reason(io),
            }
        }
        current = error.source();
    }
    "protocol"
}

fn io_reason(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::TimedOut
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe => "timeout_or_eof",
        _ => "protocol",
    }
}

fn tls_reason(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(cause) => certificate_reason(cause),
        Error::AlertReceived(alert) => alert_reason(*alert),
        _ => "protocol",
    }
}

fn certificate_reason(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => "unknown_issuer",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "not_yet_valid"
        }
        CertificateError::Other(other) => other
            .0
            .downcast_ref::<IdentityError>()
            .map_or("bad_identity", identity_reason),
        _ => "bad_identity",
    }
}

fn identity_reason(error: &IdentityError) -> &'static str {
    match error {
        IdentityError::Peer(cause) => cause.label(),
        IdentityError::WrongIdentity { .. } => "wrong_identity",
    }
}

fn alert_reason(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "no_certificate",
        AlertDescription::UnknownCA => "unknown_issuer",
        AlertDescription::CertificateExpired => "expired",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "bad_identity",
        _ => "protocol",
    }
}
