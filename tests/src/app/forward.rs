//! An app that is a hop in a chain: it makes a call for each request that it serves.

use std::net::SocketAddr;

use anyhow::Result;

use super::{Request, State, lock};
use crate::http::{self, Response};

/// What an app hands on that does as it should (`examples/shop/README.md`).
const CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// Where an app's own calls go.
#[derive(Debug, Clone)]
pub struct Hop {
    /// The HTTP port of its sidecar.
    pub via: SocketAddr,
    /// The Service that it calls.
    pub service: String,
    /// Whether it hands the context of the request that it serves on to its call.
    pub context: bool,
}

/// How the call ended.
#[derive(Debug)]
pub(super) struct Forwarded(Result<Response>);

impl Forwarded {
    /// What the app answers: the status and the body that it got, or 502 where it got none.
    pub(super) fn answer(&self) -> Vec<u8> {
        let (status, body) = match &self.0 {
            Ok(response) => (response.status, response.body.clone()),
            Err(error) => (502, format!("{error:#}").into_bytes()),
        };
        let head = format!(
            "HTTP/1.1 {status} Forwarded\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    }
}

impl State {
    /// Makes the call that belongs to a request; none where the app is the end of the chain.
    pub(super) fn forward(&self, request: &Request) -> Option<Forwarded> {
        let hop = lock(&self.next_hop).clone()?;
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            request.method,
            request.path,
            hop.service,
            request.body.len()
        );
        for name in CONTEXT.iter().filter(|_| hop.context) {
            for value in request.headers(name) {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        head.push_str("\r\n");
        let call = [head.into_bytes(), request.body.clone()].concat();
        Some(Forwarded(http::exchange(hop.via, call)))
    }
}
