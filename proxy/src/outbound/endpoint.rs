//! One endpoint of a Service as a worker sees it: what is in flight to it, what its answers say of
//! its health, and the warm connections to its sidecar.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use outrider_api::model;
use outrider_api::model::traffic::{HealthCheck, Outliers, TrafficSettings};
use outrider_certs::tls;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempt::Attempt;
use crate::ahead::Ahead;
use crate::http::blocks::Blocks;
use crate::http::body::RequestBody;
use crate::http::serve;
use crate::http::wire::{AppVersion, Target};
use crate::refusal::Refusal;
use crate::telemetry::edge::Edge;
use crate::tls::ClientTls;
use crate::traffic::balance::{self, Candidate, Latency, Load};
use crate::traffic::health::{
    Admission, Ejections, EndpointHealth, Outcome, Status, Ticket, Transition,
};
use crate::turns::Turns;

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    pub model: model::Endpoint,
    pub edge: Rc<Edge>,
    ports: Vec<PortTarget>,
    identity: u64,
    pub(super) load: Load,
    pub(super) health: RefCell<EndpointHealth>,
    /// How its Service is treated now.
    outliers: Cell<Outliers>,
    connect_timeout: Cell<Duration>,
    /// When it is to be asked next whether it is healthy, where that is asked.
    pub(super) check_due: Cell<Option<Instant>>,
    requests: Slot,
    tunnels: Slot,
}

/// Where a port of the Service leads, with the header for it made beforehand.
#[derive(Debug)]
pub struct PortTarget {
    pub service_port: u16,
    pub port: u16,
    http1: HeaderValue,
    http2: HeaderValue,
}

impl PortTarget {
    fn new(service_port: u16, port: u16) -> Option<Self> {
        let value = |version| Target { port, version }.to_value();
        Some(Self {
            service_port,
            port,
            http1: value(AppVersion::Http1)?,
            http2: value(AppVersion::Http2)?,
        })
    }

    pub fn header(&self, version: AppVersion) -> HeaderValue {
        match version {
            AppVersion::Http1 => self.http1.clone(),
            AppVersion::Http2 => self.http2.clone(),
        }
    }
}

/// What a connection is for. Opaque streams have one of their own, so that bulk does not stall
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Requests,
    Tunnels,
}

/// One warm connection, and the right to make it.
#[derive(Debug, Default)]
struct Slot {
    ready: RefCell<Option<Warm>>,
    connecting: Turns,
}

#[derive(Debug)]
struct Warm {
    sender: SendRequest<RequestBody>,
    generation: u64,
}

/// Something in flight to an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Rc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load.end();
    }
}

impl Candidate for Rc<Endpoint> {
    fn identity(&self) -> u64 {
        self.identity
    }

    fn zone(&self) -> Option<&str> {
        self.model.zone.as_deref()
    }

    fn admission(&self, now: Instant) -> Admission {
        self.health.borrow().admit(now)
    }

    fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    fn latency(&self, now: Instant) -> Latency {
        self.load.latency(now)
    }

    fn since(&self) -> Instant {
        self.health.borrow().since()
    }
}

impl Endpoint {
    pub fn new(
        model: model::Endpoint,
        edge: Rc<Edge>,
        ejections: Rc<Ejections>,
        traffic: &TrafficSettings,
        now: Instant,
    ) -> Rc<Self> {
        let ports = model
            .target_ports
            .iter()
            .filter_map(|&(service, target)| PortTarget::new(service, target))
            .collect();
        let identity = format!("{}/{}", model.namespace, model.workload);
        let endpoint = Rc::new(Self {
            identity: balance::hash(identity.as_bytes()),
            edge,
            ports,
            load: Load::new(now),
            health: RefCell::new(EndpointHealth::new(ejections, now)),
            outliers: Cell::new(traffic.outliers),
            connect_timeout: Cell::new(traffic.timeouts.connect),
            check_due: Cell::default(),
            requests: Slot::default(),
            tunnels: Slot::default(),
            model,
        });
        endpoint.show(None, Some(Status::Closed));
        endpoint
    }

    /// Its Service is treated in another way from now on.
    pub fn update(&self, traffic: &TrafficSettings) {
        self.outliers.set(traffic.outliers);
        self.connect_timeout.set(traffic.timeouts.connect);
        if traffic.health_check.is_none() {
            let changed = self.health.borrow_mut().unchecked(Instant::now());
            self.tell(changed);
        }
    }

    /// What an active health check found.
    pub fn checked(&self, check: &HealthCheck, healthy: bool) {
        let outliers = self.outliers.get();
        let now = Instant::now();
        let changed = self
            .health
            .borrow_mut()
            .checked(check, &outliers, now, healthy);
        self.tell(changed);
    }

    /// An attempt begins.
    pub fn attempt(self: &Rc<Self>, now: Instant) -> Attempt {
        let (ticket, changed) = self.health.borrow_mut().begin(now);
        self.tell(changed);
        Attempt::new(self, ticket, now)
    }

    /// Something is in flight to the endpoint from now on.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.load.begin();
        InFlight(Rc::clone(self))
    }

    /// What an attempt that began with `ticket` showed.
    pub(super) fn learn(&self, ticket: Ticket, now: Instant, outcome: Outcome, latency: Duration) {
        let outliers = self.outliers.get();
        let changed = self
            .health
            .borrow_mut()
            .record(&outliers, ticket, now, outcome, latency);
        if changed.is_some_and(|change| change.to == Status::Closed) {
            self.load.recovered(now, latency);
        }
        self.tell(changed);
    }

    fn tell(&self, changed: Option<Transition>) {
        let Some(change) = changed else {
            return;
        };
        let (service, endpoint) = (self.edge.service_label(), self.model.label());
        tracing::info!(
            service,
            endpoint,
            from = change.from.label(),
            to = change.to.label(),
            reason = change.reason.label(),
            "an endpoint's breaker"
        );
        let metrics = &self.edge.metrics().traffic;
        metrics.changed(&service, &endpoint, change);
    }

    fn show(&self, from: Option<Status>, to: Option<Status>) {
        let (service, endpoint) = (self.edge.service_label(), self.model.label());
        let metrics = &self.edge.metrics().traffic;
        metrics.moves(&service, &endpoint, from, to);
    }

    pub fn port(&self, service_port: u16) -> Option<&PortTarget> {
        self.ports
            .iter()
            .find(|target| target.service_port == service_port)
    }

    /// A connection that is there already.
    pub fn warm(&self, purpose: Purpose, client: &ClientTls) -> Option<SendRequest<RequestBody>> {
        self.slot(purpose).warm(client)
    }

    fn slot(&self, purpose: Purpose) -> &Slot {
        match purpose {
            Purpose::Requests => &self.requests,
            Purpose::Tunnels => &self.tunnels,
        }
    }

    /// A warm connection to the endpoint's sidecar, made if there is none. Whoever comes while it
    /// is being made waits for it, and shares its failure.
    pub async fn connection(
        self: &Rc<Self>,
        purpose: Purpose,
        client: &Rc<ClientTls>,
    ) -> Result<SendRequest<RequestBody>, Refusal> {
        if let Some(sender) = self.warm(purpose, client) {
            return Ok(sender);
        }
        let (endpoint, client) = (Rc::clone(self), Rc::clone(client));
        // Of its own: where attempts have less time than a handshake takes, each would take the
        // unfinished connection with it, and nobody would ever have one.
        let making =
            tokio::task::spawn_local(async move { endpoint.connected(purpose, &client).await });
        making.await.unwrap_or(Err(Refusal::ConnectFailed))
    }

    async fn connected(
        &self,
        purpose: Purpose,
        client: &ClientTls,
    ) -> Result<SendRequest<RequestBody>, Refusal> {
        let slot = self.slot(purpose);
        let making = async {
            let warm = self.connect(client).await?;
            let sender = warm.sender.clone();
            slot.ready.replace(Some(warm));
            Ok(sender)
        };
        slot.connecting.take(|| slot.warm(client), making).await
    }

    async fn connect(&self, client: &ClientTls) -> Result<Warm, Refusal> {
        let connecting = self.handshake(client);
        match tokio::time::timeout(self.connect_timeout.get(), connecting).await {
            Ok(result) => result,
            Err(_) => {
                tracing::debug!(endpoint = %self.model.mesh_address, "connecting timed out");
                Err(Refusal::ConnectFailed)
            }
        }
    }

    async fn handshake(&self, client: &ClientTls) -> Result<Warm, Refusal> {
        let address = self.model.mesh_address;
        let (config, generation) = client.config(&self.model.id)?;
        let failed = |error: std::io::Error| {
            tracing::debug!(endpoint = %address, %error, "cannot connect");
            Refusal::ConnectFailed
        };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream = self.secure(stream, config).await?;
        let handshake = serve::mesh_client().handshake(TokioIo::new(Blocks::from_server(stream)));
        let (sender, connection) = handshake.await.map_err(|error| {
            tracing::debug!(endpoint = %address, %error, "the HTTP/2 handshake failed");
            Refusal::ConnectFailed
        })?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(endpoint = %address, %error, "a connection between sidecars ended");
            }
        });
        Ok(Warm { sender, generation })
    }

    /// The TLS handshake, with its result counted.
    async fn secure(
        &self,
        stream: TcpStream,
        config: Arc<ClientConfig>,
    ) -> Result<TlsStream<Ahead<TcpStream>>, Refusal> {
        let count = |result: &str| {
            let handshakes = &self.edge.metrics().handshakes;
            handshakes.with_label_values(&["outbound", result]).inc();
        };
        let refused = |result: &str, error: &dyn std::error::Error| {
            count(result);
            let (endpoint, expected) = (self.model.mesh_address, &self.model.id);
            tracing::warn!(%endpoint, %expected, %error, result, "TLS handshake failed");
            Refusal::TlsHandshakeFailed
        };
        let stream = TlsConnector::from(config)
            .connect(tls::server_name(), Ahead::new(stream))
            .await
            .map_err(|error| refused(tls::handshake_reason(&error), &error))?;
        // A resumed session was not verified again, and its certificate may have ended since.
        let shown = stream.get_ref().1.peer_certificates();
        tls::peer(shown, &self.model.id.trust_domain(), SystemTime::now())
            .map_err(|error| refused(error.label(), &error))?;
        count("ok");
        Ok(stream)
    }
}

impl Slot {
    /// The connection in the slot, unless it has ended or shows an older certificate. Dropping the
    /// handle lets the streams on it finish.
    fn warm(&self, client: &ClientTls) -> Option<SendRequest<RequestBody>> {
        let mut ready = self.ready.borrow_mut();
        let usable = ready.as_ref().is_some_and(|warm| {
            warm.sender.is_ready() && Some(warm.generation) == client.generation()
        });
        if !usable {
            ready.take();
        }
        ready.as_ref().map(|warm| warm.sender.clone())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let status = self.health.borrow().status();
        self.show(Some(status), None);
    }
}
