//! What a run showed.

use std::time::Duration;

use crate::scenario::Scenario;

/// An answer counts as good within this time.
pub(crate) const GOOD_WITHIN: Duration = Duration::from_secs(1);
/// Of the curve over time.
pub(crate) const STEP: Duration = Duration::from_millis(500);
/// Recovered: from then on never less than that was good, in percent.
const RECOVERED: f64 = 99.0;

/// Counts of one run or of several. Only what users asked for from the first trouble on counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    from: Duration,
    trouble: (Duration, Duration),
    last_tier: usize,
    requests: u64,
    good: u64,
    /// In microseconds.
    latencies: Vec<u32>,
    /// Attempts at the last tier, and requests of users, while the trouble lasted.
    reached: u64,
    asked: u64,
    /// Requests and good answers by the time of asking.
    steps: Vec<(u32, u32)>,
}

impl Measured {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let troubles = scenario.troubles.iter();
        let trouble = troubles.fold(None, |whole: Option<(Duration, Duration)>, trouble| {
            let (from, until) = whole.unwrap_or((trouble.from, trouble.until));
            Some((from.min(trouble.from), until.max(trouble.until)))
        });
        let trouble = trouble.unwrap_or((scenario.warm_up, scenario.length));
        let steps = scenario.length.as_millis().div_ceil(STEP.as_millis());
        Self {
            from: scenario.warm_up,
            trouble: (trouble.0, trouble.1.min(scenario.length)),
            last_tier: scenario.tiers.len() - 1,
            requests: 0,
            good: 0,
            latencies: Vec::new(),
            reached: 0,
            asked: 0,
            steps: vec![(0, 0); usize::try_from(steps).unwrap_or(0)],
        }
    }

    pub(crate) fn asked(&mut self, at: Duration) {
        if self.is_in_trouble(at) {
            self.asked += 1;
        }
    }

    pub(crate) fn reached(&mut self, tier: usize, at: Duration) {
        if tier == self.last_tier && self.is_in_trouble(at) {
            self.reached += 1;
        }
    }

    pub(crate) fn ended(&mut self, began: Duration, latency: Duration, success: bool) {
        let good = success && latency <= GOOD_WITHIN;
        let step = began.as_millis() / STEP.as_millis();
        if let Some((requests, goods)) = self.steps.get_mut(step as usize) {
            *requests += 1;
            *goods += u32::from(good);
        }
        if began >= self.from {
            self.requests += 1;
            self.good += u64::from(good);
            self.latencies
                .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Another run of the same scenario counts, too.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.good += other.good;
        self.latencies.extend(other.latencies);
        self.reached += other.reached;
        self.asked += other.asked;
        for (step, (requests, good)) in self.steps.iter_mut().zip(other.steps) {
            step.0 += requests;
            step.1 += good;
        }
    }

    /// In percent of the requests.
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 * 100.0 / self.requests.max(1) as f64
    }

    /// Attempts at the last tier for each request of a user, while the trouble lasted.
    pub(crate) fn amplification(&self) -> f64 {
        self.reached as f64 / self.asked.max(1) as f64
    }

    /// Of all requests, good or not. `per_mille`: 500 is the median.
    pub(crate) fn latencies(&mut self, per_mille: [usize; 3]) -> [Duration; 3] {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        per_mille.map(|part| {
            let micros = self.latencies.get(last * part / 1000).copied();
            Duration::from_micros(micros.unwrap_or(0).into())
        })
    }

    /// Goodput in percent for each [`STEP`].
    pub(crate) fn curve(&self) -> Vec<f64> {
        let percent =
            |&(requests, good): &(u32, u32)| f64::from(good) * 100.0 / f64::from(requests.max(1));
        self.steps.iter().map(percent).collect()
    }

    /// From the end of the trouble; `None`: not before the end, or the trouble lasts.
    pub(crate) fn recovery(&self) -> Option<Duration> {
        let curve = self.curve();
        let bad = curve.iter().rposition(|&good| good < RECOVERED);
        let recovered = STEP * u32::try_from(bad.map_or(0, |bad| bad + 1)).unwrap_or(u32::MAX);
        (recovered < STEP * curve.len() as u32).then(|| recovered.saturating_sub(self.trouble.1))
    }

    fn is_in_trouble(&self, at: Duration) -> bool {
        self.trouble.0 <= at && at < self.trouble.1
    }
}
