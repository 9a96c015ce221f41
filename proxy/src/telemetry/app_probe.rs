//! Probes of the app that are asked of its sidecar: whether it listens, and what it answers over TLS. Anybody
//! may ask, so that exactly those are answered which the workload declares.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use outrider_api::model::{ProbeHeader, Workload};
use outrider_api::sidecar::AppProbe;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::any_certificate;
use super::server::{Answer, View, text};
use crate::http::headers;
use crate::http::serve::http1_client;
use crate::inbound::probe::{self, declared};

/// A kubelet waits for a second by default, and counts the rest as failure, too.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// As long as any probe may take; who asks may give up before.
const HTTPS_LIMIT: Duration = Duration::from_secs(60);
/// As much of an answer's content as a kubelet reads, bytes.
const CONTENT_MAX: usize = 10 * 1024;

/// Why the app has not answered over TLS.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("the app does not listen: {0}")]
    Connect(#[source] io::Error),
    #[error("no TLS with the app: {0}")]
    Handshake(#[source] io::Error),
    #[error("no TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the app does not answer: {0}")]
    Exchange(#[source] Box<dyn Error + Send + Sync>),
    #[error("the app does not answer within {} s", HTTPS_LIMIT.as_secs())]
    TooLong,
}

impl View {
    pub(super) async fn app_probe(
        &self,
        asked: AppProbe<'_>,
        request: &Request<Incoming>,
        over_tls: &Semaphore,
    ) -> Answer {
        let workload = self.workload.borrow().clone();
        match asked {
            AppProbe::Tcp { port } => self.tcp_probe(workload.as_deref(), port).await,
            AppProbe::Https { port, target } => {
                let is_get = request.method() == Method::GET && request.body().is_end_stream();
                let found = workload.as_deref().filter(|_| is_get).and_then(|workload| {
                    let app = SocketAddr::new(workload.app_address, port);
                    let sent = received(request.headers());
                    let declared = probe::over_tls(workload, port, target, &sent)?;
                    for_app(app, target, &sent, declared).map(|request| (app, request))
                });
                match (found, over_tls.try_acquire()) {
                    (Some((app, request)), Ok(_place)) => self.https_probe(app, request).await,
                    (Some(_), Err(_)) => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "too many probes at once wait for the app\n",
                    ),
                    (None, _) => text(
                        StatusCode::NOT_FOUND,
                        "no HTTPS probe of this port and path is declared\n",
                    ),
                }
            }
        }
    }

    /// Whether the app listens on a port for which a TCP probe is declared. What is intercepted is
    /// accepted by the sidecar whether it does or not, so that a probe that only connects learns
    /// nothing of the app.
    async fn tcp_probe(&self, workload: Option<&Workload>, port: u16) -> Answer {
        let declared = workload.and_then(|workload| {
            let mut probes = probe::of_port(workload, port);
            let is_declared = probes.any(probe::is_tcp);
            is_declared.then_some(SocketAddr::new(workload.app_address, port))
        });
        let Some(app) = declared else {
            return text(
                StatusCode::NOT_FOUND,
                "no TCP probe of this port is declared\n",
            );
        };
        match tokio::time::timeout(TCP_LIMIT, TcpStream::connect(app)).await {
            Ok(Ok(_)) => {
                self.metrics.probes.with_label_values(&["tcp"]).inc();
                text(StatusCode::OK, "the app listens\n")
            }
            Ok(Err(_)) | Err(_) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the app does not listen\n")
            }
        }
    }

    /// The app's status is the answer. Without the rest of it: a kubelet would follow a redirect to what
    /// is no probe, and takes one that leads nowhere for a success.
    async fn https_probe(&self, app: SocketAddr, request: Request<Empty<Bytes>>) -> Answer {
        let answered = Box::pin(over_tls(app, request));
        let answered = tokio::time::timeout(HTTPS_LIMIT, answered).await;
        match answered.unwrap_or(Err(Unanswered::TooLong)) {
            Ok(status) => {
                self.metrics.probes.with_label_values(&["https"]).inc();
                let mut answer = Response::new(Full::default());
                *answer.status_mut() = status;
                answer
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n")),
        }
    }
}

/// What was sent, without what no app must take from who has no identity.
fn received(sent: &HeaderMap) -> HeaderMap {
    let mut sent = sent.clone();
    headers::strip_hop_by_hop(&mut sent);
    headers::strip_identity(&mut sent);
    sent
}

/// The request as the app is to see it; `None`: the target is none.
fn for_app(
    app: SocketAddr,
    target: &str,
    sent: &HeaderMap,
    declared: &[ProbeHeader],
) -> Option<Request<Empty<Bytes>>> {
    let uri = Uri::try_from(target).ok()?;
    let host = match declared::host(sent, &uri, declared) {
        Some(host) => host.value().clone(),
        None => HeaderValue::try_from(app.to_string()).ok()?,
    };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    *request.headers_mut() = declared::headers(sent, declared);
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Some(request)
}

async fn over_tls(
    app: SocketAddr,
    request: Request<Empty<Bytes>>,
) -> Result<StatusCode, Unanswered> {
    let stream = TcpStream::connect(app).await.map_err(Unanswered::Connect)?;
    let tls = TlsConnector::from(any_certificate::client_config()?);
    let name = ServerName::from(app.ip());
    let stream = tls.connect(name, stream).await;
    let stream = TokioIo::new(stream.map_err(Unanswered::Handshake)?);
    let failed = |error: hyper::Error| Unanswered::Exchange(error.into());
    let (mut sender, connection) = http1_client().handshake(stream).await.map_err(failed)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let (head, content) = answer.into_parts();
        match Limited::new(content, CONTENT_MAX).collect().await {
            Ok(_) => Ok(head.status),
            Err(error) if error.is::<LengthLimitError>() => Ok(head.status),
            Err(error) => Err(Unanswered::Exchange(error)),
        }
    };
    match select(pin!(exchange), pin!(connection)).await {
        Either::Left((answered, _)) => answered,
        // It has ended, with or without an answer.
        Either::Right((_, exchange)) => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn an_app_sees_what_is_declared_and_its_own_address() {
        let app = SocketAddr::from(([10, 0, 0, 7], 8443));
        let declared = [
            ("Host", "shop"),
            ("X-Key", "k"),
            ("X-Forwarded-Client-Cert", "URI=a"),
        ];
        let declared = declared
            .map(|(name, value)| ProbeHeader::new(name, value.as_bytes()).expect("a header"));
        let seen = |sent: &[_]| {
            let sent = received(&fields(sent));
            let request = for_app(app, "/live?a=//b", &sent, &declared).expect("a request");
            assert_eq!(request.uri(), "/live?a=//b");
            request.into_parts().0.headers
        };
        let stranger = [("host", "10.0.0.7:15020"), ("x-key", "?"), ("cookie", "c")];
        let bare = fields(&[("host", "10.0.0.7:8443"), ("connection", "close")]);
        assert_eq!(seen(&stranger), bare);
        let kubelet = [
            ("host", "shop"),
            ("user-agent", "kube-probe/1"),
            ("x-key", "k"),
            ("x-forwarded-client-cert", "URI=a"),
            ("connection", "close"),
        ];
        let whole = [
            ("host", "shop"),
            ("user-agent", "kube-probe/1"),
            ("x-key", "k"),
            ("connection", "close"),
        ];
        assert_eq!(seen(&kubelet), fields(&whole));
    }
}
