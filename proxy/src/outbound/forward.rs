//! A request on its way out: cleaned, routed, balanced, sent, and its answer brought back.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::attempt::Attempt as Evidence;
use super::directory::Service;
use super::endpoint::{Endpoint, Purpose};
use super::route::{self, Listener, Route};
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::guarded::{self, Gate};
use crate::http::headers;
use crate::http::wire::{self, AppVersion};
use crate::listen::Open;
use crate::refusal::Refusal;
use crate::telemetry::exchange::{Exchange, LogEntry, grpc_status};
use crate::traffic::health::Outcome;
use crate::worker::Worker;

/// A connection of the app, and where its requests went last: most go there again.
pub struct Connection {
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    gate: Option<Arc<Gate>>,
    last: RefCell<Option<Last>>,
}

#[derive(Clone)]
struct Last {
    host: HeaderValue,
    authority: Authority,
    route: Route,
}

impl Connection {
    pub fn new(worker: Rc<Worker>, listener: Rc<Listener>, gate: Option<Arc<Gate>>) -> Self {
        Self {
            worker,
            listener,
            gate,
            last: RefCell::default(),
        }
    }
}

/// A request that is ready to leave.
struct Outgoing {
    request: Request<RequestBody>,
    service: Rc<Service>,
    port: u16,
    version: AppVersion,
    upgrade: Option<Upgrading>,
}

/// An upgrade that the app asked for.
struct Upgrading {
    protocol: HeaderValue,
    downstream: OnUpgrade,
}

/// What the app said of itself, kept for its answer.
#[derive(Clone, Copy)]
struct Caller {
    started: Instant,
    version: Version,
    grpc: bool,
}

/// Answers one request of the app.
pub async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let worker = &connection.worker;
    let caller = Caller {
        started: Instant::now(),
        version: request.version(),
        grpc: headers::is_grpc(request.headers()),
    };
    let asks_upgrade =
        request.headers().contains_key(UPGRADE) || request.method() == Method::CONNECT;
    let log = worker.access_log().then(|| LogEntry::new(&request));
    let response = match connection.prepare(request).await {
        Ok(outgoing) => send(&connection, outgoing, caller, log).await,
        Err((refusal, service)) => {
            let edge = service.map_or_else(
                || Rc::clone(&worker.unrouted),
                |service| Rc::clone(&service.edge),
            );
            Exchange::begin(edge, caller.grpc, caller.started, log).refused(refusal);
            refusal.response(caller.grpc, caller.version)
        }
    };
    if let Some(gate) = connection.gate.as_ref().filter(|_| asks_upgrade) {
        gate.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    Ok(response)
}

impl Connection {
    /// Why an exchange that had begun broke off: the app's own bytes, or the other side.
    fn broken(&self) -> Refusal {
        match &self.gate {
            Some(gate) if gate.is_body_broken() => Refusal::BadRequest,
            _ => Refusal::UpstreamReset,
        }
    }

    /// Cleans the request and finds its Service.
    async fn prepare(
        &self,
        request: Request<Incoming>,
    ) -> Result<Outgoing, (Refusal, Option<Rc<Service>>)> {
        let unrouted = |refusal| (refusal, None);
        if let Some(refusal) = guarded::refused(request.headers()) {
            return Err(unrouted(refusal));
        }
        if request.method() == Method::CONNECT {
            return Err(unrouted(Refusal::MethodNotAllowed));
        }
        let host = route::authority(&request).map_err(unrouted)?;
        let (authority, route) = self.route(host).await.map_err(unrouted)?;
        let service = self.worker.service(&route.slot).await.map_err(unrouted)?;
        if service.protocol(route.port).is_none() {
            return Err((Refusal::UnknownPort, Some(service)));
        }
        let version = if request.version() == Version::HTTP_2 {
            AppVersion::Http2
        } else {
            AppVersion::Http1
        };
        let (request, upgrade) = clean(request, authority).map_err(unrouted)?;
        Ok(Outgoing {
            request,
            service,
            port: route.port,
            version,
            upgrade,
        })
    }

    async fn route(&self, host: Option<HeaderValue>) -> Result<(Authority, Route), Refusal> {
        // HTTP/1.0 without Host: only an upstream port tells where it goes.
        let Some(host) = host else {
            let route = self.listener.fixed(&self.worker).await?;
            let name = route.slot.name();
            let authority =
                Authority::try_from(name.name.as_str()).map_err(|_| Refusal::BadAuthority)?;
            return Ok((authority, route));
        };
        if let Some(last) = self.last.borrow().as_ref().filter(|last| last.host == host) {
            return Ok((last.authority.clone(), last.route.clone()));
        }
        let authority = route::parse(&host)?;
        let route = self.listener.route(&self.worker, &authority).await?;
        self.last.replace(Some(Last {
            host,
            authority: authority.clone(),
            route: route.clone(),
        }));
        Ok((authority, route))
    }
}

/// Removes what ends at this hop, and gives the request the form that it has between sidecars.
fn clean(
    request: Request<Incoming>,
    authority: Authority,
) -> Result<(Request<RequestBody>, Option<Upgrading>), Refusal> {
    let (mut parts, body) = request.into_parts();
    let protocol = headers::upgrade_protocol(&parts.headers)
        .filter(|_| parts.method == Method::GET && body.is_end_stream());
    let downstream = parts.extensions.remove::<OnUpgrade>();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_identity(&mut parts.headers);
    parts.headers.remove(HOST);
    parts.uri = route::absolute(parts.uri, authority)?;
    parts.version = Version::HTTP_2;
    let upgrade = match (protocol, downstream) {
        (Some(protocol), Some(downstream)) => {
            // RFC 8441: an upgrade of HTTP/1.1 is an extended CONNECT in HTTP/2.
            let name = protocol.to_str().map_err(|_| Refusal::BadRequest)?;
            parts.extensions.insert(Protocol::from(name));
            parts.method = Method::CONNECT;
            Some(Upgrading {
                protocol,
                downstream,
            })
        }
        _ => None,
    };
    let body = if upgrade.is_some() {
        RequestBody::Empty
    } else {
        RequestBody::Streaming(body)
    };
    Ok((Request::from_parts(parts, body), upgrade))
}

/// Sends to one endpoint after the other for as long as nothing of the request has left.
async fn send(
    connection: &Connection,
    mut outgoing: Outgoing,
    caller: Caller,
    log: Option<Box<LogEntry>>,
) -> Response<ResponseBody> {
    let worker = &connection.worker;
    let mut tried: Vec<usize> = Vec::new();
    let mut refusal = Refusal::NoEndpoints;
    let edge = Rc::clone(&outgoing.service.edge);
    // From here on, so that a caller that leaves before the answer is recorded, too.
    let mut exchange = Exchange::begin(edge, caller.grpc, caller.started, log);
    loop {
        let now = Instant::now();
        let balancer = &outgoing.service.balancer;
        let picked = balancer.pick(&tried, None, now, |below| worker.random(below));
        let Ok((index, endpoint)) = picked.map(|(index, endpoint)| (index, Rc::clone(endpoint)))
        else {
            exchange.refused(refusal);
            return refusal.response(caller.grpc, caller.version);
        };
        if !tried.is_empty() {
            worker
                .metrics
                .retries
                .with_label_values(&[refusal.reason()])
                .inc();
        }
        tried.push(index);
        exchange.retarget(Rc::clone(&endpoint.edge));
        let evidence = Evidence::begin(&endpoint, now);
        let outliers = outgoing.service.traffic().outliers;
        match attempt(
            worker,
            &endpoint,
            outgoing.request,
            outgoing.port,
            outgoing.version,
        )
        .await
        {
            Attempt::Answered(response) => {
                evidence.ended(
                    &outliers,
                    Outcome::of_answer(response.status().as_u16(), grpc_status(response.headers())),
                );
                exchange.carries(endpoint.begin());
                let open = worker.outbound.open();
                return answer(response, outgoing.upgrade, caller, exchange, open);
            }
            Attempt::Broken => {
                evidence.ended(&outliers, Outcome::GatewayError);
                let broken = connection.broken();
                exchange.refused(broken);
                return broken.response(caller.grpc, caller.version);
            }
            Attempt::Unsent(request, why) => {
                evidence.unsent(&outliers, why);
                refusal = why;
                outgoing.request = request;
            }
        }
    }
}

enum Attempt {
    Answered(Response<Incoming>),
    /// Something of it may have left: it is not ours to send it again.
    Broken,
    Unsent(Request<RequestBody>, Refusal),
}

async fn attempt(
    worker: &Worker,
    endpoint: &Rc<Endpoint>,
    mut request: Request<RequestBody>,
    port: u16,
    version: AppVersion,
) -> Attempt {
    let Some(target) = endpoint.port(port) else {
        return Attempt::Unsent(request, Refusal::UnknownPort);
    };
    let _in_flight = endpoint.begin();
    let mut sender = match endpoint.connection(Purpose::Requests, &worker.tls).await {
        Ok(sender) => sender,
        Err(refusal) => return Attempt::Unsent(request, refusal),
    };
    request
        .headers_mut()
        .insert(wire::TARGET, target.header(version));
    match sender.try_send_request(request).await {
        Ok(response) => Attempt::Answered(response),
        Err(mut error) => match error.take_message() {
            Some(request) => Attempt::Unsent(request, Refusal::ConnectFailed),
            None => {
                tracing::debug!(error = %error.error(), endpoint = %endpoint.model.mesh_address, "no answer");
                Attempt::Broken
            }
        },
    }
}

/// Brings the answer back in the version that the app speaks.
fn answer(
    mut response: Response<Incoming>,
    upgrade: Option<Upgrading>,
    caller: Caller,
    mut exchange: Exchange,
    open: Open,
) -> Response<ResponseBody> {
    let restored = wire::take_declined(response.headers_mut());
    if let Some(status) = restored.filter(|_| upgrade.is_some()) {
        *response.status_mut() = status;
    } else if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::OK) {
        return switch(response, upgrade, exchange, open);
    }
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_identity(response.headers_mut());
    exchange.head(response.status(), response.headers());
    *response.version_mut() = caller.version;
    response.map(|body| ResponseBody::streaming(body, exchange))
}

/// The other side has agreed to the upgrade: from here on both sides are bytes.
fn switch(
    mut response: Response<Incoming>,
    upgrade: Upgrading,
    mut exchange: Exchange,
    open: Open,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let downstream = upgrade.downstream;
    exchange.head(StatusCode::SWITCHING_PROTOCOLS, response.headers());
    tokio::task::spawn_local(async move {
        // The HTTP connection has ended with the switch: a drain waits for what came of it.
        let _open = open;
        let (Ok(downstream), Ok(upstream)) = futures_util::future::join(downstream, upstream).await
        else {
            exchange.broken();
            return;
        };
        let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
        if let Err(error) =
            crate::tunnel::carry(&mut downstream, &mut upstream, |_| {}, |_| {}).await
        {
            tracing::debug!(%error, "an upgraded connection ended");
        }
        exchange.completed(None);
    });
    let mut switched = Response::new(ResponseBody::empty());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = std::mem::take(response.headers_mut());
    headers::strip_hop_by_hop(switched.headers_mut());
    headers::strip_identity(switched.headers_mut());
    switched
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    switched.headers_mut().insert(UPGRADE, upgrade.protocol);
    switched
}
