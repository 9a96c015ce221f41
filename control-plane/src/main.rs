//! The control plane as a program of its own.

use std::process::ExitCode;

use clap::Parser;
use outrider_control_plane::Args;
use tokio::signal::unix::{SignalKind, signal};

/// The control plane of an Outrider mesh: certificates, policy and discovery for its sidecars.
#[derive(Parser)]
#[command(name = "outrider-control-plane", version, after_help = EXAMPLES)]
struct Command {
    #[command(flatten)]
    args: Args,
}

const EXAMPLES: &str = "\
Examples:
  # The mesh that a directory describes; it is watched, and edits are applied within a second
  outrider-control-plane --config-dir ./mesh

  # With a certificate authority of your own, reachable from other machines, logging JSON
  outrider-control-plane --config-dir /etc/outrider --state-dir /var/lib/outrider \\
    --ca-cert ca.crt --ca-key ca.key --listen 0.0.0.0:15012 --log-format json

  # The mesh that a Kubernetes cluster holds
  outrider-control-plane --kubernetes

  # Is it ready? What does it do?
  curl http://127.0.0.1:15014/ready
  curl http://127.0.0.1:15014/metrics";

fn main() -> ExitCode {
    let command = Command::parse();
    match start(command.args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        outrider_control_plane::run(args, shutdown).await
    })
}
