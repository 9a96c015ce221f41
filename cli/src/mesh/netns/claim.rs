//! Who runs the mesh of a state directory: at most one `outrider up`. Owns `/run/outrider/ID`, which
//! is locked as long as its owner lives and holds what the sidecars may read.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::layout::Id;

/// Where those of all meshes are.
const FOLDER: &str = "/run/outrider";

/// Why the mesh is not ours.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Somebody runs it.
    #[error(
        "this mesh runs already, as process {process}: end that one first, or use another --state-dir"
    )]
    Taken {
        /// The other `outrider up`.
        process: String,
    },
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
}

/// The right to run a mesh.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes it, from a dead one if need be.
    pub(super) fn take(id: &Id) -> Result<Self, ClaimError> {
        let folder = folder(id);
        let failed = |error| ClaimError::File(folder.clone(), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(failed)?;
        // Whatever the umask: sidecars, which are not root, pass through here.
        for folder in [Path::new(FOLDER), &folder] {
            fs::set_permissions(folder, Permissions::from_mode(0o711)).map_err(failed)?;
        }
        loop {
            if let Some(lock) = try_lock(&folder.join("lock")).map_err(failed)? {
                return lock.map(|lock| Self {
                    folder: folder.clone(),
                    _lock: lock,
                });
            }
            // The one before has just taken the folder away with it.
            fs::create_dir_all(&folder).map_err(failed)?;
        }
    }

    /// What the sidecars may read.
    pub(super) fn folder(id: &Id) -> PathBuf {
        folder(id)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        // Unless another mesh is in there.
        let _ = fs::remove_dir(FOLDER);
    }
}

fn folder(id: &Id) -> PathBuf {
    Path::new(FOLDER).join(id.as_str())
}

/// None if the file that was locked is no longer the one of that name.
fn try_lock(path: &Path) -> io::Result<Option<Result<File, ClaimError>>> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut process = String::new();
        file.read_to_string(&mut process)?;
        let process = process.trim().to_owned();
        return Ok(Some(Err(ClaimError::Taken { process })));
    }
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == (own.dev(), own.ino()) => {}
        _ => return Ok(None),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(Ok(file)))
}
