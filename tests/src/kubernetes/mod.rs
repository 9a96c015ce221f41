//! A real Kubernetes: [`Cluster`] is one for all tests and runs, and each test has a [`Namespace`] of
//! its own in it.
//!
//! `tests/kubernetes/cluster` brings it up, or takes the one that `KUBECONFIG` names. `tests/run` ends
//! what tests have brought up; a plain `cargo test` leaves it up, for the next one.

mod cert_manager;
mod containers;
mod definitions;
mod image;
mod namespace;
pub mod outrider;
mod rights;
pub mod shop;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

pub use cert_manager::CertManager;
pub use containers::{SIDECAR, container, container_status};
pub use definitions::GatewayApi;
pub use image::{Image, TOOLS};
pub use namespace::{Namespace, PortForward};

use crate::process::{Finished, command, run, run_with_input};
use crate::programs::root;
use crate::wait::eventually_every;

/// What one look or change may take while the machine has much else to do.
const LIMIT: Duration = Duration::from_secs(120);
/// The first time, Kubernetes is built.
const LIMIT_OF_UP: Duration = Duration::from_secs(1800);
/// What pods may take to start, or a controller to do its part.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks with kubectl, which takes some 50 ms of a processor each time.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// The one cluster, which is brought up first if it is not up. [`TOOLS`] is on its nodes.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::up().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("there is no Kubernetes: {error}"))
    }

    fn up() -> Result<Self> {
        let cluster = Self {
            kubeconfig: PathBuf::from(script(&["up", "--temporary"])?),
            kubectl: PathBuf::from(script(&["which", "kubectl"])?),
        };
        namespace::sweep(&cluster)?;
        cluster.load(&image::tools()?)?;
        Ok(cluster)
    }

    /// For programs that take `KUBECONFIG`.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl` with these arguments, to start.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        self.command_of(&self.kubectl, arguments)
    }

    /// A program that takes `KUBECONFIG`, to start.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = command(program)?;
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// What `kubectl` wrote. Fails unless it exits with 0.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.try_kubectl(arguments)?;
        let finished = finished
            .success()
            .with_context(|| format!("kubectl {}", arguments.join(" ")))?;
        Ok(finished.stdout)
    }

    /// Runs `kubectl` to its end; the exit status is the caller's to judge.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        run(&mut self.command(arguments)?, LIMIT)
    }

    /// Like [`Cluster::try_kubectl`], with something to read: for `--filename -`.
    pub fn try_kubectl_with(&self, input: &str, arguments: &[&str]) -> Result<Finished> {
        run_with_input(&mut self.command(arguments)?, input.as_bytes(), LIMIT)
    }

    /// `kubectl apply` of these objects, which name their namespaces themselves.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.try_kubectl_with(yaml, &["apply", "--filename", "-"])?
            .success()
            .with_context(|| format!("kubectl apply of\n{yaml}"))?;
        Ok(())
    }

    /// `kubectl create` of one object, for kinds that answer when they are created, such as reviews.
    pub fn create(&self, object: &Value) -> Result<Value> {
        let created = self
            .try_kubectl_with(
                &object.to_string(),
                &["create", "--output", "json", "--filename", "-"],
            )?
            .success()?;
        Ok(serde_json::from_str(&created.stdout)?)
    }

    /// What `kubectl get` gives.
    pub fn read(&self, arguments: &[&str]) -> Result<Value> {
        let json = self.kubectl(&[&["get", "--output", "json"], arguments].concat())?;
        serde_json::from_str(&json).with_context(|| format!("kubectl get gave {json}"))
    }

    /// Reads until `find` gives something of what `kubectl get` gives, and fails naming `what`, with
    /// what was read last.
    pub fn eventually<T>(
        &self,
        what: &str,
        arguments: &[&str],
        mut find: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = Value::Null;
        eventually_every(INTERVAL, what, PATIENCE, || {
            last = self.read(arguments)?;
            Ok(find(&last))
        })
        .with_context(|| format!("what was read last: {last:#}"))
    }

    /// Gives the nodes the image of an archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        script(&["load", archive.to_str().context("a path in UTF-8")?])?;
        Ok(())
    }

    /// A namespace that is there until it is dropped.
    pub fn namespace(&'static self, label: &str) -> Result<Namespace> {
        Namespace::new(self, label)
    }
}

/// Runs `tests/kubernetes/cluster`, and gives the line that it wrote.
fn script(arguments: &[&str]) -> Result<String> {
    let cluster = root().join("tests/kubernetes/cluster");
    let finished = run(command(&cluster)?.args(arguments), LIMIT_OF_UP)?
        .success()
        .with_context(|| format!("tests/kubernetes/cluster {}", arguments.join(" ")))?;
    let line = finished.stdout.trim();
    ensure!(!line.contains('\n'), "expected one line, got {line}");
    Ok(line.to_owned())
}
