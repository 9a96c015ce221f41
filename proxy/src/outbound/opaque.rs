//! Opaque connections: each is a CONNECT stream to `address:port` on a warm connection to the
//! endpoint's sidecar.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::attempt::Attempt;
use super::endpoint::{Endpoint, InFlight, Purpose};
use super::hash;
use super::route::Listener;
use super::service::Service;
use crate::http::body::RequestBody;
use crate::http::wire;
use crate::refusal::Refusal;
use crate::telemetry::edge::Edge;
use crate::traffic::health::Outcome;
use crate::traffic::limits::Held;
use crate::tunnel;
use crate::worker::Worker;

/// The other sidecar gives up its app after 5 s; one that takes longer to say so is not there.
const CONNECT_ANSWER: Duration = Duration::from_secs(7);
/// Room for the first bytes of a server.
const FIRST_READ: usize = 4 * 1024;

/// An open stream to the app of an endpoint.
pub struct Tunnel {
    upstream: TokioIo<Upgraded>,
    /// The server's first bytes, where it spoke before the client.
    greeting: BytesMut,
    edge: Rc<Edge>,
    idle: Option<Duration>,
    _carried: (InFlight, Held),
}

impl Tunnel {
    /// Waits for the server to speak; `false`: it went away instead.
    pub async fn server_first(&mut self) -> bool {
        self.greeting.reserve(FIRST_READ);
        matches!(self.upstream.read_buf(&mut self.greeting).await, Ok(length) if length > 0)
    }
}

/// Serves a connection that is opaque from its first byte on.
pub async fn serve(
    worker: &Worker,
    stream: TcpStream,
    first: Bytes,
    listener: &Listener,
    source: IpAddr,
) {
    match open(worker, listener, source).await {
        Ok(tunnel) => carry(stream, tunnel, &first).await,
        Err(refusal) => {
            let reason = refusal.reason();
            tracing::info!(reason, ?listener, "closed an opaque connection");
        }
    }
}

/// Carries bytes until one side has ended, or this sidecar does. `first` are bytes of the client that
/// were read already.
pub async fn carry(mut stream: TcpStream, mut tunnel: Tunnel, first: &[u8]) {
    let handles = tunnel.edge.tcp().clone();
    handles.opened.inc();
    let carrying = async {
        if !tunnel.greeting.is_empty() {
            stream.write_all(&tunnel.greeting).await?;
            handles.sent.inc_by(tunnel.greeting.len() as u64);
        }
        if !first.is_empty() {
            tunnel.upstream.write_all(first).await?;
            handles.received.inc_by(first.len() as u64);
        }
        tunnel::carry(
            &mut stream,
            &mut tunnel.upstream,
            tunnel.idle,
            |bytes| handles.received.inc_by(bytes),
            |bytes| handles.sent.inc_by(bytes),
        )
        .await
    };
    if let Err(error) = carrying.await {
        tracing::debug!(%error, "an opaque connection ended");
    }
    handles.closed.inc();
}

/// Opens a stream to one of the endpoints, trying each for as long as none has answered.
pub async fn open(worker: &Worker, listener: &Listener, source: IpAddr) -> Result<Tunnel, Refusal> {
    let refused = |edge: &Edge, refusal: Refusal| {
        worker.metrics.refused("outbound", refusal, edge.peer());
        refusal
    };
    let route = listener
        .fixed(worker)
        .await
        .map_err(|refusal| refused(&worker.unrouted, refusal))?;
    let service = worker
        .service(&route.slot)
        .await
        .map_err(|refusal| refused(&worker.unrouted, refusal))?;
    let (service, port) = backend(worker, &service, route.port)
        .await
        .map_err(|refusal| refused(&service.edge, refusal))?;
    open_to(worker, &service, port, source)
        .await
        .map_err(|(refusal, edge)| refused(&edge, refusal))
}

/// Whose endpoints are asked: the Service's own, or those of a backend where it has TCP routes.
async fn backend(
    worker: &Worker,
    called: &Rc<Service>,
    port: u16,
) -> Result<(Rc<Service>, u16), Refusal> {
    let (service, port) = match called.tcp_routes(port) {
        None => (Rc::clone(called), port),
        Some(split) => {
            let (_, share) = split.choose(|below| worker.random(below))?;
            let (slot, port) = share.resolve(worker).await?;
            (worker.service(&slot).await?, port)
        }
    };
    match service.protocol(port) {
        Some(_) => Ok((service, port)),
        None => Err(Refusal::UnknownPort),
    }
}

async fn open_to(
    worker: &Worker,
    service: &Service,
    port: u16,
    source: IpAddr,
) -> Result<Tunnel, (Refusal, Rc<Edge>)> {
    let refused = |refusal| (refusal, Rc::clone(&service.edge));
    let traffic = service.traffic();
    let held = service.state.usage.connection(&traffic.limits);
    let held = held.map_err(|reached| refused(reached.into()))?;
    let key = hash::key(&traffic.balancing.algorithm, &HeaderMap::new(), source);
    let mut tried: Vec<usize> = Vec::new();
    let mut failed = None;
    loop {
        let now = Instant::now();
        let (index, endpoint) = match service.pick(worker, &tried, key, now) {
            Ok(picked) => picked,
            Err(refusal) => return Err(failed.unwrap_or_else(|| refused(refusal))),
        };
        tried.push(index);
        let in_flight = endpoint.begin();
        let mut attempt = endpoint.attempt(now);
        let connected = connect(worker, endpoint, port, &mut attempt).await;
        let now = Instant::now();
        match connected {
            Ok(mut response) => {
                let is_error = response.status().is_server_error();
                attempt.answered(now, !is_error);
                attempt.ended(now, outcome(response.status()));
                let refusal = refusal(&mut response);
                match refusal.map(|refusal| (refusal, Rc::clone(&endpoint.edge))) {
                    // Its app has seen nothing of the connection: that of another may.
                    Some(refused) if is_error => failed = Some(refused),
                    Some(refused) => return Err(refused),
                    None => {
                        let idle = traffic.timeouts.tcp_idle;
                        return switch(response, endpoint, idle, (in_flight, held)).await;
                    }
                }
            }
            Err(refusal) => {
                match refusal {
                    Refusal::ConnectFailed | Refusal::TlsHandshakeFailed => {
                        attempt.ended(now, Outcome::ConnectFailed);
                    }
                    Refusal::UpstreamReset => attempt.ended(now, Outcome::GatewayError),
                    // The fault is the caller's.
                    _ => drop(attempt),
                }
                failed = Some((refusal, Rc::clone(&endpoint.edge)));
            }
        }
    }
}

/// What the answer to CONNECT says of the endpoint: its sidecar answers 503 where its app does not.
fn outcome(status: StatusCode) -> Outcome {
    if status.is_server_error() {
        Outcome::GatewayError
    } else {
        Outcome::Success
    }
}

/// Why the endpoint's sidecar did not open the connection; `None`: it did.
fn refusal<B>(response: &mut Response<B>) -> Option<Refusal> {
    if response.status() == StatusCode::OK {
        return None;
    }
    let reason = wire::take_reason(response.headers_mut());
    Some(reason.unwrap_or(Refusal::AppUnreachable))
}

async fn connect(
    worker: &Worker,
    endpoint: &Rc<Endpoint>,
    port: u16,
    attempt: &mut Attempt,
) -> Result<Response<Incoming>, Refusal> {
    let target = endpoint.port(port).ok_or(Refusal::UnknownPort)?;
    let authority =
        std::net::SocketAddr::new(endpoint.model.mesh_address.ip(), target.port).to_string();
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .body(RequestBody::Empty);
    let request = request.map_err(|_| Refusal::BadAuthority)?;
    let mut sender = endpoint.connection(Purpose::Tunnels, &worker.tls).await?;
    attempt.sent(Instant::now());
    // A CONNECT carries nothing of the client yet: another endpoint may always be tried.
    let asked = tokio::time::timeout(CONNECT_ANSWER, sender.try_send_request(request));
    let answered = asked.await.map_err(|_| Refusal::UpstreamReset)?;
    answered.map_err(|error| {
        tracing::debug!(error = %error.error(), "no answer to CONNECT");
        Refusal::UpstreamReset
    })
}

async fn switch(
    mut response: Response<Incoming>,
    endpoint: &Rc<Endpoint>,
    idle: Option<Duration>,
    carried: (InFlight, Held),
) -> Result<Tunnel, (Refusal, Rc<Edge>)> {
    let upgraded = hyper::upgrade::on(&mut response)
        .await
        .map_err(|_| (Refusal::UpstreamReset, Rc::clone(&endpoint.edge)))?;
    Ok(Tunnel {
        upstream: TokioIo::new(upgraded),
        greeting: BytesMut::new(),
        edge: Rc::clone(&endpoint.edge),
        idle,
        _carried: carried,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_refused_for_the_reason_that_the_other_side_gives() {
        let mut opened = Response::new(());
        assert_eq!(refusal(&mut opened), None);
        for given in [Refusal::RateLimited, Refusal::AuthorizationDenied] {
            let mut response = given.response(false, http::Version::HTTP_2);
            wire::set_reason(response.headers_mut(), given);
            assert_eq!(refusal(&mut response), Some(given));
        }
        let mut silent = Response::new(());
        *silent.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(refusal(&mut silent), Some(Refusal::AppUnreachable));
    }
}
