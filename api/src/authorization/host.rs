//! Hosts in rules, and the host of a request.

use std::fmt;

use super::matches::{MatchError, check_length};

/// A host, or every host below a domain (`*.example.com`: at any depth, not the domain itself).
/// Compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMatch {
    /// Lowercase, for a wildcard from the "." on.
    compared: String,
    wildcard: bool,
}

impl HostMatch {
    /// # Errors
    /// It is neither a host nor a wildcard, or has a port.
    pub fn new(text: &str) -> Result<Self, MatchError> {
        check_length(text, 255)?;
        let error = || MatchError::Host(text.to_owned());
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        let lowercase = name.to_ascii_lowercase();
        let trimmed = lowercase.strip_suffix('.').unwrap_or(&lowercase);
        let bracketed = trimmed
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Some(address) = bracketed.filter(|_| !wildcard) {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
        } else {
            crate::names::check_subdomain(trimmed).map_err(|_| error())?;
        }
        let compared = if wildcard {
            format!(".{trimmed}")
        } else {
            trimmed.to_owned()
        };
        Ok(Self { compared, wildcard })
    }

    /// `host`: what [`host_of`] gives.
    pub(super) fn matches(&self, host: &str) -> bool {
        let compared = self.compared.as_bytes();
        let host = host.as_bytes();
        match host.len().checked_sub(compared.len()) {
            Some(0) => !self.wildcard && host.eq_ignore_ascii_case(compared),
            Some(more) => self.wildcard && host[more..].eq_ignore_ascii_case(compared),
            None => false,
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*" } else { "" };
        write!(f, "{star}{}", self.compared)
    }
}

/// The host of an authority, without port and trailing dot. `None`: it is malformed.
pub(super) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(_) => authority.split_at(authority.find(']')? + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port_digits = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let odd = |b: u8| !b.is_ascii_graphic() || b"@/\\?#%,".contains(&b);
    let dots = host.starts_with('.') || host.ends_with('.') || host.contains("..");
    (port_digits && !host.is_empty() && !dots && !host.bytes().any(odd)).then_some(host)
}
