//! The answer on its way back to the app: edited as the rule says, in the version that the app
//! speaks.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use outrider_api::model::Filter;

use super::routes::Rule;
use crate::http::body::ResponseBody;
use crate::http::headers;
use crate::http::proxy_status;
use crate::http::wire;
use crate::listen::Open;
use crate::refusal::Refusal;
use crate::telemetry::exchange::Exchange;

/// What the app said of itself, kept for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub started: Instant,
    pub version: Version,
    pub grpc: bool,
}

/// An upgrade that the app asked for.
#[derive(Debug)]
pub struct Upgrading {
    pub protocol: HeaderValue,
    pub downstream: OnUpgrade,
}

/// What a rule does with the answer.
#[derive(Debug, Default)]
pub struct Edits {
    pub rule: Option<Rc<Rule>>,
    /// Index of the backend, whose own filters come after the rule's.
    pub share: Option<usize>,
    /// Of the request, for the CORS protocol.
    pub origin: Option<HeaderValue>,
}

impl Edits {
    pub fn rule(&self) -> Option<&Rule> {
        self.rule.as_deref()
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        let Some(rule) = &self.rule else {
            return;
        };
        let share = self.share.and_then(|index| rule.split.share(index));
        let of_share = share.map_or(&[][..], |share| &share.model.filters);
        for filter in rule.model.filters.iter().chain(of_share) {
            match filter {
                Filter::ResponseHeaders(edit) => edit.apply(headers),
                Filter::Cors(cors) => cors.apply(self.origin.as_ref(), headers),
                Filter::RequestHeaders(_)
                | Filter::Redirect(_)
                | Filter::Rewrite(_)
                | Filter::Mirror(_)
                | Filter::Unsupported(_) => {}
            }
        }
    }
}

/// Brings the answer back in the version that the app speaks. Its parts may be `idle` apart.
pub fn answer(
    mut response: Response<Incoming>,
    upgrade: Option<Upgrading>,
    edits: &Edits,
    idle: Option<Duration>,
    caller: Caller,
    mut exchange: Exchange,
    open: Open,
) -> Response<ResponseBody> {
    let restored = wire::take_declined(response.headers_mut());
    if let Some(status) = restored.filter(|_| upgrade.is_some()) {
        *response.status_mut() = status;
    } else if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::OK) {
        return switch(response, upgrade, idle, exchange, open);
    }
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_identity(response.headers_mut());
    exchange.head(response.status(), response.headers());
    proxy_status::passed_on(response.headers_mut(), exchange.retries());
    edits.apply(response.headers_mut());
    *response.version_mut() = caller.version;
    response.map(|body| ResponseBody::streaming(body, exchange, idle))
}

/// The other side has agreed to the upgrade: from here on both sides are bytes.
fn switch(
    mut response: Response<Incoming>,
    upgrade: Upgrading,
    idle: Option<Duration>,
    mut exchange: Exchange,
    open: Open,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let downstream = upgrade.downstream;
    proxy_status::passed_on(response.headers_mut(), exchange.retries());
    exchange.head(StatusCode::SWITCHING_PROTOCOLS, response.headers());
    tokio::task::spawn_local(async move {
        // The HTTP connection has ended with the switch: a drain waits for what came of it.
        let _open = open;
        let (Ok(downstream), Ok(upstream)) = futures_util::future::join(downstream, upstream).await
        else {
            exchange.broken(Refusal::UpstreamReset);
            return;
        };
        let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
        if let Err(error) =
            crate::tunnel::carry(&mut downstream, &mut upstream, idle, |_| {}, |_| {}).await
        {
            tracing::debug!(%error, "an upgraded connection ended");
        }
        exchange.completed(None);
    });
    let mut switched = Response::new(ResponseBody::empty());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = std::mem::take(response.headers_mut());
    headers::strip_hop_by_hop(switched.headers_mut());
    headers::strip_identity(switched.headers_mut());
    switched
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    switched.headers_mut().insert(UPGRADE, upgrade.protocol);
    switched
}
