//! The sidecar as a program of its own, `init`, which runs before it, and `wait`, which runs beside it.

use std::io;
use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};
use outrider_proxy::Args;
use outrider_proxy::init::{self, InitArgs};
use outrider_proxy::wait::{self, WaitArgs};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is given to `init` or `wait` and what is given to the sidecar are read apart: the sidecar's
/// variables may be set where they run.
fn dispatch() -> anyhow::Result<()> {
    let matches = command().get_matches();
    if let Some(("init", matches)) = matches.subcommand() {
        let args = InitArgs::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
        return Ok(init::run(&args, &mut io::stdout())?);
    }
    if let Some(("wait", matches)) = matches.subcommand() {
        let args = WaitArgs::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
        return Ok(wait::run(&args)?);
    }
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    outrider_proxy::run(args)
}

fn command() -> clap::Command {
    Args::augment_args(clap::Command::new("outrider-proxy"))
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(InitArgs::augment_args(clap::Command::new("init")))
        .subcommand(WaitArgs::augment_args(clap::Command::new("wait")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_sidecar_runs_without_a_word() {
        let words = [
            "outrider-proxy",
            "--workload",
            "shop/order-1",
            "--trust-bundle",
            "ca.crt",
        ];
        let matches = command().try_get_matches_from(words.iter().chain(&["--token-file", "t"]));
        assert!(matches.unwrap().subcommand().is_none());
        assert!(command().try_get_matches_from(words).is_err());
        let matches = command().try_get_matches_from(["outrider-proxy", "init", "--check"]);
        assert_eq!(matches.unwrap().subcommand_name(), Some("init"));
        let matches = command().try_get_matches_from(["outrider-proxy", "wait"]);
        assert_eq!(matches.unwrap().subcommand_name(), Some("wait"));
    }
}
