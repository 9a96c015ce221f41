//! One attempt at an endpoint, from its pick to the head of its answer: what it shows is told to
//! the endpoint's breaker and to the balancer, once, however it ends.

use std::rc::Rc;
use std::time::Instant;

use outrider_api::model::traffic::Outliers;

use super::endpoint::Endpoint;
use crate::refusal::Refusal;
use crate::traffic::health::{Outcome, Ticket, Transition};

/// Dropped without an outcome, it was cancelled: its caller went away.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    endpoint: Rc<Endpoint>,
    ticket: Option<Ticket>,
    began: Instant,
}

impl Attempt {
    pub fn begin(endpoint: &Rc<Endpoint>, now: Instant) -> Self {
        let (ticket, change) = endpoint.health.borrow_mut().begin(now);
        endpoint.load.sent(now);
        report(endpoint, change);
        Self {
            endpoint: Rc::clone(endpoint),
            ticket: Some(ticket),
            began: now,
        }
    }

    /// Nothing of it has left: evidence against the endpoint, unless the fault is the request's.
    pub fn unsent(self, outliers: &Outliers, refusal: Refusal) {
        if refusal != Refusal::UnknownPort {
            self.ended(outliers, Outcome::ConnectFailed);
        }
    }

    pub fn ended(mut self, outliers: &Outliers, outcome: Outcome) {
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.began);
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        match outcome {
            Outcome::Success | Outcome::AppError => self.endpoint.load.answered(now, latency),
            Outcome::GatewayError | Outcome::ConnectFailed => {
                self.endpoint.load.failed(now, latency);
            }
        }
        let mut health = self.endpoint.health.borrow_mut();
        let change = health.record(outliers, ticket, now, outcome, latency);
        drop(health);
        report(&self.endpoint, change);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.began);
            self.endpoint.load.abandoned(now, waited);
            self.endpoint.health.borrow_mut().cancel(ticket);
        }
    }
}

fn report(endpoint: &Endpoint, change: Option<Transition>) {
    let Some(change) = change else {
        return;
    };
    tracing::info!(
        endpoint = %endpoint.model.mesh_address,
        workload = %endpoint.model.workload,
        from = change.from.label(),
        to = change.to.label(),
        reason = change.reason.label(),
        "an endpoint's breaker changed"
    );
}
