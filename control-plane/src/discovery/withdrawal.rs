//! Takes an endpoint out of what sidecars are told, and waits until they know.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fleet::Fleet;
use crate::index::WorkloadName;
use crate::metrics::{Metrics, gauge_value};
use crate::store::Store;

/// How long the stream of a workload that is gone may go on: as long as its sidecar waits when it
/// ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// A sidecar that drains, whose workload the store was told to withdraw.
pub(super) struct Drain {
    pub(super) workload: WorkloadName,
    /// The stream that said so.
    pub(super) stream: u64,
    pub(super) begun: Instant,
    pub(super) store: Arc<Store>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) metrics: Metrics,
}

impl Drain {
    /// Publishes it; done when every sidecar that was connected, and knew the endpoint, has
    /// acknowledged the version that is returned, or has gone. Never, if the endpoint is back before.
    ///
    /// Where it is not waited for, the endpoint stays withdrawn nevertheless.
    pub(super) async fn finished(self) -> u64 {
        let Self {
            workload,
            stream,
            begun,
            store,
            fleet,
            metrics,
        } = self;
        metrics.withdrawals.inc();
        let (name, writer) = (workload.clone(), Arc::clone(&store));
        let publish = move || {
            let version = writer.refresh(begun);
            (version, writer.withdrawn_from(&name))
        };
        let Ok((version, from)) = spawn_blocking(publish).await else {
            // Only at the end of the process.
            return std::future::pending().await;
        };
        metrics.resource_version.set(gauge_value(store.version()));
        tracing::info!(%workload, version, "the endpoint of a sidecar that drains is withdrawn");
        if fleet.withdraw(&workload, stream, from).await.is_err() {
            return std::future::pending().await;
        }
        let taken = begun.elapsed();
        metrics.withdrawal.observe(taken.as_secs_f64());
        tracing::info!(%workload, version, ?taken, "every sidecar knows of the withdrawal");
        version
    }
}

/// Waits until every connected sidecar knows that a workload is gone which nobody describes any more,
/// but not for ever.
pub(super) async fn farewell(workload: WorkloadName, store: Arc<Store>, fleet: Arc<Fleet>) {
    let from = store.withdrawn_from(&workload);
    let spread = fleet.bid_farewell(&workload, from);
    // An error: it is there again.
    let _ = timeout(FAREWELL, spread).await;
}
