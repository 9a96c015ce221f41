//! What a mesh on this machine consists of: every process with its arguments, environment and
//! ports. Read from the index of the directory; nothing is started here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrider_api::manifest::Problem;
use outrider_certs::spiffe::TrustDomain;
use outrider_control_plane::index::Mesh;

use super::child::Spec;
use super::event::ChildName;
use super::ports::{self, PortUse};
use super::workload::LOOPBACK;
pub use super::workload::{UpstreamPlan, WorkloadPlan};

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
    /// How long a sidecar that ends lets requests finish.
    pub drain_timeout: Duration,
}

/// What is not in the YAML.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where state is kept; none: in the directory.
    pub state_dir: Option<PathBuf>,
    /// On loopback.
    pub control_plane_port: u16,
    /// On loopback.
    pub control_plane_admin_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
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
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for name in mesh.workloads().keys() {
            *names.entry(&name.name).or_default() += 1;
        }
        let all = mesh.workloads().values().filter_map(|workload| {
            let spec = mesh.spec(&workload.namespace, &workload.name)?;
            let unique = names.get(workload.name.as_str()) == Some(&1);
            Some(WorkloadPlan::new(workload, spec, unique))
        });
        let (workloads, elsewhere): (Vec<_>, Vec<_>) =
            all.partition(|workload| ports::is_local(workload.address));
        Self {
            directory: directory.to_path_buf(),
            state_dir: options
                .state_dir
                .unwrap_or_else(|| Self::default_state_dir(directory)),
            control_plane: SocketAddr::new(LOOPBACK, options.control_plane_port),
            control_plane_admin: SocketAddr::new(LOOPBACK, options.control_plane_admin_port),
            trust_domain: mesh.settings().trust_domain.clone(),
            workloads,
            elsewhere: elsewhere
                .into_iter()
                .map(|workload| format!("{}/{}", workload.namespace, workload.name))
                .collect(),
            drain_timeout: mesh.settings().drain_timeout,
        }
    }

    /// Where state is kept unless someone says otherwise: hidden, so that it is not read as YAML.
    pub fn default_state_dir(directory: &Path) -> PathBuf {
        directory.join(".outrider")
    }

    /// How long one step of the drain may take.
    pub fn drain_deadline(&self) -> Duration {
        self.drain_timeout + DRAIN_GRACE
    }

    /// Every port that the mesh binds, apps included.
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
        uses.extend(self.workloads.iter().flat_map(WorkloadPlan::ports));
        uses
    }

    /// The control plane's process.
    pub fn control_plane_spec(&self, exe: &Path) -> Spec {
        let args: Vec<OsString> = vec![
            "control-plane".into(),
            "--config-dir".into(),
            self.directory.clone().into(),
            "--state-dir".into(),
            self.state_dir.clone().into(),
            "--listen".into(),
            self.control_plane.to_string().into(),
            "--admin".into(),
            self.control_plane_admin.to_string().into(),
        ];
        supervised(
            ChildName::control_plane(),
            exe,
            exe.into(),
            args,
            Vec::new(),
        )
    }

    /// A Workload's sidecar.
    pub fn sidecar_spec(&self, exe: &Path, workload: &WorkloadPlan) -> Spec {
        let args: Vec<OsString> = vec![
            "proxy".into(),
            "--control-plane".into(),
            self.control_plane.to_string().into(),
            "--trust-domain".into(),
            self.trust_domain.to_string().into(),
            "--trust-bundle".into(),
            self.trust_bundle_file().into(),
            "--token-file".into(),
            self.token_file(workload).into(),
            "--workload".into(),
            format!("{}/{}", workload.namespace, workload.name).into(),
            "--admin".into(),
            workload.admin().to_string().into(),
            "--telemetry".into(),
            workload.telemetry().to_string().into(),
        ];
        supervised(
            ChildName::sidecar(&workload.label),
            exe,
            exe.into(),
            args,
            Vec::new(),
        )
    }

    /// A Workload's app, when it has a command. `program` is where its first word was found.
    pub fn app_spec(&self, exe: &Path, program: PathBuf, workload: &WorkloadPlan) -> Option<Spec> {
        let (_, args) = workload.command.split_first()?;
        let args = args.iter().map(OsString::from).collect();
        let mut env = workload.app_env();
        env.extend(self.path_env(exe));
        env.extend(
            workload
                .env
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Some(supervised(
            ChildName::app(&workload.label),
            exe,
            program.into(),
            args,
            env,
        ))
    }

    /// Where the trust bundle is written for the sidecars.
    pub fn trust_bundle_file(&self) -> PathBuf {
        self.state_dir.join("trust-bundle.pem")
    }

    /// Where a Workload's bootstrap token is written.
    pub fn token_file(&self, workload: &WorkloadPlan) -> PathBuf {
        self.state_dir
            .join("tokens")
            .join(format!("{}.{}.jwt", workload.namespace, workload.name))
    }

    /// The Workload that people call `label`.
    pub fn workload(&self, label: &str) -> Option<&WorkloadPlan> {
        self.workloads
            .iter()
            .find(|workload| workload.label == label)
    }

    /// This program's own folder first in PATH, so that a command finds the `outrider` beside it.
    fn path_env(&self, exe: &Path) -> Option<(OsString, OsString)> {
        let mut folders = vec![exe.parent()?.to_path_buf()];
        if let Some(path) = std::env::var_os("PATH") {
            folders.extend(std::env::split_paths(&path));
        }
        Some(("PATH".into(), std::env::join_paths(folders).ok()?))
    }
}

/// Runs through `outrider supervised`, which ends the program when this process ends.
fn supervised(
    name: ChildName,
    exe: &Path,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
) -> Spec {
    let mut all: Vec<OsString> = vec![
        "supervised".into(),
        "--parent".into(),
        std::process::id().to_string().into(),
        "--".into(),
        program,
    ];
    all.extend(args);
    Spec {
        name,
        program: exe.to_path_buf(),
        args: all,
        env,
    }
}
