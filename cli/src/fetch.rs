//! One request over plain HTTP: for the health, metrics and admin ports of the mesh's own processes.
//! Owns how a connection is made, also from within a network namespace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::mesh::netns::inside;

/// The largest answer that is read: the metrics of a large sidecar.
const LIMIT: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// Nobody listens there.
    #[error("{0}: cannot connect: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection broke, or did not speak HTTP.
    #[error("{0}: {1}")]
    Http(SocketAddr, hyper::Error),
    /// The answer is too large, or broke off.
    #[error("{0}: the answer cannot be read: {1}")]
    Body(SocketAddr, String),
    /// It took longer than it may.
    #[error("{0}: no answer within {1:?}")]
    Timeout(SocketAddr, Duration),
    /// The path is none.
    #[error("not a path: {0}")]
    Path(http::Error),
}

/// Where somebody listens, and from where they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where they listen.
    pub address: SocketAddr,
    /// The network namespace that the connection is made in; none: that of this process.
    pub namespace: Option<String>,
}

impl From<SocketAddr> for Door {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            namespace: None,
        }
    }
}

impl Door {
    /// A connection.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.namespace {
            None => TcpStream::connect(self.address).await,
            Some(namespace) => inside::connect(namespace, self.address).await,
        }
    }
}

/// GETs `path` from `address`, all within `limit`.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), FetchError> {
    let request = Request::get(path);
    within(limit, &address.into(), request, Bytes::new()).await
}

/// PUTs `body` to `path` of whoever listens there, all within `limit`.
pub(crate) async fn put(
    door: &Door,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<(StatusCode, Bytes), FetchError> {
    within(limit, door, Request::put(path), body).await
}

async fn within(
    limit: Duration,
    door: &Door,
    request: Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), FetchError> {
    tokio::time::timeout(limit, exchange(door, request, body))
        .await
        .unwrap_or(Err(FetchError::Timeout(door.address, limit)))
}

async fn exchange(
    door: &Door,
    request: Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), FetchError> {
    let address = door.address;
    let stream = door
        .connect()
        .await
        .map_err(|error| FetchError::Connect(address, error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Http(address, error))?;
    let request = request
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(FetchError::Path)?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| FetchError::Http(address, error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LIMIT)
            .collect()
            .await
            .map_err(|error| FetchError::Body(address, error.to_string()))?;
        Ok((status, body.to_bytes()))
    };
    // The connection has to be driven for the exchange to move; it ends with it.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        done = exchange => done,
        never = driven => match never {},
    }
}
