//! The breaker of one endpoint.

use std::rc::Rc;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::{HealthCheck, Outliers};

use super::ejections::Ejections;
use super::window::Window;
use super::{Admission, Outcome, Reason, Status, Transition};

/// An endpoint that cannot be connected to is left out for so long at first, and doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A share of slow answers over that is an endpoint that is slow, in percent.
const SLOW_PERCENT: u64 = 50;

/// One endpoint of a Service on one worker.
#[derive(Debug)]
pub struct EndpointHealth {
    state: State,
    /// Grows with each change of `state`. An attempt that began under an older one says nothing
    /// about the present: fifty requests that time out together open a breaker once.
    epoch: u32,
    errors: u32,
    gateway_errors: u32,
    window: Window,
    /// Ejections so far, less those that health made up for.
    times: u32,
    connect_failures: u32,
    /// How long the answer to a probe is waited for.
    patience: Duration,
    since: Instant,
    checks: Checks,
    ejections: Rc<Ejections>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
        cause: Reason,
    },
    /// `probe`: until when the answer to the one that is under way is waited for.
    HalfOpen {
        probe: Option<Instant>,
        cause: Reason,
    },
}

/// What active health checks found.
#[derive(Debug, Default)]
struct Checks {
    failed: u32,
    passed: u32,
    unhealthy: bool,
}

/// The right to one attempt. Give it back with the outcome, or as cancelled.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    epoch: u32,
    probe: bool,
}

impl Ticket {
    /// Whether the attempt finds out if the endpoint has recovered.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl EndpointHealth {
    /// An endpoint that was added at `now`, and of which nothing bad is known.
    #[must_use]
    pub fn new(ejections: Rc<Ejections>, now: Instant) -> Self {
        ejections.enter();
        Self {
            state: State::Closed,
            epoch: 0,
            errors: 0,
            gateway_errors: 0,
            window: Window::default(),
            times: 0,
            connect_failures: 0,
            patience: Duration::ZERO,
            since: now,
            checks: Checks::default(),
            ejections,
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        match self.state {
            _ if self.checks.unhealthy => Status::Open,
            State::Closed => Status::Closed,
            State::Open { .. } => Status::Open,
            State::HalfOpen { .. } => Status::HalfOpen,
        }
    }

    /// When the endpoint was added or last recovered, for slow start.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How often in a row, about, the endpoint was ejected.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.times
    }

    /// Whether a request may go to the endpoint at `now`.
    #[must_use]
    pub fn admit(&self, now: Instant) -> Admission {
        let (ready, cause) = match self.state {
            _ if self.checks.unhealthy => return Admission::No,
            State::Closed => return Admission::Yes,
            State::Open { until, cause } => (until <= now, cause),
            State::HalfOpen { probe, cause } => (probe.is_none_or(|until| until <= now), cause),
        };
        match cause {
            _ if ready => Admission::Probe,
            Reason::ConnectFailed => Admission::LastResort,
            _ => Admission::No,
        }
    }

    /// An attempt begins. Where the breaker has been open for long enough, it is the probe.
    pub fn begin(&mut self, now: Instant) -> (Ticket, Option<Transition>) {
        let before = self.status();
        let probe = self.admit(now) == Admission::Probe;
        if probe && let State::Open { cause, .. } | State::HalfOpen { cause, .. } = self.state {
            // The epoch stays from one probe to the next: a late answer still counts.
            if matches!(self.state, State::Open { .. }) {
                self.epoch = self.epoch.wrapping_add(1);
            }
            let probe = Some(now + self.patience);
            self.state = State::HalfOpen { probe, cause };
        }
        let epoch = self.epoch;
        let ticket = Ticket { epoch, probe };
        (ticket, self.changed(before, Reason::Expired))
    }

    /// An attempt ended without an outcome, since its caller went away: if it was the probe, the
    /// next request is.
    pub fn cancel(&mut self, ticket: Ticket) {
        if let State::HalfOpen { cause, .. } = self.state
            && ticket.probe
            && ticket.epoch == self.epoch
        {
            self.state = State::HalfOpen { probe: None, cause };
        }
    }

    /// What an attempt that began with `ticket` showed. `latency` is the time to the answer's head,
    /// or to the failure.
    pub fn record(
        &mut self,
        outliers: &Outliers,
        ticket: Ticket,
        now: Instant,
        outcome: Outcome,
        latency: Duration,
    ) -> Option<Transition> {
        if ticket.epoch != self.epoch {
            return None;
        }
        let before = self.status();
        let reason = match self.state {
            State::Closed => self.answered_closed(outliers, now, outcome, latency),
            State::Open { .. } | State::HalfOpen { .. } => {
                self.answered_out(outliers, now, outcome, latency)
            }
        };
        self.changed(before, reason?)
    }

    /// What an active health check found.
    pub fn checked(
        &mut self,
        check: &HealthCheck,
        outliers: &Outliers,
        now: Instant,
        healthy: bool,
    ) -> Option<Transition> {
        let before = self.status();
        let checks = &mut self.checks;
        if healthy {
            checks.passed = checks.passed.saturating_add(1);
            checks.failed = 0;
            if checks.unhealthy && checks.passed >= check.healthy_threshold {
                checks.unhealthy = false;
                self.since = now;
            }
        } else {
            checks.failed = checks.failed.saturating_add(1);
            checks.passed = 0;
            let room =
                before != Status::Closed || self.ejections.has_room(outliers.max_ejected_percent);
            if checks.failed >= check.unhealthy_threshold && room {
                checks.unhealthy = true;
            }
        }
        self.changed(before, Reason::HealthCheck)
    }

    /// Active checks are no longer asked for.
    pub fn unchecked(&mut self, now: Instant) -> Option<Transition> {
        let before = self.status();
        if self.checks.unhealthy {
            self.since = now;
        }
        self.checks = Checks::default();
        self.changed(before, Reason::HealthCheck)
    }

    fn answered_closed(
        &mut self,
        outliers: &Outliers,
        now: Instant,
        outcome: Outcome,
        latency: Duration,
    ) -> Option<Reason> {
        let reason = if outcome == Outcome::ConnectFailed {
            Reason::ConnectFailed
        } else {
            let reason = self.evidence(outliers, now, outcome, latency)?;
            if !self.ejections.has_room(outliers.max_ejected_percent) {
                return None;
            }
            reason
        };
        self.open(outliers, now, reason);
        Some(reason)
    }

    /// Counts an answer, and says which limit it passes.
    fn evidence(
        &mut self,
        outliers: &Outliers,
        now: Instant,
        outcome: Outcome,
        latency: Duration,
    ) -> Option<Reason> {
        let error = outcome != Outcome::Success;
        let failed = error && outcome != Outcome::AppError;
        let slow = outliers.latency.is_some_and(|limit| latency > limit);
        self.errors = if error {
            self.errors.saturating_add(1)
        } else {
            0
        };
        self.gateway_errors = if failed {
            self.gateway_errors.saturating_add(1)
        } else {
            0
        };
        self.window.add(outliers.window, now, failed, slow);
        let reached = |count: u32, limit: u32| limit > 0 && count >= limit;
        if failed && reached(self.gateway_errors, outliers.consecutive_gateway_errors) {
            return Some(Reason::ConsecutiveGatewayErrors);
        }
        if error && reached(self.errors, outliers.consecutive_errors) {
            return Some(Reason::ConsecutiveErrors);
        }
        if !failed && !slow {
            return None;
        }
        let counts = self.window.sum();
        if counts.answers < outliers.minimum_requests.max(1) {
            return None;
        }
        let percent = |part: u32| u64::from(part) * 100 / u64::from(counts.answers);
        let limit = u64::from(outliers.failure_percent);
        if failed && limit > 0 && percent(counts.failed) >= limit {
            return Some(Reason::FailurePercent);
        }
        (slow && percent(counts.slow) >= SLOW_PERCENT).then_some(Reason::Latency)
    }

    /// An answer of an endpoint that is out: to the probe, or to a request for which there was no
    /// other.
    fn answered_out(
        &mut self,
        outliers: &Outliers,
        now: Instant,
        outcome: Outcome,
        latency: Duration,
    ) -> Option<Reason> {
        let (State::Open { cause, .. } | State::HalfOpen { cause, .. }) = self.state else {
            return None;
        };
        let failed = match outcome {
            Outcome::Success => {
                cause == Reason::Latency && outliers.latency.is_some_and(|limit| latency > limit)
            }
            Outcome::AppError => outliers.consecutive_errors > 0,
            Outcome::GatewayError | Outcome::ConnectFailed => true,
        };
        if !failed {
            self.enter(State::Closed);
            self.since = now;
            self.connect_failures = 0;
            return Some(Reason::ProbeSucceeded);
        }
        // One that is open is known to fail: only a probe prolongs it.
        if matches!(self.state, State::Open { .. }) {
            return None;
        }
        let cause = match outcome {
            Outcome::ConnectFailed => Reason::ConnectFailed,
            _ => cause,
        };
        self.open(outliers, now, cause);
        Some(Reason::ProbeFailed)
    }

    fn open(&mut self, outliers: &Outliers, now: Instant, cause: Reason) {
        self.patience = outliers.base_ejection;
        let length = if cause == Reason::ConnectFailed {
            self.connect_failures = self.connect_failures.saturating_add(1);
            doubled(FIRST_PAUSE, self.connect_failures, LONGEST_PAUSE)
        } else {
            if self.state == State::Closed {
                self.times = self.times.saturating_sub(self.made_up(outliers, now));
            }
            self.times = self.times.saturating_add(1);
            let base = outliers.base_ejection;
            doubled(base, self.times, outliers.max_ejection.max(base))
        };
        self.enter(State::Open {
            until: now + length,
            cause,
        });
    }

    /// Each window of health takes one doubling back, as in Envoy's outlier detection.
    fn made_up(&self, outliers: &Outliers, now: Instant) -> u32 {
        let healthy = now.saturating_duration_since(self.since).as_nanos();
        let windows = healthy / outliers.window.as_nanos().max(1);
        u32::try_from(windows).unwrap_or(u32::MAX)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
        self.errors = 0;
        self.gateway_errors = 0;
        self.window.clear();
    }

    fn changed(&self, from: Status, reason: Reason) -> Option<Transition> {
        let to = self.status();
        match (from, to) {
            (Status::Closed, Status::Open | Status::HalfOpen) => self.ejections.ejected(),
            (Status::Open | Status::HalfOpen, Status::Closed) => self.ejections.restored(),
            _ => {}
        }
        (from != to).then_some(Transition { from, to, reason })
    }
}

impl Drop for EndpointHealth {
    fn drop(&mut self) {
        self.ejections.leave(self.status() != Status::Closed);
    }
}

/// `first` for the first time, then twice as long each time, up to `longest`.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1u32
        .checked_shl(times.saturating_sub(1))
        .unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}
