//! One request over plain HTTP: for the health, metrics and admin ports of the mesh's own processes.
//! Owns how a connection is made, also from within a network namespace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::mesh::netns::inside;

/// The largest answer that is read: the metrics of a large sidecar.
const LIMIT: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// Nobody listens there.
    #[error("{0}: cannot connect: {1}")]
    Connect(String, std::io::Error),
    /// The connection broke, or did not speak HTTP.
    #[error("{0}: {1}")]
    Http(String, hyper::Error),
    /// The answer is too large, or broke off.
    #[error("{0}: the answer cannot be read: {1}")]
    Body(String, String),
    /// It took longer than it may.
    #[error("{0}: no answer within {1:?}")]
    Timeout(String, Duration),
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
    get_from(&address.into(), path, limit).await
}

/// GETs `path` of whoever listens there, all within `limit`.
pub(crate) async fn get_from(
    door: &Door,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), FetchError> {
    within(limit, door, Request::get(path), Bytes::new()).await
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
    let address = door.address.to_string();
    let exchange = async {
        let stream = door
            .connect()
            .await
            .map_err(|error| FetchError::Connect(address.clone(), error))?;
        exchange(stream, &address, request, body).await
    };
    let answer = tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(FetchError::Timeout(address.clone(), limit)))?;
    Ok((answer.status(), answer.into_body()))
}

/// One request over a connection to `place`, which it ends.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    place: &str,
    request: Builder,
    body: Bytes,
) -> Result<Response<Bytes>, FetchError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Http(place.to_owned(), error))?;
    let request = request
        .header(header::HOST, place)
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(FetchError::Path)?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| FetchError::Http(place.to_owned(), error))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, LIMIT)
            .collect()
            .await
            .map_err(|error| FetchError::Body(place.to_owned(), error.to_string()))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
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
