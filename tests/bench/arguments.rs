//! The bench's command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::systems::Given;

/// Compares pairs of sidecars on this machine, in one sitting.
#[derive(clap::Parser)]
#[command(name = "tests/bench/run")]
pub(crate) struct Arguments {
    /// One short round: within three minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these workloads: names as the table has them, or the beginnings of such names
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// How often everything is measured
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<u32>,
    /// How long each load of each round lasts
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Only these systems
    #[arg(long, value_name = "SYSTEM", value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    /// One more pair, which runs already and leads to the app of the bench
    #[arg(long, value_name = "NAME=ADDRESS:PORT:PID[,PID][:ENTRY]", value_parser = Given::parse)]
    pub(crate) pair: Vec<Given>,
    /// The port of the bench's app for HTTP/1.1; HTTP/2 and opaque bytes are on the next two
    #[arg(long, value_name = "PORT")]
    pub(crate) app_port: Option<u16>,
    /// Write what was measured into docs/performance.md, too
    #[arg(long)]
    pub(crate) document: bool,
    /// Count instructions for a request, and nothing else (tests/bench/instructions)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) instructions: Option<PathBuf>,
    /// With --instructions: commit what was counted to tests/bench/instructions.txt
    #[arg(long)]
    pub(crate) write: bool,
}

impl Arguments {
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 })
    }

    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 1 } else { 2 }))
    }

    pub(crate) fn wants(&self, workload: &str) -> bool {
        let only = &self.only;
        only.is_empty() || only.iter().any(|name| workload.starts_with(name.as_str()))
    }
}
