//! Scene 7: certificates are replaced under load.

use std::time::Duration;

use tokio::time::Instant;

use super::{Show, poll_until};

const SCENE: usize = 7;
/// Certificates of the demo live 30 s, and are renewed before half of that.
const LIMIT: Duration = Duration::from_secs(25);
const EXPIRY: &str = "outrider_certificate_expiry_timestamp_seconds";

impl Show<'_> {
    pub(super) async fn rotated(&self) -> anyhow::Result<()> {
        self.board
            .doing("waiting for every sidecar to renew its certificate");
        let started = Instant::now();
        let before = self.gauges(EXPIRY).await;
        let took = poll_until(LIMIT, || async {
            let now = self.gauges(EXPIRY).await;
            let renewed = before
                .iter()
                .filter(|(workload, expiry)| now.get(*workload).is_some_and(|now| now > expiry))
                .count();
            self.board.doing(format!(
                "{renewed} of {} certificates renewed",
                self.targets.len()
            ));
            renewed == self.targets.len()
        })
        .await;
        let now = self.gauges(EXPIRY).await;
        let later: Vec<f64> = before
            .iter()
            .filter_map(|(workload, expiry)| Some(now.get(workload)? - expiry))
            .filter(|later| *later > 0.0)
            .collect();
        let least = later.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let measured = match took {
            Some(took) => format!(
                "{} of {} in {:.1} s; each now expires at least {least:.0} s later",
                later.len(),
                self.targets.len(),
                took.as_secs_f64()
            ),
            None => format!(
                "{} of {} within {} s",
                later.len(),
                self.targets.len(),
                LIMIT.as_secs()
            ),
        };
        self.claim(
            SCENE,
            "every sidecar replaces its certificate",
            measured,
            took.is_some(),
        );
        self.claim_no_order_lost(SCENE, started);
        Ok(())
    }
}
