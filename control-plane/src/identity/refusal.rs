//! Why a certificate is refused: one closed enum, one table to the wire, the log and the metric.

use std::time::Duration;

use outrider_certs::authority::AuthorityError;
use outrider_certs::csr::CsrError;
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::token::TokenError;
use tonic::{Code, Status};

use crate::kubernetes::tokens::ReviewError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no bootstrap token: expected one `authorization: Bearer TOKEN`")]
    NoToken,
    #[error("bootstrap token: {0}")]
    Token(#[from] TokenError),
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("no Workload of the mesh has the identity {0}")]
    UnknownIdentity(SpiffeId),
    #[error("{id} asks for too many certificates: expected the next one in {retry_in:?}")]
    TooMany { id: SpiffeId, retry_in: Duration },
    #[error("certificate request: {0}")]
    Csr(#[from] CsrError),
    #[error("there is no mesh yet")]
    NotReady,
    #[error("{0}")]
    Authority(#[from] AuthorityError),
}

impl Refusal {
    /// The metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Token(error) => error.label(),
            Self::Review(error) => error.label(),
            Self::UnknownIdentity(_) => "unknown_identity",
            Self::TooMany { .. } => "rate_limited",
            Self::Csr(error) => error.label(),
            Self::NotReady => "not_ready",
            Self::Authority(_) => "authority",
        }
    }

    pub(super) fn status(&self) -> Status {
        let (code, message) = match self {
            Self::NoToken | Self::Token(_) => (Code::Unauthenticated, self.to_string()),
            Self::Review(error) => (error.code(), self.to_string()),
            Self::UnknownIdentity(_) => (Code::PermissionDenied, self.to_string()),
            Self::TooMany { .. } => (Code::ResourceExhausted, self.to_string()),
            Self::Csr(_) => (Code::InvalidArgument, self.to_string()),
            Self::NotReady => (Code::Unavailable, self.to_string()),
            // What is wrong here is for our own log.
            Self::Authority(_) => (
                Code::Internal,
                "the certificate authority failed".to_owned(),
            ),
        };
        Status::new(code, message)
    }
}
