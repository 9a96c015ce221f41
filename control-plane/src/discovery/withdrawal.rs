//! Takes an endpoint out of what sidecars are told, and waits until they know.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::fleet::Fleet;
use crate::index::WorkloadName;
use crate::metrics::{Metrics, gauge_value};
use crate::store::Store;

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
        let name = workload.clone();
        let publish = move || {
            let version = store.refresh(begun);
            (version, store.withdrawn_from(&name))
        };
        let Ok((version, from)) = spawn_blocking(publish).await else {
            // Only at the end of the process.
            return std::future::pending().await;
        };
        metrics.resource_version.set(gauge_value(version));
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
