//! A mesh on loopback: one control plane and a sidecar for each Workload, each a process.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::http::{self, local};
use crate::manifest::{Service, TRUST_DOMAIN, Workload, spiffe_id};
use crate::metrics::Metrics;
use crate::ports::free_port;
use crate::process::{Finished, Process, command, run};
use crate::wait::{PATIENCE, until};
use crate::{programs, quiet};

/// What a mesh will be.
#[derive(Debug, Default)]
pub struct Builder {
    settings: BTreeMap<String, String>,
    services: Vec<Service>,
    workloads: Vec<Workload>,
    files: Vec<(String, String)>,
    control_plane_arguments: Vec<String>,
    sidecar_arguments: Vec<String>,
}

impl Builder {
    /// A field of MeshConfig.
    pub fn setting(mut self, field: &str, value: impl ToString) -> Self {
        self.settings.insert(field.into(), value.to_string());
        self
    }

    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    pub fn workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// One more file of YAML, such as a policy.
    pub fn file(mut self, name: &str, yaml: impl Into<String>) -> Self {
        self.files.push((name.into(), yaml.into()));
        self
    }

    pub fn control_plane_argument(mut self, argument: impl Into<String>) -> Self {
        self.control_plane_arguments.push(argument.into());
        self
    }

    pub fn sidecar_argument(mut self, argument: impl Into<String>) -> Self {
        self.sidecar_arguments.push(argument.into());
        self
    }

    /// Writes the directory, and starts nothing.
    pub fn prepare(self) -> Result<Mesh> {
        let turn = quiet::shared();
        let folder = tempfile::Builder::new().prefix("mesh-").tempdir()?;
        let mesh = Mesh {
            control_plane: None,
            sidecars: self.workloads.iter().map(Sidecar::new).collect(),
            listen: local(free_port()?),
            admin_port: free_port()?,
            control_plane_arguments: self.control_plane_arguments,
            sidecar_arguments: self.sidecar_arguments,
            folder,
            _turn: turn,
        };
        for part in ["config", "state", "logs"] {
            fs::create_dir(mesh.folder.path().join(part))?;
        }
        mesh.write("mesh.yaml", &mesh_config(&self.settings))?;
        for service in &self.services {
            mesh.write(&format!("service-{}.yaml", service.name), &service.yaml())?;
        }
        for workload in &self.workloads {
            mesh.describe(workload)?;
        }
        for (name, yaml) in &self.files {
            mesh.write(name, yaml)?;
        }
        Ok(mesh)
    }

    /// Starts everything, and waits until all of it is ready.
    pub fn start(self) -> Result<Mesh> {
        let mut mesh = self.prepare()?;
        mesh.start_control_plane()?;
        let names: Vec<String> = mesh
            .sidecars
            .iter()
            .map(|sidecar| sidecar.name.clone())
            .collect();
        for name in &names {
            mesh.start_sidecar(name)?;
        }
        for name in &names {
            mesh.ready(name)?;
        }
        Ok(mesh)
    }
}

fn mesh_config(settings: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n  \
         trustDomain: {TRUST_DOMAIN}\n"
    );
    for (field, value) in settings {
        text.push_str(&format!("  {field}: {value}\n"));
    }
    text
}

/// One sidecar: its Workload, and its process once started.
#[derive(Debug)]
pub struct Sidecar {
    pub name: String,
    pub workload: Workload,
    pub process: Option<Process>,
}

impl Sidecar {
    fn new(workload: &Workload) -> Self {
        Self {
            name: workload.name.clone(),
            workload: workload.clone(),
            process: None,
        }
    }

    /// The process, which was started.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .with_context(|| format!("{} was not started", self.name))
    }

    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.workload.telemetry_port)
    }
}

/// A mesh that runs. Fields are dropped in this order: processes before their directory.
#[derive(Debug)]
pub struct Mesh {
    sidecars: Vec<Sidecar>,
    control_plane: Option<Process>,
    listen: SocketAddr,
    admin_port: u16,
    control_plane_arguments: Vec<String>,
    sidecar_arguments: Vec<String>,
    folder: TempDir,
    _turn: quiet::Turn,
}

impl Mesh {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The Service `billing` (port 80, at `app_port`, of the workload `billing-1`), and its caller
    /// `order-1`, which reaches it through its HTTP port and through a port of its own.
    pub fn pair(app_port: u16, protocol: Option<&str>) -> Result<Builder> {
        Ok(Self::builder()
            .service(Service::new("billing").port(80, app_port, protocol))
            .workload(Workload::new("billing-1")?.port("app", app_port, protocol))
            .workload(Workload::new("order-1")?.upstream("billing", 80)?))
    }

    pub fn config_dir(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where logs go, and whatever a test wants gone afterwards.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The control plane's gRPC address.
    pub fn control_plane_address(&self) -> SocketAddr {
        self.listen
    }

    pub fn control_plane_admin(&self) -> u16 {
        self.admin_port
    }

    /// Writes a file of the watched directory in one step, as editors and `kubectl` do.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let draft = self.folder.path().join(format!("{name}.draft"));
        fs::write(&draft, yaml)?;
        fs::rename(&draft, self.config_dir().join(name))?;
        Ok(())
    }

    fn describe(&self, workload: &Workload) -> Result<()> {
        let name = format!("workload-{}.yaml", workload.name);
        self.write(&name, &workload.yaml())
    }

    /// One more Workload while the mesh runs: its file, and then its sidecar, not waited for.
    pub fn add(&mut self, workload: &Workload) -> Result<()> {
        self.describe(workload)?;
        self.sidecars.push(Sidecar::new(workload));
        self.start_sidecar(&workload.name)
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.config_dir().join(name))?)
    }

    pub fn start_control_plane(&mut self) -> Result<()> {
        let mut start = command(&programs::outrider()?)?;
        start
            .arg("control-plane")
            .arg("--config-dir")
            .arg(self.config_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(["--listen", &self.listen.to_string()])
            .args(["--admin", &local(self.admin_port).to_string()])
            .args(&self.control_plane_arguments);
        self.control_plane = Some(Process::start("control-plane", &self.logs(), &mut start)?);
        let port = self.admin_port;
        let process = self.control_plane()?;
        until("the control plane is ready", PATIENCE, || {
            ensure!(process.running(), "it ended:\n{}", process.log());
            Ok(http::fetch(port, "/ready")?.status == 200)
        })
    }

    pub fn control_plane(&mut self) -> Result<&mut Process> {
        self.control_plane
            .as_mut()
            .context("the control plane was not started")
    }

    pub fn control_plane_metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.admin_port)
    }

    /// A bootstrap token for a ServiceAccount, from `outrider token`.
    pub fn token(&self, account: &str) -> Result<String> {
        let finished = self.mint(&["--spiffe", &spiffe_id(account)])?.success()?;
        Ok(finished.stdout.trim().to_owned())
    }

    /// Runs `outrider token` on this mesh's state.
    pub fn mint(&self, arguments: &[&str]) -> Result<Finished> {
        let mut mint = command(&programs::outrider()?)?;
        mint.arg("token")
            .arg("--state-dir")
            .arg(self.state_dir())
            .args(arguments);
        run(&mut mint, PATIENCE)
    }

    /// Starts a sidecar with a token of its own, without waiting for it.
    pub fn start_sidecar(&mut self, name: &str) -> Result<()> {
        let identity = self.sidecar(name)?.workload.spiffe_id();
        let finished = self.mint(&["--spiffe", &identity])?.success()?;
        let token = finished.stdout.trim().to_owned();
        self.start_sidecar_with(name, &token)
    }

    /// Starts a sidecar with a given token, without waiting for it.
    pub fn start_sidecar_with(&mut self, name: &str, token: &str) -> Result<()> {
        let token_file = self.folder.path().join(format!("{name}.token"));
        fs::write(&token_file, token)?;
        let workload = &self.sidecar(name)?.workload;
        let mut start = programs::sidecar()?;
        start
            .args(["--control-plane", &self.listen.to_string()])
            .args(["--trust-domain", TRUST_DOMAIN])
            .arg("--trust-bundle")
            .arg(self.state_dir().join("ca.crt"))
            .arg("--token-file")
            .arg(token_file)
            .args(["--workload", &format!("{}/{name}", workload.namespace)])
            .args(["--admin", &local(workload.admin_port).to_string()])
            .args(["--telemetry", &local(workload.telemetry_port).to_string()])
            .arg("--handover")
            .arg(self.folder.path().join(format!("{name}.sock")))
            .args(&self.sidecar_arguments);
        let process = Process::start(name, &self.logs(), &mut start)?;
        self.sidecar_mut(name)?.process = Some(process);
        Ok(())
    }

    /// Starts another process for a sidecar, which takes the ports of the one that runs. Returns that
    /// one once it has been relieved.
    pub fn replace_sidecar(&mut self, name: &str) -> Result<Process> {
        let before = self.sidecar_mut(name)?.process.take();
        let mut before = before.with_context(|| format!("{name} was not started"))?;
        self.start_sidecar(name)?;
        before.wait_for_log("replaced", PATIENCE)?;
        Ok(before)
    }

    /// Waits until a sidecar says it is ready.
    pub fn ready(&mut self, name: &str) -> Result<()> {
        let sidecar = self.sidecar_mut(name)?;
        let port = sidecar.workload.telemetry_port;
        let process = sidecar.process()?;
        until(&format!("the sidecar of {name} is ready"), PATIENCE, || {
            ensure!(process.running(), "it ended:\n{}", process.log());
            Ok(http::fetch(port, "/ready")?.status == 200)
        })
    }

    pub fn sidecar(&self, name: &str) -> Result<&Sidecar> {
        let found = self.sidecars.iter().find(|sidecar| sidecar.name == name);
        found.with_context(|| format!("no Workload {name}"))
    }

    pub fn sidecar_mut(&mut self, name: &str) -> Result<&mut Sidecar> {
        let found = self
            .sidecars
            .iter_mut()
            .find(|sidecar| sidecar.name == name);
        found.with_context(|| format!("no Workload {name}"))
    }

    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.sidecar_mut(name)?.process()
    }

    pub fn metrics(&self, name: &str) -> Result<Metrics> {
        self.sidecar(name)?.metrics()
    }

    /// The HTTP port of a workload, which routes by authority.
    pub fn http(&self, name: &str) -> Result<SocketAddr> {
        Ok(local(self.sidecar(name)?.workload.http_port))
    }

    /// A workload's own port for a Service.
    pub fn upstream(&self, name: &str, service: &str, port: u16) -> Result<SocketAddr> {
        let found = self.sidecar(name)?.workload.local_port(service, port);
        found
            .map(local)
            .with_context(|| format!("{name} has no upstream {service}:{port}"))
    }

    /// The port on which peers dial a workload's sidecar.
    pub fn mesh_port(&self, name: &str) -> Result<SocketAddr> {
        Ok(local(self.sidecar(name)?.workload.mesh_port))
    }

    /// The folder of a mesh, for files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
