//! Token buckets that any number of threads take from without a lock: the generic cell rate
//! algorithm (ITU-T I.371, annex A), with one atomic word for a bucket.
//!
//! Time is counted in tokens, from the instant that the rate was made: a reading is computed from
//! the whole time that has passed, never added up, so that nothing drifts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Parts of a token that are told apart.
const TOKEN: u64 = 1 << 10;

/// How fast buckets fill, and how much they hold.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    since: Instant,
    /// Tokens for each `interval`, at least one.
    tokens: u32,
    /// Nanoseconds, at least one.
    interval: u128,
    /// Parts of tokens.
    burst: u64,
}

impl Rate {
    /// `tokens` for each `interval`, and `burst` at most at once. Of each at least one (of the
    /// interval a nanosecond).
    pub fn new(tokens: u32, interval: Duration, burst: u32, now: Instant) -> Self {
        Self {
            since: now,
            tokens: tokens.max(1),
            interval: interval.as_nanos().max(1),
            burst: u64::from(burst.max(1)) * TOKEN,
        }
    }

    /// The time in parts of tokens.
    fn reading(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.since).as_nanos();
        let parts = u128::from(self.tokens) * u128::from(TOKEN);
        u64::try_from(passed.saturating_mul(parts) / self.interval).unwrap_or(u64::MAX)
    }

    /// How long that many parts take, rounded up to the nanosecond.
    fn time(&self, parts: u64) -> Duration {
        let scale = u128::from(self.tokens) * u128::from(TOKEN);
        let nanoseconds = u128::from(parts)
            .saturating_mul(self.interval)
            .div_ceil(scale);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// Full at first. Holds what [`Rate`] says; the same rate has to be given each time.
#[derive(Debug, Default)]
pub struct Bucket {
    /// The reading at which it is full again.
    full: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Taken {
        /// Whole tokens.
        remaining: u32,
        /// Until there is one more.
        reset: Duration,
    },
    Empty {
        /// Until there is a token.
        retry_after: Duration,
    },
}

impl Bucket {
    /// Takes a token, if there is one.
    pub fn take(&self, rate: &Rate, now: Instant) -> Take {
        let now = rate.reading(now);
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let missing = full.saturating_sub(now).saturating_add(TOKEN);
            if missing > rate.burst {
                let retry_after = rate.time(missing - rate.burst);
                return Take::Empty { retry_after };
            }
            let taken = full.max(now).saturating_add(TOKEN);
            match self
                .full
                .compare_exchange_weak(full, taken, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return rate.left(missing),
                Err(other) => full = other,
            }
        }
    }

    /// Puts back a token that was taken and not used.
    pub fn give_back(&self) {
        let less = |full: u64| Some(full.saturating_sub(TOKEN));
        // Never refused: `less` always gives a value.
        let _ = self
            .full
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// As good as a new one.
    pub fn is_full(&self, rate: &Rate, now: Instant) -> bool {
        self.full.load(Ordering::Relaxed) <= rate.reading(now)
    }

    /// Of two buckets with one rate, the one with less was taken from last or most.
    pub fn spent(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }
}

impl Rate {
    /// What a bucket says in which `missing` parts are missing.
    fn left(&self, missing: u64) -> Take {
        let remaining = (self.burst - missing) / TOKEN;
        let next = missing - (missing - 1) / TOKEN * TOKEN;
        Take::Taken {
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset: self.time(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(bucket: &Bucket, rate: &Rate, now: Instant) -> usize {
        let took = |_: &usize| matches!(bucket.take(rate, now), Take::Taken { .. });
        (0..100_000).take_while(took).count()
    }

    #[test]
    fn it_holds_its_burst_and_fills_at_its_rate() {
        let now = Instant::now();
        let rate = Rate::new(10, SECOND, 5, now);
        let bucket = Bucket::default();
        assert_eq!(taken(&bucket, &rate, now), 5);
        assert_eq!(taken(&bucket, &rate, now + SECOND / 10), 1);
        assert_eq!(taken(&bucket, &rate, now + SECOND / 10), 0);
        assert_eq!(taken(&bucket, &rate, now + 10 * SECOND), 5);
    }

    #[test]
    fn it_says_what_is_left_and_when_there_is_more() {
        let now = Instant::now();
        let rate = Rate::new(10, SECOND, 2, now);
        let bucket = Bucket::default();
        let reset = SECOND / 10;
        let left = |remaining| Take::Taken { remaining, reset };
        assert_eq!(bucket.take(&rate, now), left(1));
        assert_eq!(bucket.take(&rate, now), left(0));
        let empty = |retry_after| Take::Empty { retry_after };
        assert_eq!(bucket.take(&rate, now), empty(SECOND / 10));
        let half = now + SECOND / 20;
        assert_eq!(bucket.take(&rate, half), empty(SECOND / 20));
    }

    #[test]
    fn there_is_a_token_when_it_said_so() {
        let now = Instant::now();
        // Such a time is no whole number of nanoseconds.
        let rate = Rate::new(7, SECOND, 1, now);
        let bucket = Bucket::default();
        bucket.take(&rate, now);
        let Take::Empty { retry_after } = bucket.take(&rate, now) else {
            panic!("a token too many");
        };
        assert_eq!(taken(&bucket, &rate, now + retry_after), 1);
    }

    #[test]
    fn what_is_given_back_can_be_taken() {
        let now = Instant::now();
        let rate = Rate::new(1, SECOND, 1, now);
        let bucket = Bucket::default();
        assert!(bucket.is_full(&rate, now));
        assert_eq!(taken(&bucket, &rate, now), 1);
        assert!(!bucket.is_full(&rate, now));
        bucket.give_back();
        assert!(bucket.is_full(&rate, now));
        assert_eq!(taken(&bucket, &rate, now), 1);
        Bucket::default().give_back();
    }

    #[test]
    fn it_does_not_drift() {
        let now = Instant::now();
        let rate = Rate::new(3, SECOND, 1, now);
        let bucket = Bucket::default();
        let day = 24 * 3600 * 1000 / 100;
        let took = (0..day)
            .filter(|step| {
                let now = now + Duration::from_millis(100 * step);
                matches!(bucket.take(&rate, now), Take::Taken { .. })
            })
            .count();
        // Asked ten times a second, it gives at most what has come: three a second, one beforehand,
        // and each late by at most a tenth of a second.
        assert!((21_600 * 10..=3 * 86_400 + 1).contains(&took), "{took}");
    }

    #[test]
    fn threads_take_no_more_than_there_is() {
        let now = Instant::now();
        let rate = Rate::new(1, SECOND, 1000, now);
        let bucket = Arc::new(Bucket::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let bucket = Arc::clone(&bucket);
                std::thread::spawn(move || taken(&bucket, &rate, now))
            })
            .collect();
        let total: usize = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum();
        assert_eq!(total, 1000);
    }

    #[test]
    fn extremes_are_no_panic() {
        let now = Instant::now();
        for (tokens, interval, burst) in [
            (0, Duration::ZERO, 0),
            (u32::MAX, Duration::from_nanos(1), u32::MAX),
            (1, Duration::MAX, u32::MAX),
        ] {
            let rate = Rate::new(tokens, interval, burst, now);
            let bucket = Bucket::default();
            bucket.take(&rate, now);
            bucket.take(&rate, now + Duration::from_secs(1 << 33));
        }
    }

    proptest! {
        /// In any stretch of time: at most the burst and what came in that time.
        #[test]
        fn no_more_than_the_rate(tokens in 1u32..50, burst in 1u32..20, interval in 1u64..3000,
                                 waits in proptest::collection::vec(0u64..200, 1..200)) {
            let start = Instant::now();
            let rate = Rate::new(tokens, Duration::from_millis(interval), burst, start);
            let bucket = Bucket::default();
            let (mut now, mut taken) = (0u64, Vec::new());
            for wait in waits {
                now += wait;
                if matches!(bucket.take(&rate, start + Duration::from_millis(now)), Take::Taken { .. }) {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let came = u128::from(to - from) * u128::from(tokens) / u128::from(interval);
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + came + 1);
                }
            }
        }

        /// Against the plain way to count: a level that is filled by what time has passed.
        #[test]
        fn it_agrees_with_a_level(burst in 1u32..20, waits in proptest::collection::vec(0u64..400, 1..100)) {
            let start = Instant::now();
            let rate = Rate::new(10, SECOND, burst, start);
            let bucket = Bucket::default();
            // In thousandths of a token: a millisecond brings ten.
            let (mut now, mut level) = (0u64, u64::from(burst) * 1000);
            for wait in waits {
                // Whole tokens only, as the parts of a bucket's token are powers of two.
                let wait = wait / 100 * 100;
                now += wait;
                level = (level + wait * 10).min(u64::from(burst) * 1000);
                let took = matches!(bucket.take(&rate, start + Duration::from_millis(now)), Take::Taken { .. });
                prop_assert_eq!(took, level >= 1000);
                level -= if took { 1000 } else { 0 };
            }
        }
    }
}
