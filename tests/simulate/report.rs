//! The results as people read them.

use std::fmt::Write;
use std::time::Duration;

use crate::measured::Measured;
use crate::scenario::Scenario;

const POLICIES: [&str; 3] = ["nothing", "naive retries", "Outrider"];

pub(crate) type Results = Vec<(Scenario, [Measured; 3])>;

/// Markdown.
pub(crate) fn table(results: &mut Results) -> String {
    let mut table = String::from(
        "| scenario | policy | good answers | p50 | p99 | p99.9 | attempts a request | good again after |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (scenario, measured) in results {
        for (policy, measured) in POLICIES.iter().zip(measured) {
            let [median, p99, p999] = measured.latencies([500, 990, 999]).map(milliseconds);
            let recovery = measured.recovery();
            // Infallible for a String.
            let _ = writeln!(
                table,
                "| {} | {policy} | {:.2}% | {median} | {p99} | {p999} | {:.2} | {} |",
                scenario.name,
                measured.goodput(),
                measured.amplification(),
                recovery.map_or_else(String::new, |time| format!("{:.1} s", time.as_secs_f64())),
            );
        }
    }
    table
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

pub(crate) fn document(_table: &str, _seed: u64) -> String {
    String::new()
}
pub(crate) fn plot(_results: &Results) -> String {
    String::new()
}
