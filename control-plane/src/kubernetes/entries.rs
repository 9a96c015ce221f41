//! What is of the mesh, by kind. A kind of which nothing has changed is the same as before, and so is
//! whatever is made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrider_api::manifest::Object;

use super::kinds::Kind;
use super::objects::{Entry, ObjectId};
use crate::index::{Shared, Shelf};

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(BTreeMap<Kind, OfKind>);

/// Those of one kind, in the order of their names.
#[derive(Clone, Debug, Default)]
pub(super) struct OfKind {
    entries: Shared<Vec<Arc<Entry>>>,
    /// Those of them that can be read.
    shelf: Shelf,
}

impl Entries {
    /// All of a kind, in the order of their names.
    pub(super) fn set(&mut self, kind: Kind, entries: Vec<Arc<Entry>>) {
        let shelf = entries.iter().filter_map(|entry| entry.object.clone());
        let of_kind = OfKind {
            shelf: shelf.collect(),
            entries: Shared::new(entries),
        };
        self.0.insert(kind, of_kind);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.values().flat_map(|of_kind| of_kind.entries.iter())
    }

    pub(crate) fn of(&self, kind: Kind) -> &[Arc<Entry>] {
        self.0.get(&kind).map_or(&[], |of_kind| &of_kind.entries)
    }

    pub(crate) fn find(&self, id: &ObjectId) -> Option<&Arc<Entry>> {
        let entries = self.of(id.kind);
        let found = entries.binary_search_by(|entry| entry.id.cmp(id));
        found.ok().map(|index| &entries[index])
    }

    /// Those of a kind that can be read.
    pub(super) fn shelf(&self, kind: Kind) -> Shelf {
        let of_kind = self.0.get(&kind);
        of_kind.map_or_else(Shelf::default, |of_kind| of_kind.shelf.clone())
    }

    /// All that can be read.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.iter().filter_map(|entry| entry.object.as_ref())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(|of_kind| of_kind.entries.len()).sum()
    }
}

#[cfg(test)]
impl FromIterator<Arc<Entry>> for Entries {
    fn from_iter<I: IntoIterator<Item = Arc<Entry>>>(all: I) -> Self {
        let mut kinds: BTreeMap<Kind, Vec<Arc<Entry>>> = BTreeMap::new();
        for entry in all {
            kinds.entry(entry.id.kind).or_default().push(entry);
        }
        let mut entries = Self::default();
        for (kind, mut of_kind) in kinds {
            of_kind.sort_by(|one, other| one.id.cmp(&other.id));
            entries.set(kind, of_kind);
        }
        entries
    }
}
