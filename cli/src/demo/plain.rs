//! The demo without a terminal: lines, or one JSON document.

use tokio::sync::mpsc;

use super::board::{Claim, Step};
use crate::output::{self, Palette, Table};
use crate::telemetry::edges::Row;

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Scenes, claims and edges.
    Everything,
    /// A line for each claim.
    Claims,
    /// Nothing yet: the JSON document comes at the end.
    Nothing,
}

/// Prints steps as they come, until the board is dropped; returns the claims.
pub(super) async fn run(mut steps: mpsc::UnboundedReceiver<Step>, detail: Detail) -> Vec<Claim> {
    let palette = Palette::for_stdout();
    let mut claims = Vec::new();
    while let Some(step) = steps.recv().await {
        match step {
            Step::Scene(heading) if detail == Detail::Everything => {
                output::line(format_args!(
                    "\n{} of 6: {}\n{}",
                    heading.number, heading.title, heading.shows
                ));
            }
            Step::Edges(rows) if detail == Detail::Everything => output::line(table(&rows)),
            Step::Claimed(claim) => {
                if detail != Detail::Nothing {
                    output::line(claim_line(&claim, palette));
                }
                claims.push(claim);
            }
            Step::Scene(_) | Step::Edges(_) => {}
        }
    }
    claims
}

fn claim_line(claim: &Claim, palette: Palette) -> String {
    let mark = if claim.holds {
        palette.good("ok    ")
    } else {
        palette.bad("FAILED")
    };
    format!(
        "{mark}  {}. {}: {}",
        claim.scene, claim.claim, claim.measured
    )
}

/// The edges as an aligned table.
pub(super) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "CALLER", "CALLEE", "REQ/S", "SUCCESS", "P50", "P99", "REFUSED",
    ]);
    for row in rows {
        table.row([
            row.edge.source.clone(),
            row.edge.destination.clone(),
            format!("{:.1}", row.per_second),
            row.success.map_or_else(
                || "-".to_owned(),
                |success| format!("{:.1} %", success * 100.0),
            ),
            latency(row.p50_ms),
            latency(row.p99_ms),
            refusals(row),
        ]);
    }
    table
}

/// "1.5 ms", or "-" without calls.
pub(super) fn latency(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms"))
}

/// "5 authorization_denied", or "-".
pub(super) fn refusals(row: &Row) -> String {
    if row.refused.is_empty() {
        return "-".to_owned();
    }
    let reasons: Vec<String> = row
        .refused
        .iter()
        .map(|(reason, count)| format!("{count:.0} {reason}"))
        .collect();
    reasons.join(", ")
}
