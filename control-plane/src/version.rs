//! The version of the mesh: one number that only grows, also over a restart. Owns the file `version`
//! in the state directory, where there is one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use outrider_certs::file::write_atomic;

/// Counts versions, and keeps the newest on disk.
#[derive(Debug)]
pub(crate) struct VersionCounter {
    /// Absent: it is kept nowhere.
    path: Option<PathBuf>,
    current: u64,
}

impl VersionCounter {
    /// Goes on from what is on disk; where that is lost, from the clock (milliseconds, so that nobody
    /// makes that many changes by hand and overtakes it).
    pub(crate) fn open(state_dir: &Path, now: SystemTime) -> Self {
        let path = state_dir.join("version");
        let kept = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().ok(),
            Err(_) => None,
        };
        Self {
            path: Some(path),
            current: kept.unwrap_or(0).max(clock(now)),
        }
    }

    /// Begins at the clock and is kept nowhere: for a control plane whose successor may be on another
    /// machine.
    pub(crate) fn in_memory(now: SystemTime) -> Self {
        Self {
            path: None,
            current: clock(now),
        }
    }

    pub(crate) fn current(&self) -> u64 {
        self.current
    }

    /// The next version, which is on disk before anybody has seen it. A disk that is full holds up
    /// nothing: the clock is there to go on from.
    pub(crate) fn advance(&mut self) -> u64 {
        self.current += 1;
        if let Some(path) = &self.path
            && let Err(error) = self.keep(path)
        {
            tracing::warn!(%error, path = %path.display(), "the version could not be kept");
        }
        self.current
    }

    fn keep(&self, path: &Path) -> io::Result<()> {
        write_atomic(path, format!("{}\n", self.current).as_bytes(), 0o600)
    }
}

/// Milliseconds since 1970.
fn clock(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let mut first = VersionCounter::open(dir.path(), now);
        let newest = (0..5).map(|_| first.advance()).last().unwrap();

        // A clock that went back, then a state that was lost.
        let back = now - Duration::from_secs(3600);
        assert!(VersionCounter::open(dir.path(), back).current() >= newest);
        std::fs::write(dir.path().join("version"), "garbage").unwrap();
        let later = now + Duration::from_secs(1);
        assert!(VersionCounter::open(dir.path(), later).current() >= newest);
        assert!(VersionCounter::in_memory(later).current() >= newest);
    }
}
