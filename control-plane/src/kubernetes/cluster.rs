//! Everything that was watched: a pure fold of what the watches say. `take` says what of it is of the
//! mesh.

mod take;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use outrider_api::names::ServiceName;

use super::derived::Derived;
use super::entries::Entries;
use super::kinds::Kind;
use super::living::Living;
use super::namespaces::Ending;
use super::objects::{Entry, ObjectId};
use super::pods::Pod;
use super::ported::Ported;
use super::services::{Service, Slice};
use crate::index::{Endpoints, Shared, WorkloadName};

/// So many namespaces that are gone are remembered.
const MAX_GONE: usize = 1024;

/// What one watch says.
#[derive(Debug)]
pub(super) enum Update {
    /// All there is follows.
    Restart(Kind),
    Apply(ObjectId, Item),
    Delete(ObjectId),
    /// That was all there is.
    Synced(Kind),
    /// This namespace is being deleted, and with it what is deleted next.
    Ending(Ending),
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
#[derive(Default)]
pub(super) struct Cluster {
    items: BTreeMap<ObjectId, Item>,
    /// Kinds that are being read anew, and what was read of each so far.
    fresh: HashMap<Kind, BTreeMap<ObjectId, Item>>,
    synced: BTreeSet<Kind>,
    /// What holds although it was deleted before its namespace, which is being deleted, too.
    outlived: BTreeSet<ObjectId>,
    /// The UIDs of namespaces that are gone, the last ones last: who still says that one is ending is behind.
    gone: VecDeque<String>,
    slices: HashMap<ServiceName, BTreeSet<ObjectId>>,
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
            Update::Ending(ending) => self.end(ending),
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

    /// Whether or not its own watch has said so yet.
    fn end(&mut self, ending: Ending) -> bool {
        if ending
            .uid
            .as_ref()
            .is_some_and(|uid| self.gone.contains(uid))
        {
            return false;
        }
        let known = self.namespace(&ending.name);
        let namespace = Namespace {
            uid: ending.uid,
            is_meshed: known.is_some_and(|known| known.is_meshed),
            is_ending: true,
        };
        self.put(namespace_id(&ending.name), Item::Namespace(namespace))
    }

    fn put(&mut self, id: ObjectId, item: Item) -> bool {
        self.outlived.remove(&id);
        let item = self.still_ending(&id, item);
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
            Item::Slice(slice) => {
                let of_service = self.slices.entry(slice.service.clone()).or_default();
                of_service.insert(id.clone());
            }
            Item::Namespace(it) if self.is_another(&id.name, it) => {
                self.namespace_is_gone(&id.name)
            }
            Item::Pod(..)
            | Item::Service(_)
            | Item::Namespace(_)
            | Item::Node(_)
            | Item::Object(_) => {}
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

    /// Policies of a namespace that is being deleted hold until it is gone, and so does whom they are about:
    /// all of it is deleted in any order, and its pods may go last.
    fn delete(&mut self, id: &ObjectId) -> bool {
        if id.kind.outlives_deletion()
            && self.namespace(&id.namespace).is_some_and(|it| it.is_ending)
            && let Some(left) = self.items.get(id).and_then(Item::once_deleted)
        {
            let changed = self.put(id.clone(), left);
            self.outlived.insert(id.clone());
            return changed;
        }
        if id.kind == Kind::Namespace {
            self.namespace_is_gone(&id.name);
        }
        self.forget_slice(id);
        let Some(gone) = self.items.remove(id) else {
            return false;
        };
        self.changed.note(id, &gone);
        true
    }

    /// A namespace that is being deleted is so until it is gone: who says otherwise is behind.
    fn still_ending(&self, id: &ObjectId, item: Item) -> Item {
        match (item, self.items.get(id)) {
            (Item::Namespace(it), Some(Item::Namespace(known))) if it.uid == known.uid => {
                Item::Namespace(Namespace {
                    is_ending: it.is_ending || known.is_ending,
                    ..it
                })
            }
            (item, _) => item,
        }
    }

    /// Than the one of that name that was known.
    fn is_another(&self, name: &str, namespace: &Namespace) -> bool {
        self.namespace(name)
            .is_some_and(|known| known.uid != namespace.uid)
    }

    fn namespace_is_gone(&mut self, name: &str) {
        self.release(name);
        let Some(uid) = self.namespace(name).and_then(|known| known.uid.clone()) else {
            return;
        };
        if self.gone.len() >= MAX_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(uid);
    }

    /// What was only held since its namespace was ending goes.
    fn release(&mut self, namespace: &str) {
        let of_namespace = |id: &ObjectId| id.namespace == namespace;
        let gone: Vec<ObjectId> = self.outlived.extract_if(.., of_namespace).collect();
        for id in gone {
            self.forget_slice(&id);
            if let Some(item) = self.items.remove(&id) {
                self.changed.note(&id, &item);
            }
        }
    }

    fn namespace(&self, name: &str) -> Option<&Namespace> {
        match self.items.get(&namespace_id(name)) {
            Some(Item::Namespace(namespace)) => Some(namespace),
            _ => None,
        }
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
}

impl Item {
    /// What holds of it when it was deleted, its namespace being deleted, too: which pods policies are about,
    /// and no more. Nobody calls anything by it. `None`: nothing, since its Service says the same.
    fn once_deleted(&self) -> Option<Self> {
        match self {
            Self::Service(service) => Some(Self::Service(Arc::new(service.once_deleted()))),
            Self::Slice(slice) if slice.is_derived => None,
            Self::Slice(slice) => Some(Self::Slice(slice.once_deleted())),
            Self::Pod(..) | Self::Namespace(_) | Self::Node(_) | Self::Object(_) => {
                Some(self.clone())
            }
        }
    }
}

fn namespace_id(name: &str) -> ObjectId {
    ObjectId {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: name.to_owned(),
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

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
