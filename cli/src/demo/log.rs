//! What became of every call that the demo made, and what a scene reads from it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::telemetry::quantile;

/// How many calls are kept: several minutes.
const KEPT: usize = 50_000;

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A shopper places an order.
    Order,
    /// A shopper looks at the orders.
    Look,
    /// notification tries to charge.
    Charge,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good {
        /// The billing instance that charged.
        by: Option<Arc<str>>,
    },
    /// A sidecar refused it, and said so.
    Refused {
        status: String,
        proxy_status: String,
    },
    /// Anything else.
    Failed(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) started: Instant,
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
}

/// The calls of one kind in a span of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) calls: usize,
    pub(crate) good: usize,
    pub(crate) refused: usize,
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
    /// Good calls by the instance that answered.
    pub(crate) by: BTreeMap<Arc<str>, usize>,
    /// When the last call that failed ended.
    pub(crate) last_failure: Option<Instant>,
    /// What the first failure said.
    pub(crate) first_failure: Option<String>,
    /// The Proxy-Status of a refusal.
    pub(crate) proxy_status: Option<String>,
}

impl Tally {
    /// 0 to 100.
    pub(crate) fn success_percent(&self) -> f64 {
        if self.calls == 0 {
            return 0.0;
        }
        100.0 * self.good as f64 / self.calls as f64
    }

    fn of<'a>(calls: impl Iterator<Item = &'a Call>) -> Self {
        let mut tally = Self::default();
        let mut latencies = Vec::new();
        for call in calls {
            tally.calls += 1;
            match &call.outcome {
                Outcome::Good { by } => {
                    tally.good += 1;
                    latencies.push(call.latency);
                    if let Some(by) = by {
                        *tally.by.entry(Arc::clone(by)).or_default() += 1;
                    }
                }
                Outcome::Refused { proxy_status, .. } => {
                    tally.refused += 1;
                    tally
                        .proxy_status
                        .get_or_insert_with(|| proxy_status.clone());
                }
                Outcome::Failed(why) => {
                    tally.first_failure.get_or_insert_with(|| why.clone());
                    tally.last_failure = tally.last_failure.max(Some(call.started + call.latency));
                }
            }
        }
        tally.p50 = quantile::of_latencies(&mut latencies, 0.5);
        tally.p99 = quantile::of_latencies(&mut latencies, 0.99);
        tally
    }
}

/// The latest calls. Cheap to clone; all clones are one log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    calls: Arc<Mutex<VecDeque<Call>>>,
    logged: watch::Sender<u64>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            calls: Arc::default(),
            logged: watch::Sender::new(0),
        }
    }

    pub(crate) fn push(&self, call: Call) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() == KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
        drop(calls);
        self.logged.send_modify(|count| *count += 1);
    }

    /// The calls of one kind that ended at `since` or later: those in flight at that moment count.
    pub(crate) fn since(&self, kind: Kind, since: Instant) -> Tally {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        Tally::of(
            calls
                .iter()
                .filter(|call| call.kind == kind && call.started + call.latency >= since),
        )
    }

    /// The same, as soon as `enough` is true of it, or after `limit`.
    pub(crate) async fn until(
        &self,
        kind: Kind,
        since: Instant,
        limit: Duration,
        enough: impl Fn(&Tally) -> bool,
    ) -> Tally {
        let deadline = Instant::now() + limit;
        let mut logged = self.logged.subscribe();
        loop {
            let tally = self.since(kind, since);
            if enough(&tally) {
                return tally;
            }
            if !matches!(timeout_at(deadline, logged.changed()).await, Ok(Ok(()))) {
                return self.since(kind, since);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: Kind, millis: u64, outcome: Outcome) -> Call {
        Call {
            kind,
            started: Instant::now(),
            latency: Duration::from_millis(millis),
            outcome,
        }
    }

    #[tokio::test]
    async fn tallies_one_kind_from_one_moment() {
        let log = Log::new();
        let mut before = call(Kind::Order, 1, Outcome::Failed("before".to_owned()));
        before.started -= Duration::from_secs(1);
        log.push(before);
        let since = Instant::now();
        let by = Some(Arc::from("billing-1"));
        log.push(call(Kind::Order, 10, Outcome::Good { by: by.clone() }));
        log.push(call(Kind::Order, 30, Outcome::Good { by }));
        log.push(call(Kind::Order, 1, Outcome::Failed("broken".to_owned())));
        log.push(call(Kind::Look, 1, Outcome::Good { by: None }));
        let tally = log.since(Kind::Order, since);
        assert_eq!((tally.calls, tally.good, tally.refused), (3, 2, 0));
        assert_eq!(tally.p50, Some(Duration::from_millis(10)));
        assert_eq!(tally.first_failure.as_deref(), Some("broken"));
        assert_eq!(tally.by.values().sum::<usize>(), 2);
    }

    #[tokio::test]
    async fn waits_until_there_is_enough() {
        let log = Log::new();
        let since = Instant::now();
        let waiting = tokio::spawn({
            let log = log.clone();
            async move {
                let enough = |tally: &Tally| tally.calls == 2;
                log.until(Kind::Look, since, Duration::from_secs(10), enough)
                    .await
            }
        });
        log.push(call(Kind::Look, 1, Outcome::Good { by: None }));
        log.push(call(Kind::Look, 1, Outcome::Good { by: None }));
        assert_eq!(waiting.await.unwrap().calls, 2);
    }
}
