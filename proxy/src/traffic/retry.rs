//! Whether a failed attempt is followed by another.
//!
//! In this order; the first that says no is the reason:
//!
//! | question | asked of | else |
//! |---|---|---|
//! | Has nothing of an answer gone to the caller? | all | `answer_started` |
//! | Does the policy name this failure? | status, gRPC status, reset, attempt timeout | `not_covered` |
//! | Was it not retried nearer the failure? | status, gRPC status, reset, attempt timeout | `retried_downstream` |
//! | Is the request nobody's retry itself? | status, gRPC status, reset, attempt timeout | `already_a_retry` |
//! | Is the method idempotent, or opted in? | status, gRPC status, reset, attempt timeout | `not_idempotent` |
//! | Are retries on? | all but the first keep-alive race | `disabled` |
//! | Are attempts left? | all but the first keep-alive race, and a failed connection while there is another endpoint | `attempts_exhausted` |
//! | Is the body still there? | all but a failed connection | `body_not_kept` |
//! | Is there time to wait and to try? | all | `deadline_too_close` |
//! | Does the budget allow it? | all but the first keep-alive race | `budget_exhausted` |
//!
//! A connection that failed has cost the Service nothing, and what it did not process is safe to send
//! again whatever the method (RFC 9113, section 8.7): both go on at once while there is an endpoint
//! that was not tried, and count like every retry. The keep-alive race (RFC 9112, section 9.3.1) is
//! nobody's failure: it is replayed once for nothing.
//!
//! The wait before the others is "decorrelated jitter" (Marc Brooker, *Exponential Backoff And
//! Jitter*, AWS Architecture Blog, 2015): between the least wait and three times the wait before. Not
//! "full jitter", which begins at zero: GEP-1731 forbids a retry before its `backoff`.

use std::time::{Duration, Instant};

use outrider_api::model::RuleRetry;
use outrider_api::model::traffic::Retry;

use super::budget::RetryBudget;

/// What an attempt ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of the request left us.
    ConnectFailed,
    /// REFUSED_STREAM, or GOAWAY with a smaller stream id: the peer says that it did nothing.
    Unprocessed,
    /// A connection that had been used before was closed while the request went out on it, and the
    /// request was not taken up.
    KeepAliveRace,
    /// The connection or the stream broke before the answer's head.
    Reset,
    /// It took longer than an attempt may.
    AttemptTimeout,
    Status(u16),
    Grpc(u8),
}

/// What else the decision needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// By its method (RFC 9110, section 9.2.2). gRPC is not.
    pub idempotent: bool,
    /// What was sent of the body was kept.
    pub replayable: bool,
    /// Attempts that were made and count: the first is one.
    pub attempts: u32,
    /// A keep-alive race was replayed already.
    pub raced: bool,
    /// There is an endpoint that was not tried.
    pub elsewhere: bool,
    /// The wait before the attempt that failed; `None` if it was the first.
    pub waited: Option<Duration>,
    /// The answer that failed says that it was retried nearer the failure.
    pub retried_downstream: bool,
    /// The request came to us as somebody's retry.
    pub is_retry: bool,
    /// Until the deadline. `None`: there is none.
    pub remaining: Option<Duration>,
    /// The head of an answer has gone to the caller.
    pub streaming_started: bool,
}

/// Another attempt shall be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// From now. Less than what is left until the deadline.
    pub after: Duration,
    pub reason: RetryReason,
}

/// Decides, and takes the retry from `budget`. `random` gives a number below its argument.
///
/// # Errors
/// Why the failure stands.
pub fn decide(
    settings: &Retry,
    failure: Failure,
    facts: &Facts,
    budget: &mut RetryBudget,
    now: Instant,
    random: impl FnMut(usize) -> usize,
) -> Result<Planned, NoRetry> {
    let reason = RetryReason::from(failure);
    if facts.streaming_started {
        return Err(NoRetry::AnswerStarted);
    }
    may_repeat(settings, failure, facts)?;
    let free = failure == Failure::KeepAliveRace && !facts.raced;
    if !free && settings.attempts == 0 {
        return Err(NoRetry::Disabled);
    }
    // Whoever cannot be reached is no attempt at the Service; endpoints and budget bound these.
    let elsewhere = failure == Failure::ConnectFailed && facts.elsewhere;
    if !free && !elsewhere && facts.attempts > settings.attempts {
        return Err(NoRetry::AttemptsExhausted);
    }
    if failure != Failure::ConnectFailed && !facts.replayable {
        return Err(NoRetry::BodyNotKept);
    }
    let after = if free || (is_safe(failure) && facts.elsewhere) {
        Duration::ZERO
    } else {
        backoff(settings, facts.waited, random)
    };
    if facts.remaining.is_some_and(|remaining| remaining <= after) {
        return Err(NoRetry::DeadlineTooClose);
    }
    if !free && !budget.try_retry(now) {
        return Err(NoRetry::BudgetExhausted);
    }
    Ok(Planned { after, reason })
}

/// Whether the Service has done nothing for the request: then its method does not matter.
fn is_safe(failure: Failure) -> bool {
    match failure {
        Failure::ConnectFailed | Failure::Unprocessed | Failure::KeepAliveRace => true,
        Failure::Reset | Failure::AttemptTimeout | Failure::Status(_) | Failure::Grpc(_) => false,
    }
}

/// Whether a request that may have been served may be sent again.
fn may_repeat(settings: &Retry, failure: Failure, facts: &Facts) -> Result<(), NoRetry> {
    let covered = match failure {
        Failure::ConnectFailed | Failure::Unprocessed | Failure::KeepAliveRace => return Ok(()),
        Failure::Reset => settings.on_reset,
        Failure::AttemptTimeout => settings.on_timeout,
        Failure::Status(status) => settings.codes.contains(&status),
        Failure::Grpc(code) => settings.grpc_codes.contains(&code),
    };
    if !covered {
        return Err(NoRetry::NotCovered);
    }
    if facts.retried_downstream {
        return Err(NoRetry::RetriedDownstream);
    }
    if facts.is_retry {
        return Err(NoRetry::AlreadyARetry);
    }
    if !facts.idempotent && !settings.non_idempotent {
        return Err(NoRetry::NotIdempotent);
    }
    Ok(())
}

/// Between the least wait and three times the last one, at most `max_backoff` unless the least is
/// more than that. To the microsecond.
fn backoff(
    settings: &Retry,
    waited: Option<Duration>,
    mut random: impl FnMut(usize) -> usize,
) -> Duration {
    let least = settings.backoff;
    let last = waited.unwrap_or(least).max(least);
    let most = last.saturating_mul(3).min(settings.max_backoff).max(least);
    let spread = usize::try_from((most - least).as_micros()).unwrap_or(usize::MAX - 1);
    let drawn = u64::try_from(random(spread + 1)).unwrap_or(u64::MAX);
    least.saturating_add(Duration::from_micros(drawn)).min(most)
}

/// A Service's settings with a route rule's own in place of them. For when settings arrive, not for
/// each request.
pub fn with_rule(settings: &Retry, rule: &RuleRetry) -> Retry {
    Retry {
        attempts: rule.attempts.unwrap_or(settings.attempts),
        codes: rule.codes.as_ref().unwrap_or(&settings.codes).clone(),
        backoff: rule.backoff.unwrap_or(settings.backoff),
        ..settings.clone()
    }
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every variant, for tests and for metrics that start at zero.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The closed label of metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// Why a request is sent again.
    RetryReason {
        ConnectFailed => "connect_failed",
        Unprocessed => "unprocessed",
        KeepAliveRace => "keep_alive_race",
        Reset => "reset",
        AttemptTimeout => "attempt_timeout",
        Status => "status",
        GrpcStatus => "grpc_status",
    }
}

labels! {
    /// Why a failure stands. The module's table says more.
    NoRetry {
        AnswerStarted => "answer_started",
        NotCovered => "not_covered",
        RetriedDownstream => "retried_downstream",
        AlreadyARetry => "already_a_retry",
        NotIdempotent => "not_idempotent",
        Disabled => "disabled",
        AttemptsExhausted => "attempts_exhausted",
        BodyNotKept => "body_not_kept",
        DeadlineTooClose => "deadline_too_close",
        BudgetExhausted => "budget_exhausted",
    }
}

impl NoRetry {
    /// Whether callers further up must not retry either, which the answer then says
    /// (`x-outrider-retried`): the retry was made here, nearest the failure, or there was no budget
    /// for it, and then a caller's would only load the failing Service by another way.
    #[must_use]
    pub const fn holds_upstream(self) -> bool {
        matches!(
            self,
            Self::RetriedDownstream | Self::AttemptsExhausted | Self::BudgetExhausted
        )
    }
}

impl From<Failure> for RetryReason {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::ConnectFailed => Self::ConnectFailed,
            Failure::Unprocessed => Self::Unprocessed,
            Failure::KeepAliveRace => Self::KeepAliveRace,
            Failure::Reset => Self::Reset,
            Failure::AttemptTimeout => Self::AttemptTimeout,
            Failure::Status(_) => Self::Status,
            Failure::Grpc(_) => Self::GrpcStatus,
        }
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
