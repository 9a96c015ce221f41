//! tcpdump on the bridge of a mesh: what crosses it, to be searched for what must not.

use std::fs;
use std::path::PathBuf;

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
        let file = mesh.logs().join("bridge.pcap");
        let mut dump = mesh.command(&find("tcpdump", "tcpdump")?)?;
        let bridge = mesh.bridge()?;
        dump.args(["-i", &bridge, "-s", "0", "-U", "--immediate-mode"])
            .args(["-Z", "root", "-w"])
            .arg(&file);
        let dump = Process::start("tcpdump", &mesh.logs(), &mut dump)?;
        let mut dump = dump.stopped_by(Signal::TERM);
        dump.wait_for_log("listening on", PATIENCE)?;
        Ok(Self { dump, file })
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
