//! What an answer says: of its endpoint, and of whether the request could be sent again.

use http::{HeaderMap, Response, StatusCode};

use crate::http::headers;
use crate::http::wire;
use crate::refusal::Refusal;
use crate::telemetry::exchange::grpc_status;
use crate::traffic::health::Outcome;
use crate::traffic::retry::Failure;

/// gRPC status codes (grpc/doc/statuscodes.md).
const OK: u16 = 0;
const UNKNOWN: u16 = 2;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const DATA_LOSS: u16 = 15;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None`: the trailers will tell.
    pub outcome: Option<Outcome>,
    pub failure: Option<Failure>,
    pub retried_downstream: bool,
}

impl Verdict {
    /// Whether the request got to the app and through it: otherwise the time it took is not that of
    /// serving one.
    pub fn is_served(&self) -> bool {
        self.outcome != Some(Outcome::GatewayError) && self.failure != Some(Failure::Unprocessed)
    }
}

/// Reads the head of an answer, and takes out what is between sidecars.
pub fn of<B>(response: &mut Response<B>) -> Verdict {
    let refused = wire::take_reason(response.headers_mut());
    let retried_downstream = wire::take_retried(response.headers_mut());
    let (outcome, failure) = match refused {
        Some(refusal) => of_sidecar(refusal, response),
        None => of_app(response),
    };
    Verdict {
        outcome,
        failure,
        retried_downstream,
    }
}

/// What trailers say of the endpoint.
pub fn of_trailers(trailers: Option<&HeaderMap>) -> Outcome {
    match trailers.and_then(grpc_status) {
        Some(code) => of_grpc(code),
        None => Outcome::Success,
    }
}

/// The endpoint's sidecar has answered itself.
fn of_sidecar<B>(refusal: Refusal, response: &Response<B>) -> (Option<Outcome>, Option<Failure>) {
    let (outcome, failure) = match refusal {
        // Its app has seen nothing of the request.
        Refusal::AppUnreachable | Refusal::NoPolicy | Refusal::Draining => {
            (Outcome::GatewayError, Some(Failure::Unprocessed))
        }
        // It is alive, and has too much to do or is about to leave: another may take it.
        Refusal::AppRefused | Refusal::Overloaded | Refusal::TooManyConnections => {
            (Outcome::Success, Some(Failure::Unprocessed))
        }
        // It would be as large once more.
        Refusal::AnswerTooLarge => (Outcome::AppError, None),
        Refusal::AppReset | Refusal::UpstreamReset => (Outcome::GatewayError, Some(Failure::Reset)),
        _ => (Outcome::Success, of_app(response).1),
    };
    (Some(outcome), failure)
}

fn of_app<B>(response: &Response<B>) -> (Option<Outcome>, Option<Failure>) {
    let status = response.status();
    if status == StatusCode::OK && headers::is_grpc(response.headers()) {
        return match grpc_status(response.headers()) {
            None => (None, None),
            Some(OK) => (Some(Outcome::Success), None),
            Some(code) => {
                let failure = u8::try_from(code).ok().map(Failure::Grpc);
                (Some(of_grpc(code)), failure)
            }
        };
    }
    let outcome = match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Outcome::GatewayError
        }
        _ if status.is_server_error() => Outcome::AppError,
        _ => Outcome::Success,
    };
    let is_error = status.is_client_error() || status.is_server_error();
    let failure = is_error.then(|| Failure::Status(status.as_u16()));
    (Some(outcome), failure)
}

fn of_grpc(code: u16) -> Outcome {
    match code {
        UNAVAILABLE => Outcome::GatewayError,
        UNKNOWN | INTERNAL | DATA_LOSS => Outcome::AppError,
        _ => Outcome::Success,
    }
}

/// The peer says that it has not looked at the stream: it was beyond GOAWAY's last one, or refused
/// (RFC 9113, section 8.7).
pub fn is_unprocessed(error: &hyper::Error) -> bool {
    http2(error).is_some_and(|error| {
        // We refuse a stream with an answer that is far too large: that one was looked at.
        let refused = error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let gone = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        refused || gone
    })
}

/// Whether we reset the stream ourselves.
pub fn is_ours(error: &hyper::Error) -> bool {
    http2(error).is_some_and(|error| error.is_reset() && !error.is_remote())
}

fn http2(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Verdict {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let mut response = builder.body(()).expect("a response");
        of(&mut response)
    }

    #[test]
    fn gateway_errors_are_apart_from_the_apps_own() {
        for (status, outcome) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (500, Outcome::AppError),
            (501, Outcome::AppError),
            (502, Outcome::GatewayError),
            (503, Outcome::GatewayError),
            (504, Outcome::GatewayError),
        ] {
            let verdict = answered(status, &[]);
            assert_eq!(verdict.outcome, Some(outcome), "{status}");
            let failure = (status >= 400).then_some(Failure::Status(status));
            assert_eq!(verdict.failure, failure, "{status}");
        }
    }

    #[test]
    fn grpc_is_judged_by_its_own_status() {
        let grpc = (CONTENT_TYPE.as_str(), "application/grpc");
        assert_eq!(answered(200, &[grpc]).outcome, None);
        let unavailable = answered(200, &[grpc, ("grpc-status", "14")]);
        assert_eq!(unavailable.outcome, Some(Outcome::GatewayError));
        assert_eq!(unavailable.failure, Some(Failure::Grpc(14)));
        let not_found = answered(200, &[grpc, ("grpc-status", "5")]);
        assert_eq!(not_found.outcome, Some(Outcome::Success));
        assert_eq!(of_trailers(None), Outcome::Success);
    }

    #[test]
    fn what_a_sidecar_answers_is_not_the_apps() {
        let mut response = Refusal::AppUnreachable.response(false, http::Version::HTTP_2);
        wire::set_reason(response.headers_mut(), Refusal::AppUnreachable);
        let verdict = of(&mut response);
        assert_eq!(verdict.failure, Some(Failure::Unprocessed));
        assert!(!response.headers().contains_key("x-outrider-reason"));
        let mut denied = Refusal::AuthorizationDenied.response(false, http::Version::HTTP_2);
        wire::set_reason(denied.headers_mut(), Refusal::AuthorizationDenied);
        assert_eq!(of(&mut denied).outcome, Some(Outcome::Success));
    }

    #[test]
    fn what_an_app_refused_may_be_sent_again() {
        let verdict = answered(503, &[("x-outrider-reason", "app_refused")]);
        assert_eq!(verdict.outcome, Some(Outcome::Success));
        assert_eq!(verdict.failure, Some(Failure::Unprocessed));
        assert!(!verdict.is_served());
    }

    #[test]
    fn who_answers_soon_without_serving_is_not_fast() {
        assert!(answered(200, &[]).is_served());
        assert!(answered(500, &[]).is_served());
        assert!(!answered(503, &[]).is_served());
        assert!(!answered(503, &[("x-outrider-reason", "overloaded")]).is_served());
        let grpc = (CONTENT_TYPE.as_str(), "application/grpc");
        assert!(answered(200, &[grpc]).is_served());
    }

    #[test]
    fn a_failure_that_was_retried_nearer_is_known() {
        assert!(answered(503, &[("x-outrider-retried", "1")]).retried_downstream);
        assert!(!answered(503, &[]).retried_downstream);
    }
}
