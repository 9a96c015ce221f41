//! Series that end. Instances come and go for as long as a sidecar lives, and a scrape would tell of all
//! that there ever were. Those of a label set stay for a while after the last that counts into them has
//! gone, so that scrapers see its last values, and then they go, too.
//!
//! Whoever has resolved a handle counts into it without being seen here: only the first and the last
//! are.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long series stay that nobody counts into: several scrapes.
pub const LINGER: Duration = Duration::from_secs(600);
/// Between two looks at all of them.
const EVERY: Duration = Duration::from_secs(60);

/// Who counts into the series of which label set. `K` are the labels that all of them have, `M` those of
/// one of them beyond that.
#[derive(Debug)]
pub struct Series<K, M>(Mutex<State<K, M>>);

#[derive(Debug)]
struct State<K, M> {
    known: HashMap<Arc<K>, Use<M>>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Use<M> {
    users: usize,
    /// When the last of them went.
    left: Option<Instant>,
    members: Vec<M>,
}

impl<K, M> Default for Series<K, M> {
    fn default() -> Self {
        Self(Mutex::new(State {
            known: HashMap::new(),
            looked: None,
        }))
    }
}

impl<K: Eq + Hash + Debug, M: PartialEq + Debug> Series<K, M> {
    fn state(&self) -> MutexGuard<'_, State<K, M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody begins to count, before its handles are resolved: they are not taken out from now on.
    pub fn begin(&self, labels: K) -> Arc<K> {
        let mut state = self.state();
        let known = state.known.get_key_value(&labels);
        let labels = known.map_or_else(|| Arc::new(labels), |(labels, _)| Arc::clone(labels));
        let entry = state.known.entry(Arc::clone(&labels));
        entry
            .or_insert_with(|| Use {
                users: 0,
                left: None,
                members: Vec::new(),
            })
            .users += 1;
        labels
    }

    /// Who has begun counts into this one, too.
    pub fn add(&self, labels: &K, member: M) {
        let mut state = self.state();
        if let Some(entry) = state.known.get_mut(labels)
            && !entry.members.contains(&member)
        {
            entry.members.push(member);
        }
    }

    /// Who has begun counts no more.
    pub fn end(&self, labels: &K, now: Instant) {
        if let Some(entry) = self.state().known.get_mut(labels) {
            entry.users = entry.users.saturating_sub(1);
            entry.left = Some(now);
        }
    }

    /// Has those taken out that nobody has counted into for long: `remove` is given the labels that all
    /// of them have, and those of each. May be called as often as one likes.
    pub fn sweep(&self, now: Instant, mut remove: impl FnMut(&K, &[M])) {
        let mut state = self.state();
        let looked = state.looked.get_or_insert(now);
        if now.saturating_duration_since(*looked) < EVERY {
            return;
        }
        *looked = now;
        state.known.retain(|labels, entry| {
            let stays = entry.users > 0
                || entry
                    .left
                    .is_none_or(|left| now.saturating_duration_since(left) < LINGER);
            if !stays {
                remove(labels, &entry.members);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(series: &Series<&'static str, u16>, now: Instant) -> Vec<(&'static str, Vec<u16>)> {
        let mut removed = Vec::new();
        series.sweep(now, |labels, members| {
            removed.push((*labels, members.to_vec()))
        });
        removed
    }

    #[test]
    fn series_go_a_while_after_the_last_that_counts_into_them() {
        let (series, start) = (Series::default(), Instant::now());
        assert_eq!(swept(&series, start), []);
        let (first, second) = (series.begin("a"), series.begin("a"));
        series.begin("b");
        series.add(&first, 200);
        series.add(&second, 200);
        series.add(&second, 503);
        series.end(&first, start);
        assert_eq!(swept(&series, start + 2 * LINGER), [], "one still counts");
        let left = start + 2 * LINGER;
        series.end(&second, left);
        assert_eq!(swept(&series, left + LINGER - EVERY), []);
        assert_eq!(swept(&series, left + LINGER), [("a", vec![200, 503])]);
        assert_eq!(swept(&series, left + 9 * LINGER), []);
    }

    #[test]
    fn who_comes_back_in_time_finds_them() {
        let (series, start) = (Series::<_, u16>::default(), Instant::now());
        assert_eq!(swept(&series, start), []);
        series.end(&series.begin("a"), start);
        let back = series.begin("a");
        assert_eq!(swept(&series, start + 2 * LINGER), []);
        series.end(&back, start + 2 * LINGER);
        assert_eq!(swept(&series, start + 3 * LINGER), [("a", vec![])]);
    }
}
