//! What every sidecar should know now: one `watch` channel for each workload and each destination,
//! and for each address that is followed. Owns the current mesh, its version, and which endpoints are
//! withdrawn from it. A channel's version changes only when its content did, and a reader that is
//! slow sees only the newest.

mod channels;
#[cfg(test)]
mod tests;
mod withdrawal;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outrider_api::model;
use outrider_api::names::ServiceName;
use tokio::sync::watch;

use self::channels::{Followed, differences};
pub(crate) use self::channels::{Key, Snapshot, Watch};
use crate::index::{Mesh, WorkloadName};
use crate::version::VersionCounter;

/// What [`Store::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) version: u64,
    /// Workloads, destinations and addresses whose content changed.
    pub(crate) changed: usize,
}

/// Where an endpoint was, and the version from which on it is there no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    pub(crate) destinations: HashMap<ServiceName, u64>,
    pub(crate) addresses: HashMap<IpAddr, u64>,
}

/// The current mesh, resource by resource.
pub(crate) struct Store {
    /// Only the writer's; a file is written while it is held.
    writer: Mutex<VersionCounter>,
    version: AtomicU64,
    /// Held briefly, never while a file is written.
    followed: Mutex<Followed>,
    mesh: watch::Sender<Option<Arc<Mesh>>>,
    /// And where they were. Held briefly.
    withdrawn: Mutex<BTreeMap<WorkloadName, Vec<IpAddr>>>,
}

impl Store {
    pub(crate) fn new(version: VersionCounter) -> Arc<Self> {
        Arc::new(Self {
            version: AtomicU64::new(version.current()),
            writer: Mutex::new(version),
            followed: Mutex::default(),
            mesh: watch::Sender::new(None),
            withdrawn: Mutex::default(),
        })
    }

    /// The whole mesh; absent until there has been a good one.
    pub(crate) fn mesh(&self) -> Option<Arc<Mesh>> {
        self.mesh.borrow().clone()
    }

    /// The whole mesh, and word of every other.
    pub(crate) fn follow_mesh(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.mesh.subscribe()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Makes `mesh` the current one: whole, and at one version. What is withdrawn stays so. Writes a
    /// file: not for a task that must not block.
    pub(crate) fn publish(&self, mesh: Arc<Mesh>, noticed: Instant) -> Published {
        let mut counter = lock(&self.writer);
        self.apply(&mut counter, mesh, noticed)
    }

    /// From the next [`Self::refresh`] on, and over every mesh to come, `workload` is nobody's
    /// endpoint.
    pub(crate) fn withdraw(&self, workload: WorkloadName) {
        let addresses = self.mesh().and_then(|mesh| addresses(&mesh, &workload));
        lock(&self.withdrawn).insert(workload, addresses.unwrap_or_default());
    }

    /// From the next [`Self::refresh`] on `workload` is an endpoint again; whether it was not.
    pub(crate) fn restore(&self, workload: &WorkloadName) -> bool {
        lock(&self.withdrawn).remove(workload).is_some()
    }

    /// Publishes the current mesh with what is withdrawn from it now. Writes a file, as `publish`.
    pub(crate) fn refresh(&self, noticed: Instant) -> u64 {
        let mut counter = lock(&self.writer);
        match self.mesh() {
            Some(mesh) => self.apply(&mut counter, mesh, noticed).version,
            None => counter.current(),
        }
    }

    /// Where a workload was an endpoint and is no longer, by what is published: since it was
    /// withdrawn, or since somebody wrote so.
    pub(crate) fn withdrawn_from(&self, workload: &WorkloadName) -> Withdrawn {
        self.followed().left_by(workload)
    }

    fn apply(&self, counter: &mut VersionCounter, mesh: Arc<Mesh>, noticed: Instant) -> Published {
        let withdrawn = self.still_withdrawn(&mesh);
        let now = withdrawal::remaining(&mesh, &withdrawn);
        // Only a writer changes it.
        let before = self.followed().published.clone();
        let workloads = differences(&before.workloads, &now.workloads);
        let destinations = differences(&before.destinations, &now.destinations);
        let addresses = differences(&before.addresses, &now.addresses);
        let changed = workloads.len() + destinations.len() + addresses.len();
        let version = if changed > 0 || self.mesh.borrow().is_none() {
            counter.advance()
        } else {
            counter.current()
        };
        // Who may ask for a certificate is known before anybody is told of it.
        self.mesh.send_replace(Some(Arc::clone(&mesh)));
        self.version.store(version, Ordering::Release);
        let mut followed = self.followed();
        followed.version = version;
        followed.take_leave(&destinations, &addresses, version);
        followed.workloads.apply(workloads, version, noticed);
        followed.destinations.apply(destinations, version, noticed);
        followed
            .addresses
            .apply_followed(addresses, version, noticed);
        followed.published = now;
        followed.forget_departed();
        Published { version, changed }
    }

    /// A workload that is gone is forgotten, and so is one at other addresses: whatever has its name now
    /// is another.
    fn still_withdrawn(&self, mesh: &Mesh) -> BTreeSet<WorkloadName> {
        let mut withdrawn = lock(&self.withdrawn);
        withdrawn.retain(|name, before| addresses(mesh, name).as_ref() == Some(before));
        withdrawn.keys().cloned().collect()
    }

    /// The version of what is published of a workload.
    pub(crate) fn workload_version(&self, name: &WorkloadName) -> Option<u64> {
        self.followed().workloads.version(name)
    }

    /// The version of what is published of a Service.
    pub(crate) fn destination_version(&self, name: &ServiceName) -> Option<u64> {
        self.followed().destinations.version(name)
    }

    /// Follows a workload; `None`: there is no such workload.
    pub(crate) fn workload(
        &self,
        name: &WorkloadName,
    ) -> Option<watch::Receiver<Snapshot<model::Workload>>> {
        let followed = self.followed();
        let channel = followed.workloads.0.get(name)?;
        let exists = channel.borrow().value.is_some();
        exists.then(|| channel.subscribe())
    }

    /// Follows a destination or an address, also one that does not exist (yet).
    pub(crate) fn follow<K: Key>(self: &Arc<Self>, key: K) -> Watch<K> {
        Watch::new(self, key)
    }

    #[cfg(test)]
    fn channels(&self) -> usize {
        let followed = self.followed();
        followed.workloads.0.len() + followed.destinations.0.len() + followed.addresses.0.len()
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        lock(&self.followed)
    }
}

/// Those of a workload; `None`: there is no such workload.
fn addresses(mesh: &Mesh, name: &WorkloadName) -> Option<Vec<IpAddr>> {
    let workload = mesh.workload(&name.namespace, &name.name)?;
    Some(workload.addresses.clone())
}

/// A panic while it was held cannot have left half a change: what is applied is computed before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
