//! Answers counted over a sliding window: a ring of buckets, nothing allocated.

use std::time::{Duration, Instant};

const BUCKETS: u32 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) answers: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

/// The sum is exact for the last nine to ten tenths of the window.
#[derive(Debug, Default)]
pub(super) struct Window {
    buckets: [Counts; BUCKETS as usize],
    current: usize,
    /// When the current bucket is full; `None` before the first answer.
    turns: Option<Instant>,
}

impl Window {
    pub(super) fn add(&mut self, length: Duration, now: Instant, failed: bool, slow: bool) {
        self.turn(length, now);
        let bucket = &mut self.buckets[self.current];
        bucket.answers = bucket.answers.saturating_add(1);
        bucket.failed = bucket.failed.saturating_add(failed.into());
        bucket.slow = bucket.slow.saturating_add(slow.into());
    }

    /// As of the last answer that was added.
    pub(super) fn sum(&self) -> Counts {
        let add = |sum: Counts, bucket: &Counts| Counts {
            answers: sum.answers.saturating_add(bucket.answers),
            failed: sum.failed.saturating_add(bucket.failed),
            slow: sum.slow.saturating_add(bucket.slow),
        };
        self.buckets.iter().fold(Counts::default(), add)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn turn(&mut self, length: Duration, now: Instant) {
        let width = (length / BUCKETS).max(Duration::from_millis(1));
        let Some(turns) = self.turns else {
            self.turns = Some(now + width);
            return;
        };
        if now < turns {
            return;
        }
        let passed = (now - turns).as_nanos() / width.as_nanos() + 1;
        if passed >= u128::from(BUCKETS) {
            self.clear();
            self.turns = Some(now + width);
            return;
        }
        let mut turns = turns;
        for _ in 0..passed {
            self.current = (self.current + 1) % self.buckets.len();
            self.buckets[self.current] = Counts::default();
            turns += width;
        }
        self.turns = Some(turns);
    }
}
