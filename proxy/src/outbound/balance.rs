//! Which endpoint gets the next request: power of two choices on what each has in flight. Pure:
//! the clock and the randomness are arguments.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the balancer looks at.
pub trait Candidate {
    /// Requests and connections in flight.
    fn load(&self) -> u32;
    /// Until when it is not to be chosen, since it could not be connected to.
    fn paused_until(&self) -> Option<Instant>;
}

/// Picks one of `candidates`, leaving out those in `tried`. One that is paused is chosen only
/// where there is no other: a wrong guess about all of them must not become an outage.
/// `random` gives a number below its argument.
pub fn pick<'c, C: Candidate>(
    candidates: &'c [C],
    tried: &[usize],
    now: Instant,
    mut random: impl FnMut(usize) -> usize,
) -> Option<(usize, &'c C)> {
    let is_free = |index: usize| {
        !tried.contains(&index)
            && candidates[index]
                .paused_until()
                .is_none_or(|until| until <= now)
    };
    let one_of = |count: usize, admitted: &dyn Fn(usize) -> bool, skipped: usize| {
        (0..candidates.len())
            .filter(|&index| admitted(index))
            .nth(skipped.min(count.saturating_sub(1)))
    };
    let free = (0..candidates.len())
        .filter(|&index| is_free(index))
        .count();
    let chosen = if free == 0 {
        let untried = |index: usize| !tried.contains(&index);
        let count = candidates.len() - tried.len().min(candidates.len());
        one_of(count, &untried, if count == 0 { 0 } else { random(count) })
    } else if free == 1 {
        one_of(1, &is_free, 0)
    } else {
        let first = random(free);
        let second = (first + 1 + random(free - 1)) % free;
        let (a, b) = (
            one_of(free, &is_free, first)?,
            one_of(free, &is_free, second)?,
        );
        Some(if candidates[b].load() < candidates[a].load() {
            b
        } else {
            a
        })
    };
    chosen.map(|index| (index, &candidates[index]))
}

/// How long an endpoint is left alone after `failures` failed connections in a row.
pub fn pause(failures: u32) -> Duration {
    let doubled = 1u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fake {
        load: u32,
        paused_until: Option<Instant>,
    }

    impl Candidate for Fake {
        fn load(&self) -> u32 {
            self.load
        }
        fn paused_until(&self) -> Option<Instant> {
            self.paused_until
        }
    }

    fn with_loads(loads: &[u32]) -> Vec<Fake> {
        loads
            .iter()
            .map(|&load| Fake {
                load,
                paused_until: None,
            })
            .collect()
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let candidates = with_loads(&[9, 1]);
        for draw in 0..2 {
            let (index, _) =
                pick(&candidates, &[], Instant::now(), |below| draw % below).expect("one");
            assert_eq!(index, 1);
        }
    }

    #[test]
    fn a_paused_one_is_chosen_only_alone() {
        let now = Instant::now();
        let mut candidates = with_loads(&[0, 5]);
        candidates[0].paused_until = Some(now + Duration::from_secs(1));
        assert_eq!(
            pick(&candidates, &[], now, |_| 0).map(|(index, _)| index),
            Some(1)
        );
        assert_eq!(
            pick(&candidates, &[1], now, |_| 0).map(|(index, _)| index),
            Some(0)
        );
        assert!(pick(&candidates, &[0, 1], now, |_| 0).is_none());
        let later = now + Duration::from_secs(2);
        assert_eq!(
            pick(&candidates, &[], later, |_| 0).map(|(index, _)| index),
            Some(0)
        );
    }

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(1), Duration::from_millis(100));
        assert_eq!(pause(3), Duration::from_millis(400));
        assert_eq!(pause(40), LONGEST_PAUSE);
    }

    proptest! {
        #[test]
        fn what_was_tried_is_never_chosen(loads in proptest::collection::vec(0u32..9, 0..8),
                                          tried in proptest::collection::hash_set(0usize..8, 0..8), seed: u64) {
            let candidates = with_loads(&loads);
            let tried: Vec<usize> = tried.into_iter().filter(|&index| index < loads.len()).collect();
            let mut rng = fastrand::Rng::with_seed(seed);
            let picked = pick(&candidates, &tried, Instant::now(), |below| rng.usize(..below));
            prop_assert_eq!(picked.is_none(), tried.len() == loads.len());
            if let Some((index, _)) = picked {
                prop_assert!(!tried.contains(&index));
            }
        }
    }
}
