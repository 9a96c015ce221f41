//! Whether an endpoint is used: one breaker for each endpoint, fed by its answers and, where they
//! are asked for, by active health checks. Pure: the clock is an argument.
//!
//! A breaker is closed (used), open (left out for a while) or half-open (one probe finds out). Two
//! kinds of evidence open it. Answers that show an endpoint to fail or to be slow eject it, as long
//! as [`Ejections`] has room. A connection that cannot be made leaves it out at once, for a short
//! time and whatever the others do; but it stays the last resort, so that a wrong guess about all
//! endpoints is no outage.

mod breaker;
mod ejections;
mod window;

#[cfg(test)]
mod tests;

pub use breaker::{EndpointHealth, Ticket};
pub use ejections::Ejections;

/// What an attempt showed of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Any answer that is not one of the others.
    Success,
    /// A 5xx that the app itself gave.
    AppError,
    /// 502, 503, 504, gRPC UNAVAILABLE, a reset, a timeout.
    GatewayError,
    /// Nothing was sent: there is no connection to the endpoint's sidecar.
    ConnectFailed,
}

impl Outcome {
    /// By the answer's head: its HTTP status, and its gRPC status where the head carries one.
    #[must_use]
    pub fn of_answer(status: u16, grpc: Option<u16>) -> Self {
        match (status, grpc) {
            // UNAVAILABLE (grpc/doc/statuscodes.md).
            (502..=504, _) | (_, Some(14)) => Self::GatewayError,
            // UNKNOWN, INTERNAL, DATA_LOSS.
            (500.., _) | (_, Some(2 | 13 | 15)) => Self::AppError,
            _ => Self::Success,
        }
    }
}

/// Whether the next request may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Yes,
    /// One may, to find out whether the endpoint has recovered.
    Probe,
    /// It could not be connected to: only where there is no other.
    LastResort,
    No,
}

/// What a breaker shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Closed,
    HalfOpen,
    Open,
}

impl Status {
    /// For metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Why a breaker changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    ConsecutiveErrors,
    ConsecutiveGatewayErrors,
    FailurePercent,
    Latency,
    HealthCheck,
    ConnectFailed,
    ProbeSucceeded,
    ProbeFailed,
    /// The time for which the endpoint was left out is over.
    Expired,
}

impl Reason {
    /// For metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::FailurePercent => "failure_percent",
            Self::Latency => "latency",
            Self::HealthCheck => "health_check",
            Self::ConnectFailed => "connect_failed",
            Self::ProbeSucceeded => "probe_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::Expired => "expired",
        }
    }
}

/// A change that people want to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: Status,
    pub to: Status,
    pub reason: Reason,
}
