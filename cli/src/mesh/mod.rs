//! A mesh on this machine, as child processes: the control plane, a sidecar for each Workload, and
//! the apps. Owns their start in order, their restarts and their drain. `outrider up` shows it,
//! `outrider demo` plays with it.
//!
//! - `plan`, `placement`, `workload`: what to run, and where. `spec`: with which arguments.
//! - `netns`: the network, where every Workload has a namespace of its own.
//! - `child`: one process. `member`: those of one Workload, from its start to its end.
//! - `ports`: what must be free. `ready`: waiting for what was started.
//! - `credentials`: the trust bundle and tokens.
//! - `follow`: what an edit of the directory means for what runs.
//! - `event`: what watchers are told.

mod child;
mod credentials;
mod error;
mod event;
mod follow;
mod member;
pub mod netns;
mod placement;
pub mod plan;
pub mod ports;
mod ready;
pub(crate) mod spec;
mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use self::child::State;
use self::child::{Child, Spec};
pub use self::credentials::CredentialsError;
pub use self::error::StartError;
pub use self::event::{ChildName, Event, Role};
pub use self::follow::elsewhere;
use self::netns::Network;
use self::plan::{Plan, WorkloadPlan};
use self::ready::counted;

/// How long one step of the start may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the ports of a mesh that was killed are waited for.
const PORTS_LIMIT: Duration = Duration::from_secs(5);
/// How often a condition of another process is looked at: it cannot be awaited.
const POLL: Duration = Duration::from_millis(10);
/// Events that a slow watcher may lag behind.
const EVENTS: usize = 8192;

/// A mesh of child processes. Dropping it kills them.
#[derive(Debug)]
pub struct Mesh {
    /// What runs, or is about to.
    plan: Mutex<Arc<Plan>>,
    exe: PathBuf,
    events: broadcast::Sender<Event>,
    children: Mutex<BTreeMap<ChildName, Arc<Child>>>,
    /// Removed when everything in it has ended.
    network: Option<Network>,
}

impl Mesh {
    /// Finds every program, makes the network where it is not that of the machine, and writes the
    /// credentials. Starts nothing.
    pub fn prepare(plan: Plan) -> Result<Self, StartError> {
        let exe = std::env::current_exe().map_err(StartError::OwnPath)?;
        for workload in &plan.workloads {
            member::program(workload, &exe)?;
        }
        let network = plan.network.clone().map(Network::create).transpose()?;
        if let Some(network) = &network {
            check_ports(&plan, network)?;
        }
        credentials::write_trust_bundle(&plan)?;
        credentials::write_tokens(&plan)?;
        let (events, _) = broadcast::channel(EVENTS);
        Ok(Self {
            plan: Mutex::new(Arc::new(plan)),
            exe,
            events,
            children: Mutex::default(),
            network,
        })
    }

    /// Starts everything: the control plane, then the sidecars, then the apps, each when what it
    /// needs is ready.
    pub async fn bring_up(&self) -> Result<(), StartError> {
        let started = Instant::now();
        let plan = self.plan();
        let workloads = &plan.workloads;
        try_join_all(workloads.iter().map(|workload| self.intercept(workload))).await?;
        let control_plane = self.start(plan.control_plane_spec(&self.exe));
        self.announce(
            self.until_ready(&ChildName::control_plane(), &control_plane),
            "the control plane",
        )
        .await?;
        let sidecars: Vec<_> = workloads
            .iter()
            .map(|workload| self.start_sidecar(workload))
            .collect();
        self.announce(
            self.all_ready(&sidecars),
            &counted(sidecars.len(), "sidecar"),
        )
        .await?;
        let apps = workloads
            .iter()
            .filter_map(|workload| self.start_app(workload).transpose());
        let apps = apps.collect::<Result<Vec<_>, _>>()?;
        self.announce(self.all_ready(&apps), &counted(apps.len(), "app"))
            .await?;
        let took = started.elapsed();
        let _ = self.events.send(Event::Ready { took });
        Ok(())
    }

    /// Keeps tokens fresh, and what runs as the directory says; never resolves.
    pub async fn look_after(&self) {
        tokio::join!(self.keep_tokens_fresh(), self.follow_directory());
    }

    async fn keep_tokens_fresh(&self) {
        let mut ticks = interval_at(Instant::now() + credentials::RENEWAL, credentials::RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = credentials::write_tokens(&self.plan()) {
                self.say(format!("tokens were not renewed: {error}"));
            }
        }
    }

    /// Kills a child's process group with SIGKILL; it stays down until [`Mesh::restart`].
    pub async fn kill(&self, name: &ChildName) -> Result<(), StartError> {
        self.child(name)?.kill().await;
        Ok(())
    }

    /// Starts a killed child, and waits until it is ready.
    pub async fn restart(&self, name: &ChildName) -> Result<(), StartError> {
        let child = self.child(name)?;
        child.start_again().await;
        self.until_ready(name, &child).await
    }

    /// A child's process, while it runs.
    pub fn pid(&self, name: &ChildName) -> Option<u32> {
        self.child(name).ok()?.pid()
    }

    /// Where a Workload's sidecar serves its metrics.
    pub fn telemetry(&self, workload: &str) -> Option<SocketAddr> {
        self.plan().workload(workload).map(WorkloadPlan::telemetry)
    }

    /// What this mesh is made from now.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&lock(&self.plan))
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Ends everything in order: apps finish what they have, then the sidecars, then the control
    /// plane. Each step may take `deadline`.
    pub async fn drain(&self, deadline: Duration) {
        let children = self.all();
        for (what, role) in [
            ("apps finish", Role::App),
            ("sidecars drain", Role::Sidecar),
            ("the control plane ends", Role::ControlPlane),
        ] {
            let stops: Vec<_> = children
                .iter()
                .filter(|(name, _)| name.role() == role)
                .map(|(_, child)| child.stop(deadline))
                .collect();
            if !stops.is_empty() {
                self.say(format!("stopping: {what}"));
                join_all(stops).await;
            }
        }
    }

    /// Kills everything at once.
    pub async fn kill_all(&self) {
        let children = self.all();
        join_all(children.iter().map(|(_, child)| async {
            child.kill().await;
            child.stop(Duration::ZERO).await;
        }))
        .await;
    }

    fn start(&self, spec: Spec) -> Arc<Child> {
        let name = spec.name.clone();
        let child = Arc::new(Child::start(spec, self.events.clone()));
        lock(&self.children).insert(name, Arc::clone(&child));
        child
    }

    fn child(&self, name: &ChildName) -> Result<Arc<Child>, StartError> {
        lock(&self.children)
            .get(name)
            .cloned()
            .ok_or_else(|| StartError::Unknown(name.clone()))
    }

    fn all(&self) -> Vec<(ChildName, Arc<Child>)> {
        let children = lock(&self.children);
        children
            .iter()
            .map(|(name, child)| (name.clone(), Arc::clone(child)))
            .collect()
    }

    fn say(&self, text: String) {
        let _ = self.events.send(Event::Progress(text));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks what has to be free, now that there is a network: a mesh that was killed may still be about
/// to end.
fn check_ports(plan: &Plan, network: &Network) -> Result<(), StartError> {
    let deadline = std::time::Instant::now() + PORTS_LIMIT;
    while let Err(problems) = ports::check(&plan.ports()) {
        if !network.cleaned() || std::time::Instant::now() > deadline {
            return Err(StartError::Ports(problems));
        }
        std::thread::sleep(POLL);
    }
    let mut workloads = plan.workloads.iter();
    workloads.try_for_each(member::check_ports_inside)
}
