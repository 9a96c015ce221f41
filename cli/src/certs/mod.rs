//! `outrider certs`: the certificates of the sidecars and of the authorities, and how long they last.
//! `rotate` asks the control plane of a cluster for a new authority.

pub(crate) mod authorities;
mod list;
mod rotate;
pub(crate) mod time;

use std::process::ExitCode;

use crate::args::{CertsArgs, CertsCommand};

pub(crate) async fn run(args: CertsArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(CertsCommand::Rotate(args)) => rotate::run(&args).await,
        None => list::run(&args.list).await,
    }
}
