//! What the sidecar remembers of the requests that its app is working on, so that a call which the
//! app makes meanwhile inherits their deadline to the millisecond and can say that it was retried.
//! The app carries only a number, in `tracestate`.
//!
//! One table for all workers: whichever serves the outbound call finds the context. Each slot is one
//! atomic word, so that nothing waits, nothing is torn, and no request allocates.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Requests in the app at once that have a context: 64 KiB of table.
const SLOTS: usize = 8192;
/// Slots that are looked at for a free one.
const PROBES: usize = 8;

/// Where a context is, and which of those that were there. Displays as `<slot>-<generation>`, both
/// hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId {
    slot: u16,
    generation: u32,
}

impl ContextId {
    /// `None`: no context can have that name.
    pub fn parse(text: &str) -> Option<Self> {
        let (slot, generation) = text.split_once('-')?;
        let (slot, generation) = (hexadecimal(slot)?, hexadecimal(generation)?);
        let exists = (slot as usize) < SLOTS && u64::from(generation) <= State::GENERATIONS;
        exists.then_some(Self {
            slot: u16::try_from(slot).ok()?,
            generation,
        })
    }

    pub(super) fn slot(self) -> u16 {
        self.slot
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }
}

fn hexadecimal(text: &str) -> Option<u32> {
    let fits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if fits {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.slot, self.generation)
    }
}

/// What a call inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// To the millisecond, rounded down.
    pub deadline: Option<Instant>,
    /// From 1; at most 15 is kept.
    pub attempt: u32,
}

/// What became of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// A call was made with it: the app forwards `tracestate`.
    pub forwarded: bool,
    /// One of these calls failed although it was sent again.
    pub retried_downstream: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Contexts {
    base: Instant,
    slots: Box<[AtomicU64]>,
    /// Where the next search begins. A slot is used again as late as possible: stale ids stay stale
    /// for 2 billion requests.
    next: AtomicUsize,
}

impl Contexts {
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Remembers a request. `None`: too many have a context already, and this one goes without.
    /// Whoever begins must [`Contexts::end`], also where the caller has gone.
    #[must_use]
    pub fn begin(&self, deadline: Option<Instant>, attempt: u32) -> Option<ContextId> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        (start..start + PROBES).find_map(|place| {
            let index = place % SLOTS;
            let slot = &self.slots[index];
            let free = State(slot.load(Ordering::Relaxed));
            if free.is_active() {
                return None;
            }
            let begun = free.begun(self.milliseconds(deadline), attempt);
            slot.compare_exchange(free.0, begun.0, Ordering::AcqRel, Ordering::Relaxed)
                .ok()?;
            Some(ContextId {
                slot: u16::try_from(index).ok()?,
                generation: begun.generation(),
            })
        })
    }

    /// What a call of the app inherits; `None` where the request has ended already.
    pub fn find(&self, id: ContextId) -> Option<Found> {
        let state = self.set(id, State::FORWARDED)?;
        Some(Found {
            deadline: state
                .deadline()
                .and_then(|time| self.base.checked_add(Duration::from_millis(time))),
            attempt: state.attempt(),
        })
    }

    /// A call that was made for this request has failed for good although it was sent again.
    pub fn mark_retried(&self, id: ContextId) {
        self.set(id, State::RETRIED);
    }

    /// Forgets a request. The second time, nothing is known of it.
    pub fn end(&self, id: ContextId) -> Ended {
        let ended = self.change(id, State::ended);
        let has = |flag| ended.is_some_and(|state| state.0 & flag != 0);
        Ended {
            forwarded: has(State::FORWARDED),
            retried_downstream: has(State::RETRIED),
        }
    }

    fn set(&self, id: ContextId, flag: u64) -> Option<State> {
        self.change(id, |state| State(state.0 | flag))
    }

    /// The state before the change; `None` if it is not that of `id`.
    fn change(&self, id: ContextId, to: impl Fn(State) -> State) -> Option<State> {
        let slot = self.slots.get(usize::from(id.slot))?;
        let mut seen = State(slot.load(Ordering::Acquire));
        loop {
            if !seen.is_active() || seen.generation() != id.generation {
                return None;
            }
            let changed = to(seen);
            if changed == seen {
                return Some(seen);
            }
            match slot.compare_exchange_weak(seen.0, changed.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(seen),
                Err(other) => seen = State(other),
            }
        }
    }

    fn milliseconds(&self, deadline: Option<Instant>) -> Option<u64> {
        let time = deadline?.saturating_duration_since(self.base);
        u64::try_from(time.as_millis()).ok()
    }
}

/// A slot's word, from its lowest bit: active, forwarded, retried, 4 bits of attempt, 19 bits of
/// generation, 38 bits of deadline: milliseconds since the base, 8 years of them; all ones: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State(u64);

impl State {
    const ACTIVE: u64 = 1;
    const FORWARDED: u64 = 1 << 1;
    const RETRIED: u64 = 1 << 2;
    const ATTEMPT: u32 = 3;
    const ATTEMPTS: u64 = (1 << 4) - 1;
    const GENERATION: u32 = 7;
    const GENERATIONS: u64 = (1 << 19) - 1;
    const DEADLINE: u32 = 26;
    const NO_DEADLINE: u64 = (1 << 38) - 1;

    fn begun(self, deadline: Option<u64>, attempt: u32) -> Self {
        let deadline = deadline.unwrap_or(u64::MAX).min(Self::NO_DEADLINE);
        let attempt = u64::from(attempt).min(Self::ATTEMPTS);
        let generation = u64::from(self.generation());
        Self(
            Self::ACTIVE
                | attempt << Self::ATTEMPT
                | generation << Self::GENERATION
                | deadline << Self::DEADLINE,
        )
    }

    /// Free, for the next generation.
    fn ended(self) -> Self {
        let next = (u64::from(self.generation()) + 1) & Self::GENERATIONS;
        Self(next << Self::GENERATION)
    }

    fn is_active(self) -> bool {
        self.0 & Self::ACTIVE != 0
    }

    fn attempt(self) -> u32 {
        (self.0 >> Self::ATTEMPT & Self::ATTEMPTS) as u32
    }

    fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION & Self::GENERATIONS) as u32
    }

    fn deadline(self) -> Option<u64> {
        Some(self.0 >> Self::DEADLINE).filter(|time| *time != Self::NO_DEADLINE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_call_inherits_the_deadline_and_the_attempt() {
        let now = Instant::now();
        let contexts = Contexts::new(now);
        let id = contexts.begin(Some(now + SECOND), 2).expect("room");
        let found = Found {
            deadline: Some(now + SECOND),
            attempt: 2,
        };
        assert_eq!(contexts.find(id), Some(found));
        let without = contexts.begin(None, 1).expect("room");
        assert_eq!(contexts.find(without).expect("found").deadline, None);
        assert_ne!(id, without);
    }

    #[test]
    fn the_end_tells_what_became_of_it() {
        let contexts = Contexts::new(Instant::now());
        let unused = contexts.begin(None, 1).expect("room");
        let ended = contexts.end(unused);
        assert!(!ended.forwarded && !ended.retried_downstream);
        let used = contexts.begin(None, 1).expect("room");
        contexts.find(used);
        contexts.mark_retried(used);
        let ended = contexts.end(used);
        assert!(ended.forwarded && ended.retried_downstream);
        assert!(!contexts.end(used).forwarded);
    }

    #[test]
    fn a_stale_id_finds_nothing_in_a_slot_that_is_used_again() {
        let contexts = Contexts::new(Instant::now());
        let stale = contexts.begin(None, 1).expect("room");
        contexts.end(stale);
        let mut again = contexts.begin(None, 1).expect("room");
        while again.slot != stale.slot {
            contexts.end(again);
            again = contexts.begin(None, 1).expect("room");
        }
        assert_eq!(contexts.find(stale), None);
        contexts.mark_retried(stale);
        contexts.end(stale);
        assert!(!contexts.end(again).retried_downstream);
    }

    #[test]
    fn what_does_not_fit_goes_without() {
        let contexts = Contexts::new(Instant::now());
        let ids: HashSet<_> = (0..SLOTS)
            .map(|_| contexts.begin(None, 1).expect("room"))
            .collect();
        assert_eq!(ids.len(), SLOTS);
        assert_eq!(contexts.begin(None, 1), None);
        ids.iter().for_each(|id| {
            contexts.end(*id);
        });
        assert!(contexts.begin(None, 1).is_some());
    }

    #[test]
    fn what_is_no_id_of_ours_is_none() {
        for text in [
            "", "-", "1", "1-", "-1", "x-1", "2000-1", "1-80000", "+1-1", "1--1", "000001-1",
        ] {
            assert_eq!(ContextId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn threads_never_share_a_context() {
        let now = Instant::now();
        let contexts = Arc::new(Contexts::new(now));
        let threads: Vec<_> = (1u32..=4)
            .map(|attempt| {
                let contexts = Arc::clone(&contexts);
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        let id = contexts.begin(None, attempt).expect("room");
                        assert_eq!(contexts.find(id).expect("found").attempt, attempt);
                        assert!(contexts.end(id).forwarded);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_found(milliseconds in 0u64..1 << 37, attempt: u32, generations in 0usize..4) {
            let now = Instant::now();
            let contexts = Contexts::new(now);
            for _ in 0..generations * SLOTS {
                let id = contexts.begin(None, 1).expect("room");
                contexts.end(id);
            }
            let deadline = now + Duration::from_millis(milliseconds);
            let id = contexts.begin(Some(deadline), attempt).expect("room");
            prop_assert_eq!(ContextId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(contexts.find(id), Some(Found { deadline: Some(deadline), attempt: attempt.min(15) }));
        }
    }
}
