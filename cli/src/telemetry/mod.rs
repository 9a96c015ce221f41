//! What the sidecars measured: scraped from their Prometheus endpoints, and turned into one row
//! for each edge of the mesh, and one for each Service of each caller. Shared by every command that
//! shows live figures.

mod change;
pub mod edges;
pub mod exposition;
pub mod quantile;
pub mod services;
pub mod tables;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;

use self::edges::{Scrape, Scraped};
use self::exposition::Exposition;
use crate::fetch;
use crate::mesh::plan::WorkloadPlan;

/// How long one process may take to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Where one sidecar's metrics are.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its Workload, as people call it.
    pub workload: String,
    /// Its Workload's SPIFFE ID.
    pub identity: String,
    /// Its telemetry port.
    pub address: SocketAddr,
}

impl Target {
    /// The sidecar of a Workload.
    pub fn of(workload: &WorkloadPlan) -> Self {
        Self {
            workload: workload.label.clone(),
            identity: workload.id.to_string(),
            address: workload.telemetry(),
        }
    }
}

/// Scrapes every sidecar at once. One that does not answer is left out.
pub async fn scrape(targets: &[Target]) -> Scrape {
    let scraped = join_all(targets.iter().map(|target| async {
        let metrics = scrape_one(target.address).await?;
        let identity = target.identity.clone();
        Some((target.workload.clone(), Scraped { identity, metrics }))
    }));
    scraped.await.into_iter().flatten().collect()
}

/// One process's metrics; none when it does not answer.
pub async fn scrape_one(address: SocketAddr) -> Option<Exposition> {
    let (status, body) = fetch::get(address, "/metrics", LIMIT).await.ok()?;
    status
        .is_success()
        .then(|| Exposition::parse(&String::from_utf8_lossy(&body)))
}
