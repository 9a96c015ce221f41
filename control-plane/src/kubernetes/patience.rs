//! How soon what has failed is tried again.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

/// At first and at last.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// What has lasted for so long begins with the first delay again.
const GOOD: Duration = Duration::from_secs(30);

/// Delays that double, each up to a half shorter at random. Only time makes them short again: a list
/// that is answered says nothing of the watch that follows, which may fail each time.
pub(crate) struct Patience {
    delay: Duration,
    last: Option<Instant>,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            delay: FIRST_DELAY,
            last: None,
        }
    }

    pub(crate) fn delay(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now > last + GOOD) {
            self.delay = FIRST_DELAY;
        }
        self.last = Some(now);
        let delay = self.delay;
        self.delay = (delay * 2).min(LAST_DELAY);
        delay.mul_f64(1.0 - fastrand::f64() / 2.0)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.delay())
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_each_time_is_tried_more_and_more_slowly() {
        let mut patience = Patience::new();
        let delays = (0..10).map(|_| {
            // The list before it is answered each time.
            patience.reset();
            patience.delay()
        });
        let delays: Vec<Duration> = delays.collect();
        assert!(delays[0] <= FIRST_DELAY && delays[0] >= FIRST_DELAY / 2);
        assert!(delays[9] <= LAST_DELAY && delays[9] >= LAST_DELAY / 2);
    }
}
