//! The conditions of a rule on a request: method, path, gRPC method; host and header are beside.
//!
//! Each is checked and compiled when it is made; those that are given text refuse what could never
//! match, or would match something else than it says.

use ipnet::IpNet;

use super::evaluate::Request;
use super::header::HeaderMatch;
use super::host::HostMatch;
use super::path::{Ambiguity, Decoded, check_canonical};

/// RFC 9110 section 9 and RFC 5789.
const STANDARD_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const METHOD_MAX: usize = 64;
/// The longest path, host, header value or gRPC name in a rule, in bytes.
pub(super) const TEXT_MAX: usize = 4096;

/// Why a condition is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error("is empty")]
    Empty,
    #[error("is {0} bytes long, expected at most {1}")]
    TooLong(usize, usize),
    #[error(
        "{0:?} is not an HTTP method, expected uppercase letters, digits, \"-\" or \"_\", for instance GET"
    )]
    Method(String),
    #[error("{0:?} contains a query, but paths are matched without it")]
    Query(String),
    #[error("path {0:?} {1}")]
    Path(String, Ambiguity),
    #[error(
        "{0:?} is not a host, expected a DNS name, \"*.\" and a DNS name, or an IP address, without a port"
    )]
    Host(String),
    #[error("{0:?} is not the name of a header")]
    HeaderName(String),
    #[error("header \"host\" cannot be matched here, use \"hosts\"")]
    HostHeader,
    #[error("{0:?} is not the full name of a gRPC service, for instance shop.Billing")]
    GrpcService(String),
    #[error("{0:?} is not the name of a gRPC method, for instance Charge")]
    GrpcMethod(String),
    #[error("{0} holds IPv4 addresses written as IPv6, expected them as IPv4")]
    MappedBlock(IpNet),
    #[error("the exception {0} is not within {1}")]
    ExceptOutside(IpNet, IpNet),
}

/// What to take of a condition that cannot be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// For rules that refuse.
    Matches,
    /// For rules that allow.
    DoesNotMatch,
}

impl Doubt {
    pub(super) fn matches(self) -> bool {
        self == Self::Matches
    }
}

/// All that is given must match; of each list, one. Nothing given: every HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    pub methods: Vec<Method>,
    pub paths: Vec<PathMatch>,
    pub hosts: Vec<HostMatch>,
    /// All of them must match.
    pub headers: Vec<HeaderMatch>,
}

impl HttpMatch {
    pub(super) fn matches(&self, request: &Request<'_>, doubt: Doubt) -> bool {
        let mut methods = self.methods.iter();
        (self.methods.is_empty() || methods.any(|method| method.as_str() == request.method))
            && self.matches_path(request, doubt)
            && self.matches_host(request, doubt)
            && self
                .headers
                .iter()
                .all(|header| header.matches(request.headers, doubt))
    }

    fn matches_path(&self, request: &Request<'_>, doubt: Doubt) -> bool {
        if self.paths.is_empty() {
            return true;
        }
        match request.path {
            Some(path) => self.paths.iter().any(|expected| expected.matches(path)),
            None => doubt.matches(),
        }
    }

    fn matches_host(&self, request: &Request<'_>, doubt: Doubt) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        match request.host {
            Some(host) => self.hosts.iter().any(|expected| expected.matches(host)),
            None => doubt.matches(),
        }
    }
}

/// An HTTP method, without lowercase letters: what differs from it in case only is refused as
/// ambiguous, never matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

impl Method {
    /// # Errors
    /// It has other characters than uppercase letters, digits, "-" and "_".
    pub fn new(method: &str) -> Result<Self, MatchError> {
        check_length(method, METHOD_MAX)?;
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"-_".contains(&b);
        if !method.bytes().all(allowed) {
            return Err(MatchError::Method(method.to_owned()));
        }
        Ok(Self(method.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_another_case_of(&self, method: &str) -> bool {
        is_another_case(&self.0, method)
    }

    pub(super) fn is_standard_in_another_case(method: &str) -> bool {
        STANDARD_METHODS
            .iter()
            .any(|known| is_another_case(known, method))
    }
}

fn is_another_case(known: &str, method: &str) -> bool {
    known != method && known.eq_ignore_ascii_case(method)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathMatchKind {
    Exact,
    /// By segment, as the Gateway API's PathPrefix: `/v1` is a prefix of `/v1` and `/v1/x`, not of
    /// `/v1x`; a slash at its end means nothing.
    Prefix,
}

/// A canonical path, compared after percent-decoding; the query is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMatch {
    kind: PathMatchKind,
    text: String,
    decoded: Vec<u8>,
}

impl PathMatch {
    /// # Errors
    /// The path has a query, or apps read it differently.
    pub fn new(kind: PathMatchKind, text: &str) -> Result<Self, MatchError> {
        check_length(text, TEXT_MAX)?;
        if text.contains('?') {
            return Err(MatchError::Query(text.to_owned()));
        }
        let error = |ambiguity| MatchError::Path(text.to_owned(), ambiguity);
        check_canonical(text.as_bytes()).map_err(error)?;
        if text == "*" {
            return Err(error(Ambiguity::NoSlash));
        }
        let compared = match kind {
            PathMatchKind::Exact => text,
            PathMatchKind::Prefix => text.strip_suffix('/').unwrap_or(text),
        };
        let decoded = Decoded(compared.as_bytes()).collect();
        let text = text.to_owned();
        Ok(Self {
            kind,
            text,
            decoded,
        })
    }

    #[must_use]
    pub fn kind(&self) -> PathMatchKind {
        self.kind
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn matches(&self, path: &[u8]) -> bool {
        let mut rest = Decoded(path);
        let begins = self.decoded.iter().all(|byte| rest.next() == Some(*byte));
        begins
            && match (self.kind, rest.next()) {
                (_, None) => true,
                (PathMatchKind::Exact, Some(_)) => false,
                // "/" and what it is a prefix of: everything but the target of `OPTIONS *`.
                (PathMatchKind::Prefix, Some(next)) => next == b'/',
            }
    }
}

/// A gRPC method, or every method of a service.
///
/// To allow, the request must be a gRPC one (a POST with content type `application/grpc…`); to
/// refuse, the path suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMatch {
    service: String,
    method: Option<String>,
}

impl GrpcMatch {
    /// # Errors
    /// Either is not a name in the sense of protobuf.
    pub fn new(service: &str, method: Option<&str>) -> Result<Self, MatchError> {
        check_length(service, TEXT_MAX)?;
        check_length(method.unwrap_or("-"), TEXT_MAX)?;
        if !service.split('.').all(is_identifier) {
            return Err(MatchError::GrpcService(service.to_owned()));
        }
        if let Some(other) = method.filter(|method| !is_identifier(method)) {
            return Err(MatchError::GrpcMethod(other.to_owned()));
        }
        let method = method.map(str::to_owned);
        Ok(Self {
            service: service.to_owned(),
            method,
        })
    }

    /// The full name, with its package.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    pub(super) fn matches(&self, request: &Request<'_>, doubt: Doubt) -> bool {
        let Some(path) = request.path else {
            return doubt.matches();
        };
        self.matches_path(path) && (doubt.matches() || is_grpc(request))
    }

    fn matches_path(&self, path: &[u8]) -> bool {
        let method = path
            .strip_prefix(b"/")
            .and_then(|path| path.strip_prefix(self.service.as_bytes()))
            .and_then(|path| path.strip_prefix(b"/"));
        match (method, &self.method) {
            (Some(method), Some(expected)) => method == expected.as_bytes(),
            (Some(method), None) => !method.is_empty() && !method.contains(&b'/'),
            (None, _) => false,
        }
    }
}

fn is_grpc(request: &Request<'_>) -> bool {
    let prefix = b"application/grpc";
    let mut types = request.headers.get_all(http::header::CONTENT_TYPE).iter();
    let (first, more) = (types.next(), types.next());
    let is = |value: &http::HeaderValue| match value.as_bytes().split_at_checked(prefix.len()) {
        // Not `application/grpc-web`, which is another protocol.
        Some((begin, rest)) => {
            begin.eq_ignore_ascii_case(prefix) && matches!(rest.first(), None | Some(b'+' | b';'))
        }
        None => false,
    };
    request.method == "POST" && more.is_none() && first.is_some_and(is)
}

fn is_identifier(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(allowed) && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
}

pub(super) fn check_length(text: &str, most: usize) -> Result<(), MatchError> {
    match text.len() {
        0 => Err(MatchError::Empty),
        long if long > most => Err(MatchError::TooLong(long, most)),
        _ => Ok(()),
    }
}
