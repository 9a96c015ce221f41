//! What the scenes with an unwell instance of billing share: making it unwell, and reading how
//! order's sidecar takes it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use outrider_shop::control::Mode;
use tokio::time::Instant;

use super::{Show, because, poll_until};
use crate::demo::log::Kind;
use crate::telemetry::edges::Scrape;
use crate::telemetry::exposition::Exposition;
use crate::telemetry::services::{self, ServiceRow};
use crate::{fetch, policy, telemetry};

/// Who calls billing.
const CALLER: &str = "order-1";
const NAMESPACE: &str = "shop";
const SERVICE: &str = "shop/billing";
/// How long an app may take to change its mode.
const SWITCH: Duration = Duration::from_secs(2);

impl Show<'_> {
    /// Makes the app of one instance well, slow or failing.
    pub(super) async fn set_mode(&self, instance: &str, mode: Mode) -> anyhow::Result<()> {
        let plan = self.mesh.plan();
        let workload = plan.workload(instance);
        // From the app's own side of its sidecar: nobody else is let through to it.
        let door = workload.and_then(|workload| Some(workload.door(workload.app_port("control")?)));
        let door = door.with_context(|| format!("{instance} has no port control"))?;
        let body = Bytes::from(mode.to_string());
        let (status, answer) = fetch::put(&door, "/mode", body, SWITCH).await?;
        if !status.is_success() {
            bail!("{instance}: {status} {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// Whether the breaker of order's sidecar for an instance is in this state; none when it does
    /// not say.
    pub(super) async fn breaker(&self, instance: &str, state: &str) -> Option<bool> {
        let metrics = telemetry::scrape_one(self.mesh.telemetry(CALLER)?).await?;
        metrics
            .named("outrider_endpoint_state")
            .find(|sample| {
                sample.label("service") == SERVICE
                    && sample.label("endpoint") == endpoint(instance)
                    && sample.label("state") == state
            })
            .map(|sample| sample.value > 0.0)
    }

    /// How order treated billing since `since`, when `before` was scraped.
    pub(super) async fn billing_row(
        &self,
        before: &Scrape,
        since: Instant,
    ) -> anyhow::Result<ServiceRow> {
        let mesh = policy::load(self.stage.path())
            .map_err(|problems| anyhow::anyhow!("{} problems in the policy", problems.len()))?;
        let after = telemetry::scrape(self.targets).await;
        let seconds = since.elapsed().as_secs_f64();
        services::between(before, &after, seconds, &services::budgets(&mesh))
            .into_iter()
            .find(|row| row.caller == CALLER && row.service == SERVICE)
            .context("order's sidecar says nothing of billing")
    }

    /// At least `percent` of the orders from `since` on succeed, watched for `watched`.
    pub(super) async fn claim_most_succeed(
        &self,
        scene: usize,
        since: Instant,
        watched: Duration,
        percent: f64,
    ) {
        let wanted = (watched.as_secs_f64() * f64::from(self.rate)) as usize;
        let orders = self
            .log
            .until(Kind::Order, since, watched * 3, |orders| {
                orders.calls >= wanted
            })
            .await;
        let success = orders.success_percent();
        let measured = format!(
            "{success:.2} % of {} orders{}",
            orders.calls,
            because(&orders)
        );
        let claim = format!("at least {percent} % of the orders succeed");
        self.claim(scene, &claim, measured, success >= percent);
    }

    /// An instance that is well again is let back in by a probe, and takes orders.
    pub(super) async fn claim_recovery(&self, scene: usize, instance: &str, limit: Duration) {
        let well = Instant::now();
        let closed = poll_until(limit, || async {
            self.breaker(instance, "closed").await != Some(false)
        })
        .await;
        let orders = self
            .log
            .until(Kind::Order, Instant::now(), limit, |orders| {
                orders.by.contains_key(instance)
            })
            .await;
        let took = well.elapsed().as_secs_f64();
        let back = orders.by.contains_key(instance);
        let probes = match self.mesh.telemetry(CALLER) {
            Some(address) => telemetry::scrape_one(address).await,
            None => None,
        };
        let probes = probes.map_or(0.0, |metrics| probes_passed(&metrics, instance));
        let measured = match (closed, back) {
            (Some(_), true) => {
                format!("{took:.2} s after it was well; probes that passed so far: {probes:.0}")
            }
            (None, _) => format!("not let back in within {} s", limit.as_secs()),
            (_, false) => format!("no order charged by it within {} s", limit.as_secs()),
        };
        self.claim(
            scene,
            "the instance takes orders again",
            measured,
            closed.is_some() && back,
        );
    }
}

/// How often a probe closed the breaker of an instance.
fn probes_passed(metrics: &Exposition, instance: &str) -> f64 {
    metrics
        .named("outrider_endpoint_transitions_total")
        .filter(|sample| {
            sample.label("service") == SERVICE
                && sample.label("endpoint") == endpoint(instance)
                && sample.label("from") == "half_open"
                && sample.label("to") == "closed"
        })
        .fold(0.0, |sum, sample| sum + sample.value)
}

/// An instance as sidecars call it in their metrics.
fn endpoint(instance: &str) -> String {
    format!("{NAMESPACE}/{instance}")
}
