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

use super::{WebhookError, Webhooks};

/// The largest body: an object is 1.5 MiB at most to etcd, and an update brings two.
const BODY_MAX: usize = 8 << 20;
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// So many connections are open at once; the next wait in the listener's queue.
const MAX_CONNECTIONS: usize = 256;
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
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let Some(config) = self.serving.borrow().clone() else {
                        tracing::debug!(%address, "closed: there is no certificate yet");
                        continue;
                    };
                    let webhooks = self.webhooks.clone();
                    tokio::spawn(async move {
                        if let Err(reason) = serve(stream, config, webhooks).await {
                            tracing::debug!(%address, reason, "a connection of the webhooks ended");
                        }
                        drop(permit);
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
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let tls = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream))
        .await
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let webhooks = webhooks.clone();
        async move { Ok::<_, Infallible>(answer(&webhooks, request).await) }
    });
    let io = TokioIo::new(tls);
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| error.to_string()),
            () = sleep(CONNECTION) => connection.as_mut().graceful_shutdown(),
        }
        ended(timeout(FAREWELL, connection).await)
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(BODY)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return result.map_err(|error| error.to_string()),
            () = sleep(CONNECTION) => connection.as_mut().graceful_shutdown(),
        }
        ended(timeout(FAREWELL, connection).await)
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

async fn answer(webhooks: &Webhooks, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if let Some(refusal) = refuse(&request, &path) {
        return refusal;
    }
    let body = match timeout(BODY, Limited::new(request.into_body(), BODY_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
    };
    match webhooks.review(&path, &body).await {
        Ok(answer) => respond(StatusCode::OK, answer, JSON),
        Err(error) => text(status(&error), format!("{error}\n")),
    }
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
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let media =
        header(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim());
    if !media.is_some_and(|media| media.eq_ignore_ascii_case(JSON)) {
        let expected = format!("expected content-type {JSON}\n");
        return Some(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, expected));
    }
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    length
        .is_some_and(|length| length > BODY_MAX)
        .then(too_large)
}

fn too_large() -> Answer {
    let expected = format!("expected a body of at most {BODY_MAX} bytes\n");
    text(StatusCode::PAYLOAD_TOO_LARGE, expected)
}

fn status(error: &WebhookError) -> StatusCode {
    match error {
        WebhookError::Review(_) => StatusCode::BAD_REQUEST,
        WebhookError::Write(_) | WebhookError::Unfinished => StatusCode::INTERNAL_SERVER_ERROR,
        WebhookError::Early | WebhookError::Sidecars => StatusCode::SERVICE_UNAVAILABLE,
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
mod tests {
    use super::*;

    fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        refuse(&request, path).map(|answer| answer.status().as_u16())
    }

    #[test]
    fn what_is_no_review_is_refused_before_its_body_is_read() {
        let json = [("content-type", "application/json")];
        assert_eq!(status("POST", "/inject", &json), None);
        assert_eq!(
            status(
                "POST",
                "/validate",
                &[("content-type", "application/JSON; charset=utf-8")]
            ),
            None
        );
        assert_eq!(status("POST", "/", &json), Some(404));
        assert_eq!(status("POST", "/inject/x", &json), Some(404));
        assert_eq!(status("GET", "/inject", &json), Some(405));
        assert_eq!(status("POST", "/inject", &[]), Some(415));
        assert_eq!(
            status("POST", "/inject", &[("content-type", "application/yaml")]),
            Some(415)
        );
        assert_eq!(
            status("POST", "/inject", &[("content-type", "application/jsonx")]),
            Some(415)
        );
        let long = |length: &'static str| [json[0], ("content-length", length)];
        assert_eq!(status("POST", "/inject", &long("8388608")), None);
        assert_eq!(status("POST", "/inject", &long("8388609")), Some(413));
    }
}
