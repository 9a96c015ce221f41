//! Until when a request is worth working on: the earliest of what the policy, the caller and the
//! request that it was made for allow.

use std::time::{Duration, Instant};

/// A point in time, or none. What would be later than the clock can say is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    pub const NONE: Self = Self(None);

    pub fn at(instant: Option<Instant>) -> Self {
        Self(instant)
    }

    /// `None`: none.
    pub fn after(now: Instant, time: Option<Duration>) -> Self {
        Self(time.and_then(|time| now.checked_add(time)))
    }

    pub fn earlier(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Some(one), Some(another)) => Some(one.min(another)),
            (one, another) => one.or(another),
        })
    }

    /// What a request has from its policy (`timeout`), from its caller (`grpc`) and from the request
    /// that it was made for (`inherited`).
    pub fn of(
        now: Instant,
        timeout: Option<Duration>,
        grpc: Option<Duration>,
        inherited: Self,
    ) -> Self {
        Self::after(now, timeout)
            .earlier(Self::after(now, grpc))
            .earlier(inherited)
    }

    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Zero where it is over; `None` where there is none.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now))
    }

    pub fn is_over(self, now: Instant) -> bool {
        self.0.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_counts() {
        let now = Instant::now();
        let of = |timeout, grpc, inherited| {
            Deadline::of(now, timeout, grpc, Deadline::after(now, inherited)).remaining(now)
        };
        assert_eq!(of(None, None, None), None);
        assert_eq!(of(Some(3 * SECOND), None, None), Some(3 * SECOND));
        assert_eq!(
            of(Some(3 * SECOND), Some(2 * SECOND), None),
            Some(2 * SECOND)
        );
        let all = of(Some(3 * SECOND), Some(2 * SECOND), Some(SECOND));
        assert_eq!(all, Some(SECOND));
    }

    #[test]
    fn it_is_over_from_its_instant_on() {
        let now = Instant::now();
        let deadline = Deadline::after(now, Some(SECOND));
        assert!(!deadline.is_over(now));
        assert!(deadline.is_over(now + SECOND));
        assert_eq!(deadline.remaining(now + 2 * SECOND), Some(Duration::ZERO));
        assert!(!Deadline::NONE.is_over(now + SECOND));
    }

    #[test]
    fn zero_is_over_and_forever_is_none() {
        let now = Instant::now();
        assert!(Deadline::after(now, Some(Duration::ZERO)).is_over(now));
        assert_eq!(Deadline::after(now, Some(Duration::MAX)), Deadline::NONE);
    }
}
