//! `outrider policy`: the control plane's own reading of a directory, and the sidecar's own
//! evaluator, without a mesh.

pub(crate) mod check;
mod question;
pub(crate) mod test;

use std::path::Path;

use outrider_api::manifest::Problem;
use outrider_control_plane::index::{self, Mesh};
use outrider_control_plane::source::directory;

/// Reads a directory as the control plane would.
pub(crate) fn load(directory: &Path) -> Result<Mesh, Vec<Problem>> {
    let objects = directory::read(directory)?;
    index::build(&objects, None)
}
