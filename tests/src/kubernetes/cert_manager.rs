//! cert-manager: its own controllers, in a process of this machine, for one namespace.

use anyhow::{Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::definitions::Definitions;
use super::{Cluster, Namespace};
use crate::api_server::program;
use crate::process::Process;

const DEFINITIONS: [&str; 3] = [
    "cert-manager.io_certificaterequests.yaml",
    "cert-manager.io_certificates.yaml",
    "cert-manager.io_issuers.yaml",
];

/// Runs until it is dropped; then its kinds go, too. What it may do is not what is tested: it may do all.
#[derive(Debug)]
pub struct CertManager {
    /// Before the kinds, which it asks for to its end.
    process: Process,
    _definitions: Definitions,
    _folder: TempDir,
}

impl CertManager {
    /// Gives the cluster its kinds, and starts it.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let cluster: &'static Cluster = namespace.cluster();
        let definitions = Definitions::install(cluster, "cert-manager", &DEFINITIONS)?;
        let folder = tempfile::tempdir()?;
        let arguments = ["--namespace", namespace.name(), "--v", "2"];
        let mut start = cluster.command_of(&program("cert-manager")?, &arguments)?;
        Ok(Self {
            process: Process::start("cert-manager", folder.path(), &mut start)?,
            _definitions: definitions,
            _folder: folder,
        })
    }

    /// Has a certificate issued anew, as `cmctl renew` does.
    pub fn renew(&mut self, namespace: &Namespace, certificate: &str) -> Result<()> {
        ensure!(self.process.running(), "it ended:\n{}", self.process.log());
        let issuing = json!([{"op": "add", "path": "/status/conditions/-", "value": {
            "type": "Issuing",
            "status": "True",
            "reason": "ManuallyTriggered",
            "message": "Certificate re-issuance manually triggered",
        }}]);
        let issuing = issuing.to_string();
        namespace.kubectl(&[
            "patch",
            "certificate",
            certificate,
            "--subresource",
            "status",
            "--type",
            "json",
            "--patch",
            &issuing,
        ])?;
        Ok(())
    }
}
