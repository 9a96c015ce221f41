//! Everything that was watched, and what of it is of the mesh: a pure fold of what the watches say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outrider_api::names::ServiceName;

use super::derived::Derived;
use super::entries::Entries;
use super::kinds::Kind;
use super::living::Living;
use super::objects::{Entry, ObjectId};
use super::pods::{self, Pod, Pods, ZONE};
use super::ported::Ported;
use super::services::{Behind, PodTable, Service, Slice};
use crate::index::{Endpoints, Shared, WorkloadName};

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
    pub(super) uid: Option<String>,
    pub(super) is_meshed: bool,
    pub(super) is_ending: bool,
}

/// See the module.
pub(super) struct Cluster {
    items: BTreeMap<ObjectId, Item>,
    /// Kinds that are being read anew, and what was read of each so far.
    fresh: HashMap<Kind, BTreeMap<ObjectId, Item>>,
    synced: BTreeSet<Kind>,
    /// Policies that were deleted before their namespace, which is being deleted, too.
    outlived: BTreeSet<ObjectId>,
    slices: HashMap<ServiceName, BTreeSet<ObjectId>>,
    pods: Pods,
    /// Since it was last taken.
    changed: Changed,
    taken: Taken,
    living: Living,
    /// Pods as they are with the zones of their nodes.
    zoned: Derived<WorkloadName, String>,
    ported: Ported,
}

/// What is different.
#[derive(Default)]
struct Changed {
    /// But for slices.
    kinds: BTreeSet<Kind>,
    /// Those of which slices are.
    services: BTreeSet<ServiceName>,
}

/// What is of the mesh. Cheap to clone; what has not changed is the same as before.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    pub(super) entries: Entries,
    pub(super) endpoints: Endpoints,
    pub(super) meshed: Shared<BTreeSet<String>>,
}

impl Cluster {
    pub(super) fn new(pods: Pods) -> Self {
        Self {
            items: BTreeMap::new(),
            fresh: HashMap::new(),
            synced: BTreeSet::new(),
            outlived: BTreeSet::new(),
            slices: HashMap::new(),
            pods,
            changed: Changed::default(),
            taken: Taken::default(),
            living: Living::default(),
            zoned: Derived::default(),
            ported: Ported::default(),
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
        self.outlived.remove(&id);
        let item = match (item, self.items.get(&id)) {
            (item, Some(held)) if *held == item => return false,
            // Only its readiness differs, say: it is the very same to whoever asks for its object.
            (Item::Pod(pod, entry), Some(Item::Pod(_, held))) if *held == entry => {
                Item::Pod(pod, held.clone())
            }
            (item, _) => item,
        };
        self.forget_slice(&id);
        match &item {
            Item::Pod(pod, _) => self.pods.tell(&pod.name, Some(pod)),
            Item::Slice(slice) => {
                let of_service = self.slices.entry(slice.service.clone()).or_default();
                of_service.insert(id.clone());
            }
            Item::Namespace(it) if self.is_another(&id.name, it) => self.release(&id.name),
            Item::Service(_) | Item::Namespace(_) | Item::Node(_) | Item::Object(_) => {}
        }
        self.changed.note(&id, &item);
        self.items.insert(id, item);
        true
    }

    fn forget_slice(&mut self, id: &ObjectId) {
        let Some(Item::Slice(slice)) = self.items.get(id) else {
            return;
        };
        self.changed.services.insert(slice.service.clone());
        if let Some(of_service) = self.slices.get_mut(&slice.service) {
            of_service.remove(id);
            if of_service.is_empty() {
                self.slices.remove(&slice.service);
            }
        }
    }

    /// Policies of a namespace that is being deleted hold until it is gone: they are deleted in any
    /// order, and its pods may go after them.
    fn delete(&mut self, id: &ObjectId) -> bool {
        let holds = matches!(id.kind, Kind::AuthorizationPolicy | Kind::RateLimitPolicy);
        if holds && self.namespace(&id.namespace).is_some_and(|it| it.is_ending) {
            if self.items.contains_key(id) {
                self.outlived.insert(id.clone());
            }
            return false;
        }
        self.forget_slice(id);
        let Some(gone) = self.items.remove(id) else {
            return false;
        };
        self.changed.note(id, &gone);
        match gone {
            Item::Pod(pod, _) => self.pods.tell(&pod.name, None),
            Item::Namespace(_) => self.release(&id.name),
            Item::Service(_) | Item::Slice(_) | Item::Node(_) | Item::Object(_) => {}
        }
        true
    }

    /// Than the one of that name that was known.
    fn is_another(&self, name: &str, namespace: &Namespace) -> bool {
        self.namespace(name)
            .is_some_and(|known| known.uid != namespace.uid)
    }

    /// The policies go that were only held since their namespace was ending.
    fn release(&mut self, namespace: &str) {
        let of_namespace = |id: &ObjectId| id.namespace == namespace;
        for id in self.outlived.extract_if(.., of_namespace) {
            self.items.remove(&id);
            self.changed.kinds.insert(id.kind);
        }
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

    /// What is of the mesh now. Only what may have changed is looked at.
    pub(super) fn take(&mut self) -> Taken {
        let Changed { kinds, services } = std::mem::take(&mut self.changed);
        let any = |of: &[Kind]| of.iter().any(|kind| kinds.contains(kind));
        if any(&[Kind::Pod, Kind::Node]) {
            self.living = Living::of(self.of_kind(Kind::Pod).map(|(_, item)| item));
            let pods = self.take_pods();
            self.taken.entries.set(Kind::Pod, pods);
        }
        if any(&[Kind::Pod, Kind::Service, Kind::Namespace]) {
            self.take_services(None);
            self.taken.meshed = Shared::new(self.meshed());
        } else if !services.is_empty() {
            self.take_services(Some(&services));
        }
        for kind in kinds {
            if kind.resources().is_empty() {
                continue;
            }
            let entries = self.of_kind(kind).filter_map(|(_, item)| match item {
                Item::Object(entry) => Some(Arc::clone(entry)),
                _ => None,
            });
            let entries = entries.collect();
            self.taken.entries.set(kind, entries);
        }
        self.taken.clone()
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectId, &Item)> {
        let first = ObjectId {
            kind,
            namespace: String::new(),
            name: String::new(),
        };
        let items = self.items.range(first..);
        items.take_while(move |(id, _)| id.kind == kind)
    }

    fn take_pods(&mut self) -> Vec<Arc<Entry>> {
        let mut zoned = std::mem::take(&mut self.zoned);
        zoned.retain(|name| self.living.named(name).is_some());
        let mut entries = Vec::new();
        for (_, item) in self.of_kind(Kind::Pod) {
            let Item::Pod(pod, entry) = item else {
                continue;
            };
            if self.living.named(&pod.name).is_none() {
                continue;
            }
            entries.push(match self.zone_of_node(pod) {
                Some(zone) => zoned.of(pod.name.clone(), entry, zone.clone(), |entry, zone| {
                    pods::with_zone(entry, zone)
                }),
                None => Arc::clone(entry),
            });
        }
        self.zoned = zoned;
        entries
    }

    /// Kubernetes says of a node, not of its pods, where it is (before 1.35).
    fn zone_of_node(&self, pod: &Pod) -> Option<&String> {
        if pod.labels.contains_key(ZONE) {
            return None;
        }
        let id = ObjectId {
            kind: Kind::Node,
            namespace: String::new(),
            name: pod.node.clone()?,
        };
        match self.items.get(&id) {
            Some(Item::Node(zone)) => zone.as_ref(),
            _ => None,
        }
    }

    /// Who is behind these Services, or all: and so, which are of the mesh.
    fn take_services(&mut self, only: Option<&BTreeSet<ServiceName>>) {
        let mut members = (*self.taken.endpoints.members).clone();
        let mut ready = (*self.taken.endpoints.ready).clone();
        let mut ported = std::mem::take(&mut self.ported);
        if only.is_none() {
            let is_left = |name: &ServiceName| self.items.contains_key(&service_id(name));
            members.retain(|name, _| is_left(name));
            ready.retain(|name, _| is_left(name));
            ported.retain(is_left);
        }
        let mut of_mesh = Vec::new();
        for (_, item) in self.of_kind(Kind::Service) {
            let Item::Service(service) = item else {
                continue;
            };
            let name = &service.name;
            let same = only.is_some_and(|only| !only.contains(name));
            if !same {
                let behind = self.behind(service);
                ported.tell(service, behind.as_ref());
                match behind {
                    Some(behind) => {
                        if service.selector.is_empty() {
                            members.insert(name.clone(), behind.all);
                        } else {
                            members.remove(name);
                        }
                        let known = ready.get(name);
                        if known.is_none_or(|known| **known != behind.ready) {
                            ready.insert(name.clone(), Shared::new(behind.ready));
                        }
                    }
                    None => {
                        members.remove(name);
                        ready.remove(name);
                    }
                }
            }
            if ready.contains_key(name) {
                of_mesh.push(Arc::clone(ported.entry(service)));
            }
        }
        self.ported = ported;
        let same = |known: &[Arc<Entry>]| {
            let mut pairs = known.iter().zip(&of_mesh);
            known.len() == of_mesh.len() && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if !same(self.taken.entries.of(Kind::Service)) {
            self.taken.entries.set(Kind::Service, of_mesh);
        }
        if *self.taken.endpoints.members != members {
            self.taken.endpoints.members = Shared::new(members);
        }
        self.taken.endpoints.ready = Shared::new(ready);
    }

    fn behind(&self, service: &Service) -> Option<Behind> {
        let ids = self.slices.get(&service.name).into_iter().flatten();
        let slices = ids.filter_map(|id| match self.items.get(id) {
            Some(Item::Slice(slice)) => Some(slice),
            _ => None,
        });
        let namespace = self.namespace(&service.name.namespace);
        let is_meshed = namespace.is_some_and(|namespace| namespace.is_meshed);
        service.behind(slices, &self.living, is_meshed)
    }

    /// Those that are meshed, and those that have a pod with a sidecar.
    fn meshed(&self) -> BTreeSet<String> {
        let of_namespaces = self
            .of_kind(Kind::Namespace)
            .filter_map(|(id, item)| match item {
                Item::Namespace(namespace) if namespace.is_meshed => Some(&id.name),
                _ => None,
            });
        let mut meshed: BTreeSet<String> = of_namespaces.cloned().collect();
        for (id, _) in self.of_kind(Kind::Pod) {
            if !meshed.contains(&id.namespace) {
                meshed.insert(id.namespace.clone());
            }
        }
        meshed
    }
}

impl Changed {
    fn note(&mut self, id: &ObjectId, item: &Item) {
        match item {
            Item::Slice(slice) => self.services.insert(slice.service.clone()),
            Item::Pod(..)
            | Item::Service(_)
            | Item::Namespace(_)
            | Item::Node(_)
            | Item::Object(_) => self.kinds.insert(id.kind),
        };
    }
}

fn service_id(name: &ServiceName) -> ObjectId {
    ObjectId {
        kind: Kind::Service,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
