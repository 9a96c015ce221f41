//! Why a discovery stream ends: one closed enum, one table to the wire, the log and the metric.

use outrider_api::sidecar::SUBSCRIPTIONS_MAX;
use outrider_certs::spiffe::SpiffeId;
use tonic::{Code, Status};

use super::ledger::NeverSent;
use crate::index::WorkloadName;

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the sidecar closed it")]
    Closed,
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("no client certificate: expected a workload's (ask Identity.Sign for one)")]
    NoCertificate,
    #[error("the client certificate has expired: connect again with a new one")]
    CertificateExpired,
    #[error("no Hello came in time")]
    HelloTimeout,
    #[error("{0}")]
    Protocol(&'static str),
    #[error(transparent)]
    NeverSent(#[from] NeverSent),
    #[error("there is no workload {0}")]
    UnknownWorkload(WorkloadName),
    #[error("{workload} is not {peer}")]
    WrongIdentity {
        workload: WorkloadName,
        peer: SpiffeId,
    },
    #[error("{0} has too many streams")]
    TooManyStreams(WorkloadName),
    #[error("more than {SUBSCRIPTIONS_MAX} subscriptions to destinations or addresses")]
    TooManySubscriptions,
    #[error("the sidecar does not read")]
    Stalled,
    #[error("the control plane is shutting down")]
    ShuttingDown,
}

impl End {
    /// The metric's label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost(_) => "lost",
            Self::NoCertificate => "no_certificate",
            Self::CertificateExpired => "certificate_expired",
            Self::HelloTimeout => "hello_timeout",
            Self::Protocol(_) | Self::NeverSent(_) => "protocol",
            Self::UnknownWorkload(_) => "unknown_workload",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::TooManyStreams(_) => "too_many_streams",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::Stalled => "stalled",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Whether somebody should look at it.
    pub(super) fn is_fault(&self) -> bool {
        match self {
            Self::Closed | Self::Lost(_) | Self::CertificateExpired | Self::ShuttingDown => false,
            Self::NoCertificate
            | Self::HelloTimeout
            | Self::Protocol(_)
            | Self::NeverSent(_)
            | Self::UnknownWorkload(_)
            | Self::WrongIdentity { .. }
            | Self::TooManyStreams(_)
            | Self::TooManySubscriptions
            | Self::Stalled => true,
        }
    }

    /// What the sidecar is told; `None`: nobody is there to be told.
    pub(super) fn status(&self) -> Option<Status> {
        let code = match self {
            Self::Closed | Self::Lost(_) => return None,
            Self::NoCertificate | Self::CertificateExpired => Code::Unauthenticated,
            Self::HelloTimeout | Self::Stalled => Code::DeadlineExceeded,
            Self::Protocol(_) | Self::NeverSent(_) => Code::InvalidArgument,
            Self::UnknownWorkload(_) => Code::NotFound,
            Self::WrongIdentity { .. } => Code::PermissionDenied,
            Self::TooManyStreams(_) | Self::TooManySubscriptions => Code::ResourceExhausted,
            Self::ShuttingDown => Code::Unavailable,
        };
        Some(Status::new(code, self.to_string()))
    }
}
