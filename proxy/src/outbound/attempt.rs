//! One attempt at an endpoint: what it shows is told to the endpoint's breaker and to the balancer,
//! once, however it ends.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use crate::traffic::health::{Outcome, Ticket};

/// One attempt, from before it is sent until its outcome is known. Dropped before that, its caller
/// went away, and it says nothing of the endpoint.
#[derive(Debug)]
pub struct Attempt {
    endpoint: Rc<Endpoint>,
    ticket: Option<Ticket>,
    begun: Instant,
    latency: Option<Duration>,
}

impl Attempt {
    pub(super) fn new(endpoint: &Rc<Endpoint>, ticket: Ticket, begun: Instant) -> Self {
        Self {
            endpoint: Rc::clone(endpoint),
            ticket: Some(ticket),
            begun,
            latency: None,
        }
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The head of an answer has come. What it says of the endpoint may still be open.
    pub fn answered(&mut self, now: Instant) {
        let latency = now.saturating_duration_since(self.begun);
        self.endpoint.load.answered(now, latency);
        self.latency = Some(latency);
    }

    /// What the attempt showed, at last.
    pub fn ended(mut self, now: Instant, outcome: Outcome) {
        let latency = match self.latency {
            Some(latency) => latency,
            None => {
                let latency = now.saturating_duration_since(self.begun);
                self.endpoint.load.failed(now, latency);
                self.latency = Some(latency);
                latency
            }
        };
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.learn(ticket, now, outcome, latency);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.latency.is_none() {
            let waited = self.begun.elapsed();
            self.endpoint.load.abandoned(self.begun + waited, waited);
        }
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.health.borrow_mut().cancel(ticket);
        }
    }
}
