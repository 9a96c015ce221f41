//! Entries that are made of others. What is made of the very same is the very same: whoever asks tells
//! a change by pointers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::objects::Entry;

/// By name: an entry, what was added to it, and what came of both.
pub(super) struct Derived<N, W>(HashMap<N, Row<W>>);

struct Row<W> {
    entry: Arc<Entry>,
    with: W,
    made: Arc<Entry>,
}

impl<N, W> Default for Derived<N, W> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<N: Eq + Hash, W: PartialEq> Derived<N, W> {
    /// What `make` makes of `entry` and `with`, of which alone it may depend.
    pub(super) fn of(
        &mut self,
        name: N,
        entry: &Arc<Entry>,
        with: W,
        make: impl FnOnce(&Arc<Entry>, &W) -> Arc<Entry>,
    ) -> Arc<Entry> {
        let known = self.0.get(&name);
        let known = known.filter(|row| Arc::ptr_eq(&row.entry, entry) && row.with == with);
        if let Some(known) = known {
            return Arc::clone(&known.made);
        }
        let made = make(entry, &with);
        let row = Row {
            entry: Arc::clone(entry),
            with,
            made: Arc::clone(&made),
        };
        self.0.insert(name, row);
        made
    }

    /// What was made last.
    pub(super) fn find(&self, name: &N) -> Option<&Arc<Entry>> {
        self.0.get(name).map(|row| &row.made)
    }

    pub(super) fn forget(&mut self, name: &N) {
        self.0.remove(name);
    }

    pub(super) fn retain(&mut self, is_left: impl Fn(&N) -> bool) {
        self.0.retain(|name, _| is_left(name));
    }
}
