//! How much time a request has, where that comes from, and how it is told to the next sidecar.

use std::time::{Duration, Instant};

use http::HeaderMap;
use outrider_api::model::traffic::Timeouts;

use super::answer::Caller;
use crate::http::replay::Moved;
use crate::refusal::Refusal;
use crate::traffic::context::ContextId;
use crate::traffic::deadline::Deadline;
use crate::traffic::grpc_timeout;
use crate::traffic::tracestate::Member;
use crate::worker::Worker;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct TimeLeft {
    deadline: Deadline,
    /// By the policy.
    own: Deadline,
    /// By `grpc-timeout` and by the request that this one is made for.
    callers: Deadline,
    /// What is said when it is over.
    over: Refusal,
    /// The request of our app's caller that this one is made for.
    context: Option<ContextId>,
    is_retry: bool,
    grpc: bool,
}

/// How long one attempt is waited for. The policy's timeouts count from the last part of the request
/// that went out, so that a long upload is not cut; the caller's deadline is a point in time.
#[derive(Debug)]
pub struct Patience {
    pub begun: Instant,
    pub attempt: Option<Duration>,
    pub request: Option<Duration>,
    pub time: TimeLeft,
    pub moved: Moved,
}

impl Patience {
    /// Until when, as far as is known now, and what is said then. `None`: for ever.
    pub fn until(&self) -> Option<(Instant, Refusal)> {
        let moved = self.moved.get();
        let began = moved.map_or(self.begun, |moved| moved.max(self.begun));
        let attempt = Deadline::after(began, self.attempt);
        let request = match moved {
            None => self.time.own,
            Some(moved) => Deadline::after(moved, self.request),
        };
        let candidates = [
            (attempt, Refusal::AttemptTimeout),
            (request, Refusal::RequestTimeout),
            (self.time.callers, Refusal::DeadlineExceeded),
        ];
        let ends = |(deadline, refusal): (Deadline, Refusal)| Some((deadline.instant()?, refusal));
        candidates
            .into_iter()
            .filter_map(ends)
            .min_by_key(|(until, _)| *until)
    }
}

impl TimeLeft {
    /// From the policy, the app's `grpc-timeout`, and the request that this one is made for.
    pub fn of(
        worker: &Worker,
        headers: &HeaderMap,
        timeouts: &Timeouts,
        caller: Caller,
    ) -> Result<Self, Refusal> {
        let now = caller.started;
        let grpc = match caller.grpc {
            true => grpc_timeout::of(headers).map_err(|_| Refusal::BadTimeout)?,
            false => None,
        };
        let member = Member::find(headers);
        let context = member.and_then(|member| member.context);
        let found = context.and_then(|id| worker.contexts.find(id));
        let metrics = &worker.metrics.traffic;
        metrics.called(member.is_some(), worker.serves_requests());
        let inherited = match (found, member) {
            (Some(found), _) => Deadline::at(found.deadline),
            (None, Some(member)) => Deadline::after(now, member.remaining),
            (None, None) => Deadline::NONE,
        };
        let attempt = found
            .map(|found| found.attempt)
            .or(member.map(|member| member.attempt));
        let own = Deadline::after(now, timeouts.request);
        let callers = Deadline::after(now, grpc).earlier(inherited);
        let deadline = own.earlier(callers);
        let time = Self {
            deadline,
            own,
            callers,
            over: match deadline == own {
                true => Refusal::RequestTimeout,
                false => Refusal::DeadlineExceeded,
            },
            context,
            is_retry: attempt.is_some_and(|attempt| attempt > 1),
            grpc: caller.grpc,
        };
        match deadline.is_over(now) {
            true => Err(time.over),
            false => Ok(time),
        }
    }

    /// What a request that ran out of time is answered with.
    pub fn over(&self) -> Refusal {
        self.over
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.deadline.is_over(now)
    }

    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline.remaining(now)
    }

    /// Whether the request is somebody's retry itself.
    pub fn is_retry(&self) -> bool {
        self.is_retry
    }

    /// Tells the next sidecar what is left, and which attempt this is, from 1.
    pub fn stamp(&self, headers: &mut HeaderMap, attempt: u32, now: Instant) {
        let remaining = self.remaining(now);
        Member {
            remaining,
            // A retry of a retry is one, too.
            attempt: attempt + u32::from(self.is_retry),
            context: None,
        }
        .put(headers);
        if let Some(remaining) = remaining.filter(|_| self.grpc) {
            headers.insert(grpc_timeout::GRPC_TIMEOUT, grpc_timeout::format(remaining));
        }
    }

    /// The request failed although it was sent again: whoever asked our app shall not retry it.
    pub fn mark_retried(&self, worker: &Worker) {
        if let Some(context) = self.context {
            worker.contexts.mark_retried(context);
        }
    }
}
