//! How many certificates one identity may ask for: a token bucket each, pure, the clock passed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The allowance of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// How many at once.
    pub(crate) burst: u32,
    /// In how much time one more is earned.
    pub(crate) refill: Duration,
}

/// A token bucket for each key. A full bucket is forgotten, so the table holds only keys that asked
/// lately; who may be a key at all (an identity of the mesh) is the caller's to decide.
#[derive(Debug)]
pub(crate) struct RateLimit<K> {
    allowance: Allowance,
    buckets: HashMap<K, Bucket>,
    sweep_at: usize,
}

/// When the bucket will be full again (a generic cell rate algorithm: one instant says it all).
#[derive(Debug)]
struct Bucket {
    full_at: Instant,
}

/// Below this many buckets nothing is swept.
const SWEEP_FLOOR: usize = 1024;

impl<K: Eq + Hash + Clone> RateLimit<K> {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            buckets: HashMap::new(),
            sweep_at: SWEEP_FLOOR,
        }
    }

    /// Takes one token of `key`.
    ///
    /// # Errors
    /// There is none: how long until there is.
    pub(crate) fn take(&mut self, key: &K, now: Instant) -> Result<(), Duration> {
        let capacity = self.allowance.refill * self.allowance.burst;
        let full_at = self
            .buckets
            .get(key)
            .map_or(now, |bucket| bucket.full_at.max(now));
        let full_at = full_at + self.allowance.refill;
        let needed = full_at.duration_since(now);
        if needed > capacity {
            return Err(needed - capacity);
        }
        self.buckets.insert(key.clone(), Bucket { full_at });
        self.sweep(now);
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        if self.buckets.len() < self.sweep_at {
            return;
        }
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        self.sweep_at = (self.buckets.len() * 2).max(SWEEP_FLOOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> RateLimit<&'static str> {
        RateLimit::new(Allowance {
            burst: 3,
            refill: Duration::from_secs(1),
        })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut limit = limit();
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(&"a", start), Ok(()));
        }
        assert_eq!(limit.take(&"a", start), Err(Duration::from_secs(1)));
        let later = start + Duration::from_millis(400);
        assert_eq!(limit.take(&"a", later), Err(Duration::from_millis(600)));
        assert_eq!(limit.take(&"a", start + Duration::from_secs(1)), Ok(()));
        assert!(limit.take(&"a", start + Duration::from_secs(1)).is_err());
        for _ in 0..3 {
            assert_eq!(limit.take(&"a", start + Duration::from_secs(9)), Ok(()));
        }
    }

    #[test]
    fn one_that_asks_a_lot_does_not_limit_another() {
        let mut limit = limit();
        let now = Instant::now();
        let granted = (0..1000).filter(|_| limit.take(&"a", now).is_ok()).count();
        assert_eq!(granted, 3);
        assert_eq!(limit.take(&"b", now), Ok(()));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut limit = RateLimit::new(Allowance {
            burst: 1,
            refill: Duration::from_millis(1),
        });
        let start = Instant::now();
        for key in 0..10_000_u32 {
            let now = start + Duration::from_millis(u64::from(key));
            assert_eq!(limit.take(&key, now), Ok(()));
        }
        assert!(limit.buckets.len() <= SWEEP_FLOOR);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        let mut limit = limit();
        let start = Instant::now() + Duration::from_secs(10);
        for _ in 0..3 {
            assert_eq!(limit.take(&"a", start), Ok(()));
        }
        assert!(limit.take(&"a", start - Duration::from_secs(5)).is_err());
    }
}
