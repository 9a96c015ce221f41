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
use crate::index::WorkloadName;

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
pub(crate) struct Tables {
    pub(super) workloads: Channels<WorkloadName, model::Workload>,
    pub(super) destinations: Channels<ServiceName, model::Destination>,
    /// Only of addresses that somebody follows: few of all that there are, and of others besides.
    pub(super) addresses: Channels<IpAddr, AddressTarget>,
    /// What is at all of them.
    pub(super) targets: BTreeMap<IpAddr, Arc<AddressTarget>>,
    /// Of what is in these tables.
    pub(super) version: u64,
    /// Which workloads destinations have lost.
    left_destinations: Departures<ServiceName>,
    /// Which workloads addresses have lost that somebody followed.
    left_addresses: Departures<IpAddr>,
}

impl Tables {
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
                let before = endpoints_at(self.targets.get(address));
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

    fn channels(tables: &mut Tables) -> &mut Channels<Self, Self::Value>;

    /// What is there now, where no channel says it.
    fn current(&self, tables: &Tables) -> Option<Arc<Self::Value>>;
}

impl Key for ServiceName {
    type Value = model::Destination;

    fn channels(tables: &mut Tables) -> &mut Channels<Self, Self::Value> {
        &mut tables.destinations
    }

    /// Whatever exists has a channel.
    fn current(&self, _: &Tables) -> Option<Arc<Self::Value>> {
        None
    }
}

impl Key for IpAddr {
    type Value = AddressTarget;

    fn channels(tables: &mut Tables) -> &mut Channels<Self, Self::Value> {
        &mut tables.addresses
    }

    fn current(&self, tables: &Tables) -> Option<Arc<Self::Value>> {
        tables.targets.get(self).cloned()
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
    /// What differs between the channels and `now`.
    pub(super) fn changes(&self, now: &BTreeMap<K, Arc<T>>) -> Changes<K, T> {
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

    pub(super) fn apply(&mut self, changes: Changes<K, T>, version: u64, noticed: Instant) {
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

/// What differs between two tables.
pub(super) fn differences<K: Ord + Clone, T: PartialEq>(
    before: &BTreeMap<K, Arc<T>>,
    now: &BTreeMap<K, Arc<T>>,
) -> Changes<K, T> {
    let gone = before.keys().filter(|key| !now.contains_key(key));
    let gone = gone.map(|key| (key.clone(), None));
    let made = now
        .iter()
        .filter(|(key, value)| before.get(key) != Some(value));
    let made = made.map(|(key, value)| (key.clone(), Some(Arc::clone(value))));
    gone.chain(made).collect()
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
        let mut tables = store.tables();
        let version = tables.version;
        let current = key.current(&tables);
        let channel = K::channels(&mut tables).0.entry(key.clone());
        let channel = channel.or_insert_with(|| {
            watch::Sender::new(Snapshot {
                version,
                noticed: Instant::now(),
                value: current,
            })
        });
        let receiver = channel.subscribe();
        drop(tables);
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
        let mut tables = self.store.tables();
        // What there is can be found again without its channel, where tables say so.
        let is_known = self.key.current(&tables).is_some();
        let channels = &mut K::channels(&mut tables).0;
        if let Some(channel) = channels.get(&self.key) {
            let unused = channel.receiver_count() == 0;
            if unused && (is_known || channel.borrow().value.is_none()) {
                channels.remove(&self.key);
            }
        }
    }
}
