//! The bench: what a pair of sidecars costs, beside pairs of others, on one machine in one sitting.
//!
//! All pairs run at once and take turns, round after round; what counts is the ratio of medians.
//! CPU is user and system time of a pair's processes over the requests that the app counted.
//! `tests/bench/run` builds and installs what it needs.
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

mod arguments;
mod backend;
mod document;
mod instructions;
mod intercept;
mod load;
mod marks;
mod memory;
mod open;
mod outrider;
mod peers;
mod report;
mod results;
mod systems;
mod template;
mod workload;

use std::fs;

use anyhow::{Result, ensure};
use clap::Parser;
use mesh_tests::process::keep_output_to_files;
use mesh_tests::programs::target;
use rustix::process::{Resource, getrlimit, setrlimit};

use arguments::Arguments;
use backend::Backend;
use results::Results;
use systems::{Pair, System};

fn main() -> Result<()> {
    keep_output_to_files();
    raise_file_limit();
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.instructions {
        return instructions::measure(folder, arguments.write);
    }
    let systems = systems(&arguments)?;
    let backend = Backend::start(arguments.app_port)?;
    let mut results = Results::default();
    // What fails takes nothing of the rest with it, and is said at the end.
    let failures: Vec<anyhow::Error> = [
        memory::measure(&arguments, &systems, &backend, &mut results),
        loads(&arguments, &systems, &backend, &mut results),
        interception(&arguments, &systems, &mut results),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect();
    print!("{}", report::table(&results));
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let json = serde_json::to_string_pretty(&results.json())?;
    fs::write(folder.join("results.json"), json)?;
    fs::write(folder.join("report.html"), report::page(&results))?;
    if arguments.document {
        document::write(&arguments, &results)?;
    }
    println!("\nin {}: results.json, report.html", folder.display());
    for failure in &failures {
        eprintln!("not measured: {failure:#}");
    }
    ensure!(failures.is_empty(), "not everything was measured");
    Ok(())
}

/// Thousands of connections, also of the load generators and proxies, which inherit it.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is forbidden, opening files will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn systems(arguments: &Arguments) -> Result<Vec<System>> {
    let mut systems = match arguments.systems.as_slice() {
        [] => System::ALL.to_vec(),
        names => names
            .iter()
            .map(|name| System::of(name))
            .collect::<Result<_>>()?,
    };
    systems.extend(arguments.pair.iter().cloned().map(System::Given));
    Ok(systems)
}

/// Every workload, round after round, in each round one pair after the other.
fn loads(
    arguments: &Arguments,
    systems: &[System],
    backend: &Backend,
    results: &mut Results,
) -> Result<()> {
    let wanted: Vec<_> = workload::ALL
        .iter()
        .filter(|workload| arguments.wants(workload.name))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut pairs = systems
        .iter()
        .map(|system| system.prepare(backend)?.start())
        .collect::<Result<Vec<Pair>>>()?;
    for round in 1..=arguments.rounds() {
        for workload in &wanted {
            eprintln!(
                "round {round} of {}: {}",
                arguments.rounds(),
                workload.about
            );
            for pair in &mut pairs {
                workload.measure(pair, backend, arguments.time(), results)?;
            }
            // Whoever comes after whom: not always the same.
            pairs.rotate_left(1);
        }
    }
    Ok(())
}

/// New connections through interception, for which namespaces must be made.
fn interception(arguments: &Arguments, systems: &[System], results: &mut Results) -> Result<()> {
    if !arguments.wants(intercept::WORKLOAD) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        println!("{} was left out: it needs root", intercept::WORKLOAD);
        return Ok(());
    }
    let arranged = systems.iter().map(intercept::arrange);
    let arranged = arranged.collect::<Result<Vec<_>>>()?;
    for round in 1..=arguments.rounds() {
        eprintln!(
            "round {round} of {}: {}",
            arguments.rounds(),
            intercept::WORKLOAD
        );
        for arrangement in arranged.iter().flatten() {
            intercept::measure(arrangement, arguments.time(), results)?;
        }
    }
    Ok(())
}
