//! Who is at the other end of an inbound connection.

use std::net::IpAddr;

use outrider_certs::spiffe::SpiffeId;

/// What is known of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Proven by its certificate.
    Verified(SpiffeId),
    /// It came in plaintext, where that is let in: only where it comes from is known.
    Unverified(IpAddr),
}

impl Peer {
    /// The identity that policy decides by.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Verified(id) => Some(id),
            Self::Unverified(_) => None,
        }
    }

    /// The label of metrics: an address could be anyone's, and there are many.
    pub fn label(&self) -> &str {
        match self {
            Self::Verified(id) => id.as_str(),
            Self::Unverified(_) => "",
        }
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verified(id) => id.fmt(f),
            Self::Unverified(address) => write!(f, "{address} without an identity"),
        }
    }
}
