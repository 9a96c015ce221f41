//! A request on its way out: its Service and rule are found, filters are applied, and what remains
//! is sent by [`super::attempts`].

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use outrider_api::routing::RouteRequest;

use super::answer::{Caller, Edits, Upgrading};
use super::attempts::{self, Outgoing};
use super::filters::{self, Filtered};
use super::hash;
use super::message::{Head, Message};
use super::mirror;
use super::route::{self, Listener, Route};
use super::routes::Met;
use super::service::Service;
use super::time::TimeLeft;
use crate::control::Subject;
use crate::http::body::ResponseBody;
use crate::http::guarded::{self, Gate};
use crate::http::headers;
use crate::http::wire::AppVersion;
use crate::refusal::Refusal;
use crate::telemetry::exchange::{Exchange, LogEntry};
use crate::traffic::faults::Abort;
use crate::traffic::traceparent;
use crate::worker::Worker;

/// A connection of the app, and where its requests went last: most go there again.
pub struct Connection {
    pub worker: Rc<Worker>,
    listener: Rc<Listener>,
    /// Whose connection it is.
    source: IpAddr,
    gate: Option<Arc<Gate>>,
    last: RefCell<Option<Last>>,
}

#[derive(Clone)]
struct Last {
    /// A copy: hyper's is a part of its buffer, which would stay as long as this does.
    host: Box<[u8]>,
    authority: Authority,
    route: Route,
}

impl Connection {
    pub fn new(
        worker: Rc<Worker>,
        listener: Rc<Listener>,
        source: IpAddr,
        gate: Option<Arc<Gate>>,
    ) -> Self {
        Self {
            worker,
            listener,
            source,
            gate,
            last: RefCell::default(),
        }
    }

    /// Why an exchange that had begun broke off: the app's own bytes, or the other side.
    pub fn broken(&self) -> Refusal {
        match &self.gate {
            Some(gate) if gate.is_body_broken() => Refusal::BadRequest,
            _ => Refusal::UpstreamReset,
        }
    }
}

/// What a request comes to before anything is sent.
enum Prepared {
    Outgoing(Box<Outgoing>),
    /// A filter has answered it.
    Answered(Box<Response<ResponseBody>>, Rc<Service>),
    /// A fault was injected.
    Aborted(Abort, Rc<Service>),
}

/// Why there is nothing to send, and whose request it was, as far as that is known.
type Refused = (Refusal, Option<Rc<Service>>);

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
    let begin = |edge| Exchange::begin(edge, caller.grpc, caller.started, log);
    let mut edits = Edits::default();
    let response = match connection.prepare(request, caller, &mut edits).await {
        Ok(Prepared::Outgoing(outgoing)) => {
            // From here on, so that a caller that leaves before the answer is recorded, too.
            let exchange = begin(Rc::clone(&outgoing.service.edge));
            attempts::send(&connection, *outgoing, caller, exchange).await
        }
        Ok(Prepared::Answered(response, service)) => {
            let mut exchange = begin(Rc::clone(&service.edge));
            exchange.head(response.status(), response.headers());
            exchange.completed(None);
            *response
        }
        Ok(Prepared::Aborted(abort, service)) => {
            let exchange = begin(Rc::clone(&service.edge));
            exchange.aborted(abort.status, abort.grpc);
            let (status, code) = (abort.status, abort.grpc);
            let mut response = Refusal::aborted(status, code, caller.grpc, caller.version);
            edits.apply(response.headers_mut());
            response
        }
        Err((refusal, service)) => {
            let edge = service.map_or_else(
                || Rc::clone(&worker.unrouted),
                |service| Rc::clone(&service.edge),
            );
            begin(edge).refused(refusal);
            let mut response = refusal.response(caller.grpc, caller.version);
            edits.apply(response.headers_mut());
            response
        }
    };
    if let Some(gate) = connection.gate.as_ref().filter(|_| asks_upgrade) {
        gate.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    Ok(response)
}

impl Connection {
    /// Finds the Service and the rule, applies the filters, and picks whose endpoints are asked. What
    /// the rule does with an answer is left in `edits` where there is nothing to send.
    async fn prepare(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        edits: &mut Edits,
    ) -> Result<Prepared, Refused> {
        let worker = &self.worker;
        let unrouted = |refusal| (refusal, None);
        if let Some(refusal) = guarded::refused(request.headers()) {
            return Err(unrouted(refusal));
        }
        if headers::is_request_too_large(&request) {
            return Err(unrouted(Refusal::HeaderTooLarge));
        }
        if request.method() == Method::CONNECT {
            return Err(unrouted(Refusal::MethodNotAllowed));
        }
        let host = route::authority(&request).map_err(unrouted)?;
        let (authority, route) = self.route(host).await.map_err(unrouted)?;
        let service = worker.service(&route.slot).await.map_err(unrouted)?;
        let refused = |refusal| (refusal, Some(Rc::clone(&service)));
        if service.protocol(route.port).is_none() {
            return Err(refused(Refusal::UnknownPort));
        }
        let met = meets(&service, route.port, &request).map_err(refused)?;
        let (mut parts, body) = request.into_parts();
        let (authority, backend) = match met {
            None => (authority, (Rc::clone(&service), route.port)),
            Some(met) => {
                let filtered = filters::apply(&met, &mut parts, authority, route.port, edits);
                let authority = match filtered.map_err(refused)? {
                    Filtered::On(authority) => authority,
                    Filtered::Answered(response) => {
                        return Ok(Prepared::Answered(response, service));
                    }
                };
                let backend = self.backend(&met, &mut parts, edits).await;
                (authority, backend.map_err(refused)?)
            }
        };
        if let Some(abort) = filters::inject_faults(worker, service.traffic()).await {
            return Ok(Prepared::Aborted(abort, service));
        }
        let rule = edits.rule();
        let timeouts = rule.map_or(service.traffic().timeouts, |rule| rule.timeouts);
        let time = TimeLeft::of(worker, &parts.headers, &timeouts, caller).map_err(refused)?;
        let upgrade = clean(&mut parts, body.is_end_stream(), authority).map_err(refused)?;
        let version = match caller.version {
            Version::HTTP_2 => AppVersion::Http2,
            _ => AppVersion::Http1,
        };
        traceparent::ensure(&mut parts.headers, |below| worker.random(below));
        let message = Message::new(Head::from(parts), body, upgrade.is_some());
        mirror::send(worker, edits, &message, version, &time);
        let (backend, port) = backend;
        let algorithm = &backend.traffic().balancing.algorithm;
        let key = hash::key(algorithm, &message.head.headers, self.source);
        Ok(Prepared::Outgoing(Box::new(Outgoing {
            message,
            called: service,
            service: backend,
            port,
            version,
            upgrade,
            edits: std::mem::take(edits),
            timeouts,
            time,
            key,
        })))
    }

    /// Whose endpoints answer, by the weights of the rule.
    async fn backend(
        &self,
        met: &Met,
        parts: &mut Parts,
        edits: &mut Edits,
    ) -> Result<(Rc<Service>, u16), Refusal> {
        let worker = &self.worker;
        let (index, share) = met.rule.split.choose(|below| worker.random(below))?;
        edits.share = Some(index);
        filters::apply_to_share(&share.model.filters, parts)?;
        let (slot, port) = share.resolve(worker).await?;
        let service = worker.service(&slot).await;
        // The app called a Service that exists: what is missing is its route's fault.
        let service = service.map_err(|refusal| match refusal {
            Refusal::UnknownDestination => Refusal::BackendInvalid,
            other => other,
        })?;
        match service.protocol(port) {
            Some(_) => Ok((service, port)),
            None => Err(Refusal::BackendInvalid),
        }
    }

    async fn route(&self, host: Option<HeaderValue>) -> Result<(Authority, Route), Refusal> {
        // HTTP/1.0 without Host: only an upstream port tells where it goes.
        let Some(host) = host else {
            let route = self.listener.fixed(&self.worker).await?;
            let authority = match route.slot.subject() {
                Subject::Service(service) => Authority::try_from(service.name.as_str()),
                Subject::Address(address) => {
                    Authority::try_from(SocketAddr::new(*address, route.port).to_string())
                }
            };
            let authority = authority.map_err(|_| Refusal::BadAuthority)?;
            return Ok((authority, route));
        };
        let goes_there_again = |last: &&Last| *last.host == *host.as_bytes();
        if let Some(last) = self.last.borrow().as_ref().filter(goes_there_again) {
            return Ok((last.authority.clone(), last.route.clone()));
        }
        let authority = route::parse(&host)?;
        let route = self.listener.route(&self.worker, &authority).await?;
        self.last.replace(Some(Last {
            host: host.as_bytes().into(),
            authority: authority.clone(),
            route: route.clone(),
        }));
        Ok((authority, route))
    }
}

/// The rule that a request meets, where the Service has routes.
fn meets(
    service: &Service,
    port: u16,
    request: &Request<Incoming>,
) -> Result<Option<Met>, Refusal> {
    let Some(routes) = service.routes(port) else {
        return Ok(None);
    };
    let path = request.uri().path_and_query();
    routes.http(&RouteRequest {
        method: request.method().as_str(),
        path_and_query: path.map_or("/", PathAndQuery::as_str),
        headers: request.headers(),
    })
}

/// Removes what ends at this hop, and gives the request the form that it has between sidecars.
fn clean(
    parts: &mut Parts,
    has_no_body: bool,
    authority: Authority,
) -> Result<Option<Upgrading>, Refusal> {
    let protocol = headers::upgrade_protocol(&parts.headers)
        .filter(|_| parts.method == Method::GET && has_no_body);
    let downstream = parts.extensions.remove::<OnUpgrade>();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_identity(&mut parts.headers);
    parts.headers.remove(HOST);
    parts.uri = route::absolute(std::mem::take(&mut parts.uri), authority)?;
    parts.version = Version::HTTP_2;
    let (Some(protocol), Some(downstream)) = (protocol, downstream) else {
        return Ok(None);
    };
    // RFC 8441: an upgrade of HTTP/1.1 is an extended CONNECT in HTTP/2.
    let name = protocol.to_str().map_err(|_| Refusal::BadRequest)?;
    parts.extensions.insert(Protocol::from(name));
    parts.method = Method::CONNECT;
    Ok(Some(Upgrading {
        protocol,
        downstream,
    }))
}
