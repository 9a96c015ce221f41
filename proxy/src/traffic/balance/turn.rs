//! One pick: who may be chosen at this moment, and the ways to choose.

use std::time::{Duration, Instant};

use outrider_api::model::traffic::WhenAllEjected;

use super::Candidate;
use super::maglev::mix;
use super::pool::Pool;
use crate::traffic::health::Admission;

/// Random endpoints that are looked at before all are.
const DRAWS: usize = 5;
/// Slots of the Maglev table that are looked at before all endpoints are.
const SLOTS: usize = 64;
/// A share in slow start, in parts of this.
const PARTS: usize = 1 << 16;

pub(super) struct Turn<'t, E, R> {
    pub(super) endpoints: &'t [E],
    pub(super) tried: &'t [usize],
    pub(super) now: Instant,
    pub(super) slow_start: Option<Duration>,
    pub(super) random: R,
}

impl<E: Candidate, R: FnMut(usize) -> usize> Turn<'_, E, R> {
    /// Power of two choices (Mitzenmacher 2001). `share(a, b)`: how often `b` is to be preferred, 0 to 1.
    pub(super) fn better_of_two(
        &mut self,
        pool: &Pool,
        share: impl Fn(&E, &E, Instant) -> f64,
    ) -> Option<usize> {
        let at = self.draw(pool, None).or_else(|| self.scan(pool))?;
        let first = pool.get(at)?;
        if self.is_probe(first) {
            return Some(first);
        }
        let Some(second) = self.draw(pool, Some(at)).and_then(|at| pool.get(at)) else {
            return Some(first);
        };
        let (a, b) = (&self.endpoints[first], &self.endpoints[second]);
        let share = (share(a, b, self.now) * PARTS as f64) as usize;
        let second_wins = self.is_probe(second) || (self.random)(PARTS) < share;
        Some(if second_wins { second } else { first })
    }

    /// The next in turn that is free.
    pub(super) fn next(&mut self, pool: &Pool) -> Option<usize> {
        let mut warming = None;
        for _ in 0..pool.len() {
            let index = pool.next(&mut self.random)?;
            if self.is_free(index) {
                if self.takes_share(index) {
                    return Some(index);
                }
                warming = warming.or(Some(index));
            }
        }
        warming
    }

    /// The one that `key` belongs to, or the next one of the table that is free.
    pub(super) fn hashed(&mut self, pool: &Pool, key: u64) -> Option<usize> {
        let table = pool.table.as_ref()?;
        let mut warming = None;
        for index in table.positions(key).take(SLOTS) {
            if self.is_free(index) {
                // The same keys each time, so that those that came stay.
                let drawn = mix(key ^ self.endpoints[index].identity()) as usize % PARTS;
                if drawn < self.share(index) {
                    return Some(index);
                }
                warming = warming.or(Some(index));
            }
        }
        warming.or_else(|| pool.get(self.scan(pool)?))
    }

    /// A random one that is free.
    pub(super) fn any(&mut self, pool: &Pool) -> Option<usize> {
        let at = self.draw(pool, None).or_else(|| self.scan(pool))?;
        pool.get(at)
    }

    /// Where none is free: the best of all that there are, by chance among equals.
    pub(super) fn last_resort(&mut self, when_all_ejected: WhenAllEjected) -> Option<usize> {
        let rank = |admission| match admission {
            Admission::Yes => Some(3),
            Admission::Probe => Some(2),
            Admission::LastResort => Some(1),
            Admission::No => (when_all_ejected == WhenAllEjected::UseAll).then_some(0),
        };
        let (mut best, mut equals) = (None, 0);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let Some(rank) = rank(endpoint.admission(self.now)) else {
                continue;
            };
            if self.tried.contains(&index) || best.is_some_and(|(_, known)| known > rank) {
                continue;
            }
            equals = match best {
                Some((_, known)) if known == rank => equals + 1,
                _ => 1,
            };
            if (self.random)(equals) == 0 {
                best = Some((index, rank));
            }
        }
        best.map(|(index, _)| index)
    }

    pub(super) fn is_exhausted(&self) -> bool {
        (0..self.endpoints.len()).all(|index| self.tried.contains(&index))
    }

    /// How many of the pool would take a request. One that is due for a probe would: if others took
    /// all requests, nobody would find out that it has recovered.
    pub(super) fn available(&self, pool: &Pool) -> usize {
        let would = [Admission::Yes, Admission::Probe];
        pool.iter()
            .filter(|&index| would.contains(&self.endpoints[index].admission(self.now)))
            .count()
    }

    /// Where in the pool one is free, of a few random places apart from `except`. In slow start an
    /// endpoint passes the request on: to another one, if there is any, or to `except`.
    fn draw(&mut self, pool: &Pool, except: Option<usize>) -> Option<usize> {
        let places = pool.len() - usize::from(except.is_some());
        if places == 0 {
            return None;
        }
        let mut warming = None;
        for _ in 0..DRAWS {
            let drawn = (self.random)(places);
            let at = drawn + usize::from(except.is_some_and(|except| drawn >= except));
            let index = pool.get(at)?;
            if self.is_free(index) {
                if self.takes_share(index) {
                    return Some(at);
                }
                if except.is_some() {
                    return None;
                }
                warming = Some(at);
            }
        }
        warming
    }

    /// Where in the pool one is free: each has the same chance (reservoir sampling).
    fn scan(&mut self, pool: &Pool) -> Option<usize> {
        let (mut chosen, mut seen) = (None, 0);
        for (at, index) in pool.iter().enumerate() {
            if self.is_free(index) {
                seen += 1;
                if (self.random)(seen) == 0 {
                    chosen = Some(at);
                }
            }
        }
        chosen
    }

    fn is_free(&self, index: usize) -> bool {
        let free = match self.endpoints[index].admission(self.now) {
            Admission::Yes => true,
            // A retry has been unlucky once already.
            Admission::Probe => self.tried.is_empty(),
            Admission::LastResort | Admission::No => false,
        };
        free && !self.tried.contains(&index)
    }

    fn is_probe(&self, index: usize) -> bool {
        self.endpoints[index].admission(self.now) == Admission::Probe
    }

    fn takes_share(&mut self, index: usize) -> bool {
        let share = self.share(index);
        share == PARTS || (self.random)(PARTS) < share
    }

    /// How much of its share the endpoint takes, in [`PARTS`].
    fn share(&self, index: usize) -> usize {
        let Some(slow_start) = self.slow_start else {
            return PARTS;
        };
        let age = self
            .now
            .saturating_duration_since(self.endpoints[index].since());
        if age >= slow_start {
            return PARTS;
        }
        (age.as_secs_f64() / slow_start.as_secs_f64() * PARTS as f64) as usize
    }
}
