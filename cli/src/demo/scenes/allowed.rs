//! Scene 1: orders are placed, and every edge they cross is mutual TLS.

use std::time::Duration;

use tokio::time::Instant;

use super::{Show, because, millis};
use crate::demo::log::Kind;
use crate::telemetry::{self, edges};

const SCENE: usize = 1;
/// So many orders are judged.
const ORDERS: usize = 200;
const LIMIT: Duration = Duration::from_secs(10);
/// The edges that one order crosses, by service account.
const EDGES: [(&str, &str); 4] = [
    ("shopper", "order"),
    ("order", "user"),
    ("order", "billing"),
    ("order", "notification"),
];

impl Show<'_> {
    pub(super) async fn allowed(&self) -> anyhow::Result<()> {
        self.board.doing("placing orders");
        let before = telemetry::scrape(self.targets).await;
        let since = Instant::now();
        let orders = self
            .log
            .until(Kind::Order, since, LIMIT, |orders| orders.calls >= ORDERS)
            .await;
        let measured = format!(
            "{} of {} orders answered 201, p50 {}, p99 {}{}",
            orders.good,
            orders.calls,
            orders.p50.map_or_else(|| "-".to_owned(), millis),
            orders.p99.map_or_else(|| "-".to_owned(), millis),
            because(&orders)
        );
        let holds = orders.calls >= ORDERS && orders.good == orders.calls;
        self.claim(
            SCENE,
            "orders are allowed, charged and notified",
            measured,
            holds,
        );

        let after = telemetry::scrape(self.targets).await;
        let rows = edges::between(&before, &after, since.elapsed().as_secs_f64());
        let secure = |(source, destination): &(&str, &str)| {
            rows.iter().any(|row| {
                is_account(&row.edge.source, source)
                    && is_account(&row.edge.destination, destination)
                    && row.mutual_tls
                    && row.success == Some(1.0)
            })
        };
        let missing: Vec<String> = EDGES
            .iter()
            .filter(|edge| !secure(edge))
            .map(|(source, destination)| format!("{source} → {destination}"))
            .collect();
        let mut measured = format!("{} of {} edges", EDGES.len() - missing.len(), EDGES.len());
        if !missing.is_empty() {
            measured.push_str(&format!(", not {}", missing.join(", ")));
        }
        let claim = "every edge is mutual TLS between two identities, without an error";
        self.claim(SCENE, claim, measured, missing.is_empty());
        Ok(())
    }
}

fn is_account(id: &str, account: &str) -> bool {
    id.rsplit_once("/sa/")
        .is_some_and(|(_, found)| found == account)
}
