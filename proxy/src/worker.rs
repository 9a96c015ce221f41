//! A worker: one thread, one runtime, and everything that a request touches. Workers share nothing
//! but the snapshots that they are sent, the metrics that they count into, and the limits of the
//! workload.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::{MeshSettings, Workload};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use crate::control::discovery::Subscription;
use crate::control::{Credentials, WorkloadState};
use crate::inbound::app::App;
use crate::inbound::limits::{self, Limits};
use crate::inbound::{self, Peers};
use crate::listen::{self, Drain, ListenError};
use crate::outbound;
use crate::outbound::directory::{Directory, Slot};
use crate::outbound::mirror::Copies;
use crate::outbound::route::Listener;
use crate::outbound::service::{Caller, Service};
use crate::refusal::Refusal;
use crate::telemetry::edge::{Edge, Party, Reporter};
use crate::telemetry::metrics::Metrics;
use crate::tls::ClientTls;
use crate::traffic::context::Contexts;

/// How long first bytes are waited for before there are settings.
pub const DETECT_TIMEOUT: Duration = Duration::from_millis(50);
/// How often idle things are let go, and the count of open connections is told.
const SWEEP: Duration = Duration::from_secs(1);
/// Before a port that could not be listened on is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(1);

/// What each worker is given.
#[derive(Clone, Debug)]
pub struct Shared {
    pub workload: watch::Receiver<WorkloadState>,
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    pub subscriptions: mpsc::Sender<Subscription>,
    pub metrics: Arc<Metrics>,
    pub contexts: Arc<Contexts>,
    pub limits: Arc<limits::Shared>,
    /// The sidecar shall end: drain.
    pub shutdown: watch::Receiver<bool>,
    /// What the first listening ended with, told once by each worker.
    pub listening: mpsc::UnboundedSender<Result<(), ListenError>>,
    /// More than one worker listens on the same ports.
    pub many: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    pub workload: watch::Receiver<WorkloadState>,
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    pub metrics: Arc<Metrics>,
    pub tls: Rc<ClientTls>,
    /// What the app works on, in the whole sidecar.
    pub contexts: Arc<Contexts>,
    pub copies: Copies,
    pub directory: Directory,
    pub app: App,
    pub peers: Peers,
    pub limits: Limits,
    pub inbound: Drain,
    pub outbound: Drain,
    /// For requests that name no Service.
    pub unrouted: Rc<Edge>,
    /// Requests of peers that the app works on.
    pub serving: Cell<u32>,
    random: RefCell<fastrand::Rng>,
}

impl Worker {
    fn new(shared: &Shared) -> Self {
        let metrics = Arc::clone(&shared.metrics);
        Self {
            workload: shared.workload.clone(),
            credentials: shared.credentials.clone(),
            tls: Rc::new(ClientTls::new(shared.credentials.clone())),
            contexts: Arc::clone(&shared.contexts),
            copies: Copies::default(),
            directory: Directory::new(shared.subscriptions.clone()),
            app: App::default(),
            peers: Peers::default(),
            limits: Limits::new(Arc::clone(&shared.limits), Arc::clone(&metrics)),
            inbound: Drain::default(),
            outbound: Drain::default(),
            unrouted: Edge::new(
                &metrics,
                Reporter::Source,
                Party::unknown(),
                Party::unknown(),
                None,
            ),
            serving: Cell::new(0),
            random: RefCell::new(fastrand::Rng::new()),
            metrics,
        }
    }

    /// The workload as it is now; `None` before the first policy.
    pub fn workload(&self) -> Option<Arc<Workload>> {
        self.workload.borrow().clone()
    }

    pub fn settings(&self) -> Option<MeshSettings> {
        self.workload
            .borrow()
            .as_ref()
            .map(|workload| workload.mesh.clone())
    }

    pub fn access_log(&self) -> bool {
        self.workload
            .borrow()
            .as_ref()
            .is_some_and(|workload| workload.mesh.access_log)
    }

    /// This workload as one end of an edge.
    pub fn party(&self, workload: &Workload) -> Party {
        Party {
            workload: workload.name.clone(),
            namespace: workload.namespace.clone(),
            principal: workload.id.to_string(),
            app: workload.app.clone(),
        }
    }

    /// The Service of a slot as it is now.
    pub async fn service(&self, slot: &Slot) -> Result<Rc<Service>, Refusal> {
        if let Some(service) = slot.current() {
            return Ok(service);
        }
        let workload = self.workload().ok_or(Refusal::NoPolicy)?;
        let caller = Caller {
            metrics: &self.metrics,
            tls: &self.tls,
            party: &self.party(&workload),
            zone: workload.zone.as_deref(),
        };
        self.directory.service(slot, caller).await
    }

    /// Whether the app works on a request of a peer now, as far as this worker knows.
    pub fn serves_requests(&self) -> bool {
        self.serving.get() > 0
    }

    /// Where the app listens.
    pub fn app_address(&self, port: u16) -> SocketAddr {
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        SocketAddr::new(
            self.workload
                .borrow()
                .as_ref()
                .map_or(loopback, |workload| workload.app_address),
            port,
        )
    }

    /// A number below `below`.
    pub fn random(&self, below: usize) -> usize {
        self.random.borrow_mut().usize(..below)
    }
}

/// Runs a worker on this thread until the sidecar has drained.
pub fn run(shared: Shared) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async move {
        let worker = Rc::new(Worker::new(&shared));
        let mut listeners = Listeners {
            worker: Rc::clone(&worker),
            many: shared.many,
            open: HashMap::new(),
        };
        let mut shutdown = shared.shutdown.clone();
        tokio::select! {
            () = listeners.keep(&shared.listening) => {}
            () = sweep(&worker) => {}
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        listeners.drain().await;
    });
    Ok(())
}

async fn sweep(worker: &Worker) {
    let mut ticks = tokio::time::interval(SWEEP);
    let mut counted = (0, 0);
    loop {
        ticks.tick().await;
        worker.app.sweep(Instant::now());
        worker.directory.sweep(Instant::now());
        worker
            .directory
            .each(|service| service.state.tell(&worker.metrics));
        let open = (
            worker.inbound.count() as i64,
            worker.outbound.count() as i64,
        );
        // Several workers add up in one gauge.
        worker
            .metrics
            .open_connections
            .with_label_values(&["inbound"])
            .add(open.0 - counted.0);
        worker
            .metrics
            .open_connections
            .with_label_values(&["outbound"])
            .add(open.1 - counted.1);
        counted = open;
    }
}

/// A port that the sidecar listens on, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Port {
    Mesh(SocketAddr),
    Outbound(SocketAddr, Listener),
}

impl Port {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Mesh(address) | Self::Outbound(address, _) => *address,
        }
    }

    fn purpose(&self) -> &'static str {
        match self {
            Self::Mesh(_) => "mesh port",
            Self::Outbound(_, Listener::ByAuthority) => "outbound HTTP port",
            Self::Outbound(_, Listener::Upstream { .. }) => "upstream port",
        }
    }

    fn of(workload: &Workload) -> Vec<Self> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let http = workload
            .outbound
            .http_port
            .map(|port| Self::Outbound(loopback(port), Listener::ByAuthority));
        let upstreams = workload.outbound.upstreams.iter().map(|upstream| {
            let listener = Listener::Upstream {
                service: upstream.service.clone(),
                port: upstream.port,
            };
            Self::Outbound(loopback(upstream.local_port), listener)
        });
        std::iter::once(Self::Mesh(workload.mesh_address))
            .chain(http)
            .chain(upstreams)
            .collect()
    }
}

/// The ports that are listened on now. Follows the workload.
struct Listeners {
    worker: Rc<Worker>,
    many: bool,
    open: HashMap<Port, JoinHandle<()>>,
}

impl Listeners {
    /// Listens as the workload says, again whenever it changes. What the first time ends with is
    /// told to `first`; later failures are logged and tried again.
    async fn keep(&mut self, first: &mpsc::UnboundedSender<Result<(), ListenError>>) {
        let mut workload = self.worker.workload.clone();
        let mut told = false;
        loop {
            let current = workload.borrow_and_update().clone();
            let failed = match current {
                Some(current) => {
                    let result = self.follow(&current);
                    let failed = result.as_ref().err().map(ToString::to_string);
                    if !told {
                        told = true;
                        let _ = first.send(result);
                    }
                    failed
                }
                None => None,
            };
            let pause = async {
                match failed {
                    Some(error) => {
                        tracing::error!(error, "will be tried again");
                        tokio::time::sleep(BIND_AGAIN).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = workload.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    fn follow(&mut self, workload: &Workload) -> Result<(), ListenError> {
        let wanted = Port::of(workload);
        self.open.retain(|port, accepting| {
            let keep = wanted.contains(port);
            if !keep {
                accepting.abort();
            }
            keep
        });
        for port in wanted {
            if !self.open.contains_key(&port) {
                let listener = listen::bind(port.address(), port.purpose(), self.many)?;
                tracing::info!(address = %port.address(), purpose = port.purpose(), "listening");
                let accepting = self.accept(&port, listener);
                self.open.insert(port, accepting);
            }
        }
        Ok(())
    }

    fn accept(&self, port: &Port, listener: TcpListener) -> JoinHandle<()> {
        let worker = Rc::clone(&self.worker);
        match port {
            Port::Mesh(_) => {
                tokio::task::spawn_local(listen::accept_each(listener, move |stream, from| {
                    tokio::task::spawn_local(inbound::serve(Rc::clone(&worker), stream, from));
                }))
            }
            Port::Outbound(_, target) => {
                let target = Rc::new(target.clone());
                tokio::task::spawn_local(listen::accept_each(listener, move |stream, from| {
                    tokio::task::spawn_local(outbound::serve(
                        Rc::clone(&worker),
                        stream,
                        from.ip(),
                        Rc::clone(&target),
                    ));
                }))
            }
        }
    }

    /// Ends in order: nothing new comes in, what came in is finished while the app may still call
    /// out, and then nothing goes out.
    async fn drain(mut self) {
        let limit = self
            .worker
            .settings()
            .map_or(Duration::from_secs(10), |mesh| mesh.drain_timeout);
        tracing::info!(
            ?limit,
            inbound = self.worker.inbound.count(),
            outbound = self.worker.outbound.count(),
            "draining"
        );
        let ended = tokio::time::timeout(limit, async {
            self.stop(|port| matches!(port, Port::Mesh(_)));
            self.worker.inbound.finish().await;
            self.stop(|port| matches!(port, Port::Outbound(..)));
            self.worker.outbound.finish().await;
        });
        match ended.await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!(
                inbound = self.worker.inbound.count(),
                outbound = self.worker.outbound.count(),
                "the time to drain is over: what is open is cut"
            ),
        }
    }

    fn stop(&mut self, which: impl Fn(&Port) -> bool) {
        for (_, accepting) in self.open.extract_if(|port, _| which(port)) {
            accepting.abort();
        }
    }
}
