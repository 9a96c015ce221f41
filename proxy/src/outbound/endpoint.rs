//! One endpoint of a Service as a worker sees it: what is in flight to it, whether it can be
//! connected to, and the warm connections to its sidecar.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use outrider_api::model;
use outrider_certs::tls;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::body::RequestBody;
use crate::http::serve;
use crate::http::wire::{AppVersion, Target};
use crate::refusal::Refusal;
use crate::telemetry::edge::Edge;
use crate::tls::ClientTls;
use crate::traffic::balance::{self, Candidate, Latency, Load};
use crate::traffic::health::{Admission, Ejections, EndpointHealth};

/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    pub model: model::Endpoint,
    pub edge: Rc<Edge>,
    ports: Vec<PortTarget>,
    pub load: Rc<Load>,
    pub health: RefCell<EndpointHealth>,
    identity: u64,
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
    connecting: tokio::sync::Mutex<()>,
    failed_at: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Warm {
    sender: SendRequest<RequestBody>,
    generation: u64,
}

/// Something in flight to an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Rc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
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
    /// `ejections`: of the Service that it belongs to.
    pub fn new(model: model::Endpoint, edge: Rc<Edge>, ejections: Rc<Ejections>) -> Rc<Self> {
        let now = Instant::now();
        let ports = model
            .target_ports
            .iter()
            .filter_map(|&(service, target)| PortTarget::new(service, target))
            .collect();
        Rc::new(Self {
            load: Rc::new(Load::new(now)),
            health: RefCell::new(EndpointHealth::new(ejections, now)),
            identity: balance::hash(model.mesh_address.to_string().as_bytes()),
            model,
            edge,
            ports,
            requests: Slot::default(),
            tunnels: Slot::default(),
        })
    }

    pub fn port(&self, service_port: u16) -> Option<&PortTarget> {
        self.ports
            .iter()
            .find(|target| target.service_port == service_port)
    }

    pub fn begin(&self) -> InFlight {
        self.load.begin();
        InFlight(Rc::clone(&self.load))
    }

    /// A warm connection to the endpoint's sidecar, made if there is none. Whoever comes while it
    /// is being made waits for it, and shares its failure.
    pub async fn connection(
        &self,
        purpose: Purpose,
        client: &ClientTls,
    ) -> Result<SendRequest<RequestBody>, Refusal> {
        let slot = match purpose {
            Purpose::Requests => &self.requests,
            Purpose::Tunnels => &self.tunnels,
        };
        if let Some(sender) = slot.warm(client) {
            return Ok(sender);
        }
        let arrived = Instant::now();
        let _turn = slot.connecting.lock().await;
        if let Some(sender) = slot.warm(client) {
            return Ok(sender);
        }
        if slot.failed_at.get().is_some_and(|failed| failed >= arrived) {
            return Err(Refusal::ConnectFailed);
        }
        match self.connect(client).await {
            Ok(warm) => {
                let sender = warm.sender.clone();
                slot.ready.replace(Some(warm));
                Ok(sender)
            }
            Err(refusal) => {
                slot.failed_at.set(Some(Instant::now()));
                Err(refusal)
            }
        }
    }

    async fn connect(&self, client: &ClientTls) -> Result<Warm, Refusal> {
        let connecting = self.handshake(client);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
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
        let handshake = serve::http2_client().handshake(TokioIo::new(stream));
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
    ) -> Result<TlsStream<TcpStream>, Refusal> {
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
            .connect(tls::server_name(), stream)
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
