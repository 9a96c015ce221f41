//! A worker: one thread, one runtime, and everything that a request touches. Workers share nothing
//! but the snapshots that they are sent, the metrics that they count into, and the limits of the
//! workload.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::{MeshSettings, Workload};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::control::subjects::Subscription;
use crate::control::{Credentials, WorkloadState};
use crate::handover::{Inherited, Named};
use crate::inbound::Peers;
use crate::inbound::app::App;
use crate::inbound::limits::{self, Limits};
use crate::intercept::Interception;
use crate::listen::{Drain, ListenError};
use crate::listeners::Listeners;
use crate::outbound::directory::{Directory, Slot};
use crate::outbound::mirror::Copies;
use crate::outbound::service::{Caller, Service};
use crate::refusal::Refusal;
use crate::telemetry::edge::{Edge, Party, Reporter, Security};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names::Names;
use crate::tls::ClientTls;
use crate::traffic::context::Contexts;

/// Before there are settings.
const DETECT_TIMEOUT: Duration = Duration::from_millis(50);
/// The same.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often idle things are let go, and the count of open connections is told.
const SWEEP: Duration = Duration::from_secs(1);

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
    pub ending: watch::Receiver<Ending>,
    /// Listening sockets of the sidecar before.
    pub inherited: Arc<Inherited>,
    /// What the first listening ended with, told once by each worker.
    pub listening: mpsc::UnboundedSender<Result<(), ListenError>>,
    /// More than one worker listens on the same ports.
    pub many: bool,
    /// How the app's connections come here without its knowledge; `None`: they do not.
    pub interception: Option<Interception>,
    /// How long an end may take, whatever the mesh says.
    pub drain_timeout: Option<Duration>,
}

/// Whether and why the sidecar ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    No,
    /// It was told to (SIGTERM): its app ends, too.
    Terminated,
    /// The same (SIGINT), and there is no app any more.
    Alone,
    /// Another process has its ports.
    Replaced,
}

/// How long an end may take: as the sidecar was told, else as the mesh says.
pub fn drain_timeout(told: Option<Duration>, workload: Option<&Workload>) -> Duration {
    let of_mesh = || workload.map_or(DRAIN_TIMEOUT, |workload| workload.mesh.drain_timeout);
    told.unwrap_or_else(of_mesh)
}

/// Asks a worker for copies of the sockets that it listens on.
pub type SocketsWanted = mpsc::Sender<oneshot::Sender<Vec<Named>>>;

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
    /// For connections that leave the mesh.
    pub outside: Rc<Edge>,
    pub names: Names,
    pub interception: Option<Rc<Interception>>,
    /// Requests of peers that the app works on.
    pub serving: Cell<u32>,
    drain_timeout: Option<Duration>,
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
            outside: Edge::secured(
                &metrics,
                Reporter::Source,
                Party::unknown(),
                Party::unknown(),
                None,
                Security::None,
            ),
            names: Names::new(Arc::clone(&metrics)),
            interception: shared.interception.clone().map(Rc::new),
            serving: Cell::new(0),
            drain_timeout: shared.drain_timeout,
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

    /// How long an end may take.
    pub fn drain_timeout(&self) -> Duration {
        drain_timeout(self.drain_timeout, self.workload.borrow().as_deref())
    }

    /// How long first bytes may take to say what is spoken.
    pub fn detect_timeout(&self) -> Duration {
        self.workload
            .borrow()
            .as_ref()
            .map_or(DETECT_TIMEOUT, |workload| workload.mesh.detect_timeout)
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
pub fn run(
    shared: Shared,
    sockets_wanted: mpsc::Receiver<oneshot::Sender<Vec<Named>>>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // In a task of its own: what the set itself waits for is looked at whenever any task wakes.
    let ended = LocalSet::new().block_on(&runtime, async move {
        tokio::task::spawn_local(work(shared, sockets_wanted)).await
    });
    ended.map_err(std::io::Error::other)
}

async fn work(shared: Shared, sockets_wanted: mpsc::Receiver<oneshot::Sender<Vec<Named>>>) {
    let worker = Rc::new(Worker::new(&shared));
    let mut listeners = Listeners::new(Rc::clone(&worker), shared.many, shared.inherited);
    let mut ending = shared.ending.clone();
    let ended = tokio::select! {
        () = listeners.keep(&shared.listening, sockets_wanted) => Ending::Terminated,
        () = sweep(&worker) => Ending::Terminated,
        ended = ending.wait_for(|ending| *ending != Ending::No) => {
            ended.map_or(Ending::Terminated, |ended| *ended)
        }
    };
    listeners.drain(ended).await;
}

async fn sweep(worker: &Worker) {
    let mut ticks = tokio::time::interval(SWEEP);
    let mut counted = (0, 0);
    loop {
        ticks.tick().await;
        worker.app.sweep(Instant::now());
        worker.directory.sweep(Instant::now());
        worker.directory.tell(&worker.metrics);
        worker.peers.sweep(Instant::now());
        worker.metrics.sweep(Instant::now());
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
