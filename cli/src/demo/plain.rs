//! The demo without a terminal: lines, or one JSON document.

use tokio::sync::mpsc;

use super::board::{Claim, Step};
use super::scenes::COUNT;
use crate::output::{self, Palette};
use crate::telemetry::tables;

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
                    "\n{} of {COUNT}: {}\n{}",
                    heading.number, heading.title, heading.shows
                ));
            }
            Step::Edges(rows) if detail == Detail::Everything => output::line(tables::edges(&rows)),
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
