//! The webhooks' port: TLS, HTTP/1.1 or HTTP/2, one request after the other. Owns the listener and its
//! connections. Whoever reaches the port may ask: nothing here may be made to fail by what it is sent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::connections::{Connections, Place};
use super::{WebhookError, Webhooks};

/// The largest body: an object is 1.5 MiB at most to etcd, and an update brings two.
const BODY_MAX: usize = 8 << 20;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// So many sockets are open at once, those among them that were told to end; the next wait in the
/// listener's queue.
const MAX_SOCKETS: usize = 512;
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 64;
/// A client that has not finished its handshake by then is not waited for.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A body takes no longer: the API server waits 30 s at most.
const BODY: Duration = Duration::from_secs(30);
/// A connection lasts no longer, so that the API server comes to every replica.
const CONNECTION: Duration = Duration::from_secs(300);
/// How long a connection may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(10);
/// The same, where it is idle.
const IDLE_FAREWELL: Duration = Duration::from_secs(1);
/// How long accepting rests after it has failed.
const ACCEPT_REST: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// The webhooks' port.
pub(super) struct Server {
    pub(super) listener: TcpListener,
    /// Absent until there is a certificate: then connections are closed as they come.
    pub(super) serving: watch::Receiver<Option<Arc<ServerConfig>>>,
    pub(super) webhooks: Webhooks,
}

impl Server {
    /// Serves until it is dropped.
    pub(super) async fn run(self) {
        let sockets = Arc::new(Semaphore::new(MAX_SOCKETS));
        let connections = Connections::default();
        loop {
            let Ok(socket) = Arc::clone(&sockets).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Some(config) = self.serving.borrow().clone() else {
                        tracing::debug!(%address, "closed: there is no certificate yet");
                        continue;
                    };
                    let Some(place) = connections.admit(address.ip().to_canonical()) else {
                        tracing::debug!(%address, "closed: all connections are at work");
                        continue;
                    };
                    let webhooks = self.webhooks.clone();
                    tokio::spawn(async move {
                        if let Err(reason) = serve(stream, config, webhooks, place).await {
                            tracing::debug!(%address, reason, "a connection of the webhooks ended");
                        }
                        drop(socket);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection of the webhooks could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    webhooks: Webhooks,
    place: Place,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let accepted = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream));
    let tls = tokio::select! {
        accepted = accepted => accepted
            .map_err(|_| "the handshake took too long".to_owned())?
            .map_err(|error| error.to_string())?,
        () = place.over() => return Err("it gave way to another".to_owned()),
    };
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let place = Arc::new(place);
    let of_service = Arc::clone(&place);
    let service = service_fn(move |request| {
        let (webhooks, place) = (webhooks.clone(), Arc::clone(&of_service));
        async move { Ok::<_, Infallible>(answer(&webhooks, &place, request).await) }
    });
    let io = TokioIo::new(tls);
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let farewell = tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| error.to_string()),
            farewell = end(&place) => farewell,
        };
        connection.as_mut().graceful_shutdown();
        ended(timeout(farewell, connection).await)
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(BODY)
            .serve_connection(io, service);
        tokio::pin!(connection);
        let farewell = tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| error.to_string()),
            farewell = end(&place) => farewell,
        };
        connection.as_mut().graceful_shutdown();
        ended(timeout(farewell, connection).await)
    }
}

/// Returns when a connection is to end; how long it may take to.
async fn end(place: &Place) -> Duration {
    tokio::select! {
        () = place.over() => IDLE_FAREWELL,
        () = sleep(CONNECTION) => FAREWELL,
    }
}

fn ended(
    result: Result<Result<(), hyper::Error>, tokio::time::error::Elapsed>,
) -> Result<(), String> {
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it did not end when it was asked to".to_owned()),
    }
}

async fn answer(webhooks: &Webhooks, place: &Place, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if let Some(refusal) = refuse(&request, &path) {
        return refusal;
    }
    let share = place.share();
    let body = async {
        // Closed semaphores do not happen.
        let room = share.room.acquire_many(room(&request)).await.ok();
        let body = Limited::new(request.into_body(), BODY_MAX).collect().await;
        body.map(|body| (body.to_bytes(), room))
    };
    let (body, _room) = match timeout(BODY, body).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
    };
    let _work = place.work();
    match webhooks.review(&path, &body, share).await {
        Ok(answer) => respond(StatusCode::OK, answer, JSON),
        Err(error) => text(status(&error), format!("{error}\n")),
    }
}

/// What its body takes of the room for bodies, KiB.
fn room<B>(request: &Request<B>) -> u32 {
    let bytes = content_length(request).unwrap_or(BODY_MAX).min(BODY_MAX);
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// What is wrong before the body is read.
fn refuse<B>(request: &Request<B>, path: &str) -> Option<Answer> {
    if !Webhooks::PATHS.contains(&path) {
        let expected = format!("expected {}\n", Webhooks::PATHS.join(" or "));
        return Some(text(StatusCode::NOT_FOUND, expected));
    }
    if request.method() != Method::POST {
        return Some(text(StatusCode::METHOD_NOT_ALLOWED, "expected POST\n"));
    }
    let media = request.headers().get(CONTENT_TYPE);
    let media = media.and_then(|value| value.to_str().ok());
    let media = media.map(|value| value.split(';').next().unwrap_or_default().trim());
    if !media.is_some_and(|media| media.eq_ignore_ascii_case(JSON)) {
        let expected = format!("expected content-type {JSON}\n");
        return Some(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, expected));
    }
    content_length(request)
        .is_some_and(|length| length > BODY_MAX)
        .then(too_large)
}

fn content_length<B>(request: &Request<B>) -> Option<usize> {
    let length = request.headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

fn too_large() -> Answer {
    let expected = format!("expected a body of at most {BODY_MAX} bytes\n");
    text(StatusCode::PAYLOAD_TOO_LARGE, expected)
}

fn status(error: &WebhookError) -> StatusCode {
    match error {
        WebhookError::Review(_) => StatusCode::BAD_REQUEST,
        WebhookError::Write(_) | WebhookError::Unfinished => StatusCode::INTERNAL_SERVER_ERROR,
        WebhookError::Early | WebhookError::Sidecars | WebhookError::Busy => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    respond(status, body, TEXT)
}

fn respond(status: StatusCode, body: impl Into<Bytes>, content_type: &'static str) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
