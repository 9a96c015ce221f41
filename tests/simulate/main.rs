//! Outrider's decisions about traffic, simulated: many callers, failing servers, a clock that is
//! moved by hand, one seed. The decisions are the sidecar's own code (`outrider_proxy::traffic`).
//!
//! `cargo run -p mesh-tests --release --bin mesh-simulate -- [--seed N] [--write docs]`

mod measured;
mod queue;
mod report;
mod scenario;
mod server;
mod sidecar;
mod world;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};

use measured::Measured;
use scenario::Scenario;
use sidecar::Policy;

/// Each scenario is run with so many seeds, one after the other.
const SEEDS: u64 = 5;

fn main() -> anyhow::Result<()> {
    let (seed, directory) = arguments(std::env::args().skip(1))?;
    let mut results = Vec::new();
    for scenario in scenario::all() {
        let measured = policies().map(|policy| several(&scenario, &policy, seed));
        results.push((scenario, measured));
    }
    let table = report::table(&mut results);
    std::io::stdout().write_all(table.as_bytes())?;
    if let Some(directory) = directory {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("simulation.md", report::document(&table, seed, SEEDS))?;
        write("simulation.svg", report::plot(&results))?;
    }
    Ok(())
}

/// What is compared.
fn policies() -> [Policy; 3] {
    [
        Policy::Nothing,
        Policy::NaiveRetries(3),
        Policy::Outrider(Box::default()),
    ]
}

fn several(scenario: &Scenario, policy: &Policy, seed: u64) -> Measured {
    let mut measured = Measured::new(scenario);
    for seed in seed..seed + SEEDS {
        measured.add(world::run(scenario, policy, seed));
    }
    measured
}

fn arguments(mut given: impl Iterator<Item = String>) -> anyhow::Result<(u64, Option<PathBuf>)> {
    let (mut seed, mut directory) = (1, None);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seed" => seed = value.parse().context("--seed is not a number")?,
            "--write" => directory = Some(PathBuf::from(value)),
            _ => bail!("unknown argument {name}"),
        }
    }
    Ok((seed, directory))
}
