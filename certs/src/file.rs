//! Files that must be whole or absent: keys, certificates, trust bundles.
//!
//! Owns the way such a file comes into being (a temporary file beside it, synced, renamed, the directory
//! synced) and the way it is read back (with a cap on its size).

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// The most that is read of a key or certificate file, in bytes.
pub(crate) const MAX_LEN: u64 = 1024 * 1024;

/// Writes `bytes` to `path` with the permission bits `mode`, replacing what was there.
///
/// A reader, and a machine that loses power at any moment, sees the old contents or the new, never a part:
/// the bytes are synced to a temporary file in the same directory, which is then renamed. The file has
/// `mode` before it has its name, whatever the umask.
///
/// # Errors
/// Any error of the file system; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = directory_of(path);
    let temporary = write_temporary(directory, bytes, mode)?;
    temporary.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// Like [`write_atomic`], but never replaces a file: of two processes that start in the same directory at
/// the same time, one creates and the other gets [`io::ErrorKind::AlreadyExists`] and reads.
pub(crate) fn create_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = directory_of(path);
    let temporary = write_temporary(directory, bytes, mode)?;
    temporary
        .persist_noclobber(path)
        .map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

fn write_temporary(directory: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    // tempfile creates with 0600, so that a key is never readable by others, not even while it is written.
    let mut temporary = tempfile::Builder::new()
        .prefix(".outrider-")
        .tempfile_in(directory)?;
    temporary.write_all(bytes)?;
    let file = temporary.as_file();
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    Ok(temporary)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Makes the directory that will hold secrets, for its owner only, if it is not there.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a whole file of at most [`MAX_LEN`] bytes.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?)
}

/// What can go wrong with a file that holds a secret.
#[derive(Debug)]
pub(crate) enum SecretError {
    Io(io::Error),
    /// The permission bits let someone but the owner at it.
    Mode(u32),
}

/// Reads a file that only its owner may read or write.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, SecretError> {
    let file = File::open(path).map_err(SecretError::Io)?;
    // The open file is asked, not the path, so that the answer is about the bytes that are read.
    let mode = file
        .metadata()
        .map_err(SecretError::Io)?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(SecretError::Mode(mode & 0o7777));
    }
    read_open(file).map_err(SecretError::Io)
}

fn read_open(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_LEN} bytes"),
        ));
    }
    Ok(bytes)
}
