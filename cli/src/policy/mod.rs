//! `outrider policy` and `outrider explain`: the control plane's own reading of a directory or of a cluster, and the
//! sidecar's own evaluator, without a mesh.

pub(crate) mod check;
pub(crate) mod explain;
mod question;
pub(crate) mod test;
mod words;

use std::path::Path;

use outrider_api::manifest::{Object, Problem};
use outrider_control_plane::Reading;
use outrider_control_plane::index::{self, Mesh};
use outrider_control_plane::source::directory;

use crate::args::ClusterArgs;
use crate::{kubernetes, output};

/// Reads a directory as the control plane would.
pub(crate) fn load(directory: &Path) -> Result<Mesh, Vec<Problem>> {
    load_objects(directory).map(|(_, mesh)| mesh)
}

/// What policy is asked about: a directory, or a cluster where none is named. What is wrong with it is
/// said already.
pub(crate) async fn asked(
    directory: Option<&Path>,
    cluster: &ClusterArgs,
) -> Option<(Vec<Object>, Mesh)> {
    let problems = match directory {
        Some(directory) => match load_objects(directory) {
            Ok(loaded) => return Some(loaded),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        },
        None => match kubernetes::mesh::load(cluster).await {
            Ok(Reading { objects, mesh }) => return Some((objects, mesh)),
            Err(error) => vec![format!("outrider: {error}")],
        },
    };
    problems.iter().for_each(output::note);
    None
}

/// [`load`], with what the mesh was made of.
pub(crate) fn load_objects(directory: &Path) -> Result<(Vec<Object>, Mesh), Vec<Problem>> {
    let objects = directory::read(directory)?;
    let mesh = index::build(&objects, None)?;
    Ok((objects, mesh))
}
