//! Scene 4: an instance dies without warning.

use std::time::Duration;

use tokio::time::Instant;

use super::{Show, because, millis};
use crate::demo::log::Kind;
use crate::mesh::ChildName;

const SCENE: usize = 4;
const VICTIM: &str = "billing-1";
/// So long is watched after the kill.
const WATCHED: Duration = Duration::from_secs(3);
/// The share of orders that must succeed from the kill on.
const SUCCESS_PERCENT: f64 = 99.0;
/// No order may fail later than this after the kill.
const FAILOVER: Duration = Duration::from_secs(1);
/// How long the restarted instance is waited for.
const LIMIT: Duration = Duration::from_secs(15);

impl Show<'_> {
    pub(super) async fn killed(&self) -> anyhow::Result<()> {
        let (app, sidecar) = (ChildName::app(VICTIM), ChildName::sidecar(VICTIM));
        self.board
            .doing(format!("SIGKILL for {VICTIM} and its sidecar"));
        let killed = Instant::now();
        let (first, second) = tokio::join!(self.mesh.kill(&sidecar), self.mesh.kill(&app));
        first?;
        second?;
        self.claim_failover(killed).await;

        self.board.doing(format!("starting {VICTIM} again"));
        let restarted = Instant::now();
        self.mesh.restart(&sidecar).await?;
        self.mesh.restart(&app).await?;
        let orders = self
            .log
            .until(Kind::Order, restarted, LIMIT, |orders| {
                orders.by.contains_key(VICTIM)
            })
            .await;
        let back = orders.by.contains_key(VICTIM);
        let measured = match back {
            true => format!("{:.2} s after its start", restarted.elapsed().as_secs_f64()),
            false => format!("no order charged by it within {} s", LIMIT.as_secs()),
        };
        self.claim(
            SCENE,
            "the restarted instance takes orders again",
            measured,
            back,
        );
        Ok(())
    }

    /// Traffic goes on through the other instance.
    async fn claim_failover(&self, killed: Instant) {
        let wanted = (WATCHED.as_secs_f64() * f64::from(self.rate)) as usize;
        let orders = self
            .log
            .until(Kind::Order, killed, WATCHED * 3, |orders| {
                orders.calls >= wanted
            })
            .await;
        let success = orders.success_percent();
        let measured = format!(
            "{success:.2} % of {} orders from the kill on, {} charged by billing-2{}",
            orders.calls,
            orders.by.get("billing-2").unwrap_or(&0),
            because(&orders)
        );
        let claim = format!("at least {SUCCESS_PERCENT} % of the orders succeed");
        self.claim(SCENE, &claim, measured, success >= SUCCESS_PERCENT);
        let failover = orders.last_failure.map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(killed)
        });
        let measured = match failover {
            Duration::ZERO => "no order failed at all".to_owned(),
            took => format!(
                "the last failed order ended {} after the kill",
                millis(took)
            ),
        };
        self.claim(
            SCENE,
            "traffic has moved to billing-2 within a second",
            measured,
            failover <= FAILOVER,
        );
    }
}
