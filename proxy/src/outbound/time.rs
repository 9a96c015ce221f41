//! How much time a request has, where that comes from, and how it is told to the next sidecar.

use std::time::{Duration, Instant};

use http::HeaderMap;
use outrider_api::model::traffic::Timeouts;

use super::answer::Caller;
use crate::refusal::Refusal;
use crate::traffic::context::ContextId;
use crate::traffic::deadline::Deadline;
use crate::traffic::grpc_timeout;
use crate::traffic::traceparent;
use crate::traffic::tracestate::Member;
use crate::worker::Worker;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct TimeLeft {
    deadline: Deadline,
    /// What is said when it is over.
    over: Refusal,
    /// The request of our app's caller that this one is made for.
    context: Option<ContextId>,
    is_retry: bool,
    grpc: bool,
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

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.instant()
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
    pub fn stamp(&self, worker: &Worker, headers: &mut HeaderMap, attempt: u32, now: Instant) {
        traceparent::ensure(headers, |below| worker.random(below));
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
