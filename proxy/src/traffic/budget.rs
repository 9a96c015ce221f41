//! How many retries a Service's callers may add to its load: a share of the requests, and a few for
//! when there is little traffic (XBackendTrafficPolicy, GEP-3388). Without it each layer that retries
//! multiplies what a failing Service has to bear.

use std::time::{Duration, Instant};

use outrider_api::model::traffic::RetryBudget as Settings;

/// Parts of a window. It forgets a part at a time, so that it looks back on nine to ten tenths of
/// its length.
const PARTS: u64 = 10;

/// Of one Service. A retry is allowed while the retries in `interval` are fewer than `percent` of
/// the first attempts in it, or those in `min_interval` are fewer than `min_count`.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    settings: Settings,
    requests: Window,
    retries: Window,
    /// The same retries, over `min_interval`.
    recent: Window,
}

impl RetryBudget {
    pub fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            settings: *settings,
            requests: Window::new(settings.interval, now),
            retries: Window::new(settings.interval, now),
            recent: Window::new(settings.min_interval, now),
        }
    }

    /// From now on. What was counted stays, unless the time that it was counted over has changed.
    pub fn update(&mut self, settings: &Settings) {
        if settings.interval != self.settings.interval {
            self.requests = Window::new(settings.interval, self.requests.since);
            self.retries = Window::new(settings.interval, self.retries.since);
        }
        if settings.min_interval != self.settings.min_interval {
            self.recent = Window::new(settings.min_interval, self.recent.since);
        }
        self.settings = *settings;
    }

    /// Counts a request: once, however often it is tried.
    pub fn request(&mut self, now: Instant) {
        self.requests.add(now);
    }

    /// Counts a retry, if there may be one.
    pub fn try_retry(&mut self, now: Instant) -> bool {
        let share = self.requests.count(now) * u64::from(self.settings.percent) / 100;
        let allowed = self.recent.count(now) < u64::from(self.settings.min_count)
            || self.retries.count(now) < share;
        if allowed {
            self.retries.add(now);
            self.recent.add(now);
        }
        allowed
    }
}

/// Counts what happened lately.
#[derive(Clone, Debug)]
struct Window {
    since: Instant,
    /// Nanoseconds of a part, more than zero.
    part: u64,
    parts: [u64; PARTS as usize],
    /// Which part `since` is in the past of: counted from `since`, not modulo anything.
    current: u64,
    total: u64,
}

impl Window {
    fn new(length: Duration, since: Instant) -> Self {
        Self {
            since,
            part: (nanoseconds(length) / PARTS).max(1),
            parts: [0; PARTS as usize],
            current: 0,
            total: 0,
        }
    }

    fn add(&mut self, now: Instant) {
        self.advance(now);
        self.parts[(self.current % PARTS) as usize] += 1;
        self.total += 1;
    }

    fn count(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.total
    }

    /// Forgets what has left the window. A clock that stands still or goes back forgets nothing.
    fn advance(&mut self, now: Instant) {
        let reached = nanoseconds(now.saturating_duration_since(self.since)) / self.part;
        let passed = reached.saturating_sub(self.current).min(PARTS);
        for step in 1..=passed {
            let part = &mut self.parts[((self.current + step) % PARTS) as usize];
            self.total -= std::mem::take(part);
        }
        self.current = self.current.max(reached);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(percent: u8, min_count: u32) -> Settings {
        Settings {
            percent,
            min_count,
            ..Settings::default()
        }
    }

    fn retries(budget: &mut RetryBudget, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.try_retry(now)).count()
    }

    #[test]
    fn a_quiet_service_has_the_least_only() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(&settings(20, 10), now);
        assert_eq!(retries(&mut budget, now), 10);
        assert_eq!(retries(&mut budget, now + SECOND / 2), 0);
        assert_eq!(retries(&mut budget, now + SECOND), 10);
    }

    #[test]
    fn a_busy_one_has_a_share_of_its_requests() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(&settings(20, 10), now);
        (0..1000).for_each(|_| budget.request(now));
        assert_eq!(retries(&mut budget, now), 200);
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(&settings(20, 0), now);
        (0..1000).for_each(|_| budget.request(now));
        assert_eq!(retries(&mut budget, now + 11 * SECOND), 0);
    }

    #[test]
    fn nothing_means_nothing() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(&settings(0, 0), now);
        (0..1000).for_each(|_| budget.request(now));
        assert!(!budget.try_retry(now));
    }

    #[test]
    fn new_settings_hold_at_once_and_keep_the_counts() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(&settings(20, 0), now);
        (0..100).for_each(|_| budget.request(now));
        assert_eq!(retries(&mut budget, now), 20);
        budget.update(&settings(50, 0));
        assert_eq!(retries(&mut budget, now), 30);
        let other = Settings {
            interval: SECOND,
            ..settings(50, 0)
        };
        budget.update(&other);
        assert_eq!(retries(&mut budget, now), 0);
    }

    #[test]
    fn an_interval_of_nothing_is_no_panic() {
        let now = Instant::now();
        let none = Settings {
            interval: Duration::ZERO,
            min_interval: Duration::ZERO,
            ..Settings::default()
        };
        let mut budget = RetryBudget::new(&none, now);
        budget.request(now);
        assert!(budget.try_retry(now + SECOND));
    }

    proptest! {
        /// However requests and failures come: no more than the share of all requests, and the
        /// least in each time that the window can look back on.
        #[test]
        fn retries_stay_within_the_budget(percent in 0u8..=100, min_count in 0u32..5,
                                          steps in proptest::collection::vec((0u64..400, 0u8..4), 1..300)) {
            let start = Instant::now();
            let mut now = start;
            let mut budget = RetryBudget::new(&settings(percent, min_count), start);
            let (mut requests, mut granted) = (0u64, 0u64);
            for (wait, failures) in steps {
                now += Duration::from_millis(wait);
                budget.request(now);
                requests += 1;
                for _ in 0..failures {
                    granted += u64::from(budget.try_retry(now));
                }
            }
            let windows = now.duration_since(start).as_millis() as u64 / 900 + 1;
            let least = windows * u64::from(min_count);
            prop_assert!(granted <= requests * u64::from(percent) / 100 + least);
        }

        #[test]
        fn a_window_counts_what_a_list_counts(steps in proptest::collection::vec(0u64..300, 1..200)) {
            let start = Instant::now();
            let mut window = Window::new(SECOND, start);
            let (mut now, mut seen) = (0u64, Vec::new());
            for wait in steps {
                now += wait;
                window.add(start + Duration::from_millis(now));
                seen.push(now / 100);
                let kept = seen.iter().filter(|part| **part + 10 > now / 100).count() as u64;
                prop_assert_eq!(window.count(start + Duration::from_millis(now)), kept);
            }
        }
    }
}
