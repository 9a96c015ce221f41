//! A request of a peer while the app works on it: how much time it has, and what the calls that the
//! app makes meanwhile need to know of it.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};

use crate::http::wire;
use crate::refusal::Refusal;
use crate::telemetry::exchange::grpc_status;
use crate::traffic::context::ContextId;
use crate::traffic::deadline::Deadline;
use crate::traffic::grpc_timeout;
use crate::traffic::traceparent;
use crate::traffic::tracestate::Member;
use crate::worker::Worker;

/// From the request's arrival to the head of its answer, or until the caller has gone.
#[derive(Debug)]
pub struct Work {
    worker: Rc<Worker>,
    /// `None`: too many have a context already, or it has ended.
    context: Option<ContextId>,
}

/// What a request says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub deadline: Deadline,
    attempt: u32,
}

impl Order {
    pub fn read(headers: &HeaderMap, arrived: Instant) -> Self {
        let member = Member::find(headers);
        let remaining = member.and_then(|member| member.remaining);
        Self {
            deadline: Deadline::after(arrived, remaining),
            attempt: member.map_or(1, |member| member.attempt),
        }
    }
}

impl Work {
    /// Begins, and tells the app in `headers` what it shall hand on to the calls that it makes.
    pub fn begin(
        worker: &Rc<Worker>,
        headers: &mut HeaderMap,
        order: Order,
        grpc: bool,
    ) -> Result<Self, Refusal> {
        let Order { deadline, attempt } = order;
        let now = Instant::now();
        if deadline.is_over(now) {
            return Err(Refusal::DeadlineExceeded);
        }
        let remaining = deadline.remaining(now);
        let context = worker.contexts.begin(deadline.instant(), attempt);
        traceparent::ensure(headers, |below| worker.random(below));
        Member {
            remaining,
            attempt,
            context,
        }
        .put(headers);
        if let Some(remaining) = remaining.filter(|_| grpc) {
            headers.insert(grpc_timeout::GRPC_TIMEOUT, grpc_timeout::format(remaining));
        }
        worker.serving.set(worker.serving.get() + 1);
        Ok(Self {
            worker: Rc::clone(worker),
            context,
        })
    }

    /// The head of the app's answer has come. An error that was retried for already, nearer to where
    /// it happened, says so.
    pub fn answered(mut self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(context) = self.context.take() else {
            return;
        };
        let ended = self.worker.contexts.end(context);
        let failed = status.is_server_error() || grpc_status(headers).is_some_and(|code| code != 0);
        if failed && ended.retried_downstream {
            wire::set_retried(headers);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(context) = self.context {
            self.worker.contexts.end(context);
        }
        self.worker.serving.set(self.worker.serving.get() - 1);
    }
}
