//! The sidecar as a program of its own.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "outrider-proxy", version, about)]
struct Command {
    #[command(flatten)]
    args: outrider_proxy::Args,
}

fn main() -> ExitCode {
    match outrider_proxy::run(Command::parse().args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrider-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
