//! Scene 6: an instance answers, but late.

use std::time::Duration;

use outrider_shop::control::Mode;
use tokio::time::Instant;

use super::{Show, millis};
use crate::demo::log::Kind;
use crate::telemetry;

const SCENE: usize = 6;
const VICTIM: &str = "billing-2";
/// So much later it answers.
const DELAY: Duration = Duration::from_secs(2);
/// So long is watched.
const WATCHED: Duration = Duration::from_secs(4);
/// The share of orders that must succeed meanwhile.
const SUCCESS_PERCENT: f64 = 99.0;
/// An attempt may take 250 ms (`traffic-billing.yaml`); then there is a backoff and a second one. The
/// rest is room for a busy machine.
const P99: Duration = Duration::from_millis(750);
/// So many calls may meet the slow instance: blindly it would be half of them.
const SLOW_PERCENT: f64 = 10.0;
/// How long the recovery is waited for.
const LIMIT: Duration = Duration::from_secs(10);

impl Show<'_> {
    pub(super) async fn slow(&self) -> anyhow::Result<()> {
        self.board.doing(format!(
            "{VICTIM} takes {} s for every call",
            DELAY.as_secs()
        ));
        let before = telemetry::scrape(self.targets).await;
        let since = Instant::now();
        self.set_mode(VICTIM, Mode::Slow(DELAY)).await?;
        self.claim_most_succeed(SCENE, since, WATCHED, SUCCESS_PERCENT)
            .await;
        let orders = self.log.since(Kind::Order, since);
        let measured = format!(
            "p50 {}, p99 {} of {} orders, while an answer of {VICTIM} takes {} s",
            orders.p50.map_or_else(|| "-".to_owned(), millis),
            orders.p99.map_or_else(|| "-".to_owned(), millis),
            orders.calls,
            DELAY.as_secs()
        );
        self.claim(
            SCENE,
            &format!("the p99 of orders stays below {} ms", P99.as_millis()),
            measured,
            orders.p99.is_some_and(|p99| p99 < P99),
        );

        let row = self.billing_row(&before, since).await?;
        let timed_out: f64 = row.retries.values().sum();
        let calls = row.per_second * since.elapsed().as_secs_f64();
        let share = 100.0 * timed_out / calls.max(1.0);
        let measured = format!("{timed_out:.0} of {calls:.0} calls had to be tried again");
        self.claim(
            SCENE,
            "few calls wait for the slow instance",
            measured,
            share <= SLOW_PERCENT,
        );

        self.board.doing(format!("{VICTIM} is fast again"));
        self.set_mode(VICTIM, Mode::Ok).await?;
        self.claim_recovery(SCENE, VICTIM, LIMIT).await;
        Ok(())
    }
}
