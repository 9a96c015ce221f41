//! How callers treat a Service, and how much a workload takes: TrafficPolicy and RateLimitPolicy,
//! resolved. Every value is given: what nobody wrote is the default, see [`TrafficSettings`].
//!
//! Durations are whole milliseconds.

mod balancing;
mod inbound;
mod wire;

use std::time::Duration;

pub(super) use self::wire::retry_status;
use crate::authorization::Source;

/// Of one Service, for each of its callers. `default()` is what holds where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSettings {
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub budget: RetryBudget,
    pub limits: Limits,
    pub outliers: Outliers,
    pub health_check: Option<HealthCheck>,
    pub balancing: Balancing,
    /// In order; each is drawn on its own.
    pub faults: Vec<Fault>,
}

/// `None`: disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the last part of the request that went out to the answer's head, over all attempts.
    /// Default 15 s.
    pub request: Option<Duration>,
    /// The same for each attempt. Not longer than `request`. Default none.
    pub backend_request: Option<Duration>,
    /// For TCP, TLS and HTTP/2 to a sidecar. Default 3 s.
    pub connect: Duration,
    /// Between two parts of a body, or two bytes of an opaque connection. Default 5 min for
    /// requests and one hour for opaque connections.
    pub stream_idle: Option<Duration>,
    pub tcp_idle: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(15)),
            backend_request: None,
            connect: Duration::from_secs(3),
            stream_idle: Some(Duration::from_secs(300)),
            tcp_idle: Some(Duration::from_secs(3600)),
        }
    }
}

/// Which failures are retried, where the method is idempotent (RFC 9110, section 9.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Retries besides the first attempt. 0: none. Default 1.
    pub attempts: u32,
    /// Answers with these statuses, 400 to 599. Default 503.
    pub codes: Vec<u16>,
    /// gRPC statuses, 1 to 16. Default 14, UNAVAILABLE. gRPC methods count as idempotent only
    /// with `non_idempotent`.
    pub grpc_codes: Vec<u8>,
    /// The connection broke before the answer's head. Default true.
    pub on_reset: bool,
    /// An attempt took longer than `backend_request`. Default true.
    pub on_timeout: bool,
    /// POST, PATCH and gRPC too. Default false.
    pub non_idempotent: bool,
    /// The least wait before a retry; each is between this and three times the last. Default 25 ms.
    pub backoff: Duration,
    /// The longest. Default 250 ms.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            codes: vec![503],
            grpc_codes: vec![14],
            on_reset: true,
            on_timeout: true,
            non_idempotent: false,
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
        }
    }
}

/// How many of a caller's requests to the Service may be retries (XBackendTrafficPolicy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests in `interval`, 0 to 100. Default 20.
    pub percent: u8,
    /// Default 10 s.
    pub interval: Duration,
    /// Always allowed: `min_count` retries in each `min_interval`. Default 10 in 1 s.
    pub min_count: u32,
    pub min_interval: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_count: 10,
            min_interval: Duration::from_secs(1),
        }
    }
}

/// What one worker of a sidecar may have open to the Service at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Opaque connections and upgrades. Default 10,000.
    pub max_connections: u32,
    /// Requests that wait for a connection. Default 1,024.
    pub max_pending_requests: u32,
    /// Requests from their head to the end of their answer. Default 10,000.
    pub max_requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_pending_requests: 1_024,
            max_requests: 10_000,
        }
    }
}

/// When an endpoint is ejected. A breaker for each endpoint: closed, open, half-open with one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// 5xx answers in a row, the app's own or the mesh's. 0: never. Default 0: an app's errors are
    /// its own.
    pub consecutive_errors: u32,
    /// Gateway errors in a row: 502, 503, 504, gRPC UNAVAILABLE, resets, timeouts. 0: never.
    /// Default 5.
    pub consecutive_gateway_errors: u32,
    /// Gateway errors in percent of the answers in `window`, 1 to 100. 0: never. Default 50.
    pub failure_percent: u8,
    /// Fewer answers than that in `window` say nothing. Default 20.
    pub minimum_requests: u32,
    /// Half of the answers in `window` took longer than that. `None`: never. Default none.
    pub latency: Option<Duration>,
    /// Default 10 s.
    pub window: Duration,
    /// How long an endpoint is left out the first time; doubles each time. Default 5 s.
    pub base_ejection: Duration,
    /// The longest. Default 5 min.
    pub max_ejection: Duration,
    /// Of the endpoints, in percent. One of several may always be ejected, the only one only where
    /// this is 100. Default 50.
    pub max_ejected_percent: u8,
    /// Where every endpoint is ejected. Default refuse: `circuit_open`.
    pub when_all_ejected: WhenAllEjected,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            consecutive_errors: 0,
            consecutive_gateway_errors: 5,
            failure_percent: 50,
            minimum_requests: 20,
            latency: None,
            window: Duration::from_secs(10),
            base_ejection: Duration::from_secs(5),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
            when_all_ejected: WhenAllEjected::Refuse,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAllEjected {
    /// Fails fast; one probe at a time finds out when it is over.
    #[default]
    Refuse,
    /// As if none were.
    UseAll,
}

/// Active: asked by each caller's sidecar, through the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// An HTTP GET of this path, healthy where it answers 200 to 399.
    pub path: String,
    /// Of the Service. `None`: its first.
    pub port: Option<u16>,
    /// Default 5 s.
    pub interval: Duration,
    /// Default 1 s.
    pub timeout: Duration,
    /// Failures in a row before an endpoint is left out. Default 3.
    pub unhealthy_threshold: u32,
    /// Successes in a row before it is used again. Default 2.
    pub healthy_threshold: u32,
}

impl HealthCheck {
    /// All but the path is the default.
    #[must_use]
    pub fn of(path: String) -> Self {
        Self {
            path,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    pub algorithm: Algorithm,
    /// A new or recovered endpoint's share grows over this time. `None`: at once. Default none.
    pub slow_start: Option<Duration>,
    /// Endpoints of the caller's own zone first. `None`: zones are not looked at. Default none.
    pub locality: Option<Locality>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// One of two random endpoints, mostly the one with less peak-EWMA latency times requests in flight.
    #[default]
    PeakEwma,
    /// The better of two random endpoints by requests in flight.
    LeastRequest,
    RoundRobin,
    Random,
    /// Maglev (NSDI 2016).
    ConsistentHash(HashOn),
}

/// What is hashed. A request without it is balanced at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    Header(http::HeaderName),
    Cookie(String),
    /// The address of whoever connected to the sidecar.
    Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// While less than this share of the own zone's endpoints is available, the rest of the
    /// requests overflows to other zones in proportion. 1 to 100. Default 70.
    pub min_available_percent: u8,
}

impl Default for Locality {
    fn default() -> Self {
        Self {
            min_available_percent: 70,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Share of the requests in hundredths of a percent, 0 to 10,000.
    pub basis_points: u16,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Delay(Duration),
    /// Answered by the caller's sidecar: HTTP status 200 to 599, gRPC status 1 to 16.
    Abort {
        status: u16,
        grpc: u8,
    },
}

/// What one workload takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundLimits {
    /// All that fit are asked; the first that is exhausted refuses.
    pub rates: Vec<RateLimit>,
    pub concurrency: Option<Concurrency>,
}

/// A token bucket for each peer identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// For people and headers: the policy `shop/billing` and the limit's name.
    pub policy: String,
    pub name: String,
    /// `None`: every peer.
    pub sources: Option<Vec<Source>>,
    /// Of the app. Empty: every port.
    pub ports: Vec<u16>,
    /// More than zero, for each `interval`.
    pub requests: u32,
    pub interval: Duration,
    /// The bucket's size, at least 1.
    pub burst: u32,
}

/// Requests at once in the app; what is more waits, and is shed when it waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// More than zero.
    pub max_requests: u32,
    /// Default 0: shed at once.
    pub max_queued: u32,
    /// Default 100 ms.
    pub max_wait: Duration,
}
