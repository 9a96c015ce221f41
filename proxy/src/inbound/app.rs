//! Connections from the sidecar to its app, kept warm: HTTP/1 one request at a time, HTTP/2 many.

pub mod connect;
pub mod idle;
pub mod replay;

use std::cell::RefCell;
use std::collections::HashMap;
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
use connect::Sender2;
pub use connect::{AppAddress, connect};
use idle::Idle;
pub use idle::Lease;
use replay::Replay;

/// Belongs to one worker.
#[derive(Debug, Default)]
pub struct App {
    http1: Rc<Idle>,
    http2: RefCell<HashMap<AppAddress, Sender2>>,
}

/// An answer, with the right to put its connection back when it has ended.
#[derive(Debug)]
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Option<Lease>,
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
                    return unambiguous(response, Lease::new(&self.http1, address, sender));
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

    async fn send_http2(
        &self,
        address: AppAddress,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        loop {
            let warm = self.http2.borrow().get(&address).cloned();
            let warm = warm.filter(|sender| sender.is_ready());
            let reused = warm.is_some();
            let replay = warm.as_ref().and_then(|_| Replay::of(&request));
            let mut sender = match warm {
                Some(sender) => sender,
                None => Box::pin(self.connect_http2(address)).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) if headers::is_too_large(response.headers()) => {
                    return Err(Refusal::AnswerTooLarge);
                }
                Ok(response) => {
                    return Ok(Answered {
                        response,
                        lease: None,
                    });
                }
                Err(mut error) => {
                    if reused {
                        self.http2.borrow_mut().remove(&address);
                    }
                    match error.take_message() {
                        Some(unsent) if reused => request = unsent,
                        _ if is_unprocessed(error.error()) => {
                            request = Replay::after(replay, error.into_error())?;
                        }
                        _ => return Err(reset(error.into_error())),
                    }
                }
            }
        }
    }

    async fn connect_http2(&self, address: AppAddress) -> Result<Sender2, Refusal> {
        let sender = connect::http2(address).await?;
        self.http2.borrow_mut().insert(address, sender.clone());
        Ok(sender)
    }

    /// Closes what has been idle for long.
    pub fn sweep(&self, now: Instant) {
        self.http1.sweep(now);
        self.http2
            .borrow_mut()
            .retain(|_, sender| sender.is_ready());
    }
}

/// An answer that two readers could end differently is none (RFC 9112, section 6.3).
fn unambiguous(response: Response<Incoming>, lease: Lease) -> Result<Answered, Refusal> {
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
        lease.discard();
        tracing::info!(
            "the app's answer has no clear end: Transfer-Encoding must be `chunked`, alone"
        );
        return Err(Refusal::AppReset);
    }
    Ok(Answered {
        response,
        lease: Some(lease),
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
