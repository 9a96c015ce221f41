//! `outrider supervised`: becomes another program that the kernel ends when its supervisor dies,
//! even when that was killed without a chance to clean up.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::args::SupervisedArgs;

/// Returns only when the program cannot be started.
pub(crate) fn run(args: &SupervisedArgs) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot tie this process to its supervisor")?;
    // The supervisor may have died before the line above.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != Some(args.parent) {
        bail!("the supervisor is gone");
    }
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("no program to run");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
