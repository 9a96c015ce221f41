//! The control plane: a process of its own, of which memory and processor time are read.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::http::get;
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command, run};
use mesh_tests::programs::outrider;
use mesh_tests::wait::eventually;
use tempfile::TempDir;

/// A mesh of this size is read by then.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct ControlPlane {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    webhook: SocketAddr,
    _folder: TempDir,
}

/// What it has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Bytes.
    pub(crate) resident: u64,
    /// The most that there was, bytes.
    pub(crate) peak: u64,
    pub(crate) cpu: Duration,
}

/// The CustomResourceDefinitions of this version.
pub(crate) fn definitions() -> Result<String> {
    let mut install = command(&outrider()?)?;
    install.args(["install", "--crds", "only"]);
    Ok(run(&mut install, PATIENCE)?.success()?.stdout)
}

impl ControlPlane {
    pub(crate) fn start(kubeconfig: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let [listen, admin, webhook] = [free_port()?, free_port()?, free_port()?]
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut start = command(&outrider()?)?;
        start
            .args(["control-plane", "--kubernetes", "--replica", "scale-1"])
            .arg("--listen")
            .arg(listen.to_string())
            .arg("--admin")
            .arg(admin.to_string())
            .arg("--webhook")
            .arg(webhook.to_string())
            .args(["--webhook-name", "127.0.0.1"])
            // As it is installed.
            .env("MALLOC_ARENA_MAX", "2")
            .env("KUBECONFIG", kubeconfig);
        let process = Process::start("control-plane", folder.path(), &mut start)?;
        Ok(Self {
            process,
            listen,
            admin,
            webhook,
            _folder: folder,
        })
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where it judges policy.
    pub(crate) fn webhook(&self) -> SocketAddr {
        self.webhook
    }

    pub(crate) async fn ready(&mut self) -> Result<()> {
        let admin = self.admin;
        let answered = tokio::task::spawn_blocking(move || {
            eventually("the control plane is ready", PATIENCE, || {
                let answer = get(admin, "control-plane", "/ready");
                Ok(answer
                    .is_ok_and(|answer| answer.status == 200)
                    .then_some(()))
            })
        });
        answered.await?.with_context(|| self.log())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            resident: self.process.resident()?,
            peak: self.process.peak()?,
            cpu: self.process.cpu_time()?,
        })
    }

    pub(crate) fn log(&self) -> String {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
