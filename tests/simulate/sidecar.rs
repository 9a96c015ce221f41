//! A caller's sidecar for one Service: the sidecar's own decisions, or what stands in for them where
//! there is no policy.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::TrafficSettings;
use outrider_proxy::traffic::balance::{Balancer, Candidate, Latency, Load, hash};
use outrider_proxy::traffic::budget::RetryBudget;
use outrider_proxy::traffic::health::{Admission, Ejections, EndpointHealth, Outcome, Ticket};
use outrider_proxy::traffic::retry::{Facts, Failure, NoRetry, decide};

/// How callers treat the Services that they call.
#[derive(Clone, Debug)]
pub(crate) enum Policy {
    /// A random endpoint, and whatever comes of it.
    Nothing,
    /// A random endpoint, and after a failure at once another: as often as that, at every hop.
    NaiveRetries(u32),
    Outrider(Box<TrafficSettings>),
}

/// An endpoint as this sidecar knows it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    identity: u64,
    load: Load,
    health: RefCell<EndpointHealth>,
}

impl Candidate for Endpoint {
    fn identity(&self) -> u64 {
        self.identity
    }
    fn zone(&self) -> Option<&str> {
        None
    }
    fn admission(&self, now: Instant) -> Admission {
        self.health.borrow().admit(now)
    }
    fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }
    fn latency(&self, now: Instant) -> Latency {
        self.load.latency(now)
    }
    fn since(&self) -> Instant {
        self.health.borrow().since()
    }
}

#[derive(Debug)]
pub(crate) struct Sidecar {
    /// Which Service it calls: the position of its tier.
    pub tier: usize,
    policy: Policy,
    settings: TrafficSettings,
    balancer: Balancer<Endpoint>,
    budget: RetryBudget,
}

/// An attempt that is under way.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub number: u32,
    pub endpoint: usize,
    ticket: Ticket,
    began: Instant,
}

/// What the decision about a retry knows of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tries<'c> {
    pub made: u32,
    pub tried: &'c [usize],
    pub waited: Option<Duration>,
    pub is_retry: bool,
    pub remaining: Option<Duration>,
}

impl Sidecar {
    pub(crate) fn new(policy: &Policy, tier: usize, endpoints: usize, now: Instant) -> Self {
        let settings = match policy {
            Policy::Outrider(settings) => (**settings).clone(),
            Policy::Nothing | Policy::NaiveRetries(_) => TrafficSettings::default(),
        };
        let ejections = Rc::new(Ejections::default());
        let endpoint = |index: usize| Endpoint {
            identity: hash(index.to_string().as_bytes()),
            load: Load::new(now),
            health: RefCell::new(EndpointHealth::new(Rc::clone(&ejections), now)),
        };
        let balancer = Balancer::new(
            (0..endpoints).map(endpoint).collect(),
            &settings.balancing,
            settings.outliers.when_all_ejected,
            None,
        );
        let budget = RetryBudget::new(&settings.budget, now);
        Self {
            tier,
            policy: policy.clone(),
            settings,
            balancer,
            budget,
        }
    }

    pub(crate) fn is_outrider(&self) -> bool {
        matches!(self.policy, Policy::Outrider(_))
    }

    /// For a whole call, and for each attempt.
    pub(crate) fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        match self.policy {
            Policy::Nothing | Policy::NaiveRetries(_) => (None, None),
            Policy::Outrider(_) => {
                let timeouts = self.settings.timeouts;
                (timeouts.request, timeouts.backend_request)
            }
        }
    }

    pub(crate) fn count_request(&mut self, now: Instant) {
        self.budget.request(now);
    }

    /// Begins an attempt, if there is an endpoint for it.
    pub(crate) fn begin(
        &self,
        number: u32,
        tried: &[usize],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Attempt> {
        let endpoints = self.balancer.endpoints();
        let endpoint = if self.is_outrider() {
            let picked = self
                .balancer
                .pick(tried, None, now, |below| random.usize(..below));
            picked.ok()?.0
        } else {
            random.usize(..endpoints.len())
        };
        let picked = &endpoints[endpoint];
        let (ticket, _) = picked.health.borrow_mut().begin(now);
        picked.load.begin();
        picked.load.sent(now);
        Some(Attempt {
            number,
            endpoint,
            ticket,
            began: now,
        })
    }

    /// Tells balancer and breaker what came of an attempt.
    pub(crate) fn end(&self, attempt: Attempt, outcome: Outcome, now: Instant) {
        let endpoint = &self.balancer.endpoints()[attempt.endpoint];
        let latency = now - attempt.began;
        match outcome {
            Outcome::Success | Outcome::AppError => endpoint.load.answered(now, latency),
            Outcome::GatewayError | Outcome::ConnectFailed => endpoint.load.failed(now, latency),
        }
        endpoint.load.end();
        let mut health = endpoint.health.borrow_mut();
        health.record(
            &self.settings.outliers,
            attempt.ticket,
            now,
            outcome,
            latency,
        );
    }

    /// The caller of an attempt went away.
    pub(crate) fn cancel(&self, attempt: Attempt, now: Instant) {
        let endpoint = &self.balancer.endpoints()[attempt.endpoint];
        endpoint.load.abandoned(now, now - attempt.began);
        endpoint.load.end();
        endpoint.health.borrow_mut().cancel(attempt.ticket);
    }

    /// After which wait the call is tried again. `retried`: it was, nearer the failure.
    ///
    /// # Errors
    /// The failure stands; whether it was retried, or must not be.
    pub(crate) fn retry(
        &mut self,
        failure: Failure,
        retried: bool,
        tries: &Tries<'_>,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Result<Duration, bool> {
        match self.policy {
            Policy::Nothing => Err(false),
            Policy::NaiveRetries(retries) if tries.made <= retries => Ok(Duration::ZERO),
            Policy::NaiveRetries(_) => Err(false),
            Policy::Outrider(_) => {
                let facts = Facts {
                    idempotent: true,
                    replayable: true,
                    attempts: tries.made,
                    raced: false,
                    elsewhere: tries.tried.len() < self.balancer.endpoints().len(),
                    waited: tries.waited,
                    retried_downstream: retried,
                    is_retry: tries.is_retry,
                    remaining: tries.remaining,
                    streaming_started: false,
                };
                let (settings, budget) = (&self.settings.retry, &mut self.budget);
                let planned = decide(settings, failure, &facts, budget, now, |below| {
                    random.usize(..below)
                });
                planned
                    .map(|planned| planned.after)
                    .map_err(NoRetry::holds_upstream)
            }
        }
    }
}
