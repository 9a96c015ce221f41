//! Who may hold a Lease, and for how long: pure, the clock passed in.
//!
//! The clocks of two replicas are never compared. A replica counts from when it saw a Lease change, and the
//! holder from before it asked for the change, so the holder's time is over first:
//!
//! ```text
//! holder     asks ──────── RENEW ────────▶ no longer leader
//! Lease            written
//! the next             sees it ─────────────── LEASE ─────────────▶ may take it
//! ```

use std::time::{Duration, Instant};

/// How long a Lease that nobody renews belongs to its holder.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// How long the holder counts itself the leader after it has begun to renew. Shorter than [`LEASE`] by as
/// much as two machines' clocks may differ in speed, and far more.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// What a Lease says of its holder. Two that are equal are one that nobody has renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) holder: String,
    /// Of the API's object: changes with every write.
    pub(super) revision: String,
}

/// What the API says of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    Absent,
    /// Given up by its holder.
    Free,
    Held(Held),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Somebody else's.
    Wait,
    /// Make it ours.
    Take,
    /// It is ours: keep it so.
    Renew,
}

/// One replica's view.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    seen: Option<(Lease, Instant)>,
    /// Whether anybody was ever seen to hold it: then somebody may count itself the leader still, though the
    /// Lease is gone.
    was_held: bool,
    leader_until: Option<Instant>,
}

impl Election {
    pub(super) fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            was_held: false,
            leader_until: None,
        }
    }

    /// The API said so at `now`.
    pub(super) fn see(&mut self, lease: Lease, now: Instant) {
        self.was_held |= matches!(lease, Lease::Held(_));
        let changed = self.seen.as_ref().is_none_or(|(seen, _)| *seen != lease);
        if changed {
            self.seen = Some((lease, now));
        }
    }

    /// What to do with what was seen last.
    pub(super) fn step(&self, now: Instant) -> Step {
        let Some((lease, since)) = &self.seen else {
            return Step::Wait;
        };
        let over = now.saturating_duration_since(*since) >= LEASE;
        match lease {
            Lease::Free => Step::Take,
            Lease::Held(held) if held.holder == self.identity => Step::Renew,
            Lease::Absent if !self.was_held || self.is_leader(now) => Step::Take,
            Lease::Absent | Lease::Held(_) if over => Step::Take,
            Lease::Absent | Lease::Held(_) => Step::Wait,
        }
    }

    /// A write that was begun at `begun` has made or kept the Lease ours.
    pub(super) fn wrote(&mut self, lease: Lease, begun: Instant, now: Instant) {
        self.leader_until = begun.checked_add(RENEW);
        self.see(lease, now);
    }

    /// The Lease is another's now, whatever time was left.
    pub(super) fn yielded(&mut self) {
        let other = match &self.seen {
            Some((Lease::Held(held), _)) => held.holder != self.identity,
            Some((Lease::Free, _)) => true,
            Some((Lease::Absent, _)) | None => false,
        };
        if other {
            self.leader_until = None;
        }
    }

    pub(super) fn resign(&mut self) {
        self.leader_until = None;
    }

    pub(super) fn is_leader(&self, now: Instant) -> bool {
        self.leader_until.is_some_and(|until| now < until)
    }

    /// Until when, if nothing more succeeds.
    pub(super) fn leader_until(&self) -> Option<Instant> {
        self.leader_until
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(holder: &str, revision: u64) -> Lease {
        Lease::Held(Held {
            holder: holder.to_owned(),
            revision: revision.to_string(),
        })
    }

    #[test]
    fn what_each_view_comes_to() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut election = Election::new("a".to_owned());
        assert_eq!(election.step(start), Step::Wait, "nothing is known");
        election.see(Lease::Absent, start);
        assert_eq!(election.step(start), Step::Take);
        election.wrote(held("a", 1), start, start + second);
        assert_eq!(election.step(start + second), Step::Renew);
        assert!(election.is_leader(start + RENEW - Duration::from_millis(1)));
        assert!(!election.is_leader(start + RENEW));

        let mut other = Election::new("b".to_owned());
        other.see(held("a", 1), start);
        other.see(held("a", 1), start + LEASE - second);
        assert_eq!(other.step(start + LEASE - second), Step::Wait);
        assert_eq!(other.step(start + LEASE), Step::Take);
        other.see(held("a", 2), start + LEASE);
        assert_eq!(other.step(start + LEASE), Step::Wait, "it was renewed");
        other.see(Lease::Free, start + LEASE);
        assert_eq!(other.step(start + LEASE), Step::Take, "it was given up");
    }

    #[test]
    fn a_lease_that_is_deleted_is_made_again_by_its_holder() {
        let start = Instant::now();
        let mut holder = Election::new("a".to_owned());
        holder.see(Lease::Absent, start);
        holder.wrote(held("a", 1), start, start);
        let mut other = Election::new("b".to_owned());
        other.see(held("a", 1), start);
        for election in [&mut holder, &mut other] {
            election.see(Lease::Absent, start);
        }
        assert_eq!(holder.step(start), Step::Take);
        assert_eq!(other.step(start), Step::Wait);
        assert_eq!(other.step(start + LEASE), Step::Take);
    }

    #[test]
    fn who_sees_another_holder_leads_no_longer() {
        let start = Instant::now();
        let mut election = Election::new("a".to_owned());
        election.see(Lease::Absent, start);
        election.wrote(held("a", 1), start, start);
        election.see(held("b", 2), start);
        election.yielded();
        assert!(!election.is_leader(start));
        assert_eq!(election.step(start), Step::Wait);
    }

    /// What befalls one replica in one round.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Works,
        /// The API does not answer.
        Refused,
        /// The write is done, and its answer is lost.
        Unheard,
        /// It reads, then sleeps for so many milliseconds before it writes.
        Stalls(u64),
    }

    fn fates() -> impl Strategy<Value = Fate> {
        prop_oneof![
            4 => Just(Fate::Works),
            2 => Just(Fate::Refused),
            1 => Just(Fate::Unheard),
            1 => (0_u64..60_000).prop_map(Fate::Stalls),
        ]
    }

    /// The API: a write counts if it was made for the newest revision.
    struct Api {
        revision: u64,
        lease: Lease,
    }

    impl Api {
        fn write(&mut self, of: u64, holder: &str) -> Option<Lease> {
            if of != self.revision {
                return None;
            }
            self.revision += 1;
            self.lease = held(holder, self.revision);
            Some(self.lease.clone())
        }
    }

    const REPLICAS: usize = 3;

    /// Something that is to happen: at which millisecond, to whom, the write it began earlier.
    type Pending = (u64, usize, u64, Instant);

    struct World {
        api: Api,
        replicas: Vec<Election>,
        pending: Vec<Pending>,
    }

    impl World {
        fn round(&mut self, who: usize, fate: Fate, start: Instant, at: u64) {
            let now = start + Duration::from_millis(at);
            if matches!(fate, Fate::Refused) {
                return;
            }
            let election = &mut self.replicas[who];
            election.see(self.api.lease.clone(), now);
            election.yielded();
            if election.step(now) == Step::Wait {
                return;
            }
            let after = if let Fate::Stalls(millis) = fate {
                millis
            } else {
                0
            };
            self.pending.push((at + after, who, self.api.revision, now));
            if matches!(fate, Fate::Unheard) {
                let holder = election.identity().to_owned();
                self.pending.pop();
                self.api.write(self.api.revision, &holder);
            }
        }

        fn land(&mut self, start: Instant, until: u64) {
            let due: Vec<Pending> = self
                .pending
                .extract_if(.., |write| write.0 <= until)
                .collect();
            for (at, who, revision, begun) in due {
                let election = &mut self.replicas[who];
                let now = start + Duration::from_millis(at);
                if let Some(lease) = self.api.write(revision, election.identity()) {
                    election.wrote(lease, begun, now);
                }
            }
        }
    }

    proptest! {
        /// Whatever fails, two replicas never count themselves the leader at one time; and once nothing
        /// fails any more, there is one.
        #[test]
        fn there_is_one_leader_at_most_and_one_in_the_end(
            rounds in prop::collection::vec((0..REPLICAS, fates(), 0_u64..9_000), 1..200),
        ) {
            let start = Instant::now();
            let mut world = World {
                api: Api { revision: 0, lease: Lease::Absent },
                replicas: ["a", "b", "c"].map(|name| Election::new(name.to_owned())).into(),
                pending: Vec::new(),
            };
            let mut at = 0;
            let quiet = (0..60).map(|round| (round % REPLICAS, Fate::Works, 700));
            for (who, fate, wait) in rounds.into_iter().chain(quiet) {
                // Only a write that lands makes a leader.
                let landing = world.pending.iter().map(|write| write.0);
                let mut looks: Vec<u64> = landing.filter(|write| *write < at + wait).collect();
                looks.sort_unstable();
                for until in looks.into_iter().chain([at + wait]) {
                    world.land(start, until);
                    let now = start + Duration::from_millis(until);
                    let leaders = world.replicas.iter().filter(|one| one.is_leader(now)).count();
                    prop_assert!(leaders <= 1, "{leaders} leaders at {until} ms");
                }
                at += wait;
                world.round(who, fate, start, at);
            }
            world.land(start, at);
            let now = start + Duration::from_millis(at);
            prop_assert!(world.replicas.iter().any(|one| one.is_leader(now)));
        }
    }
}
