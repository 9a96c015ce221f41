//! What a service remembers: the latest entries in order of arrival, bounded so that a demo that
//! runs for days does not grow. Owns no locking.

use std::collections::{HashMap, VecDeque};

/// How many entries each service keeps.
const KEPT: usize = 10_000;

/// The latest entries by key.
#[derive(Debug)]
pub(crate) struct Journal<T> {
    entries: HashMap<String, T>,
    order: VecDeque<String>,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T> Journal<T> {
    /// Adds an entry, and forgets the oldest one when there are too many.
    pub(crate) fn insert(&mut self, key: String, entry: T) {
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.entries.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Newest first.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &T> {
        self.order
            .iter()
            .rev()
            .filter_map(|key| self.entries.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_latest_entries() {
        let mut journal = Journal::default();
        for number in 0..=KEPT {
            journal.insert(number.to_string(), number);
        }
        assert_eq!(journal.len(), KEPT);
        assert_eq!(journal.get("0"), None);
        assert_eq!(journal.latest().next(), Some(&KEPT));
    }

    #[test]
    fn the_same_key_is_one_entry() {
        let mut journal = Journal::default();
        journal.insert("a".to_owned(), 1);
        journal.insert("a".to_owned(), 2);
        assert_eq!(journal.len(), 1);
        assert_eq!(journal.latest().collect::<Vec<_>>(), [&2]);
    }
}
