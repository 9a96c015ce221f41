//! The policy of a cluster, read as the control plane reads it.

use outrider_api::manifest::Object;
use outrider_control_plane::index::Mesh;

use super::access::{Cluster, ClusterError};
use crate::args::ClusterArgs;

/// Reads all of it.
///
/// # Errors
/// The cluster does not answer, or does not let this user read it.
pub(crate) async fn load(args: &ClusterArgs) -> Result<(Vec<Object>, Mesh), ClusterError> {
    let cluster = Cluster::connect(args).await?;
    Err(ClusterError::Unexpected {
        server: cluster.server,
        cause: "its policy cannot be read yet: name a directory".to_owned(),
    })
}
