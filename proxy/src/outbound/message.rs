//! A request as it is kept between attempts: copied for each that may be followed by another, given
//! away for the last.

use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;

use crate::http::body::RequestBody;
use crate::http::replay::{Moved, REPLAY_MAX, Replay};

/// See the module.
#[derive(Debug)]
pub struct Message {
    pub head: Head,
    body: Body,
    moved: Moved,
}

/// A request's head, in the form that it has between sidecars.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Of an extended CONNECT.
    protocol: Option<Protocol>,
}

#[derive(Debug)]
enum Body {
    Empty,
    /// Too large to be kept: it can be sent while nothing of it has been.
    Once(Option<RequestBody>),
    Kept(Replay),
}

impl From<Parts> for Head {
    fn from(mut parts: Parts) -> Self {
        Self {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            protocol: parts.extensions.remove(),
        }
    }
}

impl Head {
    fn with(self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        if let Some(protocol) = self.protocol {
            request.extensions_mut().insert(protocol);
        }
        request
    }
}

impl Message {
    pub fn new(head: Head, body: Incoming, is_upgrade: bool) -> Self {
        if is_upgrade || body.is_end_stream() {
            return Self {
                head,
                body: Body::Empty,
                moved: Moved::default(),
            };
        }
        let is_large = body.size_hint().lower() > REPLAY_MAX as u64;
        let replay = Replay::new(body);
        let moved = replay.moved();
        let once = replay.attempt().filter(|_| is_large);
        let body = match once {
            Some(attempt) => {
                replay.release();
                Body::Once(Some(RequestBody::Replayed(attempt)))
            }
            None => Body::Kept(replay),
        };
        Self { head, body, moved }
    }

    /// When something of the body last went out.
    pub fn moved(&self) -> Moved {
        Rc::clone(&self.moved)
    }

    /// Whether [`Message::request`] gives one after what was sent so far.
    pub fn is_complete(&self) -> bool {
        match &self.body {
            Body::Empty => true,
            Body::Once(body) => body.is_some(),
            Body::Kept(replay) => replay.is_possible(),
        }
    }

    /// The request once more; `None`: what has passed of its body was not kept.
    pub fn request(&mut self) -> Option<Request<RequestBody>> {
        let body = match &mut self.body {
            Body::Empty => RequestBody::Empty,
            Body::Once(body) => body.take()?,
            Body::Kept(replay) => RequestBody::Replayed(replay.attempt()?),
        };
        Some(self.head.clone().with(body))
    }

    /// The same without a copy, where there will be no other attempt.
    pub fn last_request(&mut self) -> Option<Request<RequestBody>> {
        let body = match std::mem::replace(&mut self.body, Body::Once(None)) {
            Body::Empty => RequestBody::Empty,
            Body::Once(body) => body?,
            Body::Kept(replay) => {
                let attempt = replay.attempt()?;
                replay.release();
                RequestBody::Replayed(attempt)
            }
        };
        let head = Head {
            method: self.head.method.clone(),
            uri: std::mem::take(&mut self.head.uri),
            headers: std::mem::take(&mut self.head.headers),
            protocol: self.head.protocol.take(),
        };
        Some(head.with(body))
    }

    /// Takes back what has not been sent at all.
    pub fn give_back(&mut self, request: Request<RequestBody>) {
        let (parts, unsent) = request.into_parts();
        if let Body::Once(body @ None) = &mut self.body {
            *body = Some(unsent);
            self.head = Head::from(parts);
        }
    }

    /// Another attempt will follow: those before read nothing more of the body.
    pub fn stop(&self) {
        if let Body::Kept(replay) = &self.body {
            replay.stop();
        }
    }

    /// An answer has been accepted: nothing more is kept.
    pub fn release(&self) {
        if let Body::Kept(replay) = &self.body {
            replay.release();
        }
    }

    /// A copy of the request, for a mirror. `None`: its body is too large to be copied, or it asks for
    /// another protocol, which nobody would speak with the mirror.
    pub fn copied(&self) -> Option<Request<RequestBody>> {
        if self.head.protocol.is_some() {
            return None;
        }
        let body = match &self.body {
            Body::Empty => RequestBody::Empty,
            Body::Once(_) => return None,
            Body::Kept(replay) => RequestBody::Copied(replay.copied()),
        };
        Some(self.head.clone().with(body))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_was_given_away_for_the_last_attempt_comes_back() {
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static("http://billing/charges");
        let headers = request.headers_mut();
        headers.insert("x-a", HeaderValue::from_static("1"));
        let mut message = Message {
            head: Head::from(request.into_parts().0),
            body: Body::Empty,
            moved: Moved::default(),
        };
        let sent = message.last_request().expect("the request");
        assert!(!message.is_complete());
        message.give_back(sent);
        assert!(message.is_complete());
        let again = message.last_request().expect("the same");
        assert_eq!(again.uri(), "http://billing/charges");
        assert_eq!(again.headers()["x-a"], "1");
    }
}
