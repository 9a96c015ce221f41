//! Virtual time: what happens next, in order. Two things at one moment happen in the order in which
//! they were planned, so that a seed always gives the same run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What happens. Numbers are positions in the world's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A user of this sidecar asks for something.
    Ask { sidecar: usize },
    /// The user who waits for this call gives up.
    Leave { call: usize },
    /// The call's request timeout is over.
    Deadline { call: usize },
    /// The attempt has taken as long as an attempt may.
    AttemptTimeout { call: usize, attempt: u32 },
    /// The wait before another attempt is over.
    Retry { call: usize },
    /// An attempt reaches the server that it was sent to.
    Reach {
        call: usize,
        attempt: u32,
        server: usize,
    },
    /// A server has worked on an attempt for long enough.
    Worked {
        call: usize,
        attempt: u32,
        server: usize,
    },
    /// The answer to an attempt is back.
    Answer {
        call: usize,
        attempt: u32,
        answer: Answer,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Success,
    /// 503; `retried`: nearer the failure, so not again.
    Unavailable {
        retried: bool,
    },
    ConnectFailed,
}

#[derive(Debug)]
pub(crate) struct Queue {
    start: Instant,
    now: Duration,
    planned: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    count: u64,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            // Only differences count.
            start: Instant::now(),
            now: Duration::ZERO,
            planned: BinaryHeap::new(),
            count: 0,
        }
    }

    /// Since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.now
    }

    pub(crate) fn plan(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.planned
            .push(Reverse((self.now + after, self.count, event)));
    }

    /// Moves the clock to the next event, unless that is after `end`.
    pub(crate) fn next(&mut self, end: Duration) -> Option<Event> {
        let Reverse((at, _, event)) = self.planned.pop()?;
        if at > end {
            return None;
        }
        self.now = at;
        Some(event)
    }
}
