//! Connections to the app that came without mutual TLS, and were intercepted. In strict mode nothing
//! passes but the health probes that the workload declares: HTTP is told so, the rest is reset. In
//! permissive mode policy decides, as of anyone whose identity is not known.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::Protocol as Upgrade;
use hyper::service::service_fn;
use outrider_api::model::{Mtls, Protocol, Workload};
use tokio::net::TcpStream;

use super::peer::Peer;
use super::places::Silence;
use super::{Connection, MAX_CONNECTIONS, opaque, probe};
use crate::detect::Detected;
use crate::first;
use crate::http::body::ResponseBody;
use crate::http::guarded::{self, Gate, Guarded};
use crate::http::headers;
use crate::http::limits::Limits;
use crate::http::parked;
use crate::http::rewind::Rewind;
use crate::http::serve;
use crate::http::wire::{self, AppVersion, TARGET, Target};
use crate::intercept::{self, Interception, Mode};
use crate::outbound::route;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// A connection that may be a probe's, or get a refusal as its answer, speaks within this time.
const STRICT_SILENCE: Duration = Duration::from_secs(10);
/// And has been answered within this: a probe has a connection of its own, and nobody else has any
/// business here.
const STRICT_LIFE: Duration = Duration::from_secs(60);
/// How long a client may say nothing in permissive mode where it is to speak first: as long as servers
/// wait for a request.
const PERMISSIVE_SILENCE: Duration = Duration::from_secs(60);

/// A port of the app, and what may come through it in plaintext now.
pub struct Door {
    pub connection: Rc<Connection>,
    pub port: u16,
    from: SocketAddr,
    /// Where the connection was meant to go.
    pub to: SocketAddr,
    pub mtls: Mtls,
    protocol: Protocol,
    /// Whether the port declares a probe that only connects.
    tcp_probe: bool,
    /// `x-outrider-target` for the app's port, in each version.
    targets: Option<[HeaderValue; 2]>,
}

/// Serves one connection until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    interception: Rc<Interception>,
    stream: TcpStream,
    from: SocketAddr,
) {
    let (door, silence) = match Door::at(&worker, &interception, &stream, from) {
        Ok(at) => at,
        Err(refusal) => return refuse(&worker, refusal, stream, from),
    };
    let label = match door.mtls {
        Mtls::Strict => "strict",
        Mtls::Permissive => "plaintext",
    };
    let intercepted = &worker.metrics.intercepted;
    intercepted.with_label_values(&["inbound", label]).inc();
    match door.mtls {
        Mtls::Permissive => door.answer(stream, silence).await,
        Mtls::Strict => {
            if tokio::time::timeout(STRICT_LIFE, door.answer(stream, silence))
                .await
                .is_err()
            {
                tracing::debug!(%from, "cut a plaintext connection that went on");
            }
        }
    }
}

fn refuse(worker: &Worker, refusal: Refusal, stream: TcpStream, from: SocketAddr) {
    let intercepted = &worker.metrics.intercepted;
    intercepted.with_label_values(&["inbound", "refused"]).inc();
    worker.metrics.refused("inbound", refusal, "");
    tracing::info!(%from, %refusal, "refused a plaintext connection");
    intercept::reset(stream);
}

impl Door {
    fn at(
        worker: &Rc<Worker>,
        interception: &Interception,
        stream: &TcpStream,
        from: SocketAddr,
    ) -> Result<(Self, Silence), Refusal> {
        if worker.inbound.count() >= MAX_CONNECTIONS {
            return Err(Refusal::TooManyConnections);
        }
        let workload = worker.workload().ok_or(Refusal::NoPolicy)?;
        let to = meant_for(interception, stream).ok_or(Refusal::ForbiddenDestination)?;
        let port = to.port();
        if interception.is_own(&workload, port) {
            return Err(Refusal::ForbiddenDestination);
        }
        let mut probes = probe::of_port(&workload, port).peekable();
        let mtls = intercept::mtls(&workload, port);
        let protocol = protocol(&workload, port);
        let is_opaque = matches!(protocol, Protocol::Tcp | Protocol::Tls);
        if mtls == Mtls::Strict && is_opaque && probes.peek().is_none() {
            return Err(Refusal::PlaintextRefused);
        }
        let places = worker.peers.of_strangers(mtls);
        let (place, silence) = places.take().ok_or(Refusal::TooManyConnections)?;
        let (worker, peer) = (Rc::clone(worker), Peer::Unverified(from.ip()));
        let target = |version| Target { port, version }.to_value();
        let door = Self {
            connection: Rc::new(Connection::new(worker, peer, from.ip(), Some(place))),
            port,
            from,
            to,
            mtls,
            protocol,
            tcp_probe: probes.any(probe::is_tcp),
            targets: target(AppVersion::Http1)
                .zip(target(AppVersion::Http2))
                .map(|(http1, http2)| [http1, http2]),
        };
        Ok((door, silence))
    }

    async fn answer(self, mut stream: TcpStream, silence: Silence) {
        let worker = Rc::clone(&self.connection.worker);
        if self.mtls == Mtls::Strict && self.tcp_probe {
            // Whether the app listens is all that such a probe asks.
            if !probe::app_listens(&self).await {
                return intercept::reset(stream);
            }
        }
        let mut first = BytesMut::new();
        let heard = tokio::select! {
            biased;
            spoken = silence.until(self.spoken(&mut stream, &mut first)) => Some(spoken),
            () = worker.inbound.started() => None,
        };
        let spoken = match heard {
            Some(Some(spoken)) => spoken,
            Some(None) => {
                return refuse(&worker, Refusal::TooManyConnections, stream, self.from);
            }
            // It has said nothing yet that could be lost.
            None if first.is_empty() => return,
            None => self.spoken(&mut stream, &mut first).await,
        };
        match spoken {
            Spoken::Http1 => serve_http1(worker, self, stream, first).await,
            Spoken::Http2 => serve_http2(worker, self, stream, first).await,
            Spoken::Opaque => match self.mtls {
                Mtls::Permissive => {
                    opaque::plaintext(&self.connection, self.port, stream, &first).await;
                }
                Mtls::Strict => {
                    refuse(&worker, Refusal::PlaintextRefused, stream, self.from);
                }
            },
            Spoken::Nothing => {}
        }
    }

    /// What is declared to be spoken, or what the client's first bytes say. A client that is silent
    /// waits for the app to speak, which HTTP never does.
    async fn spoken(&self, stream: &mut TcpStream, first: &mut BytesMut) -> Spoken {
        let limit = self.connection.worker.detect_timeout();
        let told = first::bytes(stream, first, limit);
        let verdict = match (self.protocol, self.mtls) {
            (Protocol::Tcp | Protocol::Tls, Mtls::Permissive) => return Spoken::Opaque,
            (Protocol::Detect, Mtls::Permissive) => match tokio::time::timeout(limit, told).await {
                Ok(verdict) => verdict,
                Err(_) => return Spoken::Opaque,
            },
            (_, Mtls::Permissive) => match tokio::time::timeout(PERMISSIVE_SILENCE, told).await {
                Ok(verdict) => verdict,
                Err(_) => return Spoken::Nothing,
            },
            // Only HTTP can pass here, or be told why it may not; and it speaks first.
            (_, Mtls::Strict) => match tokio::time::timeout(STRICT_SILENCE, told).await {
                Ok(verdict) => verdict,
                Err(_) => return Spoken::Opaque,
            },
        };
        match verdict {
            None => Spoken::Nothing,
            Some(Detected::Http1) => Spoken::Http1,
            Some(Detected::Http2) => Spoken::Http2,
            Some(Detected::Tls | Detected::Opaque | Detected::Undecided) => Spoken::Opaque,
        }
    }

    /// Answers one request: a probe, or what policy lets in.
    async fn handle(
        &self,
        request: Request<Incoming>,
        gate: Option<&Gate>,
    ) -> Response<ResponseBody> {
        let (grpc, version) = (headers::is_grpc(request.headers()), request.version());
        let refused = |refusal: Refusal| {
            let metrics = &self.connection.worker.metrics;
            metrics.refused("inbound", refusal, "");
            refusal.response(grpc, version)
        };
        if let Some(refusal) = guarded::refused(request.headers()) {
            return refused(refusal);
        }
        if headers::is_request_too_large(&request) {
            return refused(Refusal::HeaderTooLarge);
        }
        if request.method() == Method::CONNECT {
            return refused(Refusal::MethodNotAllowed);
        }
        // What is declared now: the connection may be older.
        let asked = self.connection.worker.workload();
        let asked = asked.and_then(|workload| probe::asked(&workload, self.port, &request));
        if asked.is_none() && self.mtls == Mtls::Strict {
            return refused(Refusal::PlaintextRefused);
        }
        let asks_upgrade = request.headers().contains_key(UPGRADE);
        let (request, upgrade) = match self.as_between_sidecars(request) {
            Ok(request) => request,
            Err(refusal) => return refused(refusal),
        };
        let mut response = match asked {
            Some(asked) => probe::answer(self, request, asked).await,
            None => self.pass(request, upgrade).await,
        };
        if let Some(gate) = gate.filter(|_| asks_upgrade) {
            gate.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
        }
        *response.version_mut() = version;
        if self.mtls == Mtls::Strict && version < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// The way of a peer's request, from here on.
    async fn pass(
        &self,
        request: Request<Incoming>,
        upgrade: Option<HeaderValue>,
    ) -> Response<ResponseBody> {
        let asked = upgrade
            .as_ref()
            .and_then(|protocol| protocol.to_str().ok())
            .map(Upgrade::from);
        let mut response = super::http::answer(&self.connection, request, asked).await;
        let declined = wire::take_declined(response.headers_mut());
        headers::strip_identity(response.headers_mut());
        match (upgrade, declined) {
            (Some(_), Some(status)) => *response.status_mut() = status,
            (Some(protocol), None) if response.status() == StatusCode::OK => {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, protocol);
            }
            _ => {}
        }
        response
    }

    /// The request in the form that it would have between two sidecars, and the protocol that it asks
    /// to be upgraded to.
    fn as_between_sidecars(
        &self,
        request: Request<Incoming>,
    ) -> Result<(Request<Incoming>, Option<HeaderValue>), Refusal> {
        let authority = match route::authority(&request)? {
            Some(host) => route::parse(&host)?,
            // HTTP/1.0 without Host.
            None => Authority::try_from(self.to.to_string()).map_err(|_| Refusal::BadAuthority)?,
        };
        let version = match request.version() {
            Version::HTTP_2 => AppVersion::Http2,
            _ => AppVersion::Http1,
        };
        let has_no_body = request.body().is_end_stream();
        let (mut parts, body) = request.into_parts();
        let upgrade = headers::upgrade_protocol(&parts.headers)
            .filter(|_| parts.method == Method::GET && has_no_body);
        headers::strip_hop_by_hop(&mut parts.headers);
        headers::strip_identity(&mut parts.headers);
        parts.headers.remove(HOST);
        parts.uri = route::absolute(std::mem::take(&mut parts.uri), authority)?;
        let targets = self.targets.as_ref().ok_or(Refusal::UnknownPort)?;
        let target = match version {
            AppVersion::Http1 => &targets[0],
            AppVersion::Http2 => &targets[1],
        };
        parts.headers.insert(TARGET, target.clone());
        Ok((Request::from_parts(parts, body), upgrade))
    }
}

enum Spoken {
    Http1,
    Http2,
    Opaque,
    /// The client has gone, or has had its time to speak.
    Nothing,
}

/// Where the connection was meant to go; `None`: to the sidecar's own port.
fn meant_for(interception: &Interception, stream: &TcpStream) -> Option<SocketAddr> {
    match interception.mode {
        Mode::Redirect => intercept::redirected_from(stream).ok().flatten(),
        Mode::Tproxy => stream
            .local_addr()
            .ok()
            .filter(|to| to.port() != interception.inbound_port),
    }
}

fn protocol(workload: &Workload, port: u16) -> Protocol {
    let declared = workload.ports.iter().find(|known| known.port == port);
    declared.map_or(Protocol::Detect, |port| port.protocol)
}

async fn serve_http1(worker: Rc<Worker>, door: Door, stream: TcpStream, first: BytesMut) {
    let drained = worker.inbound.started();
    let stream = Guarded::new(stream, first);
    let gate: Arc<Gate> = stream.gate();
    let door = Rc::new(door);
    let handler = |request| {
        let (door, gate) = (Rc::clone(&door), Arc::clone(&gate));
        async move { Ok::<_, Infallible>(door.handle(request, Some(&gate)).await) }
    };
    if let Err(error) = parked::serve(stream, drained, handler).await {
        tracing::debug!(%error, "a plaintext HTTP/1 connection ended");
    }
}

async fn serve_http2(worker: Rc<Worker>, door: Door, stream: TcpStream, first: BytesMut) {
    let drained = worker.inbound.started();
    let limits = match door.mtls {
        Mtls::Strict => Limits::PROBES,
        Mtls::Permissive => Limits::STRANGERS,
    };
    let door = Rc::new(door);
    let service = service_fn(move |request| {
        let door = Rc::clone(&door);
        async move { Ok::<_, Infallible>(door.handle(request, None).await) }
    });
    let stream = Rewind::new(stream, first.freeze());
    let result = serve::serve_http2(stream, limits, service, drained).await;
    if let Err(error) = result {
        tracing::debug!(%error, "a plaintext HTTP/2 connection ended");
    }
}
