//! A request is sent: to one endpoint, and after a failure that may be retried to another, for as
//! long as attempts, budget and time allow.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use outrider_api::model::traffic::{Retry, Timeouts};

use super::answer::{self, Caller, Edits, Upgrading};
use super::attempt::Attempt;
use super::endpoint::{Endpoint, Purpose};
use super::forward::Connection;
use super::message::Message;
use super::service::Service;
use super::time::{Patience, TimeLeft};
use super::verdict::{self, Verdict};
use crate::http::body::{self, RequestBody, ResponseBody};
use crate::http::headers;
use crate::http::proxy_status;
use crate::http::wire::{self, AppVersion};
use crate::refusal::Refusal;
use crate::telemetry::exchange::Exchange;
use crate::traffic::health::Outcome;
use crate::traffic::retry::{Facts, Failure};
use crate::worker::Worker;

/// A request that is ready to leave.
pub struct Outgoing {
    pub message: Message,
    /// Whom the app called: its policy says when to give up and what to retry.
    pub called: Rc<Service>,
    /// Whose endpoints are asked.
    pub service: Rc<Service>,
    /// Of `service`.
    pub port: u16,
    pub version: AppVersion,
    pub upgrade: Option<Upgrading>,
    pub edits: Edits,
    pub timeouts: Timeouts,
    pub time: TimeLeft,
    /// For consistent hashing.
    pub key: Option<u64>,
}

/// What has happened to a request so far.
#[derive(Default)]
struct Progress {
    tried: Vec<usize>,
    /// Those that count.
    attempts: u32,
    raced: bool,
    /// Every endpoint that there was has been tried: from then on they are tried again.
    around: bool,
    waited: Option<Duration>,
}

impl Progress {
    /// Whether one of `endpoints` was not tried. Where all of them were, another round is a retry like
    /// every other: it waits, and it counts.
    fn is_elsewhere(&self, endpoints: usize) -> bool {
        !self.around && self.tried.len() < endpoints
    }

    fn go_around(&mut self) {
        self.around = true;
        self.tried.clear();
    }

    /// Some attempts do not count: the first keep-alive race is nobody's failure, and what never
    /// reached the Service costs it nothing while there is another endpoint.
    fn discount(&mut self, failure: Failure, elsewhere: bool) {
        match failure {
            Failure::KeepAliveRace if !self.raced => {
                self.raced = true;
                self.tried.pop();
            }
            Failure::ConnectFailed if elsewhere => {}
            _ => return,
        }
        self.attempts -= 1;
    }
}

/// What an attempt came to.
enum Tried {
    Answered(Response<Incoming>, Verdict),
    Failed(Failure, Refusal),
    /// Nothing that another attempt could mend.
    Refused(Refusal),
}

/// Sends the request, and brings the answer back.
pub async fn send(
    connection: &Connection,
    mut outgoing: Outgoing,
    caller: Caller,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let worker = &connection.worker;
    let service = Rc::clone(&outgoing.service);
    let (usage, limits) = (&service.state.usage, &service.traffic().limits);
    let held = match outgoing.upgrade {
        Some(_) => usage.connection(limits),
        None => usage.request(limits),
    };
    let held = match held {
        Ok(held) => held,
        Err(reached) => return refuse(exchange, caller, &outgoing.edits, reached.into()),
    };
    service.begin(caller.started);
    let mut progress = Progress::default();
    // Not when it came: what held it up until now is no attempt's time.
    let mut now = Instant::now();
    let mut failed_before = None;
    loop {
        if outgoing.time.is_over(now) {
            return refuse(exchange, caller, &outgoing.edits, outgoing.time.over());
        }
        let mut picked = service.pick(worker, &progress.tried, outgoing.key, now);
        if picked.is_err() && !progress.tried.is_empty() {
            // There is no other one: the wait before this attempt is what may help.
            progress.go_around();
            picked = service.pick(worker, &[], outgoing.key, now);
        }
        let (index, endpoint) = match picked {
            Ok((index, endpoint)) => (index, Rc::clone(endpoint)),
            Err(refusal) => {
                if refusal == Refusal::CircuitOpen {
                    outgoing.time.mark_retried(worker);
                }
                // Where some were tried, what they failed with says more.
                return refuse(
                    exchange,
                    caller,
                    &outgoing.edits,
                    failed_before.unwrap_or(refusal),
                );
            }
        };
        exchange.retarget(Rc::clone(&endpoint.edge));
        progress.attempts += 1;
        let in_flight = endpoint.begin();
        let mut attempt = endpoint.attempt(now);
        let tried = once(
            connection,
            &mut outgoing,
            &endpoint,
            &mut attempt,
            progress.attempts,
        )
        .await;
        now = Instant::now();
        let failure = match &tried {
            Tried::Answered(_, verdict) => verdict.failure,
            Tried::Failed(failure, _) => Some(*failure),
            Tried::Refused(_) => None,
        };
        let retried_downstream = match &tried {
            Tried::Answered(_, verdict) => verdict.retried_downstream,
            Tried::Failed(..) | Tried::Refused(_) => false,
        };
        if let Some(failure) = failure {
            progress.tried.push(index);
            let facts = outgoing.facts(&progress, retried_downstream, now);
            match service.retry(worker, outgoing.retry(), failure, &facts, now) {
                Ok(planned) => {
                    exchange.retried(planned.reason);
                    failed_before = tried.conclude(attempt, now);
                    drop(in_flight);
                    outgoing.message.stop();
                    progress.discount(failure, facts.elsewhere);
                    if !planned.after.is_zero() {
                        tokio::time::sleep(planned.after).await;
                        now = Instant::now();
                        progress.waited = Some(planned.after);
                    }
                    continue;
                }
                Err(why) => {
                    exchange.not_retried(why);
                    if progress.attempts > 1 || why.holds_upstream() {
                        outgoing.time.mark_retried(worker);
                    }
                }
            }
        }
        return match tried {
            Tried::Answered(response, verdict) => {
                outgoing.message.release();
                exchange.carries(in_flight, held);
                match verdict.outcome {
                    Some(outcome) => attempt.ended(now, outcome),
                    // The head of a stream shows that the endpoint is back; its end may be hours away.
                    None if attempt.is_probe() => attempt.ended(now, Outcome::Success),
                    None => exchange.judges(attempt),
                }
                let open = worker.outbound.open();
                let Outgoing {
                    upgrade,
                    edits,
                    timeouts,
                    ..
                } = outgoing;
                let idle = timeouts.stream_idle;
                answer::answer(response, upgrade, &edits, idle, caller, exchange, open)
            }
            Tried::Failed(failure, refusal) => {
                attempt.failed(now, outcome_of(failure, refusal));
                refuse(exchange, caller, &outgoing.edits, refusal)
            }
            Tried::Refused(refusal) => refuse(exchange, caller, &outgoing.edits, refusal),
        };
    }
}

fn refuse(
    exchange: Exchange,
    caller: Caller,
    edits: &Edits,
    refusal: Refusal,
) -> Response<ResponseBody> {
    let mut response = refusal.response(caller.grpc, caller.version);
    proxy_status::refused(response.headers_mut(), &refusal.row(), exchange.retries());
    edits.apply(response.headers_mut());
    exchange.refused(refusal);
    response
}

/// What a failed attempt says of its endpoint; `None`: nothing.
fn outcome_of(failure: Failure, refusal: Refusal) -> Option<Outcome> {
    match (failure, refusal) {
        // Nobody's failure, and a caller that has little time.
        (Failure::KeepAliveRace, _) | (_, Refusal::DeadlineExceeded) => None,
        (_, Refusal::ConnectFailed | Refusal::TlsHandshakeFailed) => Some(Outcome::ConnectFailed),
        _ => Some(Outcome::GatewayError),
    }
}

impl Tried {
    /// Another attempt follows. What this one would have been answered with.
    fn conclude(self, attempt: Attempt, now: Instant) -> Option<Refusal> {
        match self {
            Self::Answered(_, verdict) => {
                attempt.ended(now, verdict.outcome.unwrap_or(Outcome::Success));
                None
            }
            Self::Failed(failure, refusal) => {
                attempt.failed(now, outcome_of(failure, refusal));
                Some(refusal)
            }
            Self::Refused(refusal) => Some(refusal),
        }
    }
}

impl Outgoing {
    fn retry(&self) -> &Retry {
        match self.edits.rule() {
            Some(rule) => &rule.retry,
            None => &self.called.traffic().retry,
        }
    }

    fn facts(&self, progress: &Progress, retried_downstream: bool, now: Instant) -> Facts {
        Facts {
            idempotent: self.message.head.method.is_idempotent() && self.upgrade.is_none(),
            replayable: self.message.is_complete(),
            attempts: progress.attempts,
            raced: progress.raced,
            elsewhere: progress.is_elsewhere(self.service.endpoints().len()),
            waited: progress.waited,
            retried_downstream,
            is_retry: self.time.is_retry(),
            remaining: self.time.remaining(now),
            streaming_started: false,
        }
    }

    /// When the attempt that began at `now` is given up, and what is said then.
    fn patience(&self, now: Instant) -> Patience {
        Patience {
            begun: now,
            attempt: self.timeouts.backend_request,
            request: self.timeouts.request,
            time: self.time,
            moved: self.message.moved(),
        }
    }
}

/// One attempt: connects if need be, sends, and waits for the head of an answer.
async fn once(
    connection: &Connection,
    outgoing: &mut Outgoing,
    endpoint: &Rc<Endpoint>,
    attempt: &mut Attempt,
    number: u32,
) -> Tried {
    let worker = &connection.worker;
    let now = attempt.begun();
    let patience = outgoing.patience(now);
    let trying = async {
        let mut sender = match connect(worker, outgoing, endpoint).await {
            Ok(sender) => sender,
            Err(refusal) => return unconnected(refusal),
        };
        let Some(request) = outgoing.request(endpoint, number) else {
            return Tried::Refused(Refusal::UnknownPort);
        };
        attempt.sent(Instant::now());
        match sender.try_send_request(request).await {
            Ok(response) if headers::is_answer_too_large(response.headers()) => {
                Tried::Refused(Refusal::AnswerTooLarge)
            }
            Ok(mut response) => {
                let verdict = verdict::of(&mut response);
                attempt.answered(Instant::now(), verdict.is_served());
                Tried::Answered(response, verdict)
            }
            Err(mut error) => match error.take_message() {
                // The connection ended before the request was on it.
                Some(request) => {
                    outgoing.message.give_back(request);
                    Tried::Failed(Failure::KeepAliveRace, Refusal::ConnectFailed)
                }
                None => broken(connection, error.error(), endpoint),
            },
        }
    };
    tokio::pin!(trying);
    loop {
        let Some((until, refusal)) = patience.until() else {
            return trying.await;
        };
        let waited = tokio::time::timeout_at(until.into(), trying.as_mut()).await;
        match waited {
            Ok(tried) => return tried,
            // The request was still going out.
            Err(_) if patience.until().is_some_and(|(later, _)| later > until) => {}
            Err(_) => return Tried::Failed(Failure::AttemptTimeout, refusal),
        }
    }
}

/// A connection to the endpoint's sidecar. Only so many requests may wait for one.
async fn connect(
    worker: &Worker,
    outgoing: &Outgoing,
    endpoint: &Rc<Endpoint>,
) -> Result<SendRequest<RequestBody>, Refusal> {
    if let Some(warm) = endpoint.warm(Purpose::Requests, &worker.tls) {
        return Ok(warm);
    }
    let service = &outgoing.service;
    let _waits = service.state.usage.pending(&service.traffic().limits)?;
    // In a box: a request is as large as the largest of its ways.
    Box::pin(endpoint.connection(Purpose::Requests, &worker.tls)).await
}

fn unconnected(refusal: Refusal) -> Tried {
    match refusal {
        Refusal::ConnectFailed | Refusal::TlsHandshakeFailed => {
            Tried::Failed(Failure::ConnectFailed, refusal)
        }
        other => Tried::Refused(other),
    }
}

/// The exchange broke off before the head of an answer.
fn broken(connection: &Connection, error: &hyper::Error, endpoint: &Endpoint) -> Tried {
    tracing::debug!(%error, endpoint = %endpoint.model.mesh_address, "no answer");
    if body::is_request_too_large(error) {
        return Tried::Refused(Refusal::HeaderTooLarge);
    }
    if verdict::is_unprocessed(error) {
        return Tried::Failed(Failure::Unprocessed, Refusal::UpstreamReset);
    }
    match connection.broken() {
        // It was us who reset the stream: the caller has not sent its body to the end.
        refusal if refusal != Refusal::UpstreamReset || verdict::is_ours(error) => {
            Tried::Refused(refusal)
        }
        refusal => Tried::Failed(Failure::Reset, refusal),
    }
}

impl Outgoing {
    /// The request for one endpoint. `None`: the endpoint has no such port.
    fn request(&mut self, endpoint: &Endpoint, number: u32) -> Option<Request<RequestBody>> {
        let target = endpoint.port(self.port)?.header(self.version);
        let mut request = match self.retry().attempts {
            0 => self.message.last_request(),
            _ => self.message.request(),
        }?;
        let headers = request.headers_mut();
        headers.insert(wire::TARGET, target);
        self.time.stamp(headers, number, Instant::now());
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_round_waits_and_counts() {
        let mut progress = Progress {
            tried: vec![0],
            attempts: 1,
            ..Progress::default()
        };
        assert!(progress.is_elsewhere(2));
        progress.discount(Failure::ConnectFailed, true);
        assert_eq!(progress.attempts, 0);
        // The other one is ejected: what was tried is tried again.
        progress.go_around();
        progress.tried.push(0);
        assert!(!progress.is_elsewhere(2));
    }

    #[test]
    fn a_race_says_nothing_of_its_endpoint() {
        let outcome = |failure| outcome_of(failure, Refusal::ConnectFailed);
        assert_eq!(outcome(Failure::KeepAliveRace), None);
        let failed = Some(Outcome::ConnectFailed);
        assert_eq!(outcome(Failure::ConnectFailed), failed);
    }
}
