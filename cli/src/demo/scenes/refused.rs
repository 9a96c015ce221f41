//! Scene 2: notification may not charge.

use tokio::time::Instant;

use super::{Show, because};
use crate::demo::log::Kind;
use crate::telemetry::{self, edges};

const SCENE: usize = 2;
/// So many attempts are made.
const ATTEMPTS: usize = 20;

impl Show<'_> {
    pub(super) async fn refused(&self) -> anyhow::Result<()> {
        self.board.doing("notification calls shop.Billing/Charge");
        let before = telemetry::scrape(self.targets).await;
        let since = Instant::now();
        for _ in 0..ATTEMPTS {
            self.traffic.charge().await;
        }
        let charges = self.log.since(Kind::Charge, since);
        let proxy_status = charges.proxy_status.clone().unwrap_or_default();
        let holds = charges.calls >= ATTEMPTS
            && charges.refused == charges.calls
            && proxy_status.contains("authorization_denied");
        let measured = format!(
            "{} of {} PERMISSION_DENIED, Proxy-Status: {proxy_status}{}",
            charges.refused,
            charges.calls,
            because(&charges)
        );
        self.claim(SCENE, "notification cannot charge", measured, holds);

        let after = telemetry::scrape(self.targets).await;
        let counted: f64 = edges::between(&before, &after, 1.0)
            .iter()
            .filter(|row| {
                row.edge.source.ends_with("/sa/notification")
                    && row.edge.destination.ends_with("/sa/billing")
            })
            .filter_map(|row| row.refused.get("authorization_denied"))
            .sum();
        let measured = format!("{counted:.0} times authorization_denied for notification");
        let claim = "billing's sidecars count who was refused, and why";
        self.claim(SCENE, claim, measured, counted >= ATTEMPTS as f64);
        self.claim_no_order_lost(SCENE, since);
        Ok(())
    }
}
