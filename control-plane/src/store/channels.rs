//! One `watch` channel for each resource that somebody follows or that exists.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use outrider_api::model::address::AddressTarget;
use outrider_api::model::{self, Endpoint};
use outrider_api::names::ServiceName;
use tokio::sync::watch;

use super::withdrawal::Departures;
use super::{Store, Withdrawn};
use crate::index::{Shared, Tables, WorkloadName};

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

/// Everything that can be followed.
#[derive(Default)]
pub(crate) struct Followed {
    pub(super) workloads: Channels<WorkloadName, model::Workload>,
    pub(super) destinations: Channels<ServiceName, model::Destination>,
    /// Only of addresses that somebody follows: few of all that there are, and of others besides.
    pub(super) addresses: Channels<IpAddr, AddressTarget>,
    /// What is published, all of it.
    pub(super) published: Tables,
    /// Of what is published.
    pub(super) version: u64,
    /// Which workloads destinations have lost.
    left_destinations: Departures<ServiceName>,
    /// Which workloads addresses have lost that somebody followed.
    left_addresses: Departures<IpAddr>,
}

impl Followed {
    /// Takes down which endpoints go with these changes, which are still to be applied.
    pub(super) fn take_leave(
        &mut self,
        destinations: &Changes<ServiceName, model::Destination>,
        addresses: &Changes<IpAddr, AddressTarget>,
        version: u64,
    ) {
        for (name, now) in destinations {
            let channel = self.destinations.0.get(name);
            let before = channel.and_then(|channel| channel.borrow().value.clone());
            let [before, now] = [&before, now].map(|value| match value {
                Some(destination) => &*destination.endpoints,
                None => &[],
            });
            self.left_destinations.record(name, before, now, version);
        }
        for (address, now) in addresses {
            if self.addresses.0.contains_key(address) {
                let before = endpoints_at(self.published.addresses.get(address));
                let now = endpoints_at(now.as_ref());
                self.left_addresses.record(address, before, now, version);
            }
        }
    }

    /// Forgets what has been taken down of what nobody follows, or of a workload that is gone and has
    /// no sidecar.
    pub(super) fn forget_departed(&mut self) {
        let Self {
            workloads,
            destinations,
            addresses,
            ..
        } = self;
        let is_asked_about = |workload: &WorkloadName| workloads.0.contains_key(workload);
        let is_known = |name: &ServiceName| destinations.0.contains_key(name);
        self.left_destinations.retain(is_known, is_asked_about);
        let is_known = |address: &IpAddr| addresses.0.contains_key(address);
        self.left_addresses.retain(is_known, is_asked_about);
    }

    /// What a workload was an endpoint of, and is no longer.
    pub(super) fn left_by(&self, workload: &WorkloadName) -> Withdrawn {
        Withdrawn {
            destinations: self.left_destinations.of(workload),
            addresses: self.left_addresses.of(workload),
        }
    }
}

fn endpoints_at(target: Option<&Arc<AddressTarget>>) -> &[Endpoint] {
    match target.map(|target| &**target) {
        Some(AddressTarget::Instance(instance)) => &instance.endpoints,
        Some(AddressTarget::Service(_) | AddressTarget::Unknown) | None => &[],
    }
}

/// What names something that may be followed whether it exists or not.
pub(crate) trait Key: Clone + Eq + Hash + Ord + Send + Sync + 'static {
    type Value: PartialEq + Send + Sync + 'static;

    fn channels(followed: &mut Followed) -> &mut Channels<Self, Self::Value>;

    /// What is there now, where no channel says it.
    fn current(&self, followed: &Followed) -> Option<Arc<Self::Value>>;
}

impl Key for ServiceName {
    type Value = model::Destination;

    fn channels(followed: &mut Followed) -> &mut Channels<Self, Self::Value> {
        &mut followed.destinations
    }

    /// Whatever exists has a channel.
    fn current(&self, _: &Followed) -> Option<Arc<Self::Value>> {
        None
    }
}

impl Key for IpAddr {
    type Value = AddressTarget;

    fn channels(followed: &mut Followed) -> &mut Channels<Self, Self::Value> {
        &mut followed.addresses
    }

    fn current(&self, followed: &Followed) -> Option<Arc<Self::Value>> {
        followed.published.addresses.get(self).cloned()
    }
}

pub(crate) struct Channels<K, T>(pub(super) HashMap<K, watch::Sender<Snapshot<T>>>);

impl<K, T> Default for Channels<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

pub(super) type Changes<K, T> = Vec<(K, Option<Arc<T>>)>;

impl<K: Eq + Hash + Clone + Ord, T: PartialEq> Channels<K, T> {
    pub(super) fn apply(&mut self, changes: Changes<K, T>, version: u64, noticed: Instant) {
        if changes.is_empty() {
            return;
        }
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

    /// As `apply`, of what is followed: for the rest there is no channel.
    pub(super) fn apply_followed(&self, changes: Changes<K, T>, version: u64, noticed: Instant) {
        for (key, value) in changes {
            if let Some(channel) = self.0.get(&key) {
                channel.send_replace(Snapshot {
                    version,
                    noticed,
                    value,
                });
            }
        }
    }

    pub(super) fn version(&self, key: &K) -> Option<u64> {
        self.0.get(key).map(|channel| channel.borrow().version)
    }
}

fn needed<T>(channel: &watch::Sender<Snapshot<T>>) -> bool {
    channel.receiver_count() > 0 || channel.borrow().value.is_some()
}

/// What differs between two tables. What is the very same is not looked at.
pub(super) fn differences<K: Ord + Clone, T: PartialEq>(
    before: &Shared<BTreeMap<K, Arc<T>>>,
    now: &Shared<BTreeMap<K, Arc<T>>>,
) -> Changes<K, T> {
    if before == now {
        return Changes::new();
    }
    let mut changes = Changes::new();
    let mut known = before.iter().peekable();
    for (key, value) in now.iter() {
        while let Some((gone, _)) = known.next_if(|(other, _)| *other < key) {
            changes.push((gone.clone(), None));
        }
        let known = known.next_if(|(other, _)| *other == key);
        let is_same = |known: &Arc<T>| Arc::ptr_eq(known, value) || known == value;
        if !known.is_some_and(|(_, known)| is_same(known)) {
            changes.push((key.clone(), Some(Arc::clone(value))));
        }
    }
    changes.extend(known.map(|(gone, _)| (gone.clone(), None)));
    changes
}

/// Follows one resource. Dropping it forgets the channel if nothing else needs it, so that asking for
/// names that do not exist leaves nothing behind.
pub(crate) struct Watch<K: Key> {
    key: K,
    receiver: Option<watch::Receiver<Snapshot<K::Value>>>,
    store: Arc<Store>,
}

impl<K: Key> Watch<K> {
    pub(super) fn new(store: &Arc<Store>, key: K) -> Self {
        let mut followed = store.followed();
        let version = followed.version;
        let current = key.current(&followed);
        let channel = K::channels(&mut followed).0.entry(key.clone());
        let channel = channel.or_insert_with(|| {
            watch::Sender::new(Snapshot {
                version,
                noticed: Instant::now(),
                value: current,
            })
        });
        let receiver = channel.subscribe();
        drop(followed);
        Self {
            key,
            receiver: Some(receiver),
            store: Arc::clone(store),
        }
    }

    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    /// The newest snapshot, which counts as seen from here on.
    pub(crate) fn newest(&mut self) -> Option<Snapshot<K::Value>> {
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

impl<K: Key> Drop for Watch<K> {
    fn drop(&mut self) {
        self.receiver = None;
        let mut followed = self.store.followed();
        // What there is can be found again without its channel, where tables say so.
        let is_known = self.key.current(&followed).is_some();
        let channels = &mut K::channels(&mut followed).0;
        if let Some(channel) = channels.get(&self.key) {
            let unused = channel.receiver_count() == 0;
            if unused && (is_known || channel.borrow().value.is_none()) {
                channels.remove(&self.key);
            }
        }
    }
}
