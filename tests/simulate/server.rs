//! A server with workers, a queue and a way to fail.

use std::collections::VecDeque;
use std::time::Duration;

/// How servers of a tier work. Times are drawn: a least one, and an exponential one on top.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub workers: usize,
    /// What does not fit is answered with 503 at once.
    pub queue: usize,
    pub least: Duration,
    pub mean_on_top: Duration,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            workers: 4,
            queue: 1_000,
            least: Duration::from_millis(5),
            mean_on_top: Duration::from_millis(15),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Work takes so many times as long.
    Slower(f64),
    /// 503 at once.
    Errors,
    /// No connection.
    Refuses,
    /// Takes requests and never answers.
    Silent,
}

/// From when to when which servers of a tier fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub tier: usize,
    /// So many of the tier's servers, the first ones.
    pub servers: usize,
    pub mode: Mode,
    pub from: Duration,
    pub until: Duration,
}

/// What waits at a server: a call and the number of its attempt.
pub(crate) type Work = (usize, u32);

#[derive(Debug)]
pub(crate) struct Server {
    pub tier: usize,
    /// Its own, to the next tier.
    pub sidecar: Option<usize>,
    capacity: Capacity,
    troubles: Vec<Trouble>,
    busy: usize,
    waiting: VecDeque<Work>,
}

/// What a server does with what has reached it.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A worker is free: it takes so long.
    Works(Duration),
    Waits,
    Errors,
    Refuses,
    Silent,
}

impl Server {
    pub(crate) fn new(
        tier: usize,
        sidecar: Option<usize>,
        capacity: Capacity,
        troubles: Vec<Trouble>,
    ) -> Self {
        Self {
            tier,
            sidecar,
            capacity,
            troubles,
            busy: 0,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn take(&mut self, work: Work, at: Duration, random: &mut fastrand::Rng) -> Taken {
        match self.mode(at) {
            Some(Mode::Errors) => Taken::Errors,
            Some(Mode::Refuses) => Taken::Refuses,
            Some(Mode::Silent) => Taken::Silent,
            _ if self.busy < self.capacity.workers => {
                self.busy += 1;
                Taken::Works(self.time(at, random))
            }
            _ if self.waiting.len() < self.capacity.queue => {
                self.waiting.push_back(work);
                Taken::Waits
            }
            _ => Taken::Errors,
        }
    }

    /// A worker has finished; it takes what has waited the longest.
    pub(crate) fn finish(
        &mut self,
        at: Duration,
        random: &mut fastrand::Rng,
    ) -> Option<(Work, Duration)> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.busy -= 1;
        }
        next.map(|work| (work, self.time(at, random)))
    }

    fn mode(&self, at: Duration) -> Option<Mode> {
        let now = |trouble: &&Trouble| trouble.from <= at && at < trouble.until;
        self.troubles.iter().find(now).map(|trouble| trouble.mode)
    }

    fn time(&self, at: Duration, random: &mut fastrand::Rng) -> Duration {
        let factor = match self.mode(at) {
            Some(Mode::Slower(factor)) => factor,
            _ => 1.0,
        };
        (self.capacity.least + exponential(self.capacity.mean_on_top, random)).mul_f64(factor)
    }
}

/// A time between two things that happen independently, `mean` on average.
pub(crate) fn exponential(mean: Duration, random: &mut fastrand::Rng) -> Duration {
    mean.mul_f64(-(1.0 - random.f64()).ln())
}
