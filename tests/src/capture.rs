//! tcpdump on the bridge of a mesh: what crosses it, to be searched for what must not; and between a
//! sidecar and its app, where it is in plaintext.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::placed::Placed;
use crate::process::Process;
use crate::programs::find;
use crate::wait::{PATIENCE, until};

/// Runs until it is dropped or searched.
#[derive(Debug)]
pub struct Capture {
    dump: Process,
    file: PathBuf,
}

impl Capture {
    /// Everything that crosses the bridge of `mesh` from now on.
    pub fn start(mesh: &Placed) -> Result<Self> {
        let dump = mesh.command(&find("tcpdump", "tcpdump")?)?;
        Self::of("bridge", mesh, dump, &mesh.bridge()?)
    }

    /// Everything between the sidecar of a workload and its app.
    pub fn at_app(mesh: &Placed, workload: &str) -> Result<Self> {
        let dump = mesh.inside(workload, "tcpdump", "tcpdump")?;
        Self::of(workload, mesh, dump, "lo")
    }

    fn of(name: &str, mesh: &Placed, mut dump: Command, link: &str) -> Result<Self> {
        let file = mesh.logs().join(format!("{name}.pcap"));
        dump.args(["-i", link, "-s", "0", "-U", "--immediate-mode"])
            .args(["-Z", "root", "-w"])
            .arg(&file);
        let dump = Process::start(&format!("tcpdump-{name}"), &mesh.logs(), &mut dump)?;
        let mut dump = dump.stopped_by(Signal::TERM);
        dump.wait_for_log("listening on", PATIENCE)?;
        Ok(Self { dump, file })
    }

    /// Waits until `marker` is there: so it is found where it is in plaintext.
    pub fn has_in_the_end(&self, marker: &str) -> Result<()> {
        let what = format!("{} has {marker}", self.file.display());
        until(&what, PATIENCE, || self.has(marker))
    }

    /// Fails if `marker` has crossed the bridge in plaintext. What is sent in plaintext last shows that
    /// the capture sees such a thing, and that it is whole.
    pub fn never_has(self, mesh: &Placed, marker: &str) -> Result<()> {
        self.has_none_of(mesh, &[marker])
    }

    /// The same of every one of `markers`.
    pub fn has_none_of(mut self, mesh: &Placed, markers: &[&str]) -> Result<()> {
        let shown = "what-everybody-may-read";
        let bridge = mesh.addresses("client-1", "client-1")?;
        mesh.curl_from_outside(&[&format!("http://{}:1/{shown}", bridge[0])])?;
        until("the capture has what was sent last", PATIENCE, || {
            self.has(shown)
        })?;
        self.dump.terminate()?;
        self.dump.exit(PATIENCE)?;
        for marker in markers {
            ensure!(
                !self.has(marker)?,
                "{marker} crossed the bridge in plaintext"
            );
        }
        Ok(())
    }

    fn has(&self, text: &str) -> Result<bool> {
        let bytes = fs::read(&self.file)?;
        Ok(bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes()))
    }
}
