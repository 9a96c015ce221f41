//! A Service as a worker has compiled it: its endpoints and routes, how its callers treat it, and
//! what is going on with it now.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use outrider_api::model::traffic::{Retry, TrafficSettings};
use outrider_api::model::{self, Destination, Protocol};
use outrider_api::names::ServiceName;

use super::endpoint::Endpoint;
use super::health_check::HealthChecks;
use super::routes::{PortRoutes, Split};
use crate::refusal::Refusal;
use crate::telemetry::edge::{Edge, Party, Reporter};
use crate::telemetry::metrics::Metrics;
use crate::tls::ClientTls;
use crate::traffic::balance::{Balancer, Unpicked};
use crate::traffic::budget::RetryBudget;
use crate::traffic::health::Ejections;
use crate::traffic::limits::{Reached, Usage};
use crate::traffic::retry::{self, Facts, Failure, NoRetry, Planned};
use crate::worker::Worker;

/// See the module. Replaced as a whole when the Service changes.
#[derive(Debug)]
pub struct Service {
    ports: Vec<(u16, Protocol)>,
    routes: Vec<PortRoutes>,
    balancer: Balancer<Rc<Endpoint>>,
    /// For requests that reach no endpoint.
    pub edge: Rc<Edge>,
    pub state: Rc<State>,
    compiled_from: Arc<Destination>,
    /// Ports beyond those of the destination.
    undeclared: Vec<u16>,
    _checks: HealthChecks,
}

/// What outlives a change of the Service.
#[derive(Debug)]
pub struct State {
    pub name: ServiceName,
    pub usage: Usage,
    budget: RefCell<RetryBudget>,
    ejections: Rc<Ejections>,
    /// What the gauges have been told of `usage`.
    told: Cell<(u32, u32)>,
}

/// What tells the endpoints of a Service apart: of thousands, each finds itself at once.
fn key(endpoint: &model::Endpoint) -> (&str, &str, SocketAddr) {
    let address = endpoint.mesh_address;
    (&endpoint.namespace, &endpoint.workload, address)
}

/// What a Service is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'w> {
    pub metrics: &'w Arc<Metrics>,
    pub tls: &'w Rc<ClientTls>,
    pub party: &'w Party,
    /// Where the caller runs.
    pub zone: Option<&'w str>,
}

impl Service {
    /// What was known of the Service and of its endpoints, and their warm connections, stay.
    /// `undeclared` are ports that lead to themselves, beside those of the destination.
    pub fn compile(
        destination: &Arc<Destination>,
        undeclared: &[u16],
        caller: Caller<'_>,
        before: Option<&Self>,
    ) -> Rc<Self> {
        let now = Instant::now();
        let traffic = &destination.traffic;
        let name = &destination.service;
        let state = match before {
            Some(before) => Rc::clone(&before.state),
            None => Rc::new(State::new(name, &traffic.budget, now)),
        };
        state.budget.borrow_mut().update(&traffic.budget);
        let edge = |to| {
            Edge::new(
                caller.metrics,
                Reporter::Source,
                caller.party.clone(),
                to,
                Some(name.clone()),
            )
        };
        let before = before.map_or(&[][..], Self::endpoints);
        let known: HashMap<_, _> = before
            .iter()
            .map(|known| (key(&known.model), known))
            .collect();
        let endpoint = |model: &model::Endpoint| {
            let mut model = model.clone();
            model
                .target_ports
                .extend(undeclared.iter().map(|&port| (port, port)));
            let known = known.get(&key(&model)).filter(|known| known.model == model);
            if let Some(&known) = known {
                known.update(traffic);
                return Rc::clone(known);
            }
            let edge = edge(Party::endpoint(&model));
            Endpoint::new(model, edge, Rc::clone(&state.ejections), traffic, now)
        };
        let endpoints: Vec<Rc<Endpoint>> = destination.endpoints.iter().map(endpoint).collect();
        let ports: Vec<(u16, Protocol)> = destination
            .ports
            .iter()
            .map(|port| (port.port, port.protocol))
            .chain(undeclared.iter().map(|&port| (port, Protocol::Detect)))
            .collect();
        let checks = HealthChecks::start(&endpoints, &ports, traffic, name, caller.tls);
        Rc::new(Self {
            routes: PortRoutes::compile(&destination.routes, &caller.party.namespace, traffic),
            balancer: Balancer::new(
                endpoints,
                &traffic.balancing,
                traffic.outliers.when_all_ejected,
                caller.zone,
            ),
            edge: edge(Party::unknown()),
            compiled_from: Arc::clone(destination),
            undeclared: undeclared.to_vec(),
            _checks: checks,
            state,
            ports,
        })
    }

    /// Whether this is what `destination` compiles to, with these further ports.
    pub fn is_of(&self, destination: &Arc<Destination>, undeclared: &[u16]) -> bool {
        Arc::ptr_eq(&self.compiled_from, destination) && self.undeclared == undeclared
    }

    pub fn endpoints(&self) -> &[Rc<Endpoint>] {
        self.balancer.endpoints()
    }

    /// How its callers treat it.
    pub fn traffic(&self) -> &TrafficSettings {
        &self.compiled_from.traffic
    }

    /// What the port of the Service speaks; `None` if there is no such port.
    pub fn protocol(&self, port: u16) -> Option<Protocol> {
        let mut ports = self.ports.iter();
        ports
            .find(|(known, _)| *known == port)
            .map(|(_, protocol)| *protocol)
    }

    /// The routes of a port, where it has any.
    pub fn routes(&self, port: u16) -> Option<&PortRoutes> {
        self.routes.iter().find(|routes| routes.port() == port)
    }

    /// The shares of opaque connections to a port, where they are routed.
    pub fn tcp_routes(&self, port: u16) -> Option<Rc<Split>> {
        self.routes(port)?.tcp()
    }

    /// The endpoint for the next attempt, and its place among those of this Service. `key`: see
    /// [`super::hash::key`].
    pub fn pick(
        &self,
        worker: &Worker,
        tried: &[usize],
        key: Option<u64>,
        now: Instant,
    ) -> Result<(usize, &Rc<Endpoint>), Refusal> {
        self.balancer
            .pick(tried, key, now, |below| worker.random(below))
            .map_err(|unpicked| match unpicked {
                Unpicked::NoneLeft => Refusal::NoEndpoints,
                Unpicked::AllEjected => Refusal::CircuitOpen,
            })
    }

    /// Whether a failed attempt is followed by another, which is then taken from the budget.
    pub fn retry(
        &self,
        worker: &Worker,
        settings: &Retry,
        failure: Failure,
        facts: &Facts,
        now: Instant,
    ) -> Result<Planned, NoRetry> {
        let budget = &mut *self.state.budget.borrow_mut();
        let random = |below| worker.random(below);
        let decided = retry::decide(settings, failure, facts, budget, now, random);
        // Most errors of an app are not meant to be retried.
        if decided == Err(NoRetry::NotCovered) {
            return decided;
        }
        let metrics = &worker.metrics.traffic;
        let service = self.state.name.label();
        match &decided {
            Ok(planned) => metrics
                .retries
                .with_label_values(&[service.as_str(), planned.reason.label()]),
            Err(why) => metrics
                .retries_not_made
                .with_label_values(&[service.as_str(), why.label()]),
        }
        .inc();
        decided
    }

    /// A request begins; it counts for the budget.
    pub fn begin(&self, now: Instant) {
        self.state.budget.borrow_mut().request(now);
    }
}

impl State {
    pub fn new(name: &ServiceName, budget: &model::traffic::RetryBudget, now: Instant) -> Self {
        Self {
            name: name.clone(),
            usage: Usage::default(),
            budget: RefCell::new(RetryBudget::new(budget, now)),
            ejections: Rc::default(),
            told: Cell::default(),
        }
    }

    /// Tells the gauges how many requests are open and pending. Several workers add up.
    pub fn tell(&self, metrics: &Metrics) {
        let (now, told) = (self.usage.requests(), self.told.get());
        if now == told {
            return;
        }
        self.told.set(now);
        let service = self.name.label();
        let change = |now: u32, told: u32| i64::from(now) - i64::from(told);
        let active = metrics
            .traffic
            .active_requests
            .with_label_values(&[&service]);
        active.add(change(now.0, told.0));
        let pending = metrics
            .traffic
            .pending_requests
            .with_label_values(&[&service]);
        pending.add(change(now.1, told.1));
    }
}

impl From<Reached> for Refusal {
    fn from(reached: Reached) -> Self {
        match reached {
            Reached::Connections => Self::TooManyConnections,
            Reached::PendingRequests => Self::TooManyPending,
            Reached::Requests => Self::TooManyRequests,
        }
    }
}
