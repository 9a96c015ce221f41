//! Endpoints as a sidecar has them, without the sidecar.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::{Algorithm, Balancing, Outliers, WhenAllEjected};
use outrider_proxy::traffic::balance::{Balancer, Candidate, Latency, Load, hash};
use outrider_proxy::traffic::health::{Admission, Ejections, EndpointHealth, Outcome};

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

pub(crate) fn balancer(count: usize, algorithm: Algorithm) -> Balancer<Endpoint> {
    let (now, ejections) = (Instant::now(), Rc::new(Ejections::default()));
    let endpoint = |index: usize| Endpoint {
        identity: hash(index.to_string().as_bytes()),
        load: Load::new(now),
        health: RefCell::new(EndpointHealth::new(Rc::clone(&ejections), now)),
    };
    let balancing = Balancing {
        algorithm,
        ..Balancing::default()
    };
    let endpoints = (0..count).map(endpoint).collect();
    Balancer::new(endpoints, &balancing, WhenAllEjected::Refuse, None)
}

/// A request as the sidecar sees it, without the request.
pub(crate) fn request(
    balancer: &Balancer<Endpoint>,
    outliers: &Outliers,
    now: Instant,
    random: &mut fastrand::Rng,
) {
    let key = Some(random.u64(..));
    let picked = balancer.pick(&[], key, now, |below| random.usize(..below));
    let Ok((_, endpoint)) = picked else {
        return;
    };
    let (ticket, _) = endpoint.health.borrow_mut().begin(now);
    endpoint.load.begin();
    endpoint.load.sent(now);
    let latency = Duration::from_micros(random.u64(500..2_000));
    endpoint.load.answered(now, latency);
    let mut health = endpoint.health.borrow_mut();
    black_box(health.record(outliers, ticket, now, Outcome::Success, latency));
    endpoint.load.end();
}
