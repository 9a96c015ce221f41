//! The processes of one Workload: its sidecar and its app, started, and ended without a call that
//! fails. Owns the order in which that is done.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

use super::child::{Child, Spec, State};
use super::error::StartError;
use super::event::ChildName;
use super::netns::{NetworkError, inside};
use super::plan::{Place, Plan, WorkloadPlan};
use super::{Mesh, credentials, lock, ports, spec};

/// How often somebody looks whether a port is closed. Each time the sidecar sees a connection without
/// a handshake.
const PORT_POLL: Duration = Duration::from_millis(50);

impl Mesh {
    /// Brings a Workload into the mesh that runs, of which `plan` is the new one.
    pub(super) async fn begin(
        &self,
        workload: &WorkloadPlan,
        plan: &Plan,
    ) -> Result<(), StartError> {
        self.prepare_one(workload, plan).await?;
        let (name, sidecar) = self.start_sidecar(workload);
        self.until_ready(&name, &sidecar).await?;
        if let Some((name, app)) = self.start_app(workload)? {
            self.until_ready(&name, &app).await?;
        }
        Ok(())
    }

    async fn prepare_one(&self, workload: &WorkloadPlan, plan: &Plan) -> Result<(), StartError> {
        program(workload, &self.exe)?;
        let layout = plan.network.as_ref();
        match (&self.network, layout.zip(workload.place.as_ref())) {
            (Some(network), Some((layout, _))) => {
                if let Some(namespace) = layout.namespace_of(&workload.full_name()) {
                    network.add(namespace)?;
                }
                check_ports_inside(workload)?;
            }
            (None, _) | (_, None) => {
                ports::check(&workload.ports()).map_err(StartError::Ports)?;
            }
        }
        credentials::write_tokens(plan)?;
        self.intercept(workload).await
    }

    /// Takes a Workload out of the mesh: nobody calls it any more when its app is told to end, and its
    /// sidecar is there until that has ended.
    pub(super) async fn end(&self, workload: &WorkloadPlan) {
        let deadline = self.plan().drain_deadline();
        let (app, sidecar) = names(workload);
        let (app_child, sidecar_child) = (self.child(&app).ok(), self.child(&sidecar).ok());
        match (&app_child, &sidecar_child) {
            (Some(app), Some(sidecar)) if workload.app().is_some() => {
                tokio::join!(sidecar.leave(deadline), async {
                    until_uncalled(workload, sidecar).await;
                    app.stop(deadline).await;
                });
            }
            // It only calls: it finishes what it has.
            (app, sidecar) => {
                if let Some(app) = app {
                    app.stop(deadline).await;
                }
                match sidecar {
                    // The app is somebody else's.
                    Some(sidecar) if app.is_none() => sidecar.leave(deadline).await,
                    Some(sidecar) => sidecar.stop(deadline).await,
                    None => {}
                }
            }
        }
        {
            let mut children = lock(&self.children);
            children.remove(&app);
            children.remove(&sidecar);
        }
        self.tidy_up(workload).await;
    }

    /// Removes what a Workload had beside its processes.
    pub(super) async fn tidy_up(&self, workload: &WorkloadPlan) {
        let token = self.plan().token_file(workload);
        // It may not have been written; it expires.
        let _ = std::fs::remove_file(token);
        let (Some(network), Some(place)) = (&self.network, &workload.place) else {
            return;
        };
        let removed = tokio::task::spawn_blocking(network.remover(&place.netns)).await;
        if let Ok(Err(error)) = removed {
            self.say(format!(
                "the network namespace {} is left: {error}",
                place.netns
            ));
        }
    }

    pub(super) fn start_sidecar(&self, workload: &WorkloadPlan) -> (ChildName, Arc<Child>) {
        let spec = self.plan().sidecar_spec(&self.exe, workload);
        let name = spec.name.clone();
        (name, self.start(self.placed(spec, workload)))
    }

    /// None: it has no command.
    pub(super) fn start_app(
        &self,
        workload: &WorkloadPlan,
    ) -> Result<Option<(ChildName, Arc<Child>)>, StartError> {
        let Some(program) = program(workload, &self.exe)? else {
            return Ok(None);
        };
        let spec = self.plan().app_spec(&self.exe, program, workload);
        Ok(spec.map(|spec| {
            let name = spec.name.clone();
            (name, self.start(self.placed(spec, workload)))
        }))
    }

    /// Runs inside of the Workload's namespace, where it has one.
    fn placed(&self, spec: Spec, workload: &WorkloadPlan) -> Spec {
        match (&self.network, &workload.place) {
            (Some(network), Some(place)) => spec.inside(network.program(), &place.netns),
            (None, _) | (_, None) => spec,
        }
    }

    /// Has the connections of a Workload taken to its sidecar, which need not be there yet: until it
    /// is, they fail.
    pub(super) async fn intercept(&self, workload: &WorkloadPlan) -> Result<(), StartError> {
        let (Some(network), Some(place)) = (&self.network, &workload.place) else {
            return Ok(());
        };
        let failed = |said: String| StartError::Intercept {
            workload: workload.full_name(),
            said,
        };
        let Place { netns, .. } = place;
        let output = Command::new(network.program())
            .args(["netns", "exec", netns])
            .arg(&self.exe)
            .args(spec::init_args(workload, place))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            )),
        }
    }

    /// Whether anything of a Workload was started.
    pub(super) fn has_begun(&self, workload: &WorkloadPlan) -> bool {
        let (_, sidecar) = names(workload);
        self.child(&sidecar).is_ok()
    }
}

fn names(workload: &WorkloadPlan) -> (ChildName, ChildName) {
    let label = &workload.label;
    (ChildName::app(label), ChildName::sidecar(label))
}

/// The program of a Workload's app, where it has a command.
pub(super) fn program(workload: &WorkloadPlan, exe: &Path) -> Result<Option<PathBuf>, StartError> {
    let Some(program) = workload.command.first() else {
        return Ok(None);
    };
    let found = spec::find_program(program, exe).ok_or_else(|| StartError::Program {
        workload: workload.full_name(),
        program: program.clone(),
    })?;
    Ok(Some(found))
}

/// Checks what has to be free in a Workload's namespace, where it has one.
pub(super) fn check_ports_inside(workload: &WorkloadPlan) -> Result<(), StartError> {
    let Some(place) = &workload.place else {
        return Ok(());
    };
    let uses = workload.ports();
    let checked = inside::run(&place.netns, move || Ok(ports::check(&uses)));
    let checked = checked.map_err(|error| NetworkError::Inside(place.netns.clone(), error))?;
    checked.map_err(StartError::Ports)
}

/// Waits until the app is called by nobody. A sidecar that intercepts waits for its app to end, so there
/// it is when it takes nothing more; else when it has ended, since what it carries is finished then.
async fn until_uncalled(workload: &WorkloadPlan, sidecar: &Child) {
    let mut state = sidecar.state();
    let gone = async {
        // An error means that the child is gone, too.
        let _ = state.wait_for(|state| *state == State::Gone).await;
    };
    match workload.place {
        Some(_) => tokio::select! {
            () = gone => {}
            () = until_closed(workload.mesh()) => {}
        },
        None => gone.await,
    }
}

async fn until_closed(port: SocketAddr) {
    while TcpStream::connect(port).await.is_ok() {
        sleep(PORT_POLL).await;
    }
}
