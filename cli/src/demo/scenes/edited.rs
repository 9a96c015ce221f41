//! Scene 3: a policy file is edited while traffic flows.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Show, millis, poll_until};
use crate::demo::log::{Kind, Outcome};
use crate::demo::stage;
use crate::telemetry;

const SCENE: usize = 3;
const FILE: &str = "policy-order.yaml";
const RULE: &str = "read-orders";
/// An edit must be in force by then.
const SECOND: Duration = Duration::from_secs(1);
/// How long an edit is waited for before the scene gives up.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);
/// So many looks must still be refused after the bad edit.
const LOOKS: usize = 20;

impl Show<'_> {
    pub(super) async fn edited(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let original = self.stage.read(FILE)?;
        let stricter = self.stage.without_rule(FILE, RULE)?;

        self.board
            .doing(format!("taking the rule {RULE} out of {FILE}"));
        self.stage.write(FILE, &stricter)?;
        let took = self
            .until_look(|outcome| matches!(outcome, Outcome::Refused { .. }))
            .await;
        self.claim_edit(
            "a call is refused within a second of the edit that forbids it",
            took,
        );

        self.board.doing(format!("saving {FILE} with a mistake"));
        self.stage
            .write(FILE, &stage::with_typo(FILE, &original)?)?;
        self.claim_bad_edit().await;

        self.board.doing(format!("putting the rule {RULE} back"));
        self.stage.write(FILE, &original)?;
        let took = self
            .until_look(|outcome| matches!(outcome, Outcome::Good { .. }))
            .await;
        self.claim_edit(
            "and allowed within a second of the edit that allows it",
            took,
        );
        self.claim_no_order_lost(SCENE, started);
        Ok(())
    }

    fn claim_edit(&self, claim: &str, took: Option<Duration>) {
        let measured = match took {
            Some(took) => format!("{} until the first such answer", millis(took)),
            None => format!("not within {} s", LIMIT.as_secs()),
        };
        self.claim(
            SCENE,
            claim,
            measured,
            took.is_some_and(|took| took <= SECOND),
        );
    }

    /// Looks at the orders until the outcome is the one; how long after now that look was made.
    async fn until_look(&self, wanted: impl Fn(&Outcome) -> bool) -> Option<Duration> {
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            let look = self.traffic.look().await;
            if wanted(&look.outcome) {
                return Some(look.started + look.latency - started);
            }
            sleep(PAUSE).await;
        }
        None
    }

    /// The bad edit is noticed and reported, and the last good policy stays.
    async fn claim_bad_edit(&self) {
        let admin = self.mesh.plan().control_plane_admin;
        let reported = poll_until(LIMIT, || async move {
            let metrics = telemetry::scrape_one(admin).await;
            metrics.and_then(|metrics| metrics.sum("outrider_control_plane_config_valid"))
                == Some(0.0)
        })
        .await;
        let since = Instant::now();
        for _ in 0..LOOKS {
            self.traffic.look().await;
        }
        let looks = self.log.since(Kind::Look, since);
        let measured = format!(
            "{}; {} of {} calls still refused",
            match reported {
                Some(took) => format!("reported as invalid after {}", millis(took)),
                None => format!("not reported within {} s", LIMIT.as_secs()),
            },
            looks.refused,
            looks.calls
        );
        let holds = reported.is_some() && looks.calls >= LOOKS && looks.refused == looks.calls;
        self.claim(
            SCENE,
            "a bad edit keeps the last good policy",
            measured,
            holds,
        );
    }
}
