//! A mesh on this machine, as child processes: the control plane, a sidecar for each Workload, and
//! the apps. Owns their start in order, their restarts and their drain. `outrider up` shows it,
//! `outrider demo` plays with it.
//!
//! - `plan`, `workload`: what to run.
//! - `child`: one process.
//! - `ports`: what must be free.
//! - `credentials`: the trust bundle and tokens.
//! - `event`: what watchers are told.

mod child;
mod credentials;
mod event;
pub mod plan;
pub mod ports;
mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use http::StatusCode;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

pub use self::child::State;
use self::child::{Child, Spec};
pub use self::credentials::CredentialsError;
pub use self::event::{ChildName, Event, Role};
use self::plan::{Plan, WorkloadPlan};
use crate::fetch;

/// How long one step of the start may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a condition of another process is looked at: it cannot be awaited.
const POLL: Duration = Duration::from_millis(10);
/// How long the start is silent before it says what it waits for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events that a slow watcher may lag behind.
const EVENTS: usize = 8192;

/// Why a mesh did not come up.
#[derive(Debug, Error)]
pub enum StartError {
    /// Credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// This program's own path.
    #[error("cannot find this program's own file: {0}")]
    OwnPath(std::io::Error),
    /// A Workload's command.
    #[error(
        "Workload {workload}: spec.command[0]: no program {program:?} in PATH; install it, or give its full path"
    )]
    Program {
        /// NAMESPACE/NAME
        workload: String,
        /// As written.
        program: String,
    },
    /// A child ended before it was ready.
    #[error("{child} ended before it was ready ({how}){}", quoted(.last))]
    Ended {
        /// Which one.
        child: ChildName,
        /// Its exit status.
        how: String,
        /// Its last lines.
        last: Vec<String>,
    },
    /// A child runs but does not become ready.
    #[error("{child} is not ready after {} s: {why}{}", START_LIMIT.as_secs(), quoted(.last))]
    NotReady {
        /// Which one.
        child: ChildName,
        /// What its health port says.
        why: String,
        /// Its last lines.
        last: Vec<String>,
    },
    /// There is no such child.
    #[error("there is no {0} in this mesh")]
    Unknown(ChildName),
}

fn quoted(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  | {line}")).collect()
}

/// A mesh of child processes. Dropping it kills them.
#[derive(Debug)]
pub struct Mesh {
    plan: Plan,
    exe: PathBuf,
    programs: BTreeMap<String, PathBuf>,
    events: broadcast::Sender<Event>,
    children: Mutex<BTreeMap<ChildName, Arc<Child>>>,
}

impl Mesh {
    /// Finds every program and writes the credentials. Starts nothing.
    pub fn prepare(plan: Plan) -> Result<Self, StartError> {
        let exe = std::env::current_exe().map_err(StartError::OwnPath)?;
        let mut programs = BTreeMap::new();
        for workload in &plan.workloads {
            if let Some(program) = workload.command.first() {
                let found = find_program(program, &exe).ok_or_else(|| StartError::Program {
                    workload: format!("{}/{}", workload.namespace, workload.name),
                    program: program.clone(),
                })?;
                programs.insert(workload.label.clone(), found);
            }
        }
        credentials::write_trust_bundle(&plan)?;
        credentials::write_tokens(&plan)?;
        let (events, _) = broadcast::channel(EVENTS);
        Ok(Self {
            plan,
            exe,
            programs,
            events,
            children: Mutex::default(),
        })
    }

    /// Starts everything: the control plane, then the sidecars, then the apps, each when what it
    /// needs is ready.
    pub async fn bring_up(&self) -> Result<(), StartError> {
        let started = Instant::now();
        let control_plane = self.start(self.plan.control_plane_spec(&self.exe));
        self.announce(
            self.until_ready(&ChildName::control_plane(), &control_plane),
            "the control plane",
        )
        .await?;
        let sidecars: Vec<_> = self
            .plan
            .workloads
            .iter()
            .map(|workload| {
                let child = self.start(self.plan.sidecar_spec(&self.exe, workload));
                (ChildName::sidecar(&workload.label), child)
            })
            .collect();
        let ready = try_join_all(
            sidecars
                .iter()
                .map(|(name, child)| self.until_ready(name, child)),
        );
        self.announce(
            async { ready.await.map(drop) },
            &counted(sidecars.len(), "sidecar"),
        )
        .await?;
        let apps: Vec<_> = self
            .plan
            .workloads
            .iter()
            .filter_map(|workload| {
                Some((
                    ChildName::app(&workload.label),
                    self.start(self.app_spec(workload)?),
                ))
            })
            .collect();
        let ready = try_join_all(
            apps.iter()
                .map(|(name, child)| self.until_ready(name, child)),
        );
        self.announce(async { ready.await.map(drop) }, &counted(apps.len(), "app"))
            .await?;
        let took = started.elapsed();
        let _ = self.events.send(Event::Ready { took });
        Ok(())
    }

    /// Keeps the bootstrap tokens fresh; never resolves.
    pub async fn keep_tokens_fresh(&self) {
        let mut ticks = interval_at(Instant::now() + credentials::RENEWAL, credentials::RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = credentials::write_tokens(&self.plan) {
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
        self.plan.workload(workload).map(WorkloadPlan::telemetry)
    }

    /// What this mesh was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
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
        self.lock().insert(name, Arc::clone(&child));
        child
    }

    fn app_spec(&self, workload: &WorkloadPlan) -> Option<Spec> {
        let program = self.programs.get(&workload.label)?.clone();
        self.plan.app_spec(&self.exe, program, workload)
    }

    fn child(&self, name: &ChildName) -> Result<Arc<Child>, StartError> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| StartError::Unknown(name.clone()))
    }

    fn all(&self) -> Vec<(ChildName, Arc<Child>)> {
        let children = self.lock();
        children
            .iter()
            .map(|(name, child)| (name.clone(), Arc::clone(child)))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ChildName, Arc<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: String) {
        let _ = self.events.send(Event::Progress(text));
    }

    /// Awaits a step of the start, and says when it takes long and when it is done.
    async fn announce(
        &self,
        step: impl Future<Output = Result<(), StartError>>,
        what: &str,
    ) -> Result<(), StartError> {
        let started = Instant::now();
        let mut step = std::pin::pin!(step);
        loop {
            tokio::select! {
                done = &mut step => {
                    done?;
                    self.say(format!("{what} ready in {:.2} s", started.elapsed().as_secs_f64()));
                    return Ok(());
                }
                () = sleep(PATIENCE) => self.say(format!("still waiting for {what}")),
            }
        }
    }

    /// Waits until a child answers as ready, or ends.
    async fn until_ready(&self, name: &ChildName, child: &Child) -> Result<(), StartError> {
        let deadline = Instant::now() + START_LIMIT;
        let state = child.state();
        loop {
            let why = match self.probe(name).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if let State::Waiting { how } = &*state.borrow() {
                return Err(StartError::Ended {
                    child: name.clone(),
                    how: how.clone(),
                    last: child.last_lines(),
                });
            }
            if Instant::now() > deadline {
                return Err(StartError::NotReady {
                    child: name.clone(),
                    why,
                    last: child.last_lines(),
                });
            }
            sleep(POLL).await;
        }
    }

    /// Whether a child is ready now: by its /ready, or for an app by whether it accepts.
    async fn probe(&self, name: &ChildName) -> Result<(), String> {
        if *name == ChildName::control_plane() {
            return probe_http(self.plan.control_plane_admin).await;
        }
        for workload in &self.plan.workloads {
            if *name == ChildName::sidecar(&workload.label) {
                return probe_http(workload.telemetry()).await;
            }
            if *name == ChildName::app(&workload.label) {
                return match workload.app() {
                    Some(address) => TcpStream::connect(address)
                        .await
                        .map(drop)
                        .map_err(|error| format!("{address}: {error}")),
                    None => Ok(()),
                };
            }
        }
        Ok(())
    }
}

/// "1 app", "2 apps"
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

async fn probe_http(address: SocketAddr) -> Result<(), String> {
    match fetch::get(address, "/ready", Duration::from_secs(2)).await {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((status, body)) => Err(format!(
            "{status}: {}",
            String::from_utf8_lossy(&body).trim()
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// Where a command's first word is: a path as it is, this program for its own name, else in PATH.
fn find_program(program: &str, exe: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| program.into());
    }
    if program == "outrider" {
        return Some(exe.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    exe.parent()
        .map(Path::to_path_buf)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        let exe = Path::new("/somewhere/outrider-1.0");
        assert_eq!(find_program("outrider", exe).as_deref(), Some(exe));
        assert!(find_program("sh", exe).is_some());
        assert_eq!(find_program("no-such-program-here", exe), None);
        assert_eq!(find_program("/no/such/program", exe), None);
    }

    #[test]
    fn errors_carry_the_last_lines() {
        let error = StartError::Ended {
            child: ChildName::control_plane(),
            how: "exit status: 1".to_owned(),
            last: vec!["mesh.yaml:3:1: kind: unknown".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "control-plane ended before it was ready (exit status: 1)\n  | mesh.yaml:3:1: kind: unknown"
        );
    }
}
