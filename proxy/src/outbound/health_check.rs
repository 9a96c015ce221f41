//! Active health checks: each endpoint is asked in turn, through the mesh, for as long as its Service
//! is the current one.

use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::{Method, Request, StatusCode, Uri, Version};
use outrider_api::model::Protocol;
use outrider_api::model::traffic::{HealthCheck, TrafficSettings};
use outrider_api::names::ServiceName;
use tokio::task::JoinHandle;

use super::endpoint::{Endpoint, Purpose};
use crate::http::body::RequestBody;
use crate::http::wire::{self, AppVersion};
use crate::refusal::Refusal;
use crate::tls::ClientTls;

/// The checks of one Service, until it is dropped.
#[derive(Debug, Default)]
pub struct HealthChecks(Vec<JoinHandle<()>>);

impl Drop for HealthChecks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What each endpoint is asked.
#[derive(Debug)]
struct Question {
    check: HealthCheck,
    uri: Uri,
    port: u16,
    version: AppVersion,
}

impl HealthChecks {
    /// Nothing is asked where the policy does not say so, or where there is no port to ask.
    pub fn start(
        endpoints: &[Rc<Endpoint>],
        ports: &[(u16, Protocol)],
        traffic: &TrafficSettings,
        service: &ServiceName,
        tls: &Rc<ClientTls>,
    ) -> Self {
        let Some(question) = Question::of(ports, traffic, service) else {
            return Self::default();
        };
        let question = Rc::new(question);
        let now = Instant::now();
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
        let asking = endpoints.iter().zip(0u32..).map(|(endpoint, index)| {
            // Spread over the interval: many endpoints are not asked at once.
            let spread = question.check.interval * index / count;
            // A Service that changes often is compiled often: what is due stays due.
            let due = endpoint
                .check_due
                .get()
                .map_or(now + spread, |due| due.min(now + question.check.interval));
            endpoint.check_due.set(Some(due));
            let (endpoint, tls) = (Rc::downgrade(endpoint), Rc::clone(tls));
            tokio::task::spawn_local(ask_again_and_again(
                endpoint,
                Rc::clone(&question),
                tls,
                due,
            ))
        });
        Self(asking.collect())
    }
}

impl Question {
    fn of(
        ports: &[(u16, Protocol)],
        traffic: &TrafficSettings,
        service: &ServiceName,
    ) -> Option<Self> {
        let check = traffic.health_check.clone()?;
        let (port, protocol) = match check.port {
            Some(asked) => ports.iter().find(|(port, _)| *port == asked)?,
            None => ports.first()?,
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(service.to_string())
            .path_and_query(check.path.as_str());
        Some(Self {
            uri: uri.build().ok()?,
            port: *port,
            version: match protocol {
                Protocol::Http2 | Protocol::Grpc => AppVersion::Http2,
                _ => AppVersion::Http1,
            },
            check,
        })
    }

    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(HOST);
        request
    }
}

async fn ask_again_and_again(
    endpoint: Weak<Endpoint>,
    question: Rc<Question>,
    tls: Rc<ClientTls>,
    due: Instant,
) {
    tokio::time::sleep_until(due.into()).await;
    let mut turns = tokio::time::interval(question.check.interval.max(Duration::from_millis(10)));
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Some(endpoint) = endpoint.upgrade() else {
            return;
        };
        let next = Instant::now() + question.check.interval;
        endpoint.check_due.set(Some(next));
        let asking = tokio::time::timeout(question.check.timeout, ask(&endpoint, &question, &tls));
        if let Some(healthy) = asking.await.unwrap_or(Some(false)) {
            endpoint.checked(&question.check, healthy);
        }
    }
}

/// Whether the endpoint is healthy. `None`: its sidecar did not put the question to its app, since it
/// is busy, or we may not ask: that says nothing of the app.
async fn ask(endpoint: &Rc<Endpoint>, question: &Question, tls: &Rc<ClientTls>) -> Option<bool> {
    let Some(target) = endpoint.port(question.port) else {
        return Some(false);
    };
    let Ok(mut sender) = endpoint.connection(Purpose::Requests, tls).await else {
        return Some(false);
    };
    let mut request = question.request();
    request
        .headers_mut()
        .insert(wire::TARGET, target.header(question.version));
    match sender.send_request(request).await {
        Ok(mut response) => match wire::take_reason(response.headers_mut()) {
            Some(Refusal::AppUnreachable | Refusal::AppReset | Refusal::AnswerTooLarge) => {
                Some(false)
            }
            Some(_) => None,
            None => {
                let status = response.status();
                Some((StatusCode::OK..StatusCode::BAD_REQUEST).contains(&status))
            }
        },
        Err(_) => Some(false),
    }
}
