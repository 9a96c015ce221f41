//! Scene 5: an instance answers, but only to fail.

use std::time::Duration;

use http::StatusCode;
use outrider_shop::control::Mode;
use tokio::time::Instant;

use super::{Show, millis, poll_until};
use crate::telemetry::{self, tables};

const SCENE: usize = 5;
const VICTIM: &str = "billing-2";
/// So long is watched from the first failure on.
const WATCHED: Duration = Duration::from_secs(3);
/// The share of orders that must succeed meanwhile.
const SUCCESS_PERCENT: f64 = 99.0;
/// The breaker must be open by then.
const OPENS: Duration = Duration::from_secs(1);
/// How long a change of the breaker is waited for.
const LIMIT: Duration = Duration::from_secs(10);

impl Show<'_> {
    pub(super) async fn failing(&self) -> anyhow::Result<()> {
        self.board
            .doing(format!("{VICTIM} answers UNAVAILABLE to every call"));
        let before = telemetry::scrape(self.targets).await;
        let since = Instant::now();
        self.set_mode(VICTIM, Mode::Error(StatusCode::SERVICE_UNAVAILABLE))
            .await?;
        let opened = poll_until(LIMIT, || async {
            self.breaker(VICTIM, "open").await == Some(true)
        })
        .await;
        self.claim_most_succeed(SCENE, since, WATCHED, SUCCESS_PERCENT)
            .await;
        let measured = match opened {
            Some(took) => format!("open {} after the first failure", millis(took)),
            None => format!("not open within {} s", LIMIT.as_secs()),
        };
        self.claim(
            SCENE,
            "order's sidecar ejects the instance that fails",
            measured,
            opened.is_some_and(|took| took <= OPENS),
        );
        self.claim_retries(&before, since).await?;

        self.board.doing(format!("{VICTIM} is well again"));
        self.set_mode(VICTIM, Mode::Ok).await?;
        self.claim_recovery(SCENE, VICTIM, LIMIT).await;
        Ok(())
    }

    /// Failures were retried, and retries are few.
    async fn claim_retries(
        &self,
        before: &telemetry::edges::Scrape,
        since: Instant,
    ) -> anyhow::Result<()> {
        let row = self.billing_row(before, since).await?;
        let retries: f64 = row.retries.values().sum();
        let (used, budget) = (
            row.retry_percent.unwrap_or(0.0),
            row.budget_percent.unwrap_or(0),
        );
        let measured = format!(
            "{} in {:.0} calls: {used:.1} % of the calls, {budget} % are allowed",
            tables::counted(&row.retries),
            row.per_second * since.elapsed().as_secs_f64(),
        );
        self.claim(
            SCENE,
            "what failed is tried again elsewhere, within the retry budget",
            measured,
            retries > 0.0 && used <= f64::from(budget),
        );
        Ok(())
    }
}
