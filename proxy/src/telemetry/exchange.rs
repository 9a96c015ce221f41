//! One request and its answer, from the head of the one to the end of the other: measured, and
//! logged where the access log is on. Recorded exactly once, however it ends.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, Request, StatusCode};

use super::edge::{Answer, Edge, Spoken};
use super::retries::Retries;
use crate::inbound::limits::gate::Permit;
use crate::outbound::attempt::Attempt;
use crate::outbound::endpoint::InFlight;
use crate::outbound::verdict;
use crate::refusal::Refusal;
use crate::traffic::health::Outcome;
use crate::traffic::limits::Held;
use crate::traffic::retry::{NoRetry, RetryReason};

/// Istio's flags for an answer that is whole, and for a caller that went away.
const FLAG_NONE: &str = "-";
const FLAG_CALLER_GONE: &str = "DC";

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    edge: Rc<Edge>,
    started: Instant,
    spoken: Spoken,
    status: u16,
    grpc_status: Option<u16>,
    recorded: bool,
    log: Option<Box<LogEntry>>,
    in_flight: Option<(InFlight, Held)>,
    /// Of a gRPC call: its trailers say what it showed of its endpoint.
    judged: Option<Attempt>,
    retries: Retries,
    permit: Option<Permit>,
}

/// What the access log needs of a request that is gone by the time it is written.
#[derive(Debug)]
pub struct LogEntry {
    method: String,
    authority: String,
    path: String,
}

impl LogEntry {
    /// Only where the access log is on: it copies.
    pub fn new<B>(request: &Request<B>) -> Box<Self> {
        let uri = request.uri();
        let host = request
            .headers()
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok());
        Box::new(Self {
            method: request.method().to_string(),
            authority: uri
                .authority()
                .map(|authority| authority.as_str())
                .or(host)
                .unwrap_or("")
                .to_owned(),
            // Without the query: it often holds what a log must not.
            path: uri.path().to_owned(),
        })
    }
}

impl Exchange {
    pub fn begin(edge: Rc<Edge>, grpc: bool, started: Instant, log: Option<Box<LogEntry>>) -> Self {
        let spoken = if grpc { Spoken::Grpc } else { Spoken::Http };
        Self {
            edge,
            started,
            spoken,
            status: 0,
            grpc_status: None,
            recorded: false,
            log,
            in_flight: None,
            judged: None,
            retries: Retries::default(),
            permit: None,
        }
    }

    /// It goes to another endpoint than was thought before.
    pub fn retarget(&mut self, edge: Rc<Edge>) {
        self.edge = edge;
    }

    /// The exchange counts as load of an endpoint until it has ended.
    pub fn carries(&mut self, in_flight: InFlight, held: Held) {
        self.in_flight = Some((in_flight, held));
    }

    /// The end of the exchange says what the attempt showed of its endpoint.
    pub fn judges(&mut self, attempt: Attempt) {
        self.judged = Some(attempt);
    }

    /// It is sent again, for this reason.
    pub fn retried(&mut self, why: RetryReason) {
        self.retries.made(why);
    }

    /// A failure stands, for this reason.
    pub fn not_retried(&mut self, why: NoRetry) {
        self.retries.not_made(why);
    }

    /// What has become of its failures so far.
    pub fn retries(&self) -> &Retries {
        &self.retries
    }

    /// The exchange has room in the app until it has ended.
    pub fn permitted(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    pub fn is_grpc(&self) -> bool {
        matches!(self.spoken, Spoken::Grpc)
    }

    /// The head of the answer has arrived.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        self.grpc_status = grpc_status(headers);
    }

    /// The sidecar answers itself.
    pub fn refused(self, refusal: Refusal) {
        let row = refusal.row();
        self.refused_as(refusal, row.status.as_u16(), row.grpc);
    }

    /// A fault is injected, with the statuses that its policy names.
    pub fn aborted(self, status: u16, grpc: u8) {
        self.refused_as(Refusal::FaultInjected, status, grpc);
    }

    fn refused_as(mut self, refusal: Refusal, status: u16, grpc: u8) {
        let row = refusal.row();
        match self.spoken {
            Spoken::Grpc => {
                self.status = 200;
                self.grpc_status = Some(u16::from(grpc));
            }
            Spoken::Http | Spoken::Tcp => self.status = status,
        }
        self.edge
            .metrics()
            .refused(self.edge.reporter().direction(), refusal, self.edge.peer());
        self.record(row.flag, row.reason);
    }

    /// The answer has ended as it should.
    pub fn completed(mut self, trailers: Option<&HeaderMap>) {
        if let Some(status) = trailers.and_then(grpc_status) {
            self.grpc_status = Some(status);
        }
        if let Some(attempt) = self.judged.take() {
            attempt.ended(Instant::now(), verdict::of_trailers(trailers));
        }
        self.record(FLAG_NONE, "");
    }

    /// The answer broke off.
    pub fn broken(mut self, why: Refusal) {
        // A stream that was quiet for too long says nothing of its endpoint, nor do the caller's trailers.
        let is_its_own = !matches!(why, Refusal::StreamIdleTimeout | Refusal::HeaderTooLarge);
        let judged = self.judged.take();
        if let Some(attempt) = judged.filter(|_| is_its_own) {
            attempt.ended(Instant::now(), Outcome::GatewayError);
        }
        let is_too_large = matches!(why, Refusal::AnswerTooLarge | Refusal::HeaderTooLarge);
        // The others were done to the sidecar; these it does.
        if is_too_large || why == Refusal::StreamIdleTimeout {
            self.edge
                .metrics()
                .refused(self.edge.reporter().direction(), why, self.edge.peer());
        }
        let row = why.row();
        if is_too_large && self.is_grpc() {
            self.grpc_status = Some(u16::from(row.grpc));
        }
        self.record(row.flag, row.reason);
    }

    fn record(&mut self, flag: &'static str, reason: &'static str) {
        self.recorded = true;
        let milliseconds = self.started.elapsed().as_secs_f64() * 1000.0;
        let answer = Answer {
            status: self.status,
            grpc_status: self.grpc_status,
            flag,
        };
        self.edge.answered(self.spoken, answer, milliseconds);
        if let Some(entry) = self.log.take() {
            tracing::info!(
                target: "access",
                direction = self.edge.reporter().direction(),
                peer = self.edge.peer(),
                method = entry.method,
                authority = entry.authority,
                path = entry.path,
                status = self.status,
                grpc_status = self.grpc_status,
                reason,
                retried = self.retries.retried().as_deref(),
                not_retried = self.retries.not_retried().map(NoRetry::label),
                flag,
                milliseconds,
            );
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(FLAG_CALLER_GONE, "");
        }
    }
}

pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
