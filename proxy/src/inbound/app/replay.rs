//! What the app did not answer, once more.

use http::Request;
use http::request::Parts;
use http_body::Body as _;

use super::reset;
use crate::http::body::RequestBody;
use crate::refusal::Refusal;

/// A request without a body, kept to be sent once more.
pub struct Replay(Parts);

impl Replay {
    pub fn of(request: &Request<RequestBody>) -> Option<Self> {
        if !request.body().is_end_stream() {
            return None;
        }
        let mut parts = Request::new(()).into_parts().0;
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        Some(Self(parts))
    }

    /// Only what may be done twice: the app may have done it once.
    pub fn idempotent(request: &Request<RequestBody>) -> Option<Self> {
        Some(request)
            .filter(|request| request.method().is_idempotent())
            .and_then(Self::of)
    }

    pub fn again(self) -> Request<RequestBody> {
        Request::from_parts(self.0, RequestBody::Empty)
    }

    /// The request again, if there was no byte of an answer.
    pub fn after(
        replay: Option<Self>,
        error: hyper::Error,
    ) -> Result<Request<RequestBody>, Refusal> {
        match replay {
            Some(Self(parts)) if !error.is_parse() => {
                tracing::debug!(%error, "sent again on a new connection");
                Ok(Self(parts).again())
            }
            _ => Err(reset(error)),
        }
    }
}
