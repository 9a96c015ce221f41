//! The eight scenes. Each states what it shows, does it to the running mesh, and claims only what it
//! then measured from traffic and from the sidecars' own metrics.

mod allowed;
mod billing;
mod edited;
mod failing;
mod killed;
mod outage;
mod refused;
mod rotated;
mod slow;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::board::{Board, Claim, Heading};
use super::log::{Kind, Log, Tally};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::mesh::Mesh;
use crate::telemetry::edges::{self, Scrape};
use crate::telemetry::{self, Target};

/// How often a condition of another process is looked at: it cannot be awaited.
const POLL: Duration = Duration::from_millis(25);

/// How many there are.
pub(super) const COUNT: usize = HEADINGS.len();

const HEADINGS: [Heading; 8] = [
    Heading {
        number: 1,
        title: "An allowed call",
        shows: "A shopper's order crosses four edges, each between two verified identities, each allowed by a rule.",
    },
    Heading {
        number: 2,
        title: "A refused call",
        shows: "notification tries to charge a customer. No rule allows it, so billing's sidecar refuses, and says why.",
    },
    Heading {
        number: 3,
        title: "Policy edited live",
        shows: "A file is edited: the next requests are judged by the new rules. A bad edit changes nothing.",
    },
    Heading {
        number: 4,
        title: "An instance killed",
        shows: "billing-1 and its sidecar are killed with SIGKILL under load. Orders go on through billing-2.",
    },
    Heading {
        number: 5,
        title: "An instance fails",
        shows: "billing-2 answers UNAVAILABLE. What fails is tried on billing-1, and billing-2 is ejected until a probe passes.",
    },
    Heading {
        number: 6,
        title: "An instance is slow",
        shows: "billing-2 takes two seconds. Attempts are cut and tried on billing-1, and billing-2 is left out until a probe is fast.",
    },
    Heading {
        number: 7,
        title: "A certificate rotated",
        shows: "Every sidecar replaces its certificate under load, without losing a request.",
    },
    Heading {
        number: 8,
        title: "The control plane killed",
        shows: "Sidecars keep their last good policy and certificates, and reconnect when it is back.",
    },
];

/// What the scenes play with.
pub(super) struct Show<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) stage: &'a Stage,
    pub(super) traffic: &'a Traffic,
    pub(super) log: &'a Log,
    pub(super) board: &'a Board,
    pub(super) targets: &'a [Target],
    /// Orders per second.
    pub(super) rate: u32,
    /// How long each scene stays on the screen when it is over.
    pub(super) dwell: Duration,
}

impl Show<'_> {
    /// Plays every scene. An error inside a scene is a claim that does not hold.
    pub(super) async fn run(&self) {
        for heading in HEADINGS {
            self.board.scene(heading);
            let before = telemetry::scrape(self.targets).await;
            let started = Instant::now();
            let played = match heading.number {
                1 => self.allowed().await,
                2 => self.refused().await,
                3 => self.edited().await,
                4 => self.killed().await,
                5 => self.failing().await,
                6 => self.slow().await,
                7 => self.rotated().await,
                _ => self.outage().await,
            };
            if let Err(error) = played {
                self.claim(
                    heading.number,
                    "the scene can be played",
                    format!("{error:#}"),
                    false,
                );
            }
            let after = telemetry::scrape(self.targets).await;
            let rows = edges::between(&before, &after, started.elapsed().as_secs_f64());
            self.board.scene_over(rows);
            self.board.doing("");
            sleep(self.dwell).await;
        }
        self.board.over();
    }

    fn claim(&self, scene: usize, claim: &str, measured: String, holds: bool) {
        self.board.claim(Claim {
            scene,
            claim: claim.to_owned(),
            measured,
            holds,
        });
    }

    /// No order was lost since `since`.
    fn claim_no_order_lost(&self, scene: usize, since: Instant) {
        let orders = self.log.since(Kind::Order, since);
        let holds = orders.calls > 0 && orders.good == orders.calls;
        let measured = format!(
            "{} of {} orders failed{}",
            orders.calls - orders.good,
            orders.calls,
            because(&orders)
        );
        self.claim(scene, "no order is lost meanwhile", measured, holds);
    }

    /// One gauge of every sidecar that answers.
    async fn gauges(&self, name: &str) -> BTreeMap<String, f64> {
        let scrape: Scrape = telemetry::scrape(self.targets).await;
        scrape
            .into_iter()
            .filter_map(|(workload, scraped)| Some((workload, scraped.metrics.sum(name)?)))
            .collect()
    }
}

/// " (the first: …)", when something failed.
fn because(tally: &Tally) -> String {
    tally
        .first_failure
        .as_ref()
        .map_or_else(String::new, |why| format!(" (the first: {why})"))
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Looks until `reached` is true; how long that took, or none after `limit`.
async fn poll_until<F: Future<Output = bool>>(
    limit: Duration,
    mut reached: impl FnMut() -> F,
) -> Option<Duration> {
    let started = Instant::now();
    loop {
        if reached().await {
            return Some(started.elapsed());
        }
        if started.elapsed() > limit {
            return None;
        }
        sleep(POLL).await;
    }
}
