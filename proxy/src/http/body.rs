//! The bodies that pass through: streamed as they come, never collected.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::framing::Violation;
use super::headers;
use super::idle::Idle;
use super::replay::{Attempt, Copied};
use crate::inbound::app::Lease;
use crate::refusal::Refusal;
use crate::telemetry::exchange::Exchange;

/// What goes on to the next hop. Trailers lose the headers that only sidecars may set.
#[derive(Debug)]
pub enum RequestBody {
    Streaming(Incoming),
    /// It may be sent again.
    Replayed(Attempt),
    /// A mirror's.
    Copied(Copied),
    /// All of it, until it has been sent.
    Whole(Bytes),
    Empty,
}

/// How the stream of a request ends whose trailers are too large. It is told from all other ends by it:
/// the body is gone by the time at which somebody has to say what became of its request.
const TOO_LARGE: h2::Reason = h2::Reason::ENHANCE_YOUR_CALM;

/// Why a body does not go on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Source(hyper::Error),
    #[error("another attempt has taken the body over")]
    Superseded,
    #[error("the copy is not whole")]
    Lost,
    #[error("nothing came for as long as may be")]
    Idle,
    #[error("the request was broken off")]
    BrokenOff(#[source] h2::Error),
    #[error("the trailers of the request are larger than 64 KiB")]
    RequestTooLarge(#[source] h2::Error),
    #[error("the trailers of the answer are larger than 64 KiB")]
    AnswerTooLarge,
}

impl BodyError {
    fn request_too_large() -> Self {
        Self::RequestTooLarge(TOO_LARGE.into())
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        // Those of HTTP/1 are measured before they are parsed.
        match violation(&error) {
            Some(Violation::TooLarge) => Self::request_too_large(),
            // A reset goes on with the reason that it came with, and this one is taken.
            None if reset_reason(&error) == Some(TOO_LARGE) => {
                Self::BrokenOff(h2::Reason::CANCEL.into())
            }
            Some(_) | None => Self::Source(error),
        }
    }
}

fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    error.source()?.downcast_ref::<h2::Error>()?.reason()
}

fn violation(error: &hyper::Error) -> Option<Violation> {
    let error = error.source()?.downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref().copied()
}

/// Whether an exchange with the next hop broke off because the trailers of its request are too large.
pub fn is_request_too_large(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(BodyError::RequestTooLarge(_)) = error.downcast_ref() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset() && !error.is_remote() && error.reason() == Some(TOO_LARGE);
        }
        cause = error.source();
    }
    false
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|polled| polled.map(|frame| passed_on(frame?))),
            Self::Replayed(attempt) => attempt.poll_next(cx),
            Self::Copied(copied) => copied.poll_next(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body) => body.is_end_stream(),
            Self::Replayed(attempt) => attempt.is_end_stream(),
            Self::Copied(_) => false,
            Self::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body) => body.size_hint(),
            Self::Replayed(attempt) => attempt.size_hint(),
            Self::Copied(_) => SizeHint::default(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// A part of a request's body as it goes on: trailers whole, but for the identity, or not at all.
pub(super) fn passed_on(mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
    if let Some(trailers) = frame.trailers_mut() {
        if headers::is_too_large(trailers) {
            return Err(BodyError::request_too_large());
        }
        headers::strip_identity(trailers);
    }
    Ok(frame)
}

/// What goes back to the caller. When it has ended, or is dropped, its exchange is recorded.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    exchange: Option<Exchange>,
    /// Its place at the app: free again when the body has ended.
    lease: Option<Lease>,
}

#[derive(Debug)]
enum Source {
    Streaming(Incoming, Option<Idle>),
    Whole(Bytes),
}

impl ResponseBody {
    /// Passes `body` on, and tells `exchange` how it ended. It may pause for as long as `idle`.
    pub fn streaming(body: Incoming, exchange: Exchange, idle: Option<Duration>) -> Self {
        Self::passing(Source::Streaming(body, idle.map(Idle::new)), exchange, None)
    }

    /// The same without a limit, and gives `lease` back when the body has ended.
    pub fn leased(body: Incoming, exchange: Exchange, lease: Lease) -> Self {
        Self::passing(Source::Streaming(body, None), exchange, Some(lease))
    }

    /// An answer that belongs to no exchange.
    pub fn uncounted(body: Incoming, lease: Lease) -> Self {
        Self {
            source: Source::Streaming(body, None),
            exchange: None,
            lease: Some(lease),
        }
    }

    fn passing(source: Source, exchange: Exchange, lease: Option<Lease>) -> Self {
        let mut this = Self {
            source,
            exchange: Some(exchange),
            lease,
        };
        let ended = this.is_end_stream();
        if ended {
            this.finish(None);
        }
        this
    }

    pub fn text(text: String) -> Self {
        Self {
            source: Source::Whole(text.into()),
            exchange: None,
            lease: None,
        }
    }

    pub fn empty() -> Self {
        Self {
            source: Source::Whole(Bytes::new()),
            exchange: None,
            lease: None,
        }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.lease = None;
        if let Some(exchange) = self.exchange.take() {
            exchange.completed(trailers);
        }
    }

    /// Trailers are too large. A gRPC call has a status in their place, which says so.
    fn too_large(&mut self, why: Refusal, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let grpc = self.exchange.as_ref().is_some_and(Exchange::is_grpc);
        self.fail(why);
        match grpc {
            true => Ok(Frame::trailers(why.grpc_trailers())),
            false => Err(error),
        }
    }

    fn fail(&mut self, why: Refusal) {
        if let Some(lease) = self.lease.take() {
            lease.discard();
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.broken(why);
        }
    }
}

impl Drop for ResponseBody {
    /// The caller went away before the end: what is left of the body is still on the connection.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.discard();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let (body, idle) = match &mut this.source {
            Source::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Source::Whole(bytes) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Source::Streaming(body, idle) => (body, idle),
        };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let ended = body.is_end_stream();
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                let trailers = frame.trailers_ref();
                if trailers.is_some_and(headers::is_too_large) {
                    let error = BodyError::AnswerTooLarge;
                    let cut = this.too_large(Refusal::AnswerTooLarge, error);
                    return Poll::Ready(Some(cut));
                }
                this.finish(trailers);
            }
            Poll::Ready(Some(Ok(_))) if ended => this.finish(None),
            Poll::Ready(Some(Err(error))) if is_request_too_large(error) => {
                let error = BodyError::request_too_large();
                let cut = this.too_large(Refusal::HeaderTooLarge, error);
                return Poll::Ready(Some(cut));
            }
            Poll::Ready(Some(Err(_))) => this.fail(Refusal::UpstreamReset),
            Poll::Ready(None) => this.finish(None),
            Poll::Ready(Some(Ok(_))) => {
                if let Some(idle) = idle {
                    idle.progressed();
                }
            }
            Poll::Pending => {
                if let Some(idle) = idle
                    && idle.poll_expired(cx).is_ready()
                {
                    this.fail(Refusal::StreamIdleTimeout);
                    return Poll::Ready(Some(Err(BodyError::Idle)));
                }
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Source)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Streaming(body, _) => body.is_end_stream(),
            Source::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Streaming(body, _) => body.size_hint(),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
