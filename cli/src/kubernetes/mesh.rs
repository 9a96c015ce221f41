//! The policy of a cluster, read as the control plane reads it.

use std::time::Duration;

use outrider_control_plane::{ReadError, Reading};

use super::access::{Cluster, ClusterError};
use super::names::SYSTEM;
use crate::args::ClusterArgs;

/// A large cluster takes its time.
const LIMIT: Duration = Duration::from_secs(120);

/// Reads all of it.
///
/// # Errors
/// The cluster does not answer, does not let this user read it, or no mesh can be made of it.
pub(crate) async fn load(args: &ClusterArgs) -> Result<Reading, ClusterError> {
    let cluster = Cluster::connect(args).await?;
    let read = outrider_control_plane::read(cluster.client.clone(), SYSTEM, LIMIT).await;
    read.map_err(|error| match error {
        ReadError::Client { error, .. } => cluster.failed(error),
        error @ (ReadError::Metrics(_) | ReadError::Timeout(..) | ReadError::Problems(_)) => {
            ClusterError::Unexpected {
                server: cluster.server,
                cause: error.to_string(),
            }
        }
    })
}
