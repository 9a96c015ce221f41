//! Keeps the names that running workloads know current: a Service that is added while the mesh runs
//! gets its line in every /etc/hosts. Owns nothing; reads the directory as the control plane does.

use std::path::Path;
use std::time::Duration;

use outrider_api::manifest::Problem;
use outrider_control_plane::index;
use outrider_control_plane::source::directory::{self, Files};
use tokio::time::sleep;

use super::Mesh;
use super::netns::{self, describe};
use super::plan::WorkloadPlan;

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

impl Mesh {
    /// Never resolves.
    pub(super) async fn keep_names_current(&self) {
        if self.network.is_none() {
            std::future::pending().await
        }
        let mut last = None;
        loop {
            let directory = self.plan().directory.clone();
            let read = tokio::task::spawn_blocking(move || directory::collect(&directory)).await;
            if let Ok(files) = read
                && last.as_ref() != Some(&files)
            {
                // What is wrong with it the control plane says.
                if let Ok(mesh) = read_mesh(&files) {
                    self.write_names(&mesh);
                }
                last = Some(files);
            }
            sleep(INTERVAL).await;
        }
    }

    fn write_names(&self, mesh: &index::Mesh) {
        let names = describe::names(mesh, netns::hostname(), netns::has_v6());
        for workload in &self.plan().workloads {
            let Some(place) = &workload.place else {
                continue;
            };
            let hosts = netns::layout::etc(&place.netns).join("hosts");
            if let Err(error) = rewrite(&hosts, &names.hosts(&workload.namespace, &place.addresses))
            {
                self.say(format!("{}: {error}", hosts.display()));
            }
            if moved(workload, mesh) {
                self.say(format!(
                    "{} has another address now: end this, and start it again",
                    workload.label
                ));
            }
        }
    }
}

fn read_mesh(files: &Files) -> Result<index::Mesh, Vec<Problem>> {
    index::build(&files.parse()?, None)
}

/// In place, since it is this very file that is mounted in the namespaces.
fn rewrite(hosts: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read_to_string(hosts)? == text {
        return Ok(());
    }
    std::fs::write(hosts, text)
}

/// Two objects wanted one address, and the other was first.
fn moved(workload: &WorkloadPlan, mesh: &index::Mesh) -> bool {
    mesh.workload(&workload.namespace, &workload.name)
        .is_some_and(|now| now.mesh_address.ip() != workload.address)
}
