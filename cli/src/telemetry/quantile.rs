//! Quantiles: of a Prometheus histogram, estimated as `histogram_quantile` does; and of latencies
//! that were measured one by one. Pure.

use std::time::Duration;

/// A histogram's cumulative buckets: upper bound and count, by bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// Adds to the bucket with this upper bound.
    pub fn add(&mut self, bound: f64, count: f64) {
        match self
            .0
            .binary_search_by(|(other, _)| other.total_cmp(&bound))
        {
            Ok(index) => {
                if let Some((_, total)) = self.0.get_mut(index) {
                    *total += count;
                }
            }
            Err(index) => self.0.insert(index, (bound, count)),
        }
    }

    /// What was counted since `earlier`; everything when the process restarted in between.
    pub fn since(&self, earlier: &Self) -> Self {
        let restarted = self.total() < earlier.total();
        let before = |bound: f64| {
            let found = earlier.0.iter().find(|(other, _)| *other == bound);
            if restarted {
                0.0
            } else {
                found.map_or(0.0, |(_, count)| *count)
            }
        };
        Self(
            self.0
                .iter()
                .map(|(bound, count)| (*bound, (count - before(*bound)).max(0.0)))
                .collect(),
        )
    }

    /// How many observations there are.
    pub fn total(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value below which `quantile` (0 to 1) of the observations lie, by linear interpolation
    /// within its bucket; the highest finite bound when it lies beyond. None without observations.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.total();
        if total <= 0.0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * total;
        let mut lower = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= rank && *count > lower.1 {
                if bound.is_infinite() {
                    return Some(lower.0);
                }
                let share = (rank - lower.1) / (count - lower.1);
                return Some(lower.0 + (bound - lower.0) * share);
            }
            lower = (*bound, *count);
        }
        None
    }
}

/// The `quantile` (0 to 1) of measured latencies: the smallest that so many do not exceed.
pub fn of_latencies(latencies: &mut [Duration], quantile: f64) -> Option<Duration> {
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    let rank = (quantile.clamp(0.0, 1.0) * latencies.len() as f64).ceil() as usize;
    latencies.get(rank.saturating_sub(1).min(last)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Buckets {
        let mut buckets = Buckets::default();
        for (bound, count) in pairs {
            buckets.add(*bound, *count);
        }
        buckets
    }

    #[test]
    fn interpolates_within_the_bucket() {
        let counted = buckets(&[
            (1.0, 50.0),
            (2.0, 90.0),
            (4.0, 100.0),
            (f64::INFINITY, 100.0),
        ]);
        assert_eq!(counted.quantile(0.5), Some(1.0));
        assert_eq!(counted.quantile(0.7), Some(1.5));
        assert_eq!(counted.quantile(0.95), Some(3.0));
    }

    #[test]
    fn beyond_the_last_finite_bound() {
        let counted = buckets(&[(1.0, 1.0), (f64::INFINITY, 10.0)]);
        assert_eq!(counted.quantile(0.99), Some(1.0));
        assert_eq!(Buckets::default().quantile(0.5), None);
    }

    #[test]
    fn sums_series_and_takes_differences() {
        let earlier = buckets(&[(1.0, 10.0), (f64::INFINITY, 20.0)]);
        let later = buckets(&[(1.0, 10.0), (1.0, 5.0), (f64::INFINITY, 30.0)]);
        assert_eq!(
            later.since(&earlier),
            buckets(&[(1.0, 5.0), (f64::INFINITY, 10.0)])
        );
        assert_eq!(earlier.since(&later), earlier, "a restart counts from zero");
    }

    #[test]
    fn of_measured_latencies() {
        let mut measured: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(
            of_latencies(&mut measured, 0.5),
            Some(Duration::from_millis(50))
        );
        assert_eq!(
            of_latencies(&mut measured, 0.99),
            Some(Duration::from_millis(99))
        );
        assert_eq!(
            of_latencies(&mut measured, 1.0),
            Some(Duration::from_millis(100))
        );
        assert_eq!(of_latencies(&mut [], 0.5), None);
    }
}
