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
use super::time::TimeLeft;
use super::verdict::{self, Verdict};
use crate::http::body::{RequestBody, ResponseBody};
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
    waited: Option<Duration>,
}

impl Progress {
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
        Err(reached) => return refuse(exchange, caller, reached.into()),
    };
    service.begin(caller.started);
    let mut progress = Progress::default();
    let mut now = caller.started;
    let mut failed_before = None;
    loop {
        let mut picked = service.pick(worker, &progress.tried, outgoing.key, now);
        if picked.is_err() && !progress.tried.is_empty() {
            // There is no other one: the wait before this attempt is what may help.
            progress.tried.clear();
            picked = service.pick(worker, &[], outgoing.key, now);
        }
        let (index, endpoint) = match picked {
            Ok((index, endpoint)) => (index, Rc::clone(endpoint)),
            Err(refusal) => {
                if refusal == Refusal::CircuitOpen {
                    outgoing.time.mark_retried(worker);
                }
                // Where some were tried, what they failed with says more.
                return refuse(exchange, caller, failed_before.unwrap_or(refusal));
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
                    failed_before = tried.conclude(attempt, now);
                    drop(in_flight);
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
            Tried::Failed(_, refusal) => {
                attempt.ended(now, outcome_of(refusal));
                refuse(exchange, caller, refusal)
            }
            Tried::Refused(refusal) => refuse(exchange, caller, refusal),
        };
    }
}

fn refuse(exchange: Exchange, caller: Caller, refusal: Refusal) -> Response<ResponseBody> {
    exchange.refused(refusal);
    refusal.response(caller.grpc, caller.version)
}

/// What a failed attempt says of its endpoint.
fn outcome_of(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal::ConnectFailed | Refusal::TlsHandshakeFailed => Outcome::ConnectFailed,
        _ => Outcome::GatewayError,
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
            Self::Failed(_, refusal) => {
                attempt.ended(now, outcome_of(refusal));
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
            elsewhere: progress.tried.len() < self.service.endpoints().len(),
            waited: progress.waited,
            retried_downstream,
            is_retry: self.time.is_retry(),
            remaining: self.time.remaining(now),
            streaming_started: false,
        }
    }

    /// When this attempt is given up, and what is said then.
    fn patience(&self, now: Instant) -> Option<(Instant, Result<Failure, Refusal>)> {
        let attempt = self.timeouts.backend_request.map(|time| now + time);
        match (attempt, self.time.deadline()) {
            (Some(attempt), deadline) if deadline.is_none_or(|deadline| attempt < deadline) => {
                Some((attempt, Ok(Failure::AttemptTimeout)))
            }
            (_, deadline) => deadline.map(|deadline| (deadline, Err(self.time.over()))),
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
        let Some(request) = outgoing.request(worker, endpoint, number) else {
            return Tried::Refused(Refusal::UnknownPort);
        };
        attempt.sent(Instant::now());
        match sender.try_send_request(request).await {
            Ok(mut response) => {
                attempt.answered(Instant::now());
                let verdict = verdict::of(&mut response);
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
    let Some((until, then)) = patience else {
        return trying.await;
    };
    match tokio::time::timeout_at(until.into(), trying).await {
        Ok(tried) => tried,
        Err(_) => match then {
            Ok(failure) => Tried::Failed(failure, Refusal::AttemptTimeout),
            Err(over) => Tried::Failed(Failure::AttemptTimeout, over),
        },
    }
}

/// A connection to the endpoint's sidecar. Only so many requests may wait for one.
async fn connect(
    worker: &Worker,
    outgoing: &Outgoing,
    endpoint: &Endpoint,
) -> Result<SendRequest<RequestBody>, Refusal> {
    if let Some(warm) = endpoint.warm(Purpose::Requests, &worker.tls) {
        return Ok(warm);
    }
    let service = &outgoing.service;
    let _waits = service.state.usage.pending(&service.traffic().limits)?;
    endpoint.connection(Purpose::Requests, &worker.tls).await
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
    fn request(
        &mut self,
        worker: &Worker,
        endpoint: &Endpoint,
        number: u32,
    ) -> Option<Request<RequestBody>> {
        let target = endpoint.port(self.port)?.header(self.version);
        let mut request = match self.retry().attempts {
            0 => self.message.last_request(),
            _ => self.message.request(),
        }?;
        let headers = request.headers_mut();
        headers.insert(wire::TARGET, target);
        self.time.stamp(worker, headers, number, Instant::now());
        Some(request)
    }
}
