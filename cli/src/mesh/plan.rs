//! What a mesh on this machine consists of: every Workload, where it runs, and what it binds. Read
//! from the index of the directory; nothing is started here.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrider_api::manifest::Problem;
use outrider_api::sidecar::withdrawal_limit;
use outrider_certs::spiffe::TrustDomain;
use outrider_control_plane::index::Mesh;

use super::netns::hosts::Names;
use super::netns::{self, Id, Layout, describe};
use super::placement::Sorted;
pub use super::placement::{Misplaced, Placement};
use super::ports::PortUse;
use super::workload::LOOPBACK;
pub use super::workload::{Place, UpstreamPlan, WorkloadPlan};

/// A whole mesh.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory of YAML.
    pub directory: PathBuf,
    /// Keys, tokens and the trust bundle.
    pub state_dir: PathBuf,
    /// Where the control plane serves sidecars.
    pub control_plane: SocketAddr,
    /// Its health and metrics.
    pub control_plane_admin: SocketAddr,
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// The Workloads on this machine.
    pub workloads: Vec<WorkloadPlan>,
    /// Workloads whose address is not of this machine: nothing is started for them here.
    pub elsewhere: Vec<String>,
    /// Workloads that cannot be run so, and what to do.
    pub misplaced: Vec<Misplaced>,
    /// The network, where the Workloads have namespaces of their own.
    pub network: Option<Layout>,
    /// What is called how.
    pub names: Names,
    /// How long a sidecar that ends lets requests finish.
    pub drain_timeout: Duration,
}

/// What is not in the YAML.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where Workloads run.
    pub placement: Placement,
    /// Where state is kept; none: in the directory.
    pub state_dir: Option<PathBuf>,
    /// On loopback, or on the bridge of the namespaces.
    pub control_plane_port: u16,
    /// On loopback.
    pub control_plane_admin_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            placement: Placement::Machine,
            state_dir: None,
            control_plane_port: 15012,
            control_plane_admin_port: 15014,
        }
    }
}

/// A child may take so much longer than the mesh's drain timeout before it is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

impl Plan {
    /// Reads and checks a directory as the control plane would.
    pub fn read(directory: &Path, options: Options) -> Result<Self, Vec<Problem>> {
        let mesh = crate::policy::load(directory)?;
        Ok(Self::of(&mesh, directory, options))
    }

    /// The plan for what was read from a directory.
    pub fn of(mesh: &Mesh, directory: &Path, options: Options) -> Self {
        let state_dir = options
            .state_dir
            .unwrap_or_else(|| Self::default_state_dir(directory));
        let id = Id::of(&resolved(&state_dir));
        let Sorted {
            workloads,
            elsewhere,
            misplaced,
        } = Sorted::of(mesh, &id, options.placement);
        let v6 = netns::has_v6();
        let names = describe::names(mesh, netns::hostname(), v6);
        let network = (options.placement == Placement::Namespaces).then(|| {
            let mut layout = describe::layout(id, &mesh.settings().network, &names, &workloads);
            if !v6 {
                layout.without_v6();
            }
            layout
        });
        let host = network.as_ref().and_then(Layout::host);
        Self {
            directory: directory.to_path_buf(),
            state_dir,
            control_plane: SocketAddr::new(host.unwrap_or(LOOPBACK), options.control_plane_port),
            control_plane_admin: SocketAddr::new(LOOPBACK, options.control_plane_admin_port),
            trust_domain: mesh.settings().trust_domain.clone(),
            workloads,
            elsewhere,
            misplaced,
            network,
            names,
            drain_timeout: mesh.settings().drain_timeout,
        }
    }

    /// What it was made with beside the directory.
    pub fn options(&self) -> Options {
        Options {
            placement: match self.network {
                Some(_) => Placement::Namespaces,
                None => Placement::Machine,
            },
            state_dir: Some(self.state_dir.clone()),
            control_plane_port: self.control_plane.port(),
            control_plane_admin_port: self.control_plane_admin.port(),
        }
    }

    /// The Workload of this full name.
    pub(super) fn of_full_name(&self, name: &str) -> Option<&WorkloadPlan> {
        let mut workloads = self.workloads.iter();
        workloads.find(|workload| workload.full_name() == name)
    }

    /// Leaves those as they run that would be started as they were.
    pub(super) fn keep_running(&mut self, running: &[WorkloadPlan]) {
        for workload in &mut self.workloads {
            if let Some(as_it_was) = running.iter().find(|it| it.starts_as(workload)) {
                workload.label.clone_from(&as_it_was.label);
                workload.app_ports.clone_from(&as_it_was.app_ports);
            }
        }
    }

    /// Takes a Workload as it runs, or not at all where it does not.
    pub(super) fn refuse(&mut self, name: &str, running: &[WorkloadPlan]) {
        self.workloads
            .retain(|workload| workload.full_name() != name);
        let mut running = running.iter();
        let as_it_was = running.find(|workload| workload.full_name() == name);
        self.workloads.extend(as_it_was.cloned());
    }

    /// Where state is kept unless someone says otherwise: hidden, so that it is not read as YAML.
    pub fn default_state_dir(directory: &Path) -> PathBuf {
        directory.join(".outrider")
    }

    /// How long one step of the drain may take: callers are told first.
    pub fn drain_deadline(&self) -> Duration {
        withdrawal_limit(self.drain_timeout) + self.drain_timeout + DRAIN_GRACE
    }

    /// Every port that the mesh binds on this machine, apps included. What is bound in namespaces is
    /// not among them.
    pub fn ports(&self) -> Vec<PortUse> {
        let own = |address, field: &str| PortUse {
            address,
            owner: "the control plane".to_owned(),
            field: field.to_owned(),
        };
        let mut uses = vec![
            own(self.control_plane, "--control-plane-port"),
            own(self.control_plane_admin, "--control-plane-admin-port"),
        ];
        let here = self
            .workloads
            .iter()
            .filter(|workload| workload.place.is_none());
        uses.extend(here.flat_map(WorkloadPlan::ports));
        uses
    }

    /// Where the trust bundle is written for the sidecars.
    pub fn trust_bundle_file(&self) -> PathBuf {
        self.run_dir().join("trust-bundle.pem")
    }

    /// Where bootstrap tokens are written.
    pub fn token_folder(&self) -> PathBuf {
        self.run_dir().join("tokens")
    }

    /// Where a Workload's bootstrap token is written.
    pub fn token_file(&self, workload: &WorkloadPlan) -> PathBuf {
        let file = format!("{}.{}.jwt", workload.namespace, workload.name);
        self.token_folder().join(file)
    }

    /// Where the sidecars find what they need: those that are not root have no way to the state
    /// directory, which holds the keys.
    fn run_dir(&self) -> PathBuf {
        match &self.network {
            Some(network) => netns::run_dir(&network.id),
            None => self.state_dir.clone(),
        }
    }

    /// The Workload that people call `label`.
    pub fn workload(&self, label: &str) -> Option<&WorkloadPlan> {
        self.workloads
            .iter()
            .find(|workload| workload.label == label)
    }
}

/// Without symbolic links, whether or not its last part is there yet.
fn resolved(path: &Path) -> PathBuf {
    let parent = || {
        let (parent, name) = (path.parent()?, path.file_name()?);
        Some(fs::canonicalize(parent).ok()?.join(name))
    };
    fs::canonicalize(path)
        .ok()
        .or_else(parent)
        .or_else(|| std::path::absolute(path).ok())
        .unwrap_or_else(|| path.to_path_buf())
}
