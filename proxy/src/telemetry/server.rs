//! Two small HTTP servers: telemetry (metrics and health, for scrapers and probes), and admin (what
//! the sidecar knows, on loopback only). Neither can stop the sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrider_api::model::Endpoint;
use outrider_api::sidecar::{AppProbe, HOLD_PATH};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::metrics::Metrics;
use crate::control::subjects::Subjects;
use crate::control::{Credentials, DestinationState, Inventoried, WorkloadState};
use crate::departure::{Departure, Hold};
use crate::listen;
use crate::logging::LogLevel;

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
/// Of each surface at once: fewer than there are file descriptors that traffic cannot have.
const CONNECTIONS_MAX: usize = 16;
/// Of those, the ones of a kind that may take long: whoever asks for them must leave room for probes.
const SLOW_MAX: usize = CONNECTIONS_MAX * 3 / 8;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the two servers can see.
#[derive(Clone, Debug)]
pub struct View {
    pub metrics: Arc<Metrics>,
    pub workload: watch::Receiver<WorkloadState>,
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// Every worker listens.
    pub listening: watch::Receiver<bool>,
    pub departure: Departure,
    pub last_heard: watch::Receiver<Option<Instant>>,
    pub known: Subjects,
    pub log_level: LogLevel,
}

pub(super) type Answer = Response<Full<Bytes>>;

/// Which of the two a port is.
#[derive(Clone, Copy, Debug)]
pub enum Surface {
    Telemetry,
    Admin,
}

/// Serves until the task is dropped.
pub async fn serve(listener: Arc<TcpListener>, surface: Surface, view: View) {
    let mut places = Places::default();
    let slow = Arc::new(Slow::default());
    let answer = move |stream, from: SocketAddr| {
        if !places.make_room() {
            tracing::debug!(%from, ?surface, "too many connections at once: this one is closed");
            return;
        }
        let (view, slow) = (view.clone(), Arc::clone(&slow));
        let answering = Arc::new(AtomicBool::default());
        let is_answering = Arc::clone(&answering);
        let task = tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (view, slow) = (view.clone(), Arc::clone(&slow));
                let answering = Arc::clone(&is_answering);
                async move {
                    answering.store(true, Ordering::Relaxed);
                    let answer = view.answer(surface, &request, &slow).await;
                    answering.store(false, Ordering::Relaxed);
                    Ok::<_, Infallible>(answer)
                }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!(%error, "a telemetry connection ended");
            }
        });
        places.0.push(Place {
            task: task.abort_handle(),
            answering,
            gives_way: false,
        });
    };
    listen::accept_each(listener, answer).await;
}

/// What may take long.
#[derive(Debug)]
struct Slow {
    /// A pod has a container or two that ask.
    holds: Semaphore,
    /// Probes over TLS of an app that may be silent.
    over_tls: Semaphore,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            holds: Semaphore::new(SLOW_MAX),
            over_tls: Semaphore::new(SLOW_MAX),
        }
    }
}

/// The connections of a surface, oldest first.
#[derive(Debug, Default)]
struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    task: AbortHandle,
    answering: Arc<AtomicBool>,
    gives_way: bool,
}

impl Places {
    /// Whether there is a place for another. Anybody may connect to a pod and say nothing: the oldest
    /// connection on which nothing is being answered gives way, so that probes do not fail.
    fn make_room(&mut self) -> bool {
        self.0.retain(|place| !place.task.is_finished());
        let stays = |place: &&mut Place| !place.gives_way;
        if self.0.iter_mut().filter(stays).count() < CONNECTIONS_MAX {
            return true;
        }
        // Those that give way have their sockets until it is their turn.
        if self.0.len() >= 2 * CONNECTIONS_MAX {
            return false;
        }
        let silent = |place: &&mut Place| !place.answering.load(Ordering::Relaxed);
        let Some(oldest) = self.0.iter_mut().filter(stays).find(silent) else {
            return false;
        };
        oldest.gives_way = true;
        oldest.task.abort();
        true
    }
}

impl View {
    async fn answer(&self, surface: Surface, request: &Request<Incoming>, slow: &Slow) -> Answer {
        let target = request.uri().path_and_query();
        if let Some(asked) = target.and_then(|target| AppProbe::read(target.as_str())) {
            return self.app_probe(asked, request, &slow.over_tls).await;
        }
        match (surface, request.method(), request.uri().path()) {
            (_, &Method::GET, "/live") => text(StatusCode::OK, "live\n"),
            (_, &Method::GET, "/ready") => self.ready(),
            (_, &Method::GET, "/metrics") => self.scrape(),
            (Surface::Telemetry, &Method::GET, HOLD_PATH) => self.hold(&slow.holds).await,
            (Surface::Admin, &Method::GET, "/config") => self.config(),
            (Surface::Admin, &Method::POST, "/log") => {
                self.set_log_level(request.uri().query().unwrap_or(""))
            }
            (Surface::Telemetry, _, _) => {
                text(StatusCode::NOT_FOUND, "try /metrics, /ready or /live\n")
            }
            (Surface::Admin, _, _) => text(
                StatusCode::NOT_FOUND,
                "try /config, /metrics, /ready, /live or POST /log?level=debug\n",
            ),
        }
    }

    /// Ready only with a certificate, policy and open ports, and not while draining.
    fn ready(&self) -> Answer {
        let missing = if self.departure.is_under_way() {
            Some("draining\n")
        } else if self.credentials.borrow().is_none() {
            Some("no certificate yet\n")
        } else if self.workload.borrow().is_none() {
            Some("no policy yet\n")
        } else if !*self.listening.borrow() {
            Some("not listening yet\n")
        } else {
            None
        };
        match missing {
            Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing),
            None => text(StatusCode::OK, "ready\n"),
        }
    }

    /// Answers when the app may end; a container's `preStop` hook waits for it.
    async fn hold(&self, holds: &Semaphore) -> Answer {
        let Ok(_held) = holds.try_acquire() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many ask at once whether the app may end\n",
            );
        };
        match self.departure.clone().hold().await {
            Hold::Withdrawn => text(StatusCode::OK, "nobody calls this workload any more\n"),
            Hold::Stays => text(StatusCode::OK, "this workload stays\n"),
            Hold::TooLong => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not everybody has learned yet that this workload goes\n",
            ),
        }
    }

    fn scrape(&self) -> Answer {
        let age = self
            .last_heard
            .borrow()
            .map_or(-1, |heard| heard.elapsed().as_secs() as i64);
        self.metrics.config_age.set(age);
        match self.metrics.render() {
            Ok(metrics) => respond(StatusCode::OK, PROMETHEUS, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    fn config(&self) -> Answer {
        let config = json!({
            "version": self.metrics.config_version.get(),
            "secondsSinceControlPlane": self.last_heard.borrow().map(|heard| heard.elapsed().as_secs()),
            "certificate": self.certificate(),
            "workload": self.workload.borrow().as_ref().map(|workload| json!({
                "namespace": workload.namespace,
                "name": workload.name,
                "id": workload.id.to_string(),
                "meshAddress": workload.mesh_address.to_string(),
                "ports": workload.ports.iter().map(|port| port.port).collect::<Vec<_>>(),
                "upstreams": workload.outbound.upstreams.iter().map(|upstream| json!({
                    "service": upstream.service.to_string(),
                    "port": upstream.port,
                    "localPort": upstream.local_port,
                })).collect::<Vec<_>>(),
                "defaultDeny": workload.authorization.default_deny(),
                "policies": workload.authorization.policies().iter()
                    .map(|policy| format!("{}/{}", policy.namespace, policy.name)).collect::<Vec<_>>(),
            })),
            "destinations": self.known.inventory().iter().map(destination).collect::<Vec<_>>(),
        });
        respond(StatusCode::OK, JSON, format!("{config:#}\n"))
    }

    fn certificate(&self) -> Option<Value> {
        let credentials = self.credentials.borrow().clone()?;
        let unix = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map(|since| since.as_secs())
                .ok()
        };
        Some(json!({
            "id": credentials.svid.id().to_string(),
            "notBefore": unix(credentials.svid.not_before()),
            "notAfter": unix(credentials.svid.not_after()),
            "generation": credentials.generation,
        }))
    }

    fn set_log_level(&self, query: &str) -> Answer {
        let Some(level) = query.strip_prefix("level=") else {
            return text(
                StatusCode::BAD_REQUEST,
                "say POST /log?level=LEVEL, for instance level=debug\n",
            );
        };
        match self.log_level.set(level) {
            Ok(()) => text(StatusCode::OK, "done\n"),
            Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        }
    }
}

fn destination(known: &Inventoried) -> Value {
    let (state, endpoints) = match &known.state {
        DestinationState::Pending => ("pending", None),
        DestinationState::Missing => ("missing", None),
        DestinationState::Invalid => ("invalid", None),
        DestinationState::Alias(_) => ("service", None),
        DestinationState::Ready(destination) => ("ready", Some(&destination.endpoints)),
    };
    let endpoint = |endpoint: &Endpoint| {
        json!({
            "workload": format!("{}/{}", endpoint.namespace, endpoint.workload),
            "id": endpoint.id.to_string(),
            "meshAddress": endpoint.mesh_address.to_string(),
        })
    };
    json!({
        "service": known.subject.to_string(),
        "version": known.version,
        "state": state,
        "endpoints": endpoints.map(|all| all.iter().map(endpoint).collect::<Vec<_>>()),
    })
}

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    respond(status, TEXT, body.to_owned())
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
