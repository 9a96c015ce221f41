//! Scene 8: the mesh without its control plane.

use std::time::Duration;

use tokio::time::Instant;

use super::{Show, poll_until};
use crate::demo::log::Kind;
use crate::mesh::ChildName;

const SCENE: usize = 8;
/// So long the control plane is away at least.
const OUTAGE: Duration = Duration::from_secs(3);
/// How long a change of the connections is waited for.
const LIMIT: Duration = Duration::from_secs(15);
const CONNECTED: &str = "outrider_control_plane_connected";

impl Show<'_> {
    pub(super) async fn outage(&self) -> anyhow::Result<()> {
        let control_plane = ChildName::control_plane();
        self.board.doing("SIGKILL for the control plane");
        let killed = Instant::now();
        self.mesh.kill(&control_plane).await?;
        let noticed = poll_until(LIMIT, || self.all_connected(0.0)).await;
        let wanted = (OUTAGE.as_secs_f64() * f64::from(self.rate)) as usize;
        let orders = self
            .log
            .until(Kind::Order, killed, OUTAGE * 3, |orders| {
                orders.calls >= wanted
            })
            .await;
        let measured = format!(
            "{:.1} s without it, {} orders; {}",
            killed.elapsed().as_secs_f64(),
            orders.calls,
            match noticed {
                Some(_) => "all sidecars report that it is away",
                None => "not every sidecar reports that it is away",
            }
        );
        let holds = noticed.is_some() && orders.good == orders.calls && orders.calls >= wanted;
        self.claim(
            SCENE,
            "orders go on without a control plane",
            measured,
            holds,
        );

        self.board.doing("starting the control plane again");
        let restarted = Instant::now();
        self.mesh.restart(&control_plane).await?;
        let back = poll_until(LIMIT, || self.all_connected(1.0)).await;
        let measured = match back {
            Some(_) => format!(
                "{} sidecars, {:.2} s after its start",
                self.targets.len(),
                restarted.elapsed().as_secs_f64()
            ),
            None => format!("not all within {} s", LIMIT.as_secs()),
        };
        self.claim(
            SCENE,
            "every sidecar reconnects by itself",
            measured,
            back.is_some(),
        );
        self.claim_no_order_lost(SCENE, killed);
        Ok(())
    }

    async fn all_connected(&self, wanted: f64) -> bool {
        let gauges = self.gauges(CONNECTED).await;
        gauges.len() == self.targets.len() && gauges.values().all(|connected| *connected == wanted)
    }
}
