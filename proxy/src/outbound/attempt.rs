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
    /// It has a connection, and waits for an answer.
    is_sent: bool,
    latency: Option<Duration>,
}

impl Attempt {
    pub(super) fn new(endpoint: &Rc<Endpoint>, ticket: Ticket, begun: Instant) -> Self {
        Self {
            endpoint: Rc::clone(endpoint),
            ticket: Some(ticket),
            begun,
            is_sent: false,
            latency: None,
        }
    }

    /// There is a connection, and the request goes out on it: what it took to connect is no latency
    /// of the endpoint.
    pub fn sent(&mut self, now: Instant) {
        self.begun = now;
        self.is_sent = true;
        self.endpoint.load.sent(now);
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether it finds out if its endpoint has recovered.
    pub fn is_probe(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_probe)
    }

    /// The head of an answer has come. What it says of the endpoint may still be open; where the
    /// request was not `served`, that it came soon is no merit.
    pub fn answered(&mut self, now: Instant, served: bool) {
        let latency = now.saturating_duration_since(self.begun);
        if served {
            self.endpoint.load.answered(now, latency);
        } else {
            self.endpoint.load.failed(now, latency);
        }
        self.latency = Some(latency);
    }

    /// No answer has come. `None`: that says nothing of the endpoint.
    pub fn failed(self, now: Instant, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.ended(now, outcome);
        }
    }

    /// What the attempt showed, at last.
    pub fn ended(mut self, now: Instant, outcome: Outcome) {
        let latency = match self.latency {
            Some(latency) => latency,
            None => {
                let latency = now.saturating_duration_since(self.begun);
                if self.is_sent {
                    self.endpoint.load.failed(now, latency);
                }
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
        if self.is_sent && self.latency.is_none() {
            let waited = self.begun.elapsed();
            self.endpoint.load.abandoned(self.begun + waited, waited);
        }
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.health.borrow_mut().cancel(ticket);
        }
    }
}
