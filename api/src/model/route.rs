//! How requests to a Service are routed: what HTTPRoute, GRPCRoute and TCPRoute come to, resolved
//! and in order of precedence. What matches and what it does is [`crate::routing`]'s.

mod filters;
mod matches;
mod wire;

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::names::ServiceName;
use crate::routing::Pattern;

/// The routes of one port of a Service that hold for one group of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteGroup {
    /// Consumer routes (GEP-1294): for callers of this namespace, instead of the producer routes.
    /// `None`: producer routes, for everyone else.
    pub consumer: Option<String>,
    /// Of the Service.
    pub port: u16,
    pub routes: Routes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routes {
    Http(HttpRoutes),
    /// Opaque connections only.
    Tcp(TcpRule),
}

/// HTTPRoutes or GRPCRoutes, merged. A request that no match fits is refused (GEP-1294).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRoutes {
    /// In order of precedence: the first that fits wins.
    pub matches: Vec<RouteMatch>,
    pub rules: Vec<HttpRule>,
}

/// All of it must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: PathMatch,
    /// In upper case; compared exactly.
    pub method: Option<String>,
    pub headers: Vec<HeaderMatch>,
    /// Percent-decoded names and values.
    pub query: Vec<QueryMatch>,
    /// Index into [`HttpRoutes::rules`]; always one that exists.
    pub rule: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Compared with the path without its query.
    Exact(String),
    /// Whole segments, without a slash at the end (`/` is the empty text): `/a` fits `/a` and
    /// `/a/b`, not `/ab`.
    Prefix(String),
    /// Fits the whole path.
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(String),
    /// Fits the whole value.
    Regex(Pattern),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    /// For people.
    pub origin: RuleOrigin,
    pub filters: Vec<Filter>,
    /// By weight. Empty (or all weights zero): 500, unless a filter redirects.
    pub backends: Vec<Backend>,
    /// Instead of the Service's.
    pub timeouts: RuleTimeouts,
    /// Instead of the Service's, field by field.
    pub retry: Option<RuleRetry>,
}

/// Displays as `HTTPRoute shop/billing rule charges` (or its index where it has no name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// `HTTPRoute`, `GRPCRoute`, `TCPRoute`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub rule: String,
}

impl fmt::Display for RuleOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            rule,
        } = self;
        write!(f, "{kind} {namespace}/{name} rule {rule}")
    }
}

/// Whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleTimeouts {
    pub request: Option<Timeout>,
    /// Of each attempt.
    pub backend_request: Option<Timeout>,
}

/// `0s` disables (GEP-1742).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    Disabled,
    /// More than zero, whole milliseconds.
    After(Duration),
}

impl Timeout {
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Disabled => None,
            Self::After(duration) => Some(duration),
        }
    }
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        if duration.is_zero() {
            Self::Disabled
        } else {
            Self::After(duration)
        }
    }
}

/// GEP-1731. Connection errors are retried besides. `None`: the Service's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleRetry {
    /// Status codes, 400 to 599.
    pub codes: Option<Vec<u16>>,
    /// Retries, besides the first attempt.
    pub attempts: Option<u32>,
    /// The least time before a retry.
    pub backoff: Option<Duration>,
}

/// What becomes of an opaque connection: of a TCPRoute the first rule counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRule {
    /// For people.
    pub origin: RuleOrigin,
    /// By weight. Empty (or all weights zero): it is refused.
    pub backends: Vec<Backend>,
}

/// In the order in which they are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    RequestHeaders(HeaderEdit),
    ResponseHeaders(HeaderEdit),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Cors),
    /// One that we do not know: what it was meant for answers 500, never without it. The text is for
    /// people.
    Unsupported(String),
}

/// Set, then add, then remove; names are compared without case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// Answers with `Location`. What is `None` stays as the request had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    /// `None`: the well-known port of `scheme` if that is given, else the request's own.
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<String>,
    pub path: Option<PathEdit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole path; the query stays.
    Full(String),
    /// The prefix that the rule's match names; only with [`PathMatch::Prefix`].
    Prefix(String),
}

/// A copy of the request goes here too, and its answer is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub backend: Target,
    /// `numerator` of `denominator` requests; the denominator is more than zero.
    pub numerator: u32,
    pub denominator: u32,
}

/// The Fetch standard's CORS protocol (GEP-1767).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// `*`, `https://*.example.com`, or an origin.
    pub allow_origins: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub allow_credentials: bool,
    /// Seconds.
    pub max_age: u32,
}

/// Where a share of the requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// 0 to 1,000,000; none of a rule's requests where it is 0.
    pub weight: u32,
    pub target: Target,
    /// Header edits only.
    pub filters: Vec<Filter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service {
        service: ServiceName,
        port: u16,
    },
    /// It does not exist or is no Service: its share answers 500. The text is for people.
    Invalid(String),
}
