//! What is in flight to an endpoint, and how long it takes to answer.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// After this time without an answer an estimate is down to 1/e. Finagle's 10 s are for callers with
/// many requests: one that was a hundred times as slow would get none for 46 s after its recovery.
const DECAY: Duration = Duration::from_secs(5);

/// How long an answer of an endpoint takes, in nanoseconds. Comparing is the balancer's business.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// From its answers; `None` before the first.
    pub estimate: Option<f64>,
    /// For so long it has been silent, with attempts waiting for it. One that answers nothing is
    /// found out by this long before its first timeout.
    pub silence: f64,
}

/// One endpoint's on one worker.
#[derive(Debug)]
pub struct Load {
    in_flight: Cell<u32>,
    waiting: Cell<u32>,
    /// When it last answered, or began to be waited for.
    heard: Cell<Instant>,
    estimate: Cell<Option<Estimate>>,
}

/// Peak EWMA, as in Finagle and linkerd: a slower answer counts at once and in full, faster ones
/// wear it down. Without answers it decays to zero, so that one that was slow gets another chance.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    nanos: f64,
    at: Instant,
}

impl Estimate {
    fn decayed(self, now: Instant) -> f64 {
        self.nanos * self.weight(now)
    }

    fn weight(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at);
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    fn with(self, nanos: f64, now: Instant) -> Self {
        if nanos >= self.nanos {
            return Self { nanos, at: now };
        }
        let weight = self.weight(now);
        Self {
            nanos: self.nanos * weight + nanos * (1.0 - weight),
            at: now,
        }
    }
}

impl Load {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: Cell::new(0),
            waiting: Cell::new(0),
            heard: Cell::new(now),
            estimate: Cell::new(None),
        }
    }

    /// Requests and connections, from their beginning to the end of their answer.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// An attempt waits for the head of its answer from now on. Ends with one of [`Load::answered`],
    /// [`Load::failed`] and [`Load::abandoned`].
    pub fn sent(&self, now: Instant) {
        if self.waiting.get() == 0 {
            self.heard.set(now);
        }
        self.waiting.set(self.waiting.get() + 1);
    }

    pub fn answered(&self, now: Instant, latency: Duration) {
        self.no_longer_waiting();
        self.heard.set(now);
        let nanos = nanos(latency);
        let estimate = match self.estimate.get() {
            Some(estimate) => estimate.with(nanos, now),
            None => Estimate { nanos, at: now },
        };
        self.estimate.set(Some(estimate));
    }

    /// A failure never makes an endpoint look faster: one that fails at once would draw everybody.
    pub fn failed(&self, now: Instant, latency: Duration) {
        self.no_longer_waiting();
        self.heard.set(now);
        self.took_at_least(now, latency);
    }

    /// A probe found it well after it had been left out: what it took before says nothing any more.
    /// It would keep everybody away for about a minute.
    pub fn recovered(&self, now: Instant, latency: Duration) {
        let nanos = nanos(latency);
        self.estimate.set(Some(Estimate { nanos, at: now }));
    }

    /// The caller went away, or gave the attempt up, after `waited`.
    pub fn abandoned(&self, now: Instant, waited: Duration) {
        self.no_longer_waiting();
        self.took_at_least(now, waited);
    }

    #[must_use]
    pub fn latency(&self, now: Instant) -> Latency {
        let silence = match self.waiting.get() {
            0 => 0.0,
            _ => nanos(now.saturating_duration_since(self.heard.get())),
        };
        let estimate = self.estimate.get().map(|estimate| estimate.decayed(now));
        Latency { estimate, silence }
    }

    fn took_at_least(&self, now: Instant, latency: Duration) {
        let nanos = nanos(latency);
        if self
            .estimate
            .get()
            .is_some_and(|known| nanos > known.decayed(now))
        {
            self.estimate.set(Some(Estimate { nanos, at: now }));
        }
    }

    fn no_longer_waiting(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
    }
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn estimate(load: &Load, now: Instant) -> f64 {
        load.latency(now).estimate.expect("an estimate") / nanos(MS)
    }

    #[test]
    fn a_peak_counts_at_once_and_wears_off() {
        let mut now = Instant::now();
        let load = Load::new(now);
        assert_eq!(load.latency(now).estimate, None);
        for latency in [10, 200, 10] {
            load.sent(now);
            load.answered(now, latency * MS);
        }
        assert!((estimate(&load, now) - 200.0).abs() < 0.1);
        for _ in 0..30 {
            now += Duration::from_secs(1);
            load.sent(now);
            load.answered(now, 10 * MS);
        }
        let worn = estimate(&load, now);
        assert!((10.0..25.0).contains(&worn), "{worn}");
        now += DECAY;
        assert!((estimate(&load, now) - worn / std::f64::consts::E).abs() < 0.1);
    }

    #[test]
    fn silence_lasts_while_something_waits() {
        let now = Instant::now();
        let load = Load::new(now);
        assert_eq!(load.latency(now + 500 * MS).silence, 0.0);
        load.sent(now + 500 * MS);
        load.sent(now + 600 * MS);
        assert!((load.latency(now + 700 * MS).silence - nanos(200 * MS)).abs() < 1.0);
        load.answered(now + 700 * MS, 200 * MS);
        assert!((load.latency(now + 750 * MS).silence - nanos(50 * MS)).abs() < 1.0);
        load.abandoned(now + 800 * MS, 200 * MS);
        assert_eq!(load.latency(now + 900 * MS).silence, 0.0);
    }

    #[test]
    fn what_it_took_before_it_recovered_is_forgotten() {
        let now = Instant::now();
        let load = Load::new(now);
        load.sent(now);
        load.failed(now, 1000 * MS);
        load.sent(now);
        load.answered(now, 2 * MS);
        load.recovered(now, 2 * MS);
        assert!((estimate(&load, now) - 2.0).abs() < 0.1);
    }

    #[test]
    fn a_failure_makes_nothing_look_faster() {
        let now = Instant::now();
        let load = Load::new(now);
        load.sent(now);
        load.answered(now, 50 * MS);
        load.sent(now);
        load.failed(now, MS);
        assert!((estimate(&load, now) - 50.0).abs() < 0.1);
        load.sent(now);
        load.failed(now, 1000 * MS);
        assert!((estimate(&load, now) - 1000.0).abs() < 0.1);
    }
}
