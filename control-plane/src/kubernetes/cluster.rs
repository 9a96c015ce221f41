//! Everything that was watched, and what of it is of the mesh: a pure fold of what the watches say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use outrider_api::manifest::Object;
use outrider_api::names::ServiceName;

use super::kinds::Kind;
use super::objects::{Entry, ObjectId};
use super::pods::{Pod, Pods};
use super::services::{PodTable, Service, Slice};
use crate::index::{Endpoints, WorkloadName};

/// The label of nodes and of workloads that says where they are.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What one watch says.
#[derive(Debug)]
pub(super) enum Update {
    /// All there is follows.
    Restart(Kind),
    Apply(ObjectId, Item),
    Delete(ObjectId),
    /// That was all there is.
    Synced(Kind),
}

/// What is kept of an object, by its kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Pod(Arc<Pod>, Arc<Entry>),
    Service(Arc<Service>),
    Slice(Slice),
    Namespace(Namespace),
    /// Its zone.
    Node(Option<String>),
    Object(Arc<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) is_meshed: bool,
    pub(super) is_ending: bool,
}

/// See the module.
pub(super) struct Cluster {
    items: BTreeMap<ObjectId, Item>,
    /// Kinds that are being read anew, and what was read of each so far.
    fresh: HashMap<Kind, BTreeMap<ObjectId, Item>>,
    synced: BTreeSet<Kind>,
    slices: HashMap<ServiceName, BTreeSet<ObjectId>>,
    pods: Pods,
}

/// What is of the mesh.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) endpoints: Endpoints,
    pub(super) meshed: BTreeSet<String>,
}

impl Cluster {
    pub(super) fn new(pods: Pods) -> Self {
        Self {
            items: BTreeMap::new(),
            fresh: HashMap::new(),
            synced: BTreeSet::new(),
            slices: HashMap::new(),
            pods,
        }
    }

    /// The kinds that have not been read yet.
    pub(super) fn missing(&self) -> Vec<Kind> {
        let missing = |kind: &Kind| !self.synced.contains(kind);
        Kind::ALL.into_iter().filter(missing).collect()
    }

    /// Whether anything is different from before.
    pub(super) fn update(&mut self, update: Update) -> bool {
        match update {
            Update::Restart(kind) => {
                self.fresh.insert(kind, BTreeMap::new());
                false
            }
            Update::Apply(id, item) => match self.fresh.get_mut(&id.kind) {
                Some(fresh) => {
                    fresh.insert(id, item);
                    false
                }
                None => self.put(id, item),
            },
            Update::Delete(id) => self.delete(&id),
            Update::Synced(kind) => {
                let first = self.synced.insert(kind);
                let fresh = self.fresh.remove(&kind).unwrap_or_default();
                self.replace(kind, fresh) || first
            }
        }
    }

    fn replace(&mut self, kind: Kind, fresh: BTreeMap<ObjectId, Item>) -> bool {
        let of_kind = |id: &&ObjectId| id.kind == kind && !fresh.contains_key(*id);
        let gone: Vec<ObjectId> = self.items.keys().filter(of_kind).cloned().collect();
        let mut changed = false;
        for id in &gone {
            changed |= self.delete(id);
        }
        for (id, item) in fresh {
            changed |= self.put(id, item);
        }
        changed
    }

    fn put(&mut self, id: ObjectId, item: Item) -> bool {
        if self.items.get(&id) == Some(&item) {
            return false;
        }
        match &item {
            Item::Pod(pod, _) => self.pods.tell(&pod.name, Some(pod)),
            Item::Slice(slice) => {
                let of_service = self.slices.entry(slice.service.clone()).or_default();
                of_service.insert(id.clone());
            }
            Item::Service(_) | Item::Namespace(_) | Item::Node(_) | Item::Object(_) => {}
        }
        self.items.insert(id, item);
        true
    }

    /// Policies of a namespace that is being deleted hold until it is gone: they are deleted in any
    /// order, and its pods may go after them.
    fn delete(&mut self, id: &ObjectId) -> bool {
        let holds = matches!(id.kind, Kind::AuthorizationPolicy | Kind::RateLimitPolicy);
        if holds && self.namespace(&id.namespace).is_some_and(|it| it.is_ending) {
            return false;
        }
        match self.items.remove(id) {
            None => return false,
            Some(Item::Pod(pod, _)) => self.pods.tell(&pod.name, None),
            Some(Item::Slice(slice)) => {
                if let Some(of_service) = self.slices.get_mut(&slice.service) {
                    of_service.remove(id);
                    if of_service.is_empty() {
                        self.slices.remove(&slice.service);
                    }
                }
            }
            Some(Item::Namespace(_)) => {
                let policies = |of: &ObjectId, _: &mut Item| {
                    let holds =
                        matches!(of.kind, Kind::AuthorizationPolicy | Kind::RateLimitPolicy);
                    holds && of.namespace == id.name
                };
                self.items.extract_if(.., policies).for_each(drop);
            }
            Some(Item::Service(_) | Item::Node(_) | Item::Object(_)) => {}
        }
        true
    }

    fn namespace(&self, name: &str) -> Option<&Namespace> {
        let id = ObjectId {
            kind: Kind::Namespace,
            namespace: String::new(),
            name: name.to_owned(),
        };
        match self.items.get(&id) {
            Some(Item::Namespace(namespace)) => Some(namespace),
            _ => None,
        }
    }

    /// What is of the mesh now.
    pub(super) fn take(&self) -> Taken {
        let pods = Living::of(self.items.values());
        let mut taken = Taken::default();
        for item in self.items.values() {
            match item {
                Item::Pod(pod, entry) => {
                    taken.meshed.insert(pod.name.namespace.clone());
                    if pods.named(&pod.name).is_some() {
                        taken.entries.push(self.with_zone(pod, entry));
                    }
                }
                Item::Service(service) => self.service(service, &pods, &mut taken),
                Item::Object(entry) => taken.entries.push(Arc::clone(entry)),
                Item::Slice(_) | Item::Namespace(_) | Item::Node(_) => {}
            }
        }
        let namespaces = self.items.iter().filter_map(|(id, item)| match item {
            Item::Namespace(namespace) if namespace.is_meshed => Some(id.name.clone()),
            _ => None,
        });
        taken.meshed.extend(namespaces);
        taken
    }

    fn service(&self, service: &Arc<Service>, pods: &Living<'_>, taken: &mut Taken) {
        let ids = self.slices.get(&service.name).into_iter().flatten();
        let slices = ids.filter_map(|id| match self.items.get(id) {
            Some(Item::Slice(slice)) => Some(slice),
            _ => None,
        });
        let namespace = self.namespace(&service.name.namespace);
        let is_meshed = namespace.is_some_and(|namespace| namespace.is_meshed);
        let Some(behind) = service.behind(slices, pods, is_meshed) else {
            return;
        };
        taken.entries.push(Arc::clone(&service.entry));
        let name = &service.name;
        if service.selector.is_empty() {
            taken.endpoints.members.insert(name.clone(), behind.all);
        }
        taken.endpoints.ready.insert(name.clone(), behind.ready);
    }

    /// Kubernetes says of a node, not of its pods, where it is (before 1.35).
    fn with_zone(&self, pod: &Pod, entry: &Arc<Entry>) -> Arc<Entry> {
        let node = pod.node.as_ref().map(|node| ObjectId {
            kind: Kind::Node,
            namespace: String::new(),
            name: node.clone(),
        });
        let node = node.and_then(|id| self.items.get(&id));
        let (Some(Item::Node(Some(zone))), Some(Object::Workload(workload))) =
            (node, &entry.object)
        else {
            return Arc::clone(entry);
        };
        if pod.labels.contains_key(ZONE) {
            return Arc::clone(entry);
        }
        let mut workload = workload.clone();
        let labels = &mut workload.value.metadata.labels;
        labels.insert(ZONE.to_owned(), zone.clone());
        Arc::new(entry.with(Object::Workload(workload)))
    }
}

/// The pods that have addresses: each has its own.
struct Living<'c> {
    by_name: HashMap<&'c WorkloadName, &'c Pod>,
    by_address: HashMap<IpAddr, &'c Pod>,
    by_namespace: HashMap<&'c str, Vec<&'c Pod>>,
}

impl<'c> Living<'c> {
    fn of(items: impl Iterator<Item = &'c Item>) -> Self {
        let pods = items.filter_map(|item| match item {
            Item::Pod(pod, _) if !pod.ended && !pod.addresses.is_empty() => Some(&**pod),
            _ => None,
        });
        let pods: Vec<&Pod> = pods.collect();
        // An address that two pods have is that of the newer: the older is gone from it, and nobody
        // has told yet (a node that was lost).
        let mut by_address: HashMap<IpAddr, &Pod> = HashMap::new();
        for pod in &pods {
            for address in &pod.addresses {
                let owner = by_address.entry(*address).or_insert(*pod);
                if (&owner.created, &owner.uid) < (&pod.created, &pod.uid) {
                    *owner = *pod;
                }
            }
        }
        let owns = |pod: &&Pod| {
            let mut addresses = pod.addresses.iter();
            addresses.all(|address| by_address.get(address).is_some_and(|it| it.uid == pod.uid))
        };
        let living: Vec<&Pod> = pods.into_iter().filter(owns).collect();
        let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
        for pod in &living {
            let of_namespace = by_namespace.entry(&pod.name.namespace).or_default();
            of_namespace.push(*pod);
        }
        Self {
            by_name: living.iter().map(|pod| (&pod.name, *pod)).collect(),
            by_address,
            by_namespace,
        }
    }
}

impl PodTable for Living<'_> {
    fn named(&self, name: &WorkloadName) -> Option<&Pod> {
        self.by_name.get(name).copied()
    }

    fn at(&self, address: IpAddr) -> Option<&Pod> {
        let pod = self.by_address.get(&address)?;
        self.named(&pod.name)
    }

    fn of_namespace<'t>(&'t self, namespace: &'t str) -> impl Iterator<Item = &'t Pod> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .copied()
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
