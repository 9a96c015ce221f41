//! One discovery stream from its Hello on. Owns what the stream follows and what was said on it.
//! Everything it holds is bounded: a place for each subscription, and one message on its way.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrider_api::model;
use outrider_api::names::ServiceName;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource as Body;
use outrider_api::proto::{self, DiscoveryRequest, DiscoveryResponse};
use outrider_certs::tls::PeerCertificate;
use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};
use tonic::{Status, Streaming};

use super::end::End;
use super::fleet::{Fleet, Member};
use super::ledger::{Ledger, Resource};
use super::names::{address, resource, service_name};
use super::session::{MAX_LOGGED_BYTES, Responses, Session, check_identity};
use super::subscriptions::{Full, Subscriptions};
use super::trust::Trust;
use super::withdrawal::{Drain, farewell};
use crate::index::WorkloadName;
use crate::logging::one_line;
use crate::metrics::Metrics;
use crate::store::{Snapshot, Store};

/// A sidecar that takes nothing for so long is told to connect again.
const STALL: Duration = Duration::from_secs(60);

/// A stream that has said Hello.
pub(super) struct Stream {
    pub(super) name: WorkloadName,
    peer: Arc<PeerCertificate>,
    member: Member,
    store: Arc<Store>,
    fleet: Arc<Fleet>,
    metrics: Metrics,
    responses: Responses,
    workload: watch::Receiver<Snapshot<model::Workload>>,
    workload_ready: bool,
    destinations: Subscriptions<ServiceName>,
    addresses: Subscriptions<IpAddr>,
    ledger: Ledger,
    trust: Trust,
    withdrawal: Withdrawal,
    /// While there is no such workload any more: resolves when nobody knows it.
    farewell: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// By when something that is ready must have been taken.
    stall: Option<tokio::time::Instant>,
}

/// Whether this sidecar's own endpoint is being withdrawn.
enum Withdrawal {
    /// It takes calls.
    No,
    /// Others may still call it.
    UnderWay(Pin<Box<dyn Future<Output = u64> + Send>>),
    /// Nobody calls it from this version on, which is to be said.
    Done(u64),
    Said,
}

impl Stream {
    pub(super) fn new(
        session: &Session,
        name: WorkloadName,
        member: Member,
        workload: watch::Receiver<Snapshot<model::Workload>>,
    ) -> Self {
        Self {
            name,
            peer: Arc::clone(&session.peer),
            member,
            store: Arc::clone(&session.store),
            fleet: Arc::clone(&session.fleet),
            metrics: session.metrics.clone(),
            responses: session.responses.clone(),
            workload,
            workload_ready: true,
            destinations: Subscriptions::new(Arc::clone(&session.store)),
            addresses: Subscriptions::new(Arc::clone(&session.store)),
            ledger: Ledger::default(),
            trust: Trust::default(),
            withdrawal: Withdrawal::No,
            farewell: None,
            stall: None,
        }
    }

    pub(super) async fn serve(
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
            let ready = self.has_ready();
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
                () = self.addresses.changed() => Ok(()),
                version = self.withdrawal.done() => {
                    self.withdrawal = Withdrawal::Done(version);
                    Ok(())
                }
                () = until_over(&mut self.farewell) => Err(End::UnknownWorkload(self.name.clone())),
                () = self.member.withdrawal() => {
                    self.member.look();
                    self.member.settle(&self.ledger);
                    Ok(())
                }
                () = self.responses.closed() => Err(End::Closed),
                () = &mut expiry => Err(End::CertificateExpired),
                _ = shutdown.wait_for(|now| *now) => Err(End::ShuttingDown),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn has_ready(&self) -> bool {
        self.workload_ready
            || self.destinations.has_ready()
            || self.addresses.has_ready()
            || matches!(self.withdrawal, Withdrawal::Done(_))
    }

    fn receive(&mut self, request: Result<Option<DiscoveryRequest>, Status>) -> Result<(), End> {
        let Some(kind) = received(request)? else {
            return Err(End::Protocol("a message without content"));
        };
        match kind {
            Kind::Hello(_) => Err(End::Protocol("a second Hello")),
            Kind::Subscribe(service) => {
                let name = service_name(service)?;
                self.ledger.asked(Resource::Destination(name.clone()));
                self.destinations
                    .subscribe(name)
                    .map_err(|Full| End::TooManySubscriptions)
            }
            Kind::Unsubscribe(service) => {
                let name = service_name(service)?;
                self.destinations.unsubscribe(&name);
                self.forget(&Resource::Destination(name));
                Ok(())
            }
            Kind::Resolve(wanted) => {
                let address = address(&wanted)?;
                self.ledger.asked(Resource::Address(address));
                self.addresses
                    .subscribe(address)
                    .map_err(|Full| End::TooManySubscriptions)
            }
            Kind::Forget(wanted) => {
                let address = address(&wanted)?;
                self.addresses.unsubscribe(&address);
                self.forget(&Resource::Address(address));
                Ok(())
            }
            Kind::Draining(proto::Draining {}) => {
                self.drain();
                Ok(())
            }
            Kind::Ack(ack) => {
                self.acknowledged(resource(ack.destination, ack.address)?, ack.version)
            }
            Kind::Nack(nack) => {
                let resource = resource(nack.destination, nack.address)?;
                self.rejected(&resource, nack.version, &nack.reason)
            }
        }
    }

    fn forget(&mut self, resource: &Resource) {
        self.ledger.forget(resource);
        self.member.forgot(resource);
        self.member.settle(&self.ledger);
    }

    /// Its endpoint is to be nobody's. Said again, it says nothing new; said by a predecessor, nothing
    /// about this one.
    pub(super) fn drain(&mut self) {
        if !matches!(self.withdrawal, Withdrawal::No) || !self.member.withdraw_from(&self.store) {
            return;
        }
        let drain = Drain {
            workload: self.name.clone(),
            stream: self.member.id(),
            begun: Instant::now(),
            store: Arc::clone(&self.store),
            fleet: Arc::clone(&self.fleet),
            metrics: self.metrics.clone(),
        };
        self.withdrawal = Withdrawal::UnderWay(Box::pin(drain.finished()));
    }

    fn acknowledged(&mut self, resource: Resource, version: u64) -> Result<(), End> {
        let acknowledged = self
            .ledger
            .acknowledge(&resource, version, Instant::now())?;
        self.member.settle(&self.ledger);
        if resource == Resource::Workload
            && let Some(bundle) = self.trust.acknowledged(version)
        {
            self.member.trusts(bundle);
        }
        self.member.acknowledged(acknowledged.newest);
        if let Some(taken) = acknowledged.propagation {
            self.metrics.observe_propagation(taken);
        }
        tracing::debug!(workload = %self.name, ?resource, version, "acknowledged");
        self.member.applied(resource, version);
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
            self.own_workload()?
        } else if let Withdrawal::Done(version) = self.withdrawal {
            self.withdrawal = Withdrawal::Said;
            self.ledger.said(version);
            Some(DiscoveryResponse {
                version,
                resource: Some(Body::Withdrawn(proto::Withdrawn {})),
            })
        } else {
            self.next_destination().or_else(|| self.next_address())
        };
        if let Some(response) = response {
            self.member.sent(self.ledger.newest_sent());
            self.responses
                .try_send(Ok(response))
                .map_err(|_| End::Closed)?;
        }
        Ok(())
    }

    /// `None`: there is no such workload any more. The sidecar goes on until nobody calls it, and may
    /// drain meanwhile.
    fn own_workload(&mut self) -> Result<Option<DiscoveryResponse>, End> {
        let snapshot = self.workload.borrow_and_update().clone();
        if snapshot.value.is_none() {
            let (name, store) = (self.name.clone(), Arc::clone(&self.store));
            let farewell = farewell(name, store, Arc::clone(&self.fleet));
            self.farewell = Some(Box::pin(farewell));
            return Ok(None);
        }
        self.farewell = None;
        // It may have been given another ServiceAccount.
        let workload = check_identity(&self.name, &self.peer, &snapshot)?;
        self.ledger
            .sent(Resource::Workload, snapshot.version, snapshot.noticed);
        self.trust.sent(snapshot.version, &workload.trust);
        Ok(Some(DiscoveryResponse {
            version: snapshot.version,
            resource: Some(Body::Workload(proto::Workload::from(workload))),
        }))
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

    fn next_address(&mut self) -> Option<DiscoveryResponse> {
        let (address, snapshot) = self.addresses.pop()?;
        let kind = match snapshot.value.as_deref() {
            Some(target) => target.into(),
            None => proto::address::Kind::Unknown(proto::Unknown {}),
        };
        self.ledger.sent(
            Resource::Address(address),
            snapshot.version,
            snapshot.noticed,
        );
        Some(DiscoveryResponse {
            version: snapshot.version,
            resource: Some(Body::Address(proto::Address {
                address: address.to_string(),
                kind: Some(kind),
            })),
        })
    }
}

impl Withdrawal {
    /// Waits until nobody calls the endpoint any more. Safe to cancel.
    async fn done(&mut self) -> u64 {
        match self {
            Self::UnderWay(done) => done.await,
            Self::No | Self::Done(_) | Self::Said => std::future::pending().await,
        }
    }
}

/// Waits until a farewell is over, where there is one. Safe to cancel.
async fn until_over(farewell: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match farewell {
        Some(farewell) => farewell.await,
        None => std::future::pending().await,
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

pub(super) fn received(
    request: Result<Option<DiscoveryRequest>, Status>,
) -> Result<Option<Kind>, End> {
    match request {
        Ok(Some(request)) => Ok(request.kind),
        Ok(None) => Err(End::Closed),
        Err(status) => Err(End::Lost(one_line(status.message(), MAX_LOGGED_BYTES))),
    }
}
