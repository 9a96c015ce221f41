//! Watches a directory and says what it holds whenever that has changed and come to rest. Owns the
//! file system's notifications; a slow poll beside them finds what they miss (a lost event, the
//! target of a link outside the directory, a directory that was replaced).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::task::JoinError;

use super::directory::{self, Files};
use super::{Change, Seen};

/// An edit is taken once the directory has not changed for so long.
const QUIET: Duration = Duration::from_millis(50);
/// A directory that never comes to rest is taken as it is after so long.
const PATIENCE: Duration = Duration::from_millis(500);
/// A file that is being written is waited for so long: half of it might lack the rule that denies.
/// It ends for what was changed without ever being closed.
const WRITING: Duration = Duration::from_secs(10);
/// How often the directory is read although nothing was notified.
const POLL: Duration = Duration::from_secs(2);
/// The same, where notifications cannot be had.
const POLL_ALONE: Duration = Duration::from_millis(250);

/// A directory that is watched.
pub struct DirectoryWatch {
    dir: PathBuf,
    /// Changes beneath it are our own.
    state_dir: PathBuf,
    last: Option<Files>,
    notifications: Option<Notifications>,
}

struct Notifications {
    _watcher: RecommendedWatcher,
    events: watch::Receiver<Notified>,
}

/// What notifications have told.
#[derive(Debug, Default)]
struct Notified {
    /// Files that were written to and not closed since.
    writing: BTreeSet<PathBuf>,
}

impl Notified {
    fn take(&mut self, event: &notify::Result<Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            // Something was missed: perhaps that it was closed.
            Ok(_) | Err(_) => return self.writing.clear(),
        };
        let files = event.paths.iter();
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                let yaml = files.filter(|path| directory::is_yaml(path));
                self.writing.extend(yaml.cloned());
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => files.for_each(|path| {
                self.writing.remove(path);
            }),
            _ => {}
        }
    }
}

impl DirectoryWatch {
    /// Watches `dir`, except for what changes in `state_dir`.
    pub fn new(dir: PathBuf, state_dir: PathBuf) -> Self {
        let mut watch = Self {
            dir,
            state_dir,
            last: None,
            notifications: None,
        };
        watch.listen();
        watch
    }

    /// The next change: at once what the directory holds, then whenever that is different.
    ///
    /// # Errors
    /// Reading it has panicked.
    pub(crate) async fn next(&mut self) -> Result<Change, JoinError> {
        let (noticed, files) = self.next_files().await?;
        let seen = Seen::Files(files);
        Ok(Change { noticed, seen })
    }

    /// The files of the next change, and when it was noticed.
    ///
    /// # Errors
    /// Reading it has panicked.
    pub async fn next_files(&mut self) -> Result<(Instant, Files), JoinError> {
        if self.last.is_none() {
            let noticed = Instant::now();
            let files = self.collect().await?;
            return Ok((noticed, self.taken(files)));
        }
        loop {
            let notified = self.wake().await;
            let noticed = Instant::now();
            let files = self.settled(noticed).await?;
            if self.last.as_ref() != Some(&files) {
                if !notified {
                    // Whatever the notifications watch, it is not (or no longer) all of it.
                    self.listen();
                }
                return Ok((noticed, self.taken(files)));
            }
            // Whatever writes here all the time (and not YAML) does not have us read all the time.
            tokio::time::sleep(QUIET).await;
        }
    }

    fn taken(&mut self, files: Files) -> Files {
        self.last = Some(files.clone());
        files
    }

    async fn collect(&self) -> Result<Files, JoinError> {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || directory::collect(&dir)).await
    }

    /// Reads until what was read has not changed for [`QUIET`], and nobody is writing it.
    async fn settled(&mut self, noticed: Instant) -> Result<Files, JoinError> {
        let mut files = self.collect().await?;
        if self.last.as_ref() == Some(&files) && !self.seen_more() && !self.is_being_written() {
            return Ok(files);
        }
        loop {
            tokio::time::sleep(QUIET).await;
            let more = self.seen_more();
            let again = self.collect().await?;
            let writing = self.is_being_written();
            let at_rest = !more && !writing && again == files;
            files = again;
            let patience = if writing { WRITING } else { PATIENCE };
            if at_rest || noticed.elapsed() > patience {
                return Ok(files);
            }
        }
    }

    /// Waits for a reason to look; says whether it was a notification.
    async fn wake(&mut self) -> bool {
        if let Some(notifications) = &mut self.notifications {
            match tokio::time::timeout(POLL, notifications.events.changed()).await {
                Ok(Ok(())) => return true,
                Ok(Err(_)) => self.notifications = None,
                Err(_) => {}
            }
        } else {
            tokio::time::sleep(POLL_ALONE).await;
        }
        false
    }

    fn seen_more(&mut self) -> bool {
        self.notifications.as_mut().is_some_and(|notifications| {
            let more = notifications.events.has_changed().unwrap_or(false);
            notifications.events.mark_unchanged();
            more
        })
    }

    fn is_being_written(&self) -> bool {
        let notifications = self.notifications.as_ref();
        notifications.is_some_and(|seen| !seen.events.borrow().writing.is_empty())
    }

    fn listen(&mut self) {
        match notifications(&self.dir, &self.state_dir) {
            Ok(notifications) => self.notifications = Some(notifications),
            Err(error) => {
                if self.notifications.take().is_some() || self.last.is_none() {
                    tracing::warn!(
                        directory = %self.dir.display(),
                        %error,
                        "the directory cannot be watched; it is polled"
                    );
                }
            }
        }
    }
}

fn notifications(dir: &Path, state_dir: &Path) -> notify::Result<Notifications> {
    let dir = std::fs::canonicalize(dir)?;
    let state_dir = std::fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let watched = dir.clone();
    let (sender, events) = watch::channel(Notified::default());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let matters = event
            .as_ref()
            .map_or(true, |event| matters(event, &watched, &state_dir));
        if matters {
            sender.send_modify(|seen| seen.take(&event));
        }
    })?;
    watcher.watch(&dir, RecursiveMode::Recursive)?;
    Ok(Notifications {
        _watcher: watcher,
        events,
    })
}

/// Reading a file is an event too; so is keeping our own state.
fn matters(event: &Event, dir: &Path, state_dir: &Path) -> bool {
    if event.need_rescan() {
        return true;
    }
    let kind = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    // Only a state directory strictly below the watched one is ours alone.
    let is_below = state_dir != dir && state_dir.starts_with(dir);
    let ours = is_below
        && !event.paths.is_empty()
        && event.paths.iter().all(|path| path.starts_with(state_dir));
    kind && !ours
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn next(watch: &mut DirectoryWatch) -> Files {
        let change = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
        files(change.expect("a change within 5 s").unwrap())
    }

    fn files(change: Change) -> Files {
        match change.seen {
            Seen::Files(files) => files,
            Seen::Objects(_) => panic!("expected files"),
        }
    }

    #[tokio::test]
    async fn edits_renames_and_removals_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mesh.yaml");
        fs::write(&file, "# one").unwrap();
        let mut watch = DirectoryWatch::new(dir.path().to_owned(), dir.path().join(".outrider"));
        assert_eq!(next(&mut watch).await, directory::collect(dir.path()));

        fs::write(&file, "# two").unwrap();
        assert_eq!(next(&mut watch).await, directory::collect(dir.path()));

        // As editors do it.
        fs::write(dir.path().join(".mesh.yaml.swp"), "# three").unwrap();
        fs::rename(dir.path().join(".mesh.yaml.swp"), &file).unwrap();
        assert_eq!(next(&mut watch).await, directory::collect(dir.path()));

        fs::create_dir(dir.path().join("more")).unwrap();
        fs::write(dir.path().join("more/other.yaml"), "# other").unwrap();
        assert_eq!(next(&mut watch).await.len(), 2);

        fs::remove_dir_all(dir.path().join("more")).unwrap();
        assert_eq!(next(&mut watch).await.len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_not_taken_by_halves() {
        use std::io::Write;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mesh.yaml");
        fs::write(&file, "# allow\n# deny").unwrap();
        let mut watch = DirectoryWatch::new(dir.path().to_owned(), dir.path().join(".outrider"));
        next(&mut watch).await;

        let mut writer = fs::File::create(&file).unwrap();
        writer.write_all(b"# allow\n").unwrap();
        writer.flush().unwrap();
        // Far longer than a directory has to be quiet to be taken.
        let half = tokio::time::timeout(PATIENCE * 2, watch.next()).await;
        assert!(half.is_err(), "took {half:?}");

        writer.write_all(b"# deny, again").unwrap();
        drop(writer);
        let taken = next(&mut watch).await;
        assert_eq!(taken, directory::collect(dir.path()));
    }

    #[tokio::test]
    async fn edits_are_noticed_where_the_state_directory_is_the_watched_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mesh.yaml");
        fs::write(&file, "# one").unwrap();
        let mut watch = DirectoryWatch::new(dir.path().to_owned(), dir.path().to_owned());
        next(&mut watch).await;
        fs::write(&file, "# two").unwrap();
        let change = tokio::time::timeout(POLL / 2, watch.next()).await;
        let files = files(change.expect("before the poll").unwrap());
        assert_eq!(files, directory::collect(dir.path()));
    }

    #[tokio::test]
    async fn a_config_map_swap_is_one_change() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["one", "two"] {
            let folder = dir.path().join(format!("..{version}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("mesh.yaml"), format!("# {version}")).unwrap();
        }
        symlink("..one", dir.path().join("..data")).unwrap();
        symlink("..data/mesh.yaml", dir.path().join("mesh.yaml")).unwrap();
        let mut watch = DirectoryWatch::new(dir.path().to_owned(), dir.path().join(".outrider"));
        let before = next(&mut watch).await;

        symlink("..two", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        let after = next(&mut watch).await;
        assert_ne!(before, after);
        assert_eq!(after, directory::collect(dir.path()));
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_still_watched() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("mesh");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("mesh.yaml"), "# one").unwrap();
        let mut watch = DirectoryWatch::new(dir.clone(), root.path().join("state"));
        next(&mut watch).await;

        fs::rename(&dir, root.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("mesh.yaml"), "# two").unwrap();
        while next(&mut watch).await != directory::collect(&dir) {}

        fs::write(dir.join("mesh.yaml"), "# three").unwrap();
        assert_eq!(next(&mut watch).await, directory::collect(&dir));
    }
}
