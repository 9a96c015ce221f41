//! docs/performance.md: the part of it that holds the newest full run, written anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use mesh_tests::process::{command, run};
use mesh_tests::programs::root;
use mesh_tests::wait::PATIENCE;

use crate::arguments::Arguments;
use crate::marks::judged;
use crate::peers::program;
use crate::report::{figure, metrics, ratio, sorted};
use crate::results::Results;
use crate::systems::System;
use crate::workload::about;

const FILE: &str = "docs/performance.md";
/// The lines between which the run stands.
const BEGIN: &str = "<!-- the newest full run, written by tests/bench/run --document -->\n";
const END: &str = "<!-- end of the run -->\n";

pub(crate) fn write(arguments: &Arguments, results: &Results) -> Result<()> {
    let file = root().join(FILE);
    let text = fs::read_to_string(&file)?;
    let (before, rest) = text.split_once(BEGIN).context("where the run begins")?;
    let (_, after) = rest.split_once(END).context("where the run ends")?;
    let run = format!(
        "{}{}{}",
        machine(arguments)?,
        marks(results),
        tables(results)
    );
    fs::write(file, format!("{before}{BEGIN}\n{run}\n{END}{after}"))?;
    Ok(())
}

/// Where and how it ran.
fn machine(arguments: &Arguments) -> Result<String> {
    let field = |file: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line
            .and_then(|line| line.split_once(':'))
            .context("a field")?
            .1;
        Ok(value.trim().to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut text = format!(
        "Ran on {} cores ({}), {} of memory, Linux {}: {} rounds, {} s for each load.\n",
        available_parallelism()?,
        field("/proc/cpuinfo", "model name")?,
        field("/proc/meminfo", "MemTotal")?,
        kernel.trim(),
        arguments.rounds(),
        arguments.time().as_secs(),
    );
    let versions = [
        (System::Envoy, "--version"),
        (System::HaProxy, "-v"),
        (System::Nginx, "-v"),
    ];
    let told = versions
        .into_iter()
        .map(|(system, flag)| {
            Ok(format!(
                "{} {}",
                system.name(),
                version(&program(&system)?, flag)?
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let _ = writeln!(text, "Beside it: {}.", told.join(", "));
    Ok(text)
}

/// The first number with dots that a program says of itself.
fn version(program: &Path, flag: &str) -> Result<String> {
    let told = run(command(program)?.arg(flag), PATIENCE)?.output();
    let mut words = told.split(|letter: char| letter.is_whitespace() || letter == '/');
    let word = words.find(|word| {
        word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit())
    });
    Ok(word
        .with_context(|| format!("a version in {told}"))?
        .to_owned())
}

fn marks(results: &Results) -> String {
    let mut text = String::from(
        "\n### The marks\n\n| workload | figure | mark | Outrider | ratio | |\n|---|---|---|---|---|---|\n",
    );
    for mark in judged(results) {
        let ratio = mark
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} | {} | {ratio} | {} |",
            mark.workload,
            mark.metric,
            mark.asked,
            figure(mark.ours),
            if mark.holds { "holds" } else { "**missed**" },
        );
    }
    text
}

fn tables(results: &Results) -> String {
    let mut text = String::from("\n### Every workload\n");
    for workload in results.workloads() {
        let metrics = metrics(results, workload);
        let _ = writeln!(text, "\n`{workload}`: {}\n", about(workload));
        let heads: String = metrics
            .iter()
            .map(|metric| format!(" `{metric}` |"))
            .collect();
        let _ = writeln!(text, "| |{heads} ours / theirs |");
        let _ = writeln!(text, "|---|{}", "---|".repeat(metrics.len() + 1));
        for row in sorted(results, workload) {
            let cells: String = metrics
                .iter()
                .map(|metric| {
                    row.median(metric)
                        .map_or_else(|| " |".into(), |value| format!(" {} |", figure(value)))
                })
                .collect();
            let ratio = ratio(results, row).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let _ = writeln!(text, "| {} |{cells} {ratio} |", row.system);
        }
    }
    text
}
