//! From other sidecars to this workload's app.
//!
//! [`serve`] is the way of a connection: the handshake yields the peer's identity, and each stream
//! on it is authorized and counted ([`limits`]) on its own, as [`http`] or as an [`opaque`] connection.

pub mod app;
pub mod authorize;
pub mod http;
pub mod limits;
pub mod opaque;
pub mod peer;
pub mod places;
pub mod plaintext;
pub mod probe;
pub mod work;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use ::http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_api::model::Mtls;
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::tls::{self, PeerCertificate};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ahead::Ahead;
use crate::http::blocks::Blocks;
use crate::http::body::ResponseBody;
use crate::http::headers;
use crate::http::limits::Limits;
use crate::http::serve::mesh_server;
use crate::intercept::Mode;
use crate::listen::Open;
use crate::refusal::Refusal;
use crate::telemetry::edge::{Edge, Party, Reporter, Security};
use crate::worker::Worker;
use app::AppAddress;
use peer::Peer;
use places::{Place, Places};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of peers at once, for each worker.
const MAX_CONNECTIONS: usize = 20_000;
/// Parts of it: who has no identity must not take the place of those who have one. In strict mode, of
/// probes; in permissive mode, of callers that are still outside the mesh.
const MAX_STRICT: usize = MAX_CONNECTIONS / 8;
const MAX_PERMISSIVE: usize = MAX_CONNECTIONS / 2;
/// Handshakes at once, for each worker: each holds a buffer and costs a millisecond.
const MAX_HANDSHAKES: usize = 1_000;
/// Peer identities with series of their own; the rest shares one.
const MAX_PEERS: usize = 1_000;
/// A peer that has had no connection for so long is let go.
const IDLE: Duration = Duration::from_secs(600);

/// A connection whose peer is known.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub peer: Peer,
    pub source: IpAddr,
    pub edge: Rc<Edge>,
    /// `x-forwarded-client-cert` for every request on it.
    pub forwarded: Option<HeaderValue>,
    pub limits: limits::OfPeer,
    /// A drain waits for it, and for what has become of its requests.
    _open: Open,
    _place: Option<Place>,
}

/// Handshakes that are going on, connections that will have no identity, and the edges of peers that
/// were seen.
#[derive(Debug)]
pub struct Peers {
    handshakes: Rc<Places>,
    strict: Rc<Places>,
    permissive: Rc<Places>,
    edges: RefCell<HashMap<Option<SpiffeId>, Known>>,
}

#[derive(Debug)]
struct Known {
    edge: Rc<Edge>,
    /// When it was last seen to have a connection.
    seen: Instant,
}

/// Serves one connection of a peer's sidecar until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, from: SocketAddr) {
    // In a box: a task is as large as the largest of its parts, for as long as it lasts.
    let Some((stream, peer)) = Box::pin(handshake(&worker, stream, from)).await else {
        return;
    };
    let drained = worker.inbound.started();
    let expires = tokio::time::sleep(
        peer.not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    );
    let peer = Peer::Verified(peer.id);
    let connection = Rc::new(Connection::new(Rc::clone(&worker), peer, from.ip(), None));
    // In a box: tokio moves the future of a task as it begins and twice as it ends, all of it.
    let service = service_fn(move |request| Box::pin(handle(Rc::clone(&connection), request)));
    let serving = mesh_server().serve_connection(
        TokioIo::new(Blocks::from_client(stream, Limits::MESH)),
        service,
    );
    tokio::pin!(serving, expires);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        // No new streams once the certificate has ended; those that are open are finished.
        () = expires => { serving.as_mut().graceful_shutdown(); serving.await }
        () = drained => { serving.as_mut().graceful_shutdown(); serving.await }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %from, "a connection from a sidecar ended");
    }
}

/// Answers one stream of a peer.
async fn handle(
    connection: Rc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let protocol = request.extensions_mut().remove::<Protocol>();
    Ok(match (request.method() == Method::CONNECT, protocol) {
        (true, None) => Box::pin(opaque::answer(&connection, request)).await,
        (is_upgrade, protocol) => {
            http::answer(&connection, request, protocol.filter(|_| is_upgrade)).await
        }
    })
}

/// The TLS handshake, bounded in time and number, with its result counted.
async fn handshake(
    worker: &Rc<Worker>,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<Ahead<TcpStream>>, PeerCertificate)> {
    let count = |result: &str| {
        worker
            .metrics
            .handshakes
            .with_label_values(&["inbound", result])
            .inc()
    };
    let refused = |refusal| worker.metrics.refused("inbound", refusal, "");
    let has_room = worker.inbound.count() < MAX_CONNECTIONS;
    let place = has_room.then(|| worker.peers.handshakes.take()).flatten();
    let Some((_place, silence)) = place else {
        refused(Refusal::TooManyConnections);
        return None;
    };
    let Some(credentials) = worker.credentials.borrow().clone() else {
        refused(Refusal::NoPolicy);
        return None;
    };
    let acceptor = TlsAcceptor::from(credentials.server.clone());
    let accepting = async move {
        // An error shows again as the handshake begins.
        let _ = silence.until(stream.readable()).await?;
        Some(acceptor.accept(Ahead::new(stream)).await)
    };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Some(Ok(stream))) => stream,
        Ok(None) => {
            // Another has its place.
            refused(Refusal::TooManyConnections);
            return None;
        }
        Ok(Some(Err(error))) => {
            let result = tls::handshake_reason(&error);
            count(result);
            tracing::info!(%from, %error, result, "refused a TLS handshake");
            return None;
        }
        Err(_) => {
            count("timeout_or_eof");
            return None;
        }
    };
    // A resumed session shows the certificate of the first handshake: it is checked here again.
    let shown = stream.get_ref().1.peer_certificates();
    match tls::peer(shown, credentials.bundle.trust_domain(), SystemTime::now()) {
        Ok(peer) => {
            count("ok");
            Some((stream, peer))
        }
        Err(error) => {
            count(error.label());
            tracing::info!(%from, %error, "refused a peer");
            None
        }
    }
}

impl Connection {
    fn new(worker: Rc<Worker>, peer: Peer, source: IpAddr, place: Option<Place>) -> Self {
        let edge = worker.peers.edge(&worker, peer.id());
        let forwarded = peer.id().zip(worker.workload());
        let forwarded =
            forwarded.and_then(|(peer, us)| headers::forwarded_client_cert(&us.id, peer));
        Self {
            _open: worker.inbound.open(),
            _place: place,
            worker,
            peer,
            source,
            edge,
            forwarded,
            limits: limits::OfPeer::default(),
        }
    }

    /// Where a port of the app is, and as whom it is connected to.
    fn app(&self, port: u16) -> AppAddress {
        let address = self.worker.app_address(port);
        let shows_client = self
            .worker
            .interception
            .as_ref()
            .is_some_and(|interception| interception.mode == Mode::Tproxy);
        let client = self.source.to_canonical();
        let as_client = shows_client
            .then(|| self.of_family(address, client))
            .flatten();
        AppAddress {
            address: as_client.unwrap_or(address),
            seen_as: as_client.map(|_| client),
        }
    }

    /// The app's address of the client's family: it is called there as its client has called it.
    fn of_family(&self, app: SocketAddr, client: IpAddr) -> Option<SocketAddr> {
        if app.is_ipv4() == client.is_ipv4() {
            return Some(app);
        }
        let workload = self.worker.workload()?;
        let addresses = workload.addresses.iter();
        // One that is on loopback is there only.
        let ip = addresses
            .filter(|_| !app.ip().is_loopback())
            .find(|ip| ip.is_ipv4() == client.is_ipv4())?;
        Some(SocketAddr::new(*ip, app.port()))
    }
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            handshakes: Places::new(MAX_HANDSHAKES),
            strict: Places::new(MAX_STRICT),
            permissive: Places::new(MAX_PERMISSIVE),
            edges: RefCell::default(),
        }
    }
}

impl Peers {
    /// For a connection that will have no identity.
    fn of_strangers(&self, mtls: Mtls) -> &Rc<Places> {
        match mtls {
            Mtls::Strict => &self.strict,
            Mtls::Permissive => &self.permissive,
        }
    }

    /// The edge from a peer; without an identity, all share one.
    fn edge(&self, worker: &Worker, peer: Option<&SpiffeId>) -> Rc<Edge> {
        let mut edges = self.edges.borrow_mut();
        if let Some(known) = edges.get(&peer.cloned()) {
            return Rc::clone(&known.edge);
        }
        let workload = worker.workload();
        let service = workload
            .as_ref()
            .and_then(|workload| workload.services.first().cloned());
        let us = workload.map_or_else(Party::unknown, |workload| worker.party(&workload));
        let has_room = edges.len() < MAX_PEERS;
        let edge = Edge::secured(
            &worker.metrics,
            Reporter::Destination,
            peer.filter(|_| has_room)
                .map_or_else(Party::unknown, Party::peer),
            us,
            service,
            peer.map_or(Security::None, |_| Security::MutualTls),
        );
        if has_room {
            let known = Known {
                edge: Rc::clone(&edge),
                seen: Instant::now(),
            };
            edges.insert(peer.cloned(), known);
        }
        edge
    }

    /// Lets go of peers that have not called for long.
    pub fn sweep(&self, now: Instant) {
        self.edges.borrow_mut().retain(|_, known| {
            if Rc::strong_count(&known.edge) > 1 {
                known.seen = now;
            }
            now.saturating_duration_since(known.seen) < IDLE
        });
    }
}
