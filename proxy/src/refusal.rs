//! Every error that the sidecar answers with, and the one table from error to wire.
//!
//! A refusal has one reason, and it is the same in `Proxy-Status`, in the access log and in the
//! metrics. The table is exhaustive on purpose: a new variant does not compile without its row.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, HeaderName, Response, StatusCode, Version};

use crate::http::body::ResponseBody;
use crate::http::proxy_status;
use crate::telemetry::retries::Retries;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why the sidecar itself answered a request or closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("this sidecar has no policy yet")]
    NoPolicy,
    #[error("no policy allows this call, or one denies it")]
    AuthorizationDenied,
    #[error("the path can be read in two ways, and a policy looks at paths")]
    AmbiguousPath,
    #[error("the method can be read in two ways, and a policy looks at methods")]
    AmbiguousMethod,
    #[error("the request is malformed")]
    BadRequest,
    #[error("the request has no single, well-formed authority")]
    BadAuthority,
    #[error("the header or the trailers are larger than 64 KiB")]
    HeaderTooLarge,
    #[error("CONNECT is not offered here")]
    MethodNotAllowed,
    #[error("no such Service in the mesh")]
    UnknownDestination,
    #[error("the Service or the workload has no such port")]
    UnknownPort,
    #[error("the control plane has not answered about this destination yet")]
    DestinationUnresolved,
    #[error("the Service has no endpoint")]
    NoEndpoints,
    #[error("no sidecar of the Service could be connected to")]
    ConnectFailed,
    #[error("the TLS handshake with the peer's sidecar failed")]
    TlsHandshakeFailed,
    #[error("no rule of the Service's routes fits this request")]
    NoRoute,
    #[error("the route leads to something that does not exist or is not supported")]
    BackendInvalid,
    #[error("the grpc-timeout is none")]
    BadTimeout,
    #[error("no answer within the request timeout")]
    RequestTimeout,
    #[error("no answer within the timeout of one attempt")]
    AttemptTimeout,
    #[error("the caller's time ran out")]
    DeadlineExceeded,
    #[error("nothing came for longer than a stream may be idle")]
    StreamIdleTimeout,
    #[error("every endpoint of the Service is ejected")]
    CircuitOpen,
    #[error("too many requests to the Service at once")]
    TooManyRequests,
    #[error("too many requests to the Service wait for a connection")]
    TooManyPending,
    #[error("a fault was injected")]
    FaultInjected,
    #[error("the peer's sidecar ended the exchange")]
    UpstreamReset,
    #[error("the app cannot be connected to")]
    AppUnreachable,
    #[error("the app has not looked at the request")]
    AppRefused,
    #[error("the app ended the exchange")]
    AppReset,
    #[error("the header or the trailers of the answer are larger than 64 KiB")]
    AnswerTooLarge,
    #[error("this sidecar is shutting down")]
    Draining,
    #[error("too many connections")]
    TooManyConnections,
    #[error("the caller has used up what a rate limit allows it")]
    RateLimited,
    #[error("the app has as many requests as it takes at once")]
    Overloaded,
    #[error("this workload takes calls over mutual TLS only")]
    PlaintextRefused,
    #[error("the destination is this sidecar itself, or a link-local address")]
    ForbiddenDestination,
    #[error("the destination outside the mesh cannot be connected to")]
    DestinationUnreachable,
}

/// Whose fault a refusal is, for logs and for the decision whether a retry makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Caller,
    Callee,
    Mesh,
}

/// A row of the table: what a refusal looks like from outside.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub status: StatusCode,
    /// gRPC status code (grpc/doc/statuscodes.md).
    pub grpc: u8,
    /// The proxy error type of RFC 9209, section 2.3.
    pub proxy_error: &'static str,
    /// The closed label in metrics, logs and `Proxy-Status` details.
    pub reason: &'static str,
    /// Envoy's short response flag, which Istio's dashboards show.
    pub flag: &'static str,
    /// Whether an HTTP/1.1 connection is closed after the answer.
    pub close: bool,
    pub fault: Fault,
}

impl Refusal {
    /// Every variant, for tests and for metrics that start at zero.
    pub const ALL: [Self; 37] = [
        Self::NoPolicy,
        Self::AuthorizationDenied,
        Self::AmbiguousPath,
        Self::AmbiguousMethod,
        Self::BadRequest,
        Self::BadAuthority,
        Self::HeaderTooLarge,
        Self::MethodNotAllowed,
        Self::UnknownDestination,
        Self::UnknownPort,
        Self::DestinationUnresolved,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::TlsHandshakeFailed,
        Self::NoRoute,
        Self::BackendInvalid,
        Self::BadTimeout,
        Self::RequestTimeout,
        Self::AttemptTimeout,
        Self::DeadlineExceeded,
        Self::StreamIdleTimeout,
        Self::CircuitOpen,
        Self::TooManyRequests,
        Self::TooManyPending,
        Self::FaultInjected,
        Self::UpstreamReset,
        Self::AppUnreachable,
        Self::AppRefused,
        Self::AppReset,
        Self::AnswerTooLarge,
        Self::Draining,
        Self::TooManyConnections,
        Self::RateLimited,
        Self::Overloaded,
        Self::PlaintextRefused,
        Self::ForbiddenDestination,
        Self::DestinationUnreachable,
    ];

    /// The table.
    #[rustfmt::skip]
    pub const fn row(self) -> Row {
        use Fault::{Callee, Caller, Mesh};
        const fn row(
            status: StatusCode,
            grpc: u8,
            proxy_error: &'static str,
            reason: &'static str,
            flag: &'static str,
            close: bool,
            fault: Fault,
        ) -> Row {
            Row {
                status,
                grpc,
                proxy_error,
                reason,
                flag,
                close,
                fault,
            }
        }
        use StatusCode as S;
        match self {
            Self::NoPolicy => row(S::FORBIDDEN, 7, "proxy_configuration_error", "no_policy", "UAEX", false, Mesh),
            Self::AuthorizationDenied => row(S::FORBIDDEN, 7, "http_request_denied", "authorization_denied", "UAEX", false, Caller),
            Self::AmbiguousPath => row(S::BAD_REQUEST, 3, "http_request_denied", "ambiguous_path", "UAEX", false, Caller),
            Self::AmbiguousMethod => row(S::BAD_REQUEST, 3, "http_request_denied", "ambiguous_method", "UAEX", false, Caller),
            Self::BadRequest => row(S::BAD_REQUEST, 13, "http_request_error", "bad_request", "DPE", true, Caller),
            Self::BadAuthority => row(S::BAD_REQUEST, 13, "http_request_error", "bad_authority", "DPE", true, Caller),
            Self::HeaderTooLarge => row(S::REQUEST_HEADER_FIELDS_TOO_LARGE, 8, "http_request_error", "header_too_large", "DPE", true, Caller),
            Self::MethodNotAllowed => row(S::METHOD_NOT_ALLOWED, 12, "http_request_denied", "method_not_allowed", "DPE", true, Caller),
            Self::UnknownDestination => row(S::NOT_FOUND, 12, "destination_not_found", "unknown_destination", "NR", false, Caller),
            Self::UnknownPort => row(S::NOT_FOUND, 12, "destination_not_found", "unknown_port", "NR", false, Caller),
            Self::DestinationUnresolved => row(S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "destination_unresolved", "NC", false, Mesh),
            Self::NoEndpoints => row(S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "no_endpoints", "UH", false, Callee),
            Self::ConnectFailed => row(S::SERVICE_UNAVAILABLE, 14, "connection_refused", "connect_failed", "UF", false, Callee),
            Self::TlsHandshakeFailed => row(S::SERVICE_UNAVAILABLE, 14, "tls_protocol_error", "tls_handshake_failed", "UF", false, Callee),
            Self::NoRoute => row(S::NOT_FOUND, 12, "destination_not_found", "no_route", "NR", false, Caller),
            Self::BackendInvalid => row(S::INTERNAL_SERVER_ERROR, 14, "proxy_configuration_error", "backend_invalid", "NC", false, Mesh),
            Self::BadTimeout => row(S::BAD_REQUEST, 13, "http_request_error", "bad_timeout", "DPE", false, Caller),
            Self::RequestTimeout => row(S::GATEWAY_TIMEOUT, 4, "http_response_timeout", "request_timeout", "UT", false, Callee),
            Self::AttemptTimeout => row(S::GATEWAY_TIMEOUT, 4, "http_response_timeout", "attempt_timeout", "UT", false, Callee),
            Self::DeadlineExceeded => row(S::GATEWAY_TIMEOUT, 4, "http_response_timeout", "deadline_exceeded", "DT", false, Caller),
            Self::StreamIdleTimeout => row(S::GATEWAY_TIMEOUT, 4, "connection_read_timeout", "stream_idle_timeout", "SI", false, Callee),
            Self::CircuitOpen => row(S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "circuit_open", "UH", false, Callee),
            Self::TooManyRequests => row(S::SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "too_many_requests", "UO", false, Mesh),
            Self::TooManyPending => row(S::SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "too_many_pending", "UO", false, Mesh),
            Self::FaultInjected => row(S::SERVICE_UNAVAILABLE, 14, "proxy_internal_response", "fault_injected", "FI", false, Mesh),
            Self::UpstreamReset => row(S::BAD_GATEWAY, 14, "connection_terminated", "upstream_reset", "UC", false, Callee),
            Self::AppUnreachable => row(S::SERVICE_UNAVAILABLE, 14, "connection_refused", "app_unreachable", "UF", false, Callee),
            // As an app that has too much to do, or is about to leave, which is no fault of it.
            Self::AppRefused => row(S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "app_refused", "UR", false, Callee),
            Self::AppReset => row(S::BAD_GATEWAY, 14, "connection_terminated", "app_reset", "UC", false, Callee),
            Self::AnswerTooLarge => row(S::BAD_GATEWAY, 8, "http_response_header_section_size", "answer_too_large", "UPE", false, Callee),
            Self::Draining => row(S::SERVICE_UNAVAILABLE, 14, "proxy_internal_response", "draining", "DR", true, Mesh),
            Self::TooManyConnections => row(S::SERVICE_UNAVAILABLE, 8, "connection_limit_reached", "too_many_connections", "UO", true, Mesh),
            Self::RateLimited => row(S::TOO_MANY_REQUESTS, 8, "http_request_denied", "rate_limited", "RL", false, Caller),
            // UNAVAILABLE, not RESOURCE_EXHAUSTED: it is not the caller's share that is used up, and
            // another instance may have room.
            Self::Overloaded => row(S::SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "overloaded", "UO", false, Callee),
            Self::PlaintextRefused => row(S::FORBIDDEN, 7, "http_request_denied", "plaintext_refused", "UAEX", true, Caller),
            Self::ForbiddenDestination => row(S::FORBIDDEN, 7, "destination_ip_prohibited", "forbidden_destination", "UAEX", true, Caller),
            Self::DestinationUnreachable => row(S::SERVICE_UNAVAILABLE, 14, "destination_unavailable", "destination_unreachable", "UF", false, Callee),
        }
    }

    /// The label of metrics and logs.
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// The refusal of which this is the reason.
    pub fn from_reason(reason: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|refusal| refusal.reason().as_bytes() == reason)
    }

    /// The answer to a request into which a fault is injected, with the statuses of its policy.
    pub fn aborted(status: u16, code: u8, grpc: bool, version: Version) -> Response<ResponseBody> {
        let mut response = Self::FaultInjected.response(grpc, version);
        if grpc {
            let code = HeaderValue::from(u16::from(code));
            response.headers_mut().insert(GRPC_STATUS, code);
        } else if let Ok(status) = StatusCode::from_u16(status) {
            *response.status_mut() = status;
        }
        response
    }

    /// The answer to an HTTP request, or the trailers-only answer to a gRPC call.
    pub fn response(self, grpc: bool, version: Version) -> Response<ResponseBody> {
        let row = self.row();
        let mut response = if grpc {
            self.grpc_response(row)
        } else {
            let mut response = Response::new(ResponseBody::text(format!(
                "outrider: {self} ({})\n",
                row.reason
            )));
            *response.status_mut() = row.status;
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            response
        };
        proxy_status::refused(response.headers_mut(), &row, &Retries::default());
        if row.close && version < Version::HTTP_2 {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn grpc_response(self, row: Row) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.say_status(headers, row);
        response
    }

    /// The trailers of a gRPC call of which the answer has begun.
    pub fn grpc_trailers(self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.say_status(&mut trailers, self.row());
        trailers
    }

    fn say_status(self, headers: &mut HeaderMap, row: Row) {
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(row.grpc)));
        if let Ok(message) = HeaderValue::try_from(format!("outrider: {self} ({})", row.reason)) {
            headers.insert(GRPC_MESSAGE, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_refusal_has_a_reason_of_its_own() {
        let reasons: HashSet<_> = Refusal::ALL
            .iter()
            .map(|refusal| refusal.reason())
            .collect();
        assert_eq!(reasons.len(), Refusal::ALL.len());
    }

    #[test]
    fn an_http_refusal_says_why() {
        let response = Refusal::AuthorizationDenied.response(false, Version::HTTP_11);
        assert_eq!(response.status(), 403);
        assert_eq!(
            response.headers()["proxy-status"],
            "outrider; error=http_request_denied; details=\"authorization_denied\""
        );
        assert!(!response.headers().contains_key(CONNECTION));
    }

    #[test]
    fn a_grpc_refusal_is_trailers_only() {
        let response = Refusal::AuthorizationDenied.response(true, Version::HTTP_2);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
    }

    #[test]
    fn a_malformed_request_ends_the_connection() {
        let response = Refusal::BadRequest.response(false, Version::HTTP_11);
        assert_eq!(response.headers()[CONNECTION], "close");
        let response = Refusal::BadRequest.response(false, Version::HTTP_2);
        assert!(!response.headers().contains_key(CONNECTION));
    }
}
