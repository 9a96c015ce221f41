//! How much this workload takes: of each peer by its rate limits ([`rates`]), and of all together by
//! what its app does at once ([`gate`]). Both are of the sidecar, not of a worker: a peer's requests
//! mostly come on one connection, hence to one worker, so that a share for each would be too small.
//!
//! Asked after authorization: who may not call uses nothing up.

pub mod gate;
pub mod rates;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, RETRY_AFTER};
use http::{HeaderName, HeaderValue};
use outrider_api::authorization::Call;
use outrider_api::model::Workload;
use outrider_api::model::traffic::Concurrency;
use tokio::sync::watch;

use self::gate::{Gate, Permit};
use self::rates::{Applying, Exhausted, Limit, Registry, Standing};
use super::Connection;
use crate::control::WorkloadState;
use crate::refusal::Refusal;
use crate::telemetry::metrics::Metrics;
use crate::traffic::deadline::Deadline;

/// draft-ietf-httpapi-ratelimit-headers-10.
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What is shed comes back in a second or so.
const SHED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all workers count together.
#[derive(Debug)]
pub struct Shared {
    rates: Registry,
    gate: Arc<Gate>,
}

impl Shared {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            rates: Registry::default(),
            gate: Arc::new(Gate::new(metrics.queued_requests.clone())),
        }
    }
}

/// The limits in force, as one worker knows them.
#[derive(Debug)]
pub struct Limits {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    known: RefCell<(Option<Arc<Workload>>, Rc<InForce>)>,
}

#[derive(Debug, Default)]
struct InForce {
    rates: Vec<Arc<Limit>>,
    concurrency: Option<Concurrency>,
}

impl Limits {
    pub fn new(shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        Self {
            shared,
            metrics,
            known: RefCell::default(),
        }
    }

    /// Those of the newest policy. A limit that did not change keeps its buckets.
    fn in_force(&self, workload: &watch::Receiver<WorkloadState>) -> Rc<InForce> {
        // Kept until the end, so that no worker sets the gate back to an older policy.
        let newest = workload.borrow();
        let mut known = self.known.borrow_mut();
        let is_known = match (&known.0, &*newest) {
            (Some(known), Some(newest)) => Arc::ptr_eq(known, newest),
            (known, newest) => known.is_none() && newest.is_none(),
        };
        if let Some(workload) = newest.as_ref().filter(|_| !is_known) {
            let now = Instant::now();
            let limit = |model| self.shared.rates.limit(model, &self.metrics, now);
            let in_force = InForce {
                rates: workload.limits.rates.iter().map(limit).collect(),
                concurrency: workload.limits.concurrency,
            };
            if let Some(concurrency) = &in_force.concurrency {
                self.shared.gate.resize(concurrency.max_requests);
            }
            *known = (Some(Arc::clone(workload)), Rc::new(in_force));
        }
        Rc::clone(&known.1)
    }
}

/// What of the limits is about the peer of one connection.
#[derive(Debug, Default)]
pub struct OfPeer(RefCell<(Rc<InForce>, Rc<[Applying]>)>);

impl OfPeer {
    /// Resolved again when policy changes.
    fn applying(&self, connection: &Connection, in_force: &Rc<InForce>) -> Rc<[Applying]> {
        let mut known = self.0.borrow_mut();
        if !Rc::ptr_eq(&known.0, in_force) {
            let call = Call {
                peer: connection.peer.id(),
                source: connection.source,
                port: 0,
                http: None,
            };
            let now = Instant::now();
            let limits = in_force.rates.iter().filter(|limit| limit.counts(&call));
            let applying = limits.map(|limit| Applying::new(limit, &connection.peer, now));
            *known = (Rc::clone(in_force), applying.collect());
        }
        Rc::clone(&known.1)
    }
}

/// What the answer to a request says about limits, whether it was taken or not.
#[derive(Debug, Default)]
pub struct Told {
    standing: Vec<Standing>,
    retry_after: Option<Duration>,
}

impl Told {
    /// Adds the headers; nothing where no limit applied.
    pub fn write(&self, headers: &mut HeaderMap) {
        for standing in &self.standing {
            headers.append(RATE_LIMIT_POLICY, standing.limit.announced().clone());
            if let Ok(value) = HeaderValue::try_from(standing.to_string()) {
                headers.append(RATE_LIMIT, value);
            }
        }
        if let Some(time) = self.retry_after {
            let seconds = rates::whole_seconds(time).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

/// Takes a request for `port` of the app, if there is room for it; may wait for that, until its
/// `deadline` at most. The permit is to be kept until the answer has ended. What is to be said of it
/// is added to `told`.
///
/// # Errors
/// A rate limit is exhausted, the app has enough to do, or the request's time has run out in line.
pub async fn admit(
    connection: &Connection,
    port: u16,
    deadline: Deadline,
    told: &mut Told,
) -> Result<Option<Permit>, Refusal> {
    let worker = &connection.worker;
    let in_force = worker.limits.in_force(&worker.workload);
    if !in_force.rates.is_empty() {
        take(connection, &in_force, port, told)?;
    }
    let Some(concurrency) = &in_force.concurrency else {
        return Ok(None);
    };
    let settings = until(concurrency, deadline, Instant::now());
    match worker.limits.shared.gate.enter(&settings).await {
        Some(permit) => Ok(Some(permit)),
        None if deadline.is_over(Instant::now()) => Err(Refusal::DeadlineExceeded),
        None => {
            told.retry_after = Some(SHED_RETRY_AFTER);
            Err(Refusal::Overloaded)
        }
    }
}

/// Nobody waits for longer than their time lasts.
fn until(settings: &Concurrency, deadline: Deadline, now: Instant) -> Concurrency {
    let left = deadline.remaining(now).unwrap_or(settings.max_wait);
    Concurrency {
        max_wait: settings.max_wait.min(left),
        ..*settings
    }
}

/// The same for an opaque connection: it counts as one for rate limits, and is no request in the app.
///
/// # Errors
/// A rate limit is exhausted.
pub fn admit_opaque(connection: &Connection, port: u16) -> Result<(), Refusal> {
    let worker = &connection.worker;
    let in_force = worker.limits.in_force(&worker.workload);
    if in_force.rates.is_empty() {
        return Ok(());
    }
    take(connection, &in_force, port, &mut Told::default())
}

fn take(
    connection: &Connection,
    in_force: &Rc<InForce>,
    port: u16,
    told: &mut Told,
) -> Result<(), Refusal> {
    let applying = connection.limits.applying(connection, in_force);
    match rates::take(&applying, port, Instant::now()) {
        Ok(standing) => told.standing = standing,
        Err(Exhausted(standing)) => {
            told.retry_after = Some(standing.reset);
            told.standing.push(standing);
            return Err(Refusal::RateLimited);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_with_the_time_of_the_request() {
        let settings = Concurrency {
            max_requests: 1,
            max_queued: 1,
            max_wait: Duration::from_millis(100),
        };
        let now = Instant::now();
        for (left, wait) in [(None, 100), (Some(30), 30), (Some(0), 0), (Some(200), 100)] {
            let deadline = Deadline::after(now, left.map(Duration::from_millis));
            let until = until(&settings, deadline, now);
            assert_eq!(until.max_wait, Duration::from_millis(wait), "{left:?}");
            assert_eq!((until.max_requests, until.max_queued), (1, 1));
        }
    }
}
