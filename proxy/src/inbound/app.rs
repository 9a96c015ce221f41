//! Connections from the sidecar to its app, kept warm: HTTP/1 one request at a time, HTTP/2 many.

pub mod connect;
pub mod idle;
pub mod replay;
pub mod streams;

use std::rc::Rc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Request, Response};
use hyper::body::Incoming;

use crate::http::body::{self, RequestBody};
use crate::http::headers;
use crate::http::wire::AppVersion;
use crate::outbound::verdict::is_unprocessed;
use crate::refusal::Refusal;
pub use connect::{AppAddress, connect};
use idle::{Idle, Lent};
use replay::Replay;
use streams::{Stream, Streams};

/// Belongs to one worker.
#[derive(Debug, Default)]
pub struct App {
    http1: Rc<Idle>,
    http2: Streams,
}

/// An answer, with its place at the app.
#[derive(Debug)]
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Lease,
}

/// What a request has of the app until its answer has ended.
#[derive(Debug)]
pub enum Lease {
    Http1(Lent),
    Http2(Stream),
}

impl Lease {
    /// The answer did not come to its end.
    pub fn discard(self) {
        if let Self::Http1(lent) = self {
            lent.discard();
        }
    }
}

impl App {
    /// Sends a request to the app and waits for the head of its answer.
    pub async fn send(
        &self,
        address: AppAddress,
        version: AppVersion,
        request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        match version {
            AppVersion::Http1 => self.send_http1(address, request).await,
            AppVersion::Http2 => self.send_http2(address, request).await,
        }
    }

    /// Sends a request that asks for another protocol, on a connection of its own.
    pub async fn send_upgrade(
        &self,
        address: AppAddress,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Refusal> {
        connect::http1(address)
            .await?
            .send_request(request)
            .await
            .map_err(reset)
    }

    /// On a warm connection, or a new one. Where the app was closing it, once more, on a new one.
    async fn send_http1(
        &self,
        address: AppAddress,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        let mut warm = self.http1.take(address);
        // The app may be closing a warm one: that is no failure (RFC 9110, section 9.2.2).
        let mut replay = warm.as_ref().and_then(|_| Replay::idempotent(&request));
        // What the attempt before came to, if there was one.
        let mut before = None;
        loop {
            let mut sender = match warm.take() {
                Some(sender) => sender,
                // In a box: a request is as large as the largest of its ways.
                None => Box::pin(connect::http1(address)).await?,
            };
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => {
                    return unambiguous(response, Lent::new(&self.http1, address, sender));
                }
                Err(error) => error,
            };
            let replay = replay.take();
            (request, before) = match (error.take_message(), before) {
                (Some(unsent), None) => (unsent, Some(Refusal::AppUnreachable)),
                (Some(_), Some(refusal)) => return Err(refusal),
                // It may have been done once.
                (None, _) => {
                    let again = Replay::after(replay, error.into_error())?;
                    (again, Some(Refusal::AppReset))
                }
            };
        }
    }

    /// Where there is room, or on a new connection; where the app did not look at it, once more, on
    /// another one.
    async fn send_http2(
        &self,
        address: AppAddress,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        let mut replay = Replay::of(&request);
        let mut warm = self.http2.warm(address);
        let mut refused: Option<Stream> = None;
        loop {
            let stream = match warm.take() {
                Some(stream) => stream,
                // In a box: a request is as large as the largest of its ways.
                None => Box::pin(self.http2.open(address, refused.as_ref())).await?,
            };
            let mut error = match stream.send(request).await {
                Ok(response) if headers::is_too_large(response.headers()) => {
                    return Err(Refusal::AnswerTooLarge);
                }
                Ok(response) => {
                    let lease = Lease::Http2(stream);
                    return Ok(Answered { response, lease });
                }
                Err(error) => error,
            };
            let unsent = error.take_message();
            if unsent.is_none() && !is_unprocessed(error.error()) {
                return Err(reset(error.into_error()));
            }
            let again = unsent.or_else(|| replay.take().map(Replay::again));
            request = match again {
                Some(again) if refused.is_none() => again,
                Some(_) | None => return Err(Refusal::AppRefused),
            };
            refused = Some(stream);
        }
    }

    /// Closes what has been idle for long.
    pub fn sweep(&self, now: Instant) {
        self.http1.sweep(now);
        self.http2.sweep(now);
    }
}

/// An answer that two readers could end differently is none (RFC 9112, section 6.3).
fn unambiguous(response: Response<Incoming>, lent: Lent) -> Result<Answered, Refusal> {
    let headers = response.headers();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_clear = match (encodings.next(), encodings.next()) {
        (None, _) => true,
        (Some(encoding), None) => {
            encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    if !is_clear {
        lent.discard();
        tracing::info!(
            "the app's answer has no clear end: Transfer-Encoding must be `chunked`, alone"
        );
        return Err(Refusal::AppReset);
    }
    Ok(Answered {
        response,
        lease: Lease::Http1(lent),
    })
}

fn reset(error: hyper::Error) -> Refusal {
    tracing::debug!(%error, "the app ended the exchange");
    if body::is_request_too_large(&error) {
        Refusal::HeaderTooLarge
    } else if error.is_parse_too_large() {
        Refusal::AnswerTooLarge
    } else {
        Refusal::AppReset
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
