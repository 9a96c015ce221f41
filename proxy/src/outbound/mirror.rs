//! Copies of requests for mirrors. What becomes of a copy is nobody's business: its answer is thrown
//! away, and its failure is only logged.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use outrider_api::model::{Filter, Mirror, Target};

use super::answer::Edits;
use super::endpoint::Purpose;
use super::message::Message;
use super::time::TimeLeft;
use crate::http::body::RequestBody;
use crate::http::wire::{self, AppVersion};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Copies on their way at once, for each worker: what is more is not made.
const MAX_COPIES: u32 = 1024;
/// A copy is given up after that, its answer included.
const LIMIT: Duration = Duration::from_secs(15);

/// Counts copies.
#[derive(Clone, Debug, Default)]
pub struct Copies(Rc<Cell<u32>>);

/// One copy, until it is dropped.
struct Copy(Rc<Cell<u32>>);

impl Drop for Copy {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Copies {
    fn begin(&self) -> Option<Copy> {
        let count = self.0.get();
        (count < MAX_COPIES).then(|| {
            self.0.set(count + 1);
            Copy(Rc::clone(&self.0))
        })
    }
}

/// Sends a copy of `message` to each mirror of its rule.
pub fn send(
    worker: &Rc<Worker>,
    edits: &Edits,
    message: &Message,
    version: AppVersion,
    time: &TimeLeft,
) {
    let Some(rule) = edits.rule() else {
        return;
    };
    for filter in &rule.model.filters {
        let Filter::Mirror(mirror) = filter else {
            continue;
        };
        if !is_drawn(worker, mirror) {
            continue;
        }
        let (Some(copy), Some(mut request)) = (worker.copies.begin(), message.copied()) else {
            mirrored(worker, "skipped");
            continue;
        };
        // It has no more time than the request itself, and our app's context is not for others.
        time.stamp(request.headers_mut(), 1, Instant::now());
        let (worker, target) = (Rc::clone(worker), mirror.backend.clone());
        tokio::task::spawn_local(async move {
            let _copy = copy;
            let sending = tokio::time::timeout(LIMIT, deliver(&worker, &target, request, version));
            let result = match sending.await {
                Ok(Ok(())) => "answered",
                Ok(Err(refusal)) => {
                    tracing::debug!(%refusal, ?target, "a mirror did not answer");
                    "failed"
                }
                Err(_) => "failed",
            };
            mirrored(&worker, result);
        });
    }
}

fn mirrored(worker: &Worker, result: &str) {
    let metrics = &worker.metrics.traffic;
    metrics.mirrored.with_label_values(&[result]).inc();
}

fn is_drawn(worker: &Worker, mirror: &Mirror) -> bool {
    let (numerator, denominator) = (mirror.numerator as usize, mirror.denominator as usize);
    numerator >= denominator || worker.random(denominator) < numerator
}

/// To one endpoint, once.
async fn deliver(
    worker: &Worker,
    target: &Target,
    mut request: Request<RequestBody>,
    version: AppVersion,
) -> Result<(), Refusal> {
    let Target::Service { service, port } = target else {
        return Err(Refusal::BackendInvalid);
    };
    let slot = worker.directory.slot(service).await?;
    let service = worker.service(&slot).await?;
    let now = Instant::now();
    let (_, endpoint) = service.pick(worker, &[], None, now)?;
    let target = endpoint.port(*port).ok_or(Refusal::UnknownPort)?;
    let mut sender = endpoint.connection(Purpose::Requests, &worker.tls).await?;
    request
        .headers_mut()
        .insert(wire::TARGET, target.header(version));
    let answered = sender.try_send_request(request).await;
    let response = answered.map_err(|_| Refusal::UpstreamReset)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| Refusal::UpstreamReset)?;
    }
    Ok(())
}
