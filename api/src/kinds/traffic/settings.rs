//! The settings of `TrafficPolicy.spec` and `MeshConfig.spec.traffic`, as they are written. What is
//! left out is inherited, field by field; the defaults are [`crate::model::traffic`]'s.

use http::HeaderName;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};

use super::grpc::GrpcCode;
use crate::kinds::bounded::{Count, Percent, Span};
use crate::kinds::{field, text};
use crate::model::traffic::FaultKind;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How callers treat a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Traffic {
    /// What a call may take.
    pub timeouts: Timeouts,
    /// Which failures are retried: of idempotent methods (RFC 9110, section 9.2.2), unless
    /// `nonIdempotent`.
    pub retry: Retry,
    /// How many of a caller's requests to the Service may be retries (the shape is
    /// XBackendTrafficPolicy's `retryConstraint`).
    pub retry_budget: RetryBudget,
    /// What a worker of a caller's sidecar may have open to the Service at once; what is more is refused.
    pub limits: Limits,
    /// When an endpoint is left out, and for how long.
    pub outlier_detection: OutlierDetection,
    /// Active: each caller's sidecar asks each endpoint, through the mesh. On where `path` is
    /// given.
    pub health_check: HealthCheck,
    /// Which endpoint a request goes to.
    pub load_balancing: LoadBalancing,
    /// What goes wrong on purpose, for a share of the requests; each is drawn on its own. A list
    /// replaces the inherited one. At most 16.
    #[schemars(length(max = 16))]
    #[serde(deserialize_with = "faults")]
    pub faults: Option<Vec<Fault>>,
}

/// What a call may take.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// From the last part of the request that went out to the answer's head, over all attempts.
    /// `0s`: none.
    pub request: Option<Span<0, DAY>>,
    /// The same for each attempt; not longer than `request`. `0s`: none.
    pub backend_request: Option<Span<0, DAY>>,
    /// For TCP, TLS and HTTP/2 to a sidecar.
    pub connect: Option<Span<1, MINUTE>>,
    /// Between two parts of a body. `0s`: none.
    pub stream_idle: Option<Span<0, DAY>>,
    /// Between two bytes of an opaque connection. `0s`: none.
    pub tcp_idle: Option<Span<0, { 7 * DAY }>>,
}

/// Which failures are retried. Idempotent methods only (RFC 9110, section 9.2.2), unless
/// `nonIdempotent`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Retry {
    /// Retries besides the first attempt. 0: none.
    pub attempts: Option<Count<0, 10>>,
    /// Answers with these HTTP statuses.
    #[schemars(length(max = 200))]
    #[serde(deserialize_with = "field::distinct")]
    pub codes: Option<Vec<Count<400, 599>>>,
    /// Answers with these gRPC statuses, by name (`UNAVAILABLE`) or number (14).
    #[schemars(length(max = 16))]
    #[serde(deserialize_with = "field::distinct")]
    pub grpc_codes: Option<Vec<GrpcCode>>,
    /// Whether to retry where the connection broke before the answer's head.
    pub on_reset: Option<bool>,
    /// Whether to retry where an attempt took longer than `timeouts.backendRequest`.
    pub on_timeout: Option<bool>,
    /// Whether to retry POST, PATCH and gRPC too: the app must bear to see a request twice.
    pub non_idempotent: Option<bool>,
    /// The least wait before a retry; each wait is random between this and three times the last one.
    pub backoff: Option<Span<0, MINUTE>>,
    /// The longest time before a retry.
    pub max_backoff: Option<Span<0, MINUTE>>,
}

/// How many of a caller's requests to the Service may be retries (XBackendTrafficPolicy's
/// `retryConstraint`). Always on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    /// A share of the requests.
    pub budget: Budget,
    /// Always allowed, whatever the share.
    pub min_retry_rate: MinRetryRate,
}

/// A share of the requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Budget {
    /// Retries in percent of the requests in `interval`.
    pub percent: Option<Count<0, 100>>,
    /// Over which requests are counted.
    pub interval: Option<Span<SECOND, HOUR>>,
}

/// Always allowed: `count` retries in each `interval`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MinRetryRate {
    /// Retries.
    pub count: Option<Count<0, 1_000_000>>,
    /// In which they are counted.
    pub interval: Option<Span<SECOND, HOUR>>,
}

/// What a worker of a caller's sidecar may have open to the Service at once; what is more is refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    /// Opaque connections and upgrades.
    pub max_connections: Option<Count<1, 1_000_000>>,
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<Count<0, 1_000_000>>,
    /// Requests from their head to the end of their answer.
    pub max_requests: Option<Count<1, 1_000_000>>,
}

/// When an endpoint is left out, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct OutlierDetection {
    /// 5xx answers in a row, the app's own too. 0: not looked at.
    pub consecutive_errors: Option<Count<0, 1_000>>,
    /// Gateway errors in a row: 502, 503, 504, gRPC UNAVAILABLE, resets, timeouts. 0: not looked at.
    pub consecutive_gateway_errors: Option<Count<0, 1_000>>,
    /// Gateway errors in percent of the answers in `window`. 0: not looked at.
    pub failure_percent: Option<Count<0, 100>>,
    /// Fewer answers than that in `window` say nothing.
    pub minimum_requests: Option<Count<1, 100_000>>,
    /// Half of the answers in `window` took longer than that. `0s`: not looked at.
    pub latency: Option<Span<0, HOUR>>,
    /// Over which answers are counted.
    pub window: Option<Span<SECOND, HOUR>>,
    /// How long an endpoint is left out the first time; doubles each time.
    pub base_ejection: Option<Span<100, HOUR>>,
    /// The longest time.
    pub max_ejection: Option<Span<100, DAY>>,
    /// Of the endpoints, in percent. One of several may always be left out, the only one only where
    /// this is 100.
    pub max_ejected_percent: Option<Count<0, 100>>,
    /// What becomes of requests while every endpoint is left out.
    pub when_all_ejected: Option<WhenAllEjected>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum WhenAllEjected {
    /// Refused at once; one probe at a time finds out when it is over.
    Refuse,
    /// Sent as if none were left out.
    UseAll,
}

/// Active: each caller's sidecar asks each endpoint, through the mesh. On where a `path` is given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HealthCheck {
    /// Of an HTTP GET; healthy where the answer is 200 to 399.
    #[schemars(with = "Option<text::RequestPath>")]
    #[serde(deserialize_with = "field::some_path")]
    pub path: Option<String>,
    /// Of the Service. Left out: its first.
    pub port: Option<Count<1, 65_535>>,
    /// Between two questions.
    pub interval: Option<Span<100, HOUR>>,
    /// For an answer; not longer than `interval`.
    pub timeout: Option<Span<1, HOUR>>,
    /// Failures in a row before an endpoint is left out.
    pub unhealthy_threshold: Option<Count<1, 100>>,
    /// Successes in a row before it is used again.
    pub healthy_threshold: Option<Count<1, 100>>,
}

/// Which endpoint a request goes to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancing {
    /// How one is chosen.
    pub algorithm: Option<Algorithm>,
    /// What ConsistentHash hashes.
    pub hash_on: Option<HashOn>,
    /// A new or recovered endpoint's share grows over this time. `0s`: at once.
    pub slow_start: Option<Span<0, HOUR>>,
    /// Endpoints of the caller's own zone (`topology.kubernetes.io/zone`) first. Left out: zones are
    /// not looked at.
    pub locality: Option<Locality>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    /// One of two random endpoints, mostly the one with less peak-EWMA latency times requests in flight.
    PeakEwma,
    /// The better of two random endpoints by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
    /// By `hashOn` (Maglev).
    ConsistentHash,
}

/// `{header: NAME}`, `{cookie: NAME}` or `{source: true}`: the address of whoever connected.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "WrittenHashOn", into = "WrittenHashOn")]
pub enum HashOn {
    Header(HeaderName),
    Cookie(String),
    Source,
}

#[derive(Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.header) ? 1 : 0) + (has(self.cookie) ? 1 : 0) + (has(self.source) && self.source ? 1 : 0) == 1",
    "message": "expected exactly one of \"header\", \"cookie\" and \"source: true\""
}]))]
struct WrittenHashOn {
    /// The name of a header.
    #[schemars(with = "Option<text::Token>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// The name of a cookie.
    #[schemars(with = "Option<text::Token>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
    /// `true`: the address of whoever connected to the sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<bool>,
}

impl TryFrom<WrittenHashOn> for HashOn {
    type Error = String;

    fn try_from(written: WrittenHashOn) -> Result<Self, String> {
        match (written.header, written.cookie, written.source) {
            (Some(name), None, None) => field::header_name(&name).map(Self::Header),
            // RFC 6265: a cookie's name is a token, as a header's.
            (None, Some(name), None) => match HeaderName::try_from(&name) {
                Ok(_) => Ok(Self::Cookie(name)),
                Err(_) => Err(format!("{name:?} is not the name of a cookie")),
            },
            (None, None, Some(true)) => Ok(Self::Source),
            _ => Err("expected exactly one of \"header\", \"cookie\" and \"source: true\"".into()),
        }
    }
}

impl From<HashOn> for WrittenHashOn {
    fn from(hash_on: HashOn) -> Self {
        let mut written = Self::default();
        match hash_on {
            HashOn::Header(name) => written.header = Some(name.as_str().to_owned()),
            HashOn::Cookie(name) => written.cookie = Some(name),
            HashOn::Source => written.source = Some(true),
        }
        written
    }
}

/// When requests leave the caller's own zone.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Locality {
    /// While less than this share of the own zone's endpoints is available, the rest of the requests
    /// goes to other zones. Default 70.
    pub min_available_percent: Option<Count<1, 100>>,
}

/// What goes wrong on purpose: a `delay`, or an `abort`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "WrittenFault", into = "WrittenFault")]
pub struct Fault {
    pub percent: Percent,
    pub kind: FaultKind,
}

#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.delay) != has(self.abort)",
    "message": "expected exactly one of \"delay\" and \"abort\" beside \"percent\""
}]))]
struct WrittenFault {
    /// Of the requests.
    percent: Percent,
    /// Held for so long, then sent on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<Span<1, HOUR>>,
    /// Answered by the caller's sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abort: Option<Abort>,
}

/// An answer in place of the app's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Abort {
    /// For HTTP. Default 503.
    pub status: Option<Count<200, 599>>,
    /// For gRPC. Default UNAVAILABLE.
    pub grpc_status: Option<GrpcCode>,
}

/// At most this many: each is drawn for each request.
const FAULTS_MAX: usize = 16;

pub(super) fn faults<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Fault>>, D::Error> {
    let faults: Vec<Fault> = Vec::deserialize(deserializer)?;
    if faults.len() > FAULTS_MAX {
        let got = faults.len();
        let message = format!("has {got} entries, expected at most {FAULTS_MAX}");
        return Err(D::Error::custom(message));
    }
    Ok(Some(faults))
}

impl TryFrom<WrittenFault> for Fault {
    type Error = &'static str;

    fn try_from(written: WrittenFault) -> Result<Self, &'static str> {
        let kind = match (written.delay, written.abort) {
            (Some(delay), None) => FaultKind::Delay(delay.get()),
            (None, Some(abort)) => FaultKind::Abort {
                status: abort.status.map_or(503, Count::get_u16),
                grpc: abort.grpc_status.map_or(14, GrpcCode::number),
            },
            _ => return Err("expected exactly one of \"delay\" and \"abort\" beside \"percent\""),
        };
        let percent = written.percent;
        Ok(Self { percent, kind })
    }
}

impl From<Fault> for WrittenFault {
    fn from(fault: Fault) -> Self {
        let (delay, abort) = match fault.kind {
            FaultKind::Delay(delay) => (Some(Span::nearest(delay)), None),
            FaultKind::Abort { status, grpc } => {
                let abort = Abort {
                    status: Some(Count::nearest(status.into())),
                    grpc_status: GrpcCode::new(grpc),
                };
                (None, Some(abort))
            }
        };
        Self {
            percent: fault.percent,
            delay,
            abort,
        }
    }
}
