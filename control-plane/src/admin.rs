//! The admin address: /live, /ready, /metrics and /trust over plain HTTP/1.1. Owns its listener; only reads.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrider_certs::bundle::TrustBundle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::discovery::Fleet;
use crate::identity::SharedAuthority;
use crate::metrics::Metrics;

const TEXT: &str = "text/plain; charset=utf-8";
/// So many connections are served at once; the next wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
/// Headers must have come by then, also those of the next request on a connection.
const HEADERS: Duration = Duration::from_secs(30);
/// A connection lasts no longer, so that a few that are held open do not keep Prometheus out.
const CONNECTION: Duration = Duration::from_secs(120);
/// How long accepting rests after it has failed.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Whether sidecars are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// Not yet, and why.
    NotReady(String),
}

/// Whom every connected sidecar trusts.
#[derive(Clone)]
pub(crate) struct Trusted {
    pub(crate) authority: SharedAuthority,
    pub(crate) fleet: Arc<Fleet>,
}

impl Trusted {
    /// `None`: nobody whom all of them do.
    pub(crate) fn bundle(&self) -> Option<TrustBundle> {
        let authority = self.authority.current()?;
        self.fleet.trusted(&authority.trust_bundle())
    }
}

/// How far sidecars are with each object; JSON.
pub(crate) type Programmed = Arc<dyn Fn() -> String + Send + Sync>;

/// What the admin address answers with.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) readiness: watch::Receiver<Readiness>,
    pub(crate) trusted: Trusted,
    /// Absent where nobody asks: a mesh of files has no status.
    pub(crate) programmed: Option<Programmed>,
}

impl Admin {
    /// Serves until it is dropped.
    pub(crate) async fn run(self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let admin = self.clone();
                    tokio::spawn(async move {
                        // A scrape that breaks off is the scraper's to notice.
                        let _ = timeout(CONNECTION, admin.serve(stream)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "an admin connection could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream) -> hyper::Result<()> {
        let service = service_fn(move |request: Request<Incoming>| {
            let response = self.answer(request.method(), request.uri().path());
            std::future::ready(Ok::<_, Infallible>(response))
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .await
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let known = matches!(
            path,
            "/live" | "/ready" | "/metrics" | "/trust" | "/programmed"
        );
        if !known {
            return text(
                StatusCode::NOT_FOUND,
                "expected /live, /ready, /metrics, /trust or /programmed\n",
            );
        }
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => self.ready(),
            "/programmed" => self.programmed(),
            "/trust" => text(
                StatusCode::OK,
                self.trusted
                    .bundle()
                    .map_or_else(String::new, |bundle| bundle.to_pem()),
            ),
            _ => self.scrape(),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match &*self.readiness.borrow() {
            Readiness::Ready => text(StatusCode::OK, "ready\n"),
            Readiness::NotReady(reason) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {reason}\n"),
            ),
        }
    }

    fn programmed(&self) -> Response<Full<Bytes>> {
        let body = self.programmed.as_ref().map(|programmed| programmed());
        let body = body.unwrap_or_else(|| "{}".to_owned());
        respond(StatusCode::OK, body, "application/json")
    }

    fn scrape(&self) -> Response<Full<Bytes>> {
        match self.metrics.render() {
            Ok((body, content_type)) => respond(StatusCode::OK, body, &content_type),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, body, TEXT)
}

fn respond(
    status: StatusCode,
    body: impl Into<Bytes>,
    content_type: &str,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type =
        HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static(TEXT));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let (sender, readiness) = watch::channel(Readiness::NotReady("no mesh".to_owned()));
        let metrics = Metrics::new().unwrap();
        let admin = Admin {
            metrics: metrics.clone(),
            readiness,
            trusted: Trusted {
                authority: SharedAuthority::new(),
                fleet: Fleet::new(metrics),
            },
            programmed: None,
        };
        let status = |method, path| admin.answer(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/live"), 200);
        assert_eq!(status(Method::GET, "/ready"), 503);
        assert_eq!(status(Method::GET, "/metrics"), 200);
        assert_eq!(status(Method::GET, "/trust"), 200);
        assert_eq!(status(Method::POST, "/metrics"), 405);
        assert_eq!(status(Method::GET, "/debug"), 404);
        sender.send_replace(Readiness::Ready);
        assert_eq!(status(Method::GET, "/ready"), 200);
    }
}
