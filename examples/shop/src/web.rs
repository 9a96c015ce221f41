//! What the HTTP services share: serving with a graceful stop, JSON answers, and the client that
//! calls other services, by name or through the sidecar's HTTP port.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::context::CallContext;
use crate::control::Control;

/// The largest request body and answer that a service reads.
const BODY_LIMIT: usize = 64 * 1024;

/// What a service answers.
pub(crate) type Answer = Response<Full<Bytes>>;

/// An HTTP service: one request in, one answer out.
pub(crate) trait Service: Send + Sync + 'static {
    fn answer(&self, request: Request<Bytes>) -> impl Future<Output = Answer> + Send;
}

/// Serves as `control` lets it until `stop` resolves, then finishes the requests in flight.
pub(crate) async fn serve(
    listener: TcpListener,
    service: impl Service,
    control: Control,
    stop: impl Future<Output = ()>,
) {
    let service = Arc::new(service);
    let stop = control.clone().released_by(stop);
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new());
    crate::accept::until(listener, stop, |stream| {
        let (service, control) = (Arc::clone(&service), control.clone());
        server.serve_connection(
            stream,
            service_fn(move |request| {
                let (service, control) = (Arc::clone(&service), control.clone());
                async move {
                    if let Err(status) = control.admit().await {
                        return Ok(problem(status, "asked to fail"));
                    }
                    Ok::<_, Infallible>(read_and_answer(&*service, request).await)
                }
            }),
        )
    })
    .await;
}

async fn read_and_answer(service: &impl Service, request: Request<Incoming>) -> Answer {
    if request.method() == Method::GET && request.uri().path() == "/healthz" {
        return json(StatusCode::OK, &serde_json::json!({"status": "ok"}));
    }
    let (head, body) = request.into_parts();
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => {
            service
                .answer(Request::from_parts(head, body.to_bytes()))
                .await
        }
        Err(_) => problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is not complete, or longer than {BODY_LIMIT} bytes"),
        ),
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let Ok(body) = serde_json::to_vec(value) else {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return answer;
    };
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    answer
}

/// A JSON answer that says what was wrong.
pub(crate) fn problem(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({"error": message}))
}

/// The same, as the error of a function that fails with an answer.
pub(crate) fn refusal(status: StatusCode, message: &str) -> Box<Answer> {
    Box::new(problem(status, message))
}

/// The request's JSON, or the 400 that says why it is not.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Answer>> {
    serde_json::from_slice(body)
        .map_err(|error| refusal(StatusCode::BAD_REQUEST, &format!("the body: {error}")))
}

/// Calls other services by name.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    client: Client<HttpConnector, Full<Bytes>>,
    via: Option<http::uri::Authority>,
}

/// Why a call to another service gave no answer to read.
#[derive(Debug)]
pub(crate) struct CallFailed(String);

impl std::fmt::Display for CallFailed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Mesh {
    /// `via` is the sidecar's HTTP port. None: names lead where they should.
    pub(crate) fn new(via: Option<http::uri::Authority>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            via,
        }
    }

    /// Sends one request to `service`, on behalf of the one whose `context` it carries; a sidecar
    /// that is called by its port finds the instance by the Host header.
    pub(crate) async fn call(
        &self,
        method: Method,
        service: &'static str,
        path: &str,
        body: Bytes,
        context: &CallContext,
    ) -> Result<(StatusCode, Bytes), CallFailed> {
        let failed = |error: &dyn std::fmt::Display| CallFailed(format!("{service}: {error}"));
        let via = self.via.as_ref().map_or(service, |via| via.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{via}{path}"))
            .header(header::HOST, HeaderValue::from_static(service))
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )
            .body(Full::new(body))
            .map_err(|error| failed(&error))?;
        context.write_to(request.headers_mut());
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BODY_LIMIT)
            .collect()
            .await
            .map_err(|error| failed(&error))?;
        Ok((status, body.to_bytes()))
    }
}
