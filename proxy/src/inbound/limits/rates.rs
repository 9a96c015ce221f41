//! Rate limits with a bucket for each peer identity, bounded in number.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use outrider_api::authorization::Call;
use outrider_api::model::traffic::RateLimit;
use prometheus::IntCounter;

use crate::inbound::peer::Peer;
use crate::telemetry::metrics::Metrics;
use crate::traffic::bucket::{Bucket, Rate, Take};

/// Identities that one limit keeps apart.
const MAX_BUCKETS: usize = 10_000;
/// With fewer, full buckets are not looked for.
const FEW_BUCKETS: usize = 64;

/// A limit in force.
#[derive(Debug)]
pub struct Limit {
    model: RateLimit,
    rate: Rate,
    announced: HeaderValue,
    /// Asked once for each connection and policy, never for a request.
    buckets: Mutex<Buckets>,
    allowed: IntCounter,
    refused: IntCounter,
}

impl Limit {
    fn new(model: &RateLimit, metrics: &Metrics, now: Instant) -> Self {
        let counter = |result| {
            let labels = [model.policy.as_str(), model.name.as_str(), result];
            metrics.rate_limits.with_label_values(&labels)
        };
        Self {
            rate: Rate::new(model.requests, model.interval, model.burst, now),
            announced: announced(model),
            buckets: Mutex::default(),
            allowed: counter("allowed"),
            refused: counter("refused"),
            model: model.clone(),
        }
    }

    /// By its sources; ports are looked at for each request.
    pub fn counts(&self, call: &Call<'_>) -> bool {
        match &self.model.sources {
            None => true,
            Some(sources) => sources.iter().any(|source| source.matches(call)),
        }
    }

    /// For `RateLimit-Policy`.
    pub fn announced(&self) -> &HeaderValue {
        &self.announced
    }

    fn bucket(&self, peer: &Peer, now: Instant) -> Arc<Bucket> {
        let buckets = self.buckets.lock();
        // What a panic left is as good as before: an entry is there or not.
        let mut buckets = buckets.unwrap_or_else(PoisonError::into_inner);
        buckets.of(peer, &self.rate, now)
    }
}

/// The limit as a quota: `"name";q=100;w=60`. A window that is not of whole seconds is left out:
/// there is no way to say it.
fn announced(model: &RateLimit) -> HeaderValue {
    let mut text = format!("{};q={}", Quoted(&model.name), model.requests);
    if model.interval.subsec_nanos() == 0 {
        text.push_str(&format!(";w={}", model.interval.as_secs()));
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"limit\""))
}

/// A string of structured fields (RFC 9651, section 3.3.3). What cannot stand in one is left out.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars().filter(|c| matches!(c, ' '..='~')) {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}

/// Limits by what they say: workers that have the same policy count in the same buckets, and so does
/// the next policy where it says the same.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Vec<Weak<Limit>>>);

impl Registry {
    pub fn limit(&self, model: &RateLimit, metrics: &Metrics, now: Instant) -> Arc<Limit> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|limit| limit.strong_count() > 0);
        let mut known = limits.iter().filter_map(Weak::upgrade);
        if let Some(limit) = known.find(|limit| limit.model == *model) {
            return limit;
        }
        let limit = Arc::new(Limit::new(model, metrics, now));
        limits.push(Arc::downgrade(&limit));
        limit
    }
}

/// The buckets of one limit.
#[derive(Debug, Default)]
struct Buckets {
    by_peer: HashMap<Peer, Arc<Bucket>>,
    /// How many there may be before those that are full are looked for again.
    sweep_at: usize,
}

impl Buckets {
    fn of(&mut self, peer: &Peer, rate: &Rate, now: Instant) -> Arc<Bucket> {
        if let Some(bucket) = self.by_peer.get(peer) {
            return Arc::clone(bucket);
        }
        if self.by_peer.len() >= self.sweep_at.clamp(FEW_BUCKETS, MAX_BUCKETS) {
            self.sweep(rate, now);
        }
        let bucket = Arc::<Bucket>::default();
        self.by_peer.insert(peer.clone(), Arc::clone(&bucket));
        bucket
    }

    /// Drops the buckets that nobody holds and that are as good as new ones; where that is not
    /// enough, the one that has been left alone for longest.
    fn sweep(&mut self, rate: &Rate, now: Instant) {
        self.by_peer
            .retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full(rate, now));
        if self.by_peer.len() >= MAX_BUCKETS {
            let oldest = self
                .by_peer
                .iter()
                .min_by_key(|(_, bucket)| bucket.spent())
                .map(|(peer, _)| peer.clone());
            oldest.map(|peer| self.by_peer.remove(&peer));
        }
        self.sweep_at = self.by_peer.len() * 2;
    }
}

/// A limit that counts a peer, with that peer's bucket.
#[derive(Debug)]
pub struct Applying {
    limit: Arc<Limit>,
    bucket: Arc<Bucket>,
}

impl Applying {
    pub fn new(limit: &Arc<Limit>, peer: &Peer, now: Instant) -> Self {
        Self {
            limit: Arc::clone(limit),
            bucket: limit.bucket(peer, now),
        }
    }

    fn is_for(&self, port: u16) -> bool {
        let ports = &self.limit.model.ports;
        ports.is_empty() || ports.contains(&port)
    }
}

/// How much of a limit is left to a peer. Displays as a member of `RateLimit`: `"name";r=5;t=1`.
#[derive(Debug)]
pub struct Standing {
    pub limit: Arc<Limit>,
    pub remaining: u32,
    /// Until there is more.
    pub reset: Duration,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Quoted(&self.limit.model.name);
        let (remaining, reset) = (self.remaining, whole_seconds(self.reset));
        write!(f, "{name};r={remaining};t={reset}")
    }
}

/// Rounded up.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The first limit that has nothing left.
#[derive(Debug)]
pub struct Exhausted(pub Standing);

/// Takes one of every limit that counts `port`, or of none.
///
/// # Errors
/// One has nothing left.
pub fn take(applying: &[Applying], port: u16, now: Instant) -> Result<Vec<Standing>, Exhausted> {
    let mut standing = Vec::new();
    let counted = || applying.iter().filter(|one| one.is_for(port));
    for (taken, one) in counted().enumerate() {
        let limit = Arc::clone(&one.limit);
        match one.bucket.take(&limit.rate, now) {
            Take::Taken { remaining, reset } => standing.push(Standing {
                limit,
                remaining,
                reset,
            }),
            Take::Empty { retry_after } => {
                counted().take(taken).for_each(|one| one.bucket.give_back());
                limit.refused.inc();
                return Err(Exhausted(Standing {
                    limit,
                    remaining: 0,
                    reset: retry_after,
                }));
            }
        }
    }
    for one in &standing {
        one.limit.allowed.inc();
    }
    Ok(standing)
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
