//! Waiting for what was started: whether a child is ready, and what is said meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::child::{Child, State};
use super::error::StartError;
use super::event::ChildName;
use super::{Mesh, POLL, START_LIMIT};
use crate::fetch;

/// How long the start is silent before it says what it waits for.
const PATIENCE: Duration = Duration::from_secs(2);

impl Mesh {
    /// Awaits a step of the start, and says when it takes long and when it is done.
    pub(super) async fn announce(
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

    /// Waits until all of these do.
    pub(super) async fn all_ready(
        &self,
        children: &[(ChildName, Arc<Child>)],
    ) -> Result<(), StartError> {
        let ready = children
            .iter()
            .map(|(name, child)| self.until_ready(name, child));
        try_join_all(ready).await.map(drop)
    }

    /// Waits until a child answers as ready, or ends.
    pub(super) async fn until_ready(
        &self,
        name: &ChildName,
        child: &Child,
    ) -> Result<(), StartError> {
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
        let plan = self.plan();
        if *name == ChildName::control_plane() {
            return probe_http(plan.control_plane_admin).await;
        }
        for workload in &plan.workloads {
            if *name == ChildName::sidecar(&workload.label) {
                return probe_http(workload.telemetry()).await;
            }
            if *name == ChildName::app(&workload.label) {
                return match workload.app() {
                    Some(address) => workload
                        .door(address)
                        .connect()
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
pub(super) fn counted(count: usize, what: &str) -> String {
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
