//! `outrider policy` and `outrider explain`: the control plane's own reading of a directory, and the sidecar's own
//! evaluator, without a mesh.

pub(crate) mod check;
pub(crate) mod explain;
mod question;
pub(crate) mod test;
mod words;

use std::path::Path;

use outrider_api::manifest::{Object, Problem};
use outrider_control_plane::index::{self, Mesh};
use outrider_control_plane::source::directory;

/// Reads a directory as the control plane would.
pub(crate) fn load(directory: &Path) -> Result<Mesh, Vec<Problem>> {
    load_objects(directory).map(|(_, mesh)| mesh)
}

/// [`load`], with what the mesh was made of.
pub(crate) fn load_objects(directory: &Path) -> Result<(Vec<Object>, Mesh), Vec<Problem>> {
    let objects = directory::read(directory)?;
    let mesh = index::build(&objects, None)?;
    Ok((objects, mesh))
}
