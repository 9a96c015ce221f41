//! Endpoints that are chosen from together.

use std::cell::Cell;

use super::Candidate;
use super::maglev::Maglev;

#[derive(Debug)]
pub(super) struct Pool {
    members: Vec<u32>,
    /// For consistent hashing.
    pub(super) table: Option<Maglev>,
    /// For round robin; `None` before the first, which is drawn: callers that start together must
    /// not all begin with the same endpoint.
    turn: Cell<Option<usize>>,
}

impl Pool {
    pub(super) fn new<E: Candidate>(
        endpoints: &[E],
        hashed: bool,
        belongs: impl Fn(&E) -> bool,
    ) -> Self {
        let members = endpoints
            .iter()
            .enumerate()
            .filter(|(_, endpoint)| belongs(endpoint));
        let members: Vec<u32> = members
            .filter_map(|(index, _)| u32::try_from(index).ok())
            .collect();
        let identity = |&index: &u32| (index, endpoints[index as usize].identity());
        let table = hashed.then(|| Maglev::new(members.iter().map(identity)));
        Self {
            members,
            table,
            turn: Cell::new(None),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|&index| index as usize)
    }

    pub(super) fn get(&self, at: usize) -> Option<usize> {
        self.members.get(at).map(|&index| index as usize)
    }

    /// Whose turn it is.
    pub(super) fn next(&self, random: impl FnOnce(usize) -> usize) -> Option<usize> {
        let turn = match self.turn.get() {
            Some(turn) => turn,
            None if self.members.is_empty() => return None,
            None => random(self.members.len()),
        };
        self.turn.set(Some((turn + 1) % self.members.len().max(1)));
        self.get(turn)
    }
}
