//! A request of a peer: authorized, given back the form it had, and answered by the app.

use std::rc::Rc;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use outrider_api::authorization::HttpCall;

use super::Connection;
use super::app::Answered;
use super::authorize::{Allowed, authorize};
use super::limits::{self, Told};
use super::work::{Order, Work};
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::headers::{self, FORWARDED_CLIENT_CERT};
use crate::http::wire::{self, AppVersion, Target};
use crate::refusal::Refusal;
use crate::telemetry::exchange::{Exchange, LogEntry};

/// Answers one request; `upgrade` is the protocol that an extended CONNECT asks for.
pub async fn answer(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    upgrade: Option<Protocol>,
) -> Response<ResponseBody> {
    let arrival = Arrival {
        at: Instant::now(),
        grpc: headers::is_grpc(request.headers()),
    };
    let log = connection
        .worker
        .access_log()
        .then(|| LogEntry::new(&request));
    let exchange = Exchange::begin(Rc::clone(&connection.edge), arrival.grpc, arrival.at, log);
    let mut told = Told::default();
    let result = match upgrade {
        None => plain(connection, request, arrival, exchange, &mut told).await,
        Some(protocol) => {
            let switching = switching(connection, request, protocol, arrival, exchange, &mut told);
            Box::pin(switching).await
        }
    };
    let mut response = result.unwrap_or_else(|(refusal, exchange)| {
        exchange.refused(refusal);
        let mut response = refusal.response(arrival.grpc, Version::HTTP_2);
        wire::set_reason(response.headers_mut(), refusal);
        response
    });
    told.write(response.headers_mut());
    response
}

/// What is known of a request from its first moment on.
#[derive(Clone, Copy)]
struct Arrival {
    at: Instant,
    grpc: bool,
}

/// A refusal gives the exchange back, to be recorded as refused.
type Refused = (Refusal, Exchange);

async fn plain(
    connection: &Connection,
    mut request: Request<Incoming>,
    arrival: Arrival,
    mut exchange: Exchange,
    told: &mut Told,
) -> Result<Response<ResponseBody>, Refused> {
    let target = match admit(connection, &mut request) {
        Ok(target) => target,
        Err(refusal) => return Err((refusal, exchange)),
    };
    let order = Order::read(request.headers(), arrival.at);
    match limits::admit(connection, target.port, order.deadline, told).await {
        Ok(permit) => exchange.permitted(permit),
        Err(refusal) => return Err((refusal, exchange)),
    }
    let worker = &connection.worker;
    let work = match Work::begin(worker, request.headers_mut(), order, arrival.grpc) {
        Ok(work) => work,
        Err(refusal) => return Err((refusal, exchange)),
    };
    let request = match for_app(connection, request.map(RequestBody::Streaming), target) {
        Ok(request) => request,
        Err(refusal) => return Err((refusal, exchange)),
    };
    match worker
        .app
        .send(connection.app(target.port), target.version, request)
        .await
    {
        Ok(Answered {
            mut response,
            lease,
        }) => {
            headers::strip_hop_by_hop(response.headers_mut());
            headers::strip_identity(response.headers_mut());
            exchange.head(response.status(), response.headers());
            work.answered(response.status(), response.headers_mut());
            *response.version_mut() = Version::HTTP_2;
            Ok(response.map(|body| ResponseBody::leased(body, exchange, lease)))
        }
        Err(refusal) => Err((refusal, exchange)),
    }
}

/// Checks the request against policy as the app will see it.
fn admit(connection: &Connection, request: &mut Request<Incoming>) -> Result<Target, Refusal> {
    let target = clean(connection, request)?;
    let call = call(request, request.method())?;
    permit(connection, target, call)?;
    Ok(target)
}

/// The same for an upgrade: a GET to the app, whose permission is kept to be asked for again.
fn admit_upgrade(
    connection: &Connection,
    request: &mut Request<Incoming>,
) -> Result<(Target, Allowed), Refusal> {
    let target = clean(connection, request)?;
    let call = call(request, &Method::GET)?;
    let allowed = Allowed::http(connection, target.port, &call);
    permit(connection, target, call)?;
    Ok((target, allowed))
}

/// Takes out what is not for the app.
fn clean(connection: &Connection, request: &mut Request<Incoming>) -> Result<Target, Refusal> {
    if headers::is_too_large_between_sidecars(request.uri(), request.headers()) {
        return Err(Refusal::HeaderTooLarge);
    }
    let target = Target::take(request.headers_mut()).map_err(|error| {
        tracing::info!(peer = %connection.peer, %error, "a request without its target");
        Refusal::BadRequest
    })?;
    headers::strip_identity(request.headers_mut());
    headers::strip_hop_by_hop(request.headers_mut());
    Ok(target)
}

fn call<'r>(request: &'r Request<Incoming>, method: &'r Method) -> Result<HttpCall<'r>, Refusal> {
    let uri = request.uri();
    let authority = uri.authority().ok_or(Refusal::BadAuthority)?.as_str();
    let host = request.headers().get(HOST);
    let is_strict = !authority.contains('@') && !authority.ends_with(':');
    if !is_strict || host.is_some_and(|host| host.as_bytes() != authority.as_bytes()) {
        return Err(Refusal::BadAuthority);
    }
    Ok(HttpCall {
        method: method.as_str(),
        path: uri.path_and_query().map_or("/", PathAndQuery::as_str),
        authority,
        headers: request.headers(),
    })
}

fn permit(connection: &Connection, target: Target, call: HttpCall<'_>) -> Result<(), Refusal> {
    let workload = connection.worker.workload().ok_or(Refusal::NoPolicy)?;
    authorize(connection, &workload, target.port, Some(call))
}

/// The request as the app is to see it: version, Host and target form as they were at the caller.
pub(super) fn for_app(
    connection: &Connection,
    request: Request<RequestBody>,
    target: Target,
) -> Result<Request<RequestBody>, Refusal> {
    let (mut parts, body) = request.into_parts();
    if let Some(forwarded) = &connection.forwarded {
        parts
            .headers
            .insert(FORWARDED_CLIENT_CERT, forwarded.clone());
    }
    match target.version {
        AppVersion::Http2 => {
            parts.headers.remove(HOST);
            parts.version = Version::HTTP_2;
        }
        AppVersion::Http1 => {
            let uri = parts.uri.into_parts();
            let authority = uri.authority.ok_or(Refusal::BadAuthority)?;
            let host =
                HeaderValue::try_from(authority.as_str()).map_err(|_| Refusal::BadAuthority)?;
            parts.headers.insert(HOST, host);
            parts.uri = uri.path_and_query.map(Uri::from).unwrap_or_default();
            if !body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) {
                // Of a GET or HEAD hyper sends a body only if it is told so.
                let chunked = HeaderValue::from_static("chunked");
                parts.headers.insert(TRANSFER_ENCODING, chunked);
            }
            parts.version = Version::HTTP_11;
        }
    }
    Ok(Request::from_parts(parts, body))
}

/// An upgrade of HTTP/1.1, which came as an extended CONNECT (RFC 8441).
async fn switching(
    connection: &Rc<Connection>,
    mut request: Request<Incoming>,
    protocol: Protocol,
    arrival: Arrival,
    mut exchange: Exchange,
    told: &mut Told,
) -> Result<Response<ResponseBody>, Refused> {
    let (target, allowed) = match admit_upgrade(connection, &mut request) {
        Ok(admitted) => admitted,
        Err(refusal) => return Err((refusal, exchange)),
    };
    let order = Order::read(request.headers(), arrival.at);
    match limits::admit(connection, target.port, order.deadline, told).await {
        Ok(permit) => exchange.permitted(permit),
        Err(refusal) => return Err((refusal, exchange)),
    }
    let worker = &connection.worker;
    let work = match Work::begin(worker, request.headers_mut(), order, arrival.grpc) {
        Ok(work) => work,
        Err(refusal) => return Err((refusal, exchange)),
    };
    let asked = match as_upgrade(connection, &mut request, &protocol, target) {
        Ok(asked) => asked,
        Err(refusal) => return Err((refusal, exchange)),
    };
    let sent = worker.app.send_upgrade(connection.app(target.port), asked);
    let mut response = match sent.await {
        Ok(response) => response,
        Err(refusal) => return Err((refusal, exchange)),
    };
    exchange.head(response.status(), response.headers());
    headers::strip_identity(response.headers_mut());
    work.answered(response.status(), response.headers_mut());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(declined(response, exchange));
    }
    headers::strip_hop_by_hop(response.headers_mut());
    let mut agreed = Response::new(ResponseBody::empty());
    *agreed.headers_mut() = response.headers().clone();
    tokio::task::spawn_local(carry(
        Rc::clone(connection),
        request,
        response,
        allowed,
        exchange,
    ));
    Ok(agreed)
}

fn as_upgrade(
    connection: &Connection,
    request: &mut Request<Incoming>,
    protocol: &Protocol,
    target: Target,
) -> Result<Request<RequestBody>, Refusal> {
    let mut asked = Request::new(RequestBody::Empty);
    *asked.uri_mut() = request.uri().clone();
    *asked.headers_mut() = std::mem::take(request.headers_mut());
    let mut asked = for_app(
        connection,
        asked,
        Target {
            version: AppVersion::Http1,
            ..target
        },
    )?;
    let is_http2 = |one: &str| one.trim().to_ascii_lowercase().starts_with("h2");
    if protocol.as_str().is_empty() || protocol.as_str().split(',').any(is_http2) {
        // What came through it would be requests that policy never sees.
        return Err(Refusal::BadRequest);
    }
    let protocol = HeaderValue::try_from(protocol.as_str()).map_err(|_| Refusal::BadRequest)?;
    asked
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    asked.headers_mut().insert(UPGRADE, protocol);
    Ok(asked)
}

/// The app answers without switching: that answer goes back as it is.
fn declined(mut response: Response<Incoming>, exchange: Exchange) -> Response<ResponseBody> {
    headers::strip_hop_by_hop(response.headers_mut());
    let status = response.status();
    wire::set_declined(status, response.headers_mut());
    *response.status_mut() = wire::DECLINED_STATUS;
    *response.version_mut() = Version::HTTP_2;
    response.map(|body| ResponseBody::streaming(body, exchange, None))
}

async fn carry(
    connection: Rc<Connection>,
    request: Request<Incoming>,
    response: Response<Incoming>,
    allowed: Allowed,
    exchange: Exchange,
) {
    let both =
        futures_util::future::join(hyper::upgrade::on(request), hyper::upgrade::on(response)).await;
    let (Ok(peer), Ok(app)) = both else {
        exchange.broken(Refusal::AppReset);
        return;
    };
    let (mut peer, mut app) = (TokioIo::new(peer), TokioIo::new(app));
    tokio::select! {
        ended = crate::tunnel::carry(&mut peer, &mut app, None, |_| {}, |_| {}) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an upgraded connection ended");
            }
        }
        () = allowed.revoked(&connection.worker) => {}
    }
    exchange.completed(None);
}
