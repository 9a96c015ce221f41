//! The `outrider` command: a mesh on one machine, its demo, and the tools around policy.
//!
//! - [`args`]: what can be typed.
//! - [`output`]: the only module that prints.
//! - [`mesh`]: a running mesh as child processes; `up` and `demo` stand on it.
//! - [`telemetry`]: what sidecars measured, as one row for each edge and each Service.
//! - `kubernetes`: a mesh on a cluster, through its API server.
//! - [`install`]: what the mesh is made of on Kubernetes.
//! - `certs`, `exec`, `inject`, `policy`, `stat`, `token`: the commands of the same names.
//! - `supervised`: the wrapper that every child is started through.
//!
//! Exit status: 0 done (or allowed), 1 it did not work (or refused), 2 the input cannot be used.

pub mod args;
mod certs;
mod demo;
mod exec;
mod fetch;
mod inject;
pub mod install;
mod kubernetes;
pub mod mesh;
pub mod output;
mod policy;
mod stat;
mod stop;
mod supervised;
pub mod telemetry;
mod token;
mod up;

use std::process::ExitCode;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use anyhow::Context as _;

use crate::args::{Command, PolicyCommand};

/// The command did what it should, but the answer is no.
pub(crate) const REFUSED: u8 = 1;
/// What was given cannot be used.
pub(crate) const UNUSABLE: u8 = 2;

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    match dispatch(args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            output::note(format_args!("outrider: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => runtime()?.block_on(demo::run(args)),
        Command::Up(args) => runtime()?.block_on(up::run(args)),
        Command::Check(args) => runtime()?.block_on(kubernetes::check::run(args)),
        Command::Stat(args) => runtime()?.block_on(stat::run(args, stat::Shown::Everything)),
        Command::Edges(args) => runtime()?.block_on(stat::run(args, stat::Shown::Edges)),
        Command::Certs(args) => runtime()?.block_on(certs::run(args)),
        Command::Exec(args) => exec::run(args),
        Command::Install(args) => Ok(install::run(&args)?),
        Command::Uninstall(args) => Ok(runtime()?.block_on(install::run_uninstall(&args))?),
        Command::Policy(PolicyCommand::Check(args)) => Ok(policy::check::run(&args)),
        Command::Policy(PolicyCommand::Test(args)) => {
            Ok(runtime()?.block_on(policy::test::run(&args)))
        }
        Command::Inject(args) => inject::run(&args),
        Command::Explain(args) => Ok(runtime()?.block_on(policy::explain::run(&args))),
        Command::Token(args) => token::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::shown(), "outrider", &mut script);
            output::text(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
        Command::Proxy(args) => outrider_proxy::run(args).map(|()| ExitCode::SUCCESS),
        Command::ProxyInit(args) => {
            let mut report = Vec::new();
            let done = outrider_proxy::init::run(&args, &mut report);
            output::text(&String::from_utf8_lossy(&report));
            Ok(done.map(|()| ExitCode::SUCCESS)?)
        }
        Command::ControlPlane(args) => runtime()?.block_on(async {
            let stop = stop::Signals::watch()?;
            outrider_control_plane::run(args, stop.first()).await?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Shop(args) => {
            log_to_stdout();
            outrider_shop::run(args)
        }
        Command::Supervised(args) => supervised::run(&args),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// The shop's log: its lines are prefixed by `outrider up`, so time and target would be noise.
fn log_to_stdout() {
    let filter = std::env::var("OUTRIDER_LOG").ok();
    let filter = filter.and_then(|filter| filter.parse::<Targets>().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(false)
        .without_time();
    tracing_subscriber::registry()
        .with(filter.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO)))
        .with(lines)
        .init();
}
