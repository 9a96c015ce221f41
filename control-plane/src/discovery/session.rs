//! One discovery stream from its Hello to its end. Owns what the stream follows and what was said on
//! it. Everything it holds is bounded: a place for each subscription, and one message on its way.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrider_api::model;
use outrider_api::names::ServiceName;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource as Body;
use outrider_api::proto::{self, DiscoveryRequest, DiscoveryResponse};
use outrider_certs::tls::PeerCertificate;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout, timeout_at};
use tonic::{Status, Streaming};

use super::end::End;
use super::fleet::{Fleet, Member};
use super::ledger::{Ledger, Resource};
use super::subscriptions::{Full, Subscriptions};
use crate::index::WorkloadName;
use crate::logging::one_line;
use crate::metrics::Metrics;
use crate::store::{Snapshot, Store};

/// A stream that has not said Hello by then is not a sidecar's.
const HELLO: Duration = Duration::from_secs(10);
/// A sidecar that takes nothing for so long is told to connect again.
const STALL: Duration = Duration::from_secs(60);
/// How long the status of an ended stream may wait to be taken.
const FAREWELL: Duration = Duration::from_secs(2);
/// A DNS name is no longer (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;
/// So much of a sidecar's own words is logged.
const MAX_LOGGED_BYTES: usize = 1024;

type Responses = mpsc::Sender<Result<DiscoveryResponse, Status>>;

/// A stream that has not said Hello yet.
pub(super) struct Session {
    peer: Arc<PeerCertificate>,
    store: Arc<Store>,
    fleet: Arc<Fleet>,
    metrics: Metrics,
    responses: Responses,
}

impl Session {
    pub(super) fn new(
        peer: Arc<PeerCertificate>,
        store: Arc<Store>,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        responses: Responses,
    ) -> Self {
        Self {
            peer,
            store,
            fleet,
            metrics,
            responses,
        }
    }

    /// Runs the stream to its end, which is said to the sidecar, the log and the metrics.
    pub(super) async fn run(
        self,
        mut requests: Streaming<DiscoveryRequest>,
        shutdown: watch::Receiver<bool>,
    ) {
        let end = match self.greet(&mut requests).await {
            Ok(mut stream) => {
                tracing::info!(workload = %stream.name, "a sidecar is connected");
                stream.serve(&mut requests, shutdown).await
            }
            Err(end) => end,
        };
        let peer = &self.peer.id;
        if end.is_fault() {
            tracing::warn!(%peer, reason = %end, "a discovery stream has ended");
        } else {
            tracing::info!(%peer, reason = %end, "a discovery stream has ended");
        }
        self.metrics
            .streams_ended
            .with_label_values(&[end.label()])
            .inc();
        if let Some(status) = end.status() {
            // Whoever does not take it sees the stream end without it.
            let _ = timeout(FAREWELL, self.responses.send(Err(status))).await;
        }
    }

    /// Waits for Hello, and checks that it is the peer's own workload that says it.
    async fn greet(&self, requests: &mut Streaming<DiscoveryRequest>) -> Result<Stream, End> {
        let request = timeout(HELLO, requests.message())
            .await
            .map_err(|_| End::HelloTimeout)?;
        let Some(Kind::Hello(hello)) = received(request)? else {
            return Err(End::Protocol("expected Hello first"));
        };
        let name = workload_name(&hello)?;
        let workload = self
            .store
            .workload(&name)
            .ok_or_else(|| End::UnknownWorkload(name.clone()))?;
        let snapshot = workload.borrow().clone();
        check_identity(&name, &self.peer, &snapshot)?;
        let member = self
            .fleet
            .join(&name)
            .ok_or_else(|| End::TooManyStreams(name.clone()))?;
        tracing::debug!(
            workload = %name,
            version = one_line(&hello.version, MAX_LOGGED_BYTES),
            "hello"
        );
        Ok(Stream {
            name,
            peer: Arc::clone(&self.peer),
            member,
            metrics: self.metrics.clone(),
            responses: self.responses.clone(),
            workload,
            workload_ready: true,
            destinations: Subscriptions::new(Arc::clone(&self.store)),
            ledger: Ledger::default(),
            stall: None,
        })
    }
}

/// A stream that has said Hello.
struct Stream {
    name: WorkloadName,
    peer: Arc<PeerCertificate>,
    member: Member,
    metrics: Metrics,
    responses: Responses,
    workload: watch::Receiver<Snapshot<model::Workload>>,
    workload_ready: bool,
    destinations: Subscriptions,
    ledger: Ledger,
    /// By when something that is ready must have been taken.
    stall: Option<tokio::time::Instant>,
}

impl Stream {
    async fn serve(
        &mut self,
        requests: &mut Streaming<DiscoveryRequest>,
        mut shutdown: watch::Receiver<bool>,
    ) -> End {
        let expiry = sleep(
            self.peer
                .not_after
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        );
        tokio::pin!(expiry);
        loop {
            let ready = self.workload_ready || self.destinations.has_ready();
            if !ready {
                self.stall = None;
            }
            let stall = *self
                .stall
                .get_or_insert_with(|| tokio::time::Instant::now() + STALL);
            let step = tokio::select! {
                request = requests.message() => self.receive(request),
                room = room(&self.responses, stall), if ready => room.and_then(|()| self.send()),
                changed = self.workload.changed(), if !self.workload_ready => {
                    self.workload_ready = true;
                    changed.map_err(|_| End::UnknownWorkload(self.name.clone()))
                }
                () = self.destinations.changed() => Ok(()),
                () = self.responses.closed() => Err(End::Closed),
                () = &mut expiry => Err(End::CertificateExpired),
                _ = shutdown.wait_for(|now| *now) => Err(End::ShuttingDown),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn receive(&mut self, request: Result<Option<DiscoveryRequest>, Status>) -> Result<(), End> {
        let Some(kind) = received(request)? else {
            return Err(End::Protocol("a message without content"));
        };
        match kind {
            Kind::Hello(_) => Err(End::Protocol("a second Hello")),
            Kind::Subscribe(service) => self
                .destinations
                .subscribe(service_name(service)?)
                .map_err(|Full| End::TooManySubscriptions),
            Kind::Unsubscribe(service) => {
                let name = service_name(service)?;
                self.destinations.unsubscribe(&name);
                self.ledger.forget(&Resource::Destination(name));
                Ok(())
            }
            Kind::Resolve(_) | Kind::Forget(_) | Kind::Draining(_) => {
                Err(End::Protocol("expected no addresses and no drain"))
            }
            Kind::Ack(ack) => self.acknowledged(resource(ack.destination)?, ack.version),
            Kind::Nack(nack) => {
                self.rejected(&resource(nack.destination)?, nack.version, &nack.reason)
            }
        }
    }

    fn acknowledged(&mut self, resource: Resource, version: u64) -> Result<(), End> {
        let acknowledged = self
            .ledger
            .acknowledge(&resource, version, Instant::now())?;
        self.member.acknowledged(acknowledged.newest);
        if let Some(taken) = acknowledged.propagation {
            self.metrics.observe_propagation(taken);
        }
        tracing::debug!(workload = %self.name, ?resource, version, "acknowledged");
        Ok(())
    }

    fn rejected(&mut self, resource: &Resource, version: u64, reason: &str) -> Result<(), End> {
        self.ledger.reject(resource, version)?;
        self.metrics.nacks.inc();
        tracing::error!(
            workload = %self.name,
            ?resource,
            version,
            reason = one_line(reason, MAX_LOGGED_BYTES),
            "a sidecar rejected what it was sent"
        );
        Ok(())
    }

    /// Sends one resource; there is room for it.
    fn send(&mut self) -> Result<(), End> {
        self.stall = None;
        let response = if self.workload_ready {
            self.workload_ready = false;
            Some(self.own_workload()?)
        } else {
            self.next_destination()
        };
        if let Some(response) = response {
            self.responses
                .try_send(Ok(response))
                .map_err(|_| End::Closed)?;
        }
        Ok(())
    }

    fn own_workload(&mut self) -> Result<DiscoveryResponse, End> {
        let snapshot = self.workload.borrow_and_update().clone();
        // The workload may have been given another ServiceAccount, or be gone.
        let workload = check_identity(&self.name, &self.peer, &snapshot)?;
        self.ledger
            .sent(Resource::Workload, snapshot.version, snapshot.noticed);
        Ok(DiscoveryResponse {
            version: snapshot.version,
            resource: Some(Body::Workload(proto::Workload::from(workload))),
        })
    }

    fn next_destination(&mut self) -> Option<DiscoveryResponse> {
        let (name, snapshot) = self.destinations.pop()?;
        let body = match snapshot.value.as_deref() {
            Some(destination) => Body::Destination(proto::Destination::from(destination)),
            None => Body::Missing(proto::ServiceRef::from(&name)),
        };
        self.ledger.sent(
            Resource::Destination(name),
            snapshot.version,
            snapshot.noticed,
        );
        Some(DiscoveryResponse {
            version: snapshot.version,
            resource: Some(body),
        })
    }
}

/// Waits until one more response can be sent.
async fn room(responses: &Responses, stall: tokio::time::Instant) -> Result<(), End> {
    match timeout_at(stall, responses.reserve()).await {
        Ok(Ok(_unused)) => Ok(()),
        Ok(Err(_)) => Err(End::Closed),
        Err(_) => Err(End::Stalled),
    }
}

fn received(request: Result<Option<DiscoveryRequest>, Status>) -> Result<Option<Kind>, End> {
    match request {
        Ok(Some(request)) => Ok(request.kind),
        Ok(None) => Err(End::Closed),
        Err(status) => Err(End::Lost(one_line(status.message(), MAX_LOGGED_BYTES))),
    }
}

fn check_identity<'s>(
    name: &WorkloadName,
    peer: &PeerCertificate,
    snapshot: &'s Snapshot<model::Workload>,
) -> Result<&'s model::Workload, End> {
    let Some(workload) = snapshot.value.as_deref() else {
        return Err(End::UnknownWorkload(name.clone()));
    };
    if workload.id != peer.id {
        return Err(End::WrongIdentity {
            workload: name.clone(),
            peer: peer.id.clone(),
        });
    }
    Ok(workload)
}

fn workload_name(hello: &proto::Hello) -> Result<WorkloadName, End> {
    checked(&hello.namespace)?;
    checked(&hello.workload)?;
    Ok(WorkloadName::new(&hello.namespace, &hello.workload))
}

fn service_name(service: proto::ServiceRef) -> Result<ServiceName, End> {
    ServiceName::try_from(service)
        .map_err(|_| End::Protocol("a name that is not a Service's: expected two DNS labels"))
}

fn resource(destination: Option<proto::ServiceRef>) -> Result<Resource, End> {
    Ok(match destination {
        None => Resource::Workload,
        Some(service) => Resource::Destination(service_name(service)?),
    })
}

fn checked(name: &str) -> Result<(), End> {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !printable {
        return Err(End::Protocol("a name that is not a DNS name"));
    }
    Ok(())
}
