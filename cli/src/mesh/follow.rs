//! Keeps what runs to what the directory says: a Workload that is added is started, one that is gone
//! is drained and ended, one that is described otherwise is ended and started anew; and whoever runs
//! finds the names of all in its /etc/hosts. Reads the directory as the control plane does, which says
//! what is wrong with it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use outrider_api::manifest::Problem;
use outrider_control_plane::index;
use outrider_control_plane::source::directory::Files;
use outrider_control_plane::source::watch::DirectoryWatch;
use tokio::task::spawn_blocking;

use super::error::StartError;
use super::member::program;
use super::netns::{Layout, layout};
use super::plan::{Plan, WorkloadPlan};
use super::{Mesh, lock, ports};

impl Mesh {
    /// Never resolves.
    pub(super) async fn follow_directory(&self) {
        let plan = self.plan();
        let mut watch = DirectoryWatch::new(plan.directory.clone(), plan.state_dir.clone());
        loop {
            match watch.next_files().await {
                Ok((_, files)) => {
                    if let Some(mesh) = read_mesh(files).await {
                        self.adapt(&mesh).await;
                    }
                }
                Err(error) => self.say(format!("{}: {error}", plan.directory.display())),
            }
        }
    }

    async fn adapt(&self, mesh: &index::Mesh) {
        let plan = self.plan();
        let mut now = Plan::of(mesh, &plan.directory, plan.options());
        if let Some(what) = fixed(&plan, &now) {
            self.say(format!(
                "{what} of the MeshConfig has changed, which takes a new start: end this, and start it again"
            ));
            return;
        }
        self.point_out(&plan, &now);
        now.keep_running(&plan.workloads);
        for (name, error) in self.not_startable(&plan.workloads, &now) {
            self.say(error.to_string());
            now.refuse(&name, &plan.workloads);
            self.say(match now.of_full_name(&name) {
                Some(_) => format!("Workload {name} runs on as it was until the next edit"),
                None => format!("Workload {name} is left out until the next edit"),
            });
        }
        let (gone, new) = differences(&plan.workloads, &now.workloads);
        self.take_over(now, |workload| !new.contains(workload));
        self.write_names();
        join_all(gone.iter().map(|workload| async {
            self.say(format!("Workload {} ends", workload.full_name()));
            self.end(workload).await;
            self.say(format!("Workload {} has ended", workload.full_name()));
        }))
        .await;
        join_all(new.iter().map(|workload| self.add(workload))).await;
    }

    /// Those that are described anew and could not be started, before anything is ended for them.
    fn not_startable(&self, running: &[WorkloadPlan], now: &Plan) -> Vec<(String, StartError)> {
        let (gone, new) = differences(running, &now.workloads);
        let given_up: Vec<SocketAddr> = gone.iter().flat_map(WorkloadPlan::sockets).collect();
        let check = |workload: &WorkloadPlan| {
            program(workload, &self.exe)?;
            // A namespace of its own has nobody else's ports.
            if workload.place.is_none() {
                let mut uses = workload.ports();
                uses.retain(|used| !given_up.contains(&used.address));
                ports::check(&uses).map_err(StartError::Ports)?;
            }
            Ok(())
        };
        let failures = new.iter().filter_map(|workload| {
            let error = check(workload).err()?;
            Some((workload.full_name(), error))
        });
        failures.collect()
    }

    async fn add(&self, workload: &WorkloadPlan) {
        let name = workload.full_name();
        self.say(format!("Workload {name} is started"));
        self.change_plan(|plan| plan.workloads.push(workload.clone()));
        match self.begin(workload, &self.plan()).await {
            Ok(()) => self.say(format!(
                "Workload {name} is ready{}; metrics at http://{}/metrics",
                workload
                    .place
                    .as_ref()
                    .map(|place| format!(" in the namespace {}", place.netns))
                    .unwrap_or_default(),
                workload.telemetry()
            )),
            Err(error) => {
                self.say(error.to_string());
                // What runs is looked after.
                if !self.has_begun(workload) {
                    self.say(format!("Workload {name} is left out until the next edit"));
                    self.change_plan(|plan| plan.workloads.retain(|known| known != workload));
                    self.tidy_up(workload).await;
                }
            }
        }
    }

    /// Says of Workloads that cannot run here why not, once.
    fn point_out(&self, before: &Plan, now: &Plan) {
        for misplaced in &now.misplaced {
            if !before.misplaced.contains(misplaced) {
                self.say(misplaced.to_string());
            }
        }
        for workload in &now.elsewhere {
            if !before.elsewhere.contains(workload) {
                self.say(elsewhere(workload));
            }
        }
    }

    /// Goes by `now` from here on, with those Workloads of it that run.
    fn take_over(&self, mut now: Plan, runs: impl Fn(&WorkloadPlan) -> bool) {
        now.workloads.retain(runs);
        *lock(&self.plan) = Arc::new(now);
    }

    fn change_plan(&self, change: impl FnOnce(&mut Plan)) {
        change(Arc::make_mut(&mut lock(&self.plan)));
    }

    fn write_names(&self) {
        let plan = self.plan();
        let namespaces = plan.network.iter().flat_map(|network| &network.namespaces);
        for namespace in namespaces {
            let hosts = layout::etc(&namespace.name).join("hosts");
            // Those that are still to be made get theirs then.
            if let Err(error) = rewrite(&hosts, &namespace.hosts)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                self.say(format!("{}: {error}", hosts.display()));
            }
        }
    }
}

/// What is said of a Workload that is not of this machine.
pub fn elsewhere(workload: &str) -> String {
    format!("Workload {workload} is on another machine: run its sidecar there")
}

/// None: what is wrong with it the control plane says.
async fn read_mesh(files: Files) -> Option<index::Mesh> {
    let read = move || -> Result<index::Mesh, Vec<Problem>> { index::build(&files.parse()?, None) };
    spawn_blocking(read).await.ok()?.ok()
}

/// What of the MeshConfig cannot change while the mesh runs, and has.
fn fixed(before: &Plan, now: &Plan) -> Option<&'static str> {
    let ranges = |plan: &Plan, other: &Plan| match (&plan.network, &other.network) {
        (Some(network), Some(other)) => Layout::has_ranges_of(network, other),
        (None, _) | (_, None) => true,
    };
    if before.trust_domain != now.trust_domain {
        Some("spec.trustDomain")
    } else if !ranges(before, now) {
        Some("spec.network")
    } else {
        None
    }
}

/// Of those that run, the ones that are not wanted as they are; and the ones to be started.
fn differences(
    running: &[WorkloadPlan],
    wanted: &[WorkloadPlan],
) -> (Vec<WorkloadPlan>, Vec<WorkloadPlan>) {
    let without = |these: &[WorkloadPlan], those: &[WorkloadPlan]| {
        let these = these.iter().filter(|workload| !those.contains(workload));
        these.cloned().collect()
    };
    (without(running, wanted), without(wanted, running))
}

/// In place, since it is this very file that is mounted in the namespaces.
fn rewrite(hosts: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(hosts)? == text {
        return Ok(());
    }
    std::fs::write(hosts, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::workload::tests::order;

    #[test]
    fn what_is_described_otherwise_ends_and_begins() {
        let named = |name: &str| WorkloadPlan {
            name: name.to_owned(),
            label: name.to_owned(),
            ..order()
        };
        let other = WorkloadPlan {
            command: vec!["other".to_owned()],
            ..named("b")
        };
        let running = [named("a"), named("b"), named("c")];
        let wanted = [named("a"), other.clone(), named("d")];
        let (gone, new) = differences(&running, &wanted);
        assert_eq!(gone, [named("b"), named("c")]);
        assert_eq!(new, [other, named("d")]);
        let (gone, new) = differences(&running, &running);
        assert!(gone.is_empty() && new.is_empty());
    }
}
