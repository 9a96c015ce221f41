//! What every sidecar should know now: one `watch` channel for each workload and each destination.
//! Owns the current mesh and its version. One writer ([`Store::publish`]); a channel's version
//! changes only when its content did, and a reader that is slow sees only the newest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outrider_api::model;
use outrider_api::names::ServiceName;
use tokio::sync::watch;

use crate::index::{Mesh, WorkloadName};
use crate::version::VersionCounter;

/// One resource at one version; `value` is absent where there is no such resource.
#[derive(Debug)]
pub(crate) struct Snapshot<T> {
    pub(crate) version: u64,
    /// When the change that made this version was noticed.
    pub(crate) noticed: Instant,
    pub(crate) value: Option<Arc<T>>,
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            noticed: self.noticed,
            value: self.value.clone(),
        }
    }
}

/// What [`Store::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) version: u64,
    /// Workloads and destinations whose content changed.
    pub(crate) changed: usize,
}

/// The current mesh, resource by resource.
pub(crate) struct Store {
    /// Only the writer's; a file is written while it is held.
    writer: Mutex<VersionCounter>,
    version: AtomicU64,
    /// Held briefly, never while a file is written.
    tables: Mutex<Tables>,
    mesh: watch::Sender<Option<Arc<Mesh>>>,
}

#[derive(Default)]
struct Tables {
    workloads: Channels<WorkloadName, model::Workload>,
    destinations: Channels<ServiceName, model::Destination>,
}

impl Store {
    pub(crate) fn new(version: VersionCounter) -> Arc<Self> {
        Arc::new(Self {
            version: AtomicU64::new(version.current()),
            writer: Mutex::new(version),
            tables: Mutex::default(),
            mesh: watch::Sender::new(None),
        })
    }

    /// The whole mesh; absent until there has been a good one.
    pub(crate) fn mesh(&self) -> Option<Arc<Mesh>> {
        self.mesh.borrow().clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes `mesh` the current one: whole, and at one version. Writes a file: not for a task that
    /// must not block.
    pub(crate) fn publish(&self, mesh: Arc<Mesh>, noticed: Instant) -> Published {
        let mut counter = lock(&self.writer);
        let tables = self.tables();
        let workloads = tables.workloads.changes(mesh.workloads());
        let destinations = tables.destinations.changes(mesh.destinations());
        drop(tables);
        let changed = workloads.len() + destinations.len();
        let version = if changed > 0 || self.mesh.borrow().is_none() {
            counter.advance()
        } else {
            counter.current()
        };
        // Who may ask for a certificate is known before anybody is told of it.
        self.mesh.send_replace(Some(mesh));
        self.version.store(version, Ordering::Release);
        let mut tables = self.tables();
        tables.workloads.apply(workloads, version, noticed);
        tables.destinations.apply(destinations, version, noticed);
        Published { version, changed }
    }

    /// Follows a workload; `None`: there is no such workload.
    pub(crate) fn workload(
        &self,
        name: &WorkloadName,
    ) -> Option<watch::Receiver<Snapshot<model::Workload>>> {
        let tables = self.tables();
        let channel = tables.workloads.0.get(name)?;
        let exists = channel.borrow().value.is_some();
        exists.then(|| channel.subscribe())
    }

    /// Follows a destination, also one that does not exist (yet).
    pub(crate) fn destination(self: &Arc<Self>, name: ServiceName) -> DestinationWatch {
        let version = self.version();
        let mut tables = self.tables();
        let channel = tables
            .destinations
            .0
            .entry(name.clone())
            .or_insert_with(|| {
                watch::Sender::new(Snapshot {
                    version,
                    noticed: Instant::now(),
                    value: None,
                })
            });
        let receiver = channel.subscribe();
        drop(tables);
        DestinationWatch {
            name,
            receiver: Some(receiver),
            store: Arc::clone(self),
        }
    }

    #[cfg(test)]
    fn channels(&self) -> usize {
        let tables = self.tables();
        tables.workloads.0.len() + tables.destinations.0.len()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }
}

/// A panic while it was held cannot have left half a change: what is applied is computed before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Channels<K, T>(HashMap<K, watch::Sender<Snapshot<T>>>);

impl<K, T> Default for Channels<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone + Ord, T: PartialEq> Channels<K, T> {
    /// What differs between the channels and `now`.
    fn changes(&self, now: &BTreeMap<K, Arc<T>>) -> Vec<(K, Option<Arc<T>>)> {
        let gone = self.0.iter().filter_map(|(key, channel)| {
            let exists = channel.borrow().value.is_some();
            (exists && !now.contains_key(key)).then(|| (key.clone(), None))
        });
        let made = now.iter().filter_map(|(key, value)| {
            let same = self
                .0
                .get(key)
                .is_some_and(|channel| channel.borrow().value.as_ref() == Some(value));
            (!same).then(|| (key.clone(), Some(Arc::clone(value))))
        });
        gone.chain(made).collect()
    }

    fn apply(&mut self, changes: Vec<(K, Option<Arc<T>>)>, version: u64, noticed: Instant) {
        for (key, value) in changes {
            let snapshot = Snapshot {
                version,
                noticed,
                value,
            };
            match self.0.get(&key) {
                Some(channel) => {
                    channel.send_replace(snapshot);
                }
                None => {
                    self.0.insert(key, watch::Sender::new(snapshot));
                }
            }
        }
        self.0.retain(|_, channel| needed(channel));
    }

    /// Drops the channel of something that does not exist and that nobody follows.
    fn forget_unused(&mut self, key: &K) {
        if self.0.get(key).is_some_and(|channel| !needed(channel)) {
            self.0.remove(key);
        }
    }
}

fn needed<T>(channel: &watch::Sender<Snapshot<T>>) -> bool {
    channel.receiver_count() > 0 || channel.borrow().value.is_some()
}

/// Follows one destination. Dropping it forgets the channel if nothing else needs it, so that asking
/// for names that do not exist leaves nothing behind.
pub(crate) struct DestinationWatch {
    name: ServiceName,
    receiver: Option<watch::Receiver<Snapshot<model::Destination>>>,
    store: Arc<Store>,
}

impl DestinationWatch {
    pub(crate) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// The newest snapshot, which counts as seen from here on.
    pub(crate) fn newest(&mut self) -> Option<Snapshot<model::Destination>> {
        self.receiver
            .as_mut()
            .map(|receiver| receiver.borrow_and_update().clone())
    }

    /// Waits for a snapshot that was not seen. A channel that is followed is never dropped by the
    /// store, so if it were, there would be nothing more to wait for.
    pub(crate) async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver
            && receiver.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Drop for DestinationWatch {
    fn drop(&mut self) {
        self.receiver = None;
        self.store.tables().destinations.forget_unused(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use outrider_api::manifest;

    use super::*;
    use crate::index;

    fn mesh(services: &[(&str, u16)]) -> Arc<Mesh> {
        let texts: Vec<String> = services
            .iter()
            .map(|(name, port)| {
                format!(
                    "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
                     spec: {{ports: [{{port: {port}}}]}}}}\n---\n\
                     {{apiVersion: outrider.mesh/v1alpha1, kind: Workload, \
                     metadata: {{name: {name}}}, \
                     spec: {{serviceAccount: {name}, address: 10.0.0.{port}}}}}\n"
                )
            })
            .collect();
        let objects = manifest::parse(Path::new("mesh.yaml"), &texts.join("---\n")).unwrap();
        Arc::new(index::build(&objects, None).unwrap())
    }

    fn store(dir: &tempfile::TempDir) -> Arc<Store> {
        Store::new(VersionCounter::open(dir.path(), SystemTime::now()))
    }

    fn name(name: &str) -> ServiceName {
        ServiceName::new("default", name).unwrap()
    }

    #[tokio::test]
    async fn only_what_changed_has_a_new_version() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let first = store.publish(mesh(&[("a", 1), ("b", 2)]), Instant::now());
        assert_eq!((first.version, first.changed), (store.version(), 4));
        let mut a = store.destination(name("a"));
        let mut b = store.destination(name("b"));
        assert_eq!(a.newest().unwrap().version, first.version);
        b.newest();

        let second = store.publish(mesh(&[("a", 1), ("b", 3)]), Instant::now());
        assert_eq!((second.version, second.changed), (first.version + 1, 2));
        assert_eq!(a.newest().unwrap().version, first.version);
        b.changed().await;
        assert_eq!(b.newest().unwrap().version, second.version);

        let same = store.publish(mesh(&[("a", 1), ("b", 3)]), Instant::now());
        assert_eq!((same.version, same.changed), (second.version, 0));
    }

    #[tokio::test]
    async fn what_does_not_exist_can_be_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        store.publish(mesh(&[("a", 1)]), Instant::now());
        let mut later = store.destination(name("later"));
        assert!(later.newest().unwrap().value.is_none());
        store.publish(mesh(&[("a", 1), ("later", 2)]), Instant::now());
        later.changed().await;
        assert!(later.newest().unwrap().value.is_some());
        store.publish(mesh(&[("a", 1)]), Instant::now());
        later.changed().await;
        assert!(later.newest().unwrap().value.is_none());
    }

    #[tokio::test]
    async fn what_nobody_needs_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        store.publish(mesh(&[("a", 1)]), Instant::now());
        assert_eq!(store.channels(), 2);
        let watches: Vec<_> = (0..100)
            .map(|number| store.destination(name(&format!("x{number}"))))
            .collect();
        assert_eq!(store.channels(), 102);
        drop(watches);
        assert_eq!(store.channels(), 2);

        let workload = WorkloadName::new("default", "a");
        let gone = store.workload(&workload).unwrap();
        store.publish(mesh(&[("b", 1)]), Instant::now());
        assert!(gone.borrow().value.is_none());
        assert!(store.workload(&workload).is_none());
        drop(gone);
        store.publish(mesh(&[("c", 1)]), Instant::now());
        assert_eq!(store.channels(), 2);
    }
}
