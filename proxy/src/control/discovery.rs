//! The stream from the control plane: this sidecar's workload, and the destinations that its app
//! uses. Losing it changes nothing for traffic: what was last good stays.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::address::{Address, AddressTarget};
use outrider_api::model::{Destination, Workload};
use outrider_api::proto::discovery_client::DiscoveryClient;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource;
use outrider_api::proto::{
    Ack, AddressRef, DiscoveryRequest, DiscoveryResponse, Draining, Hello, Nack, ServiceRef,
};
use outrider_certs::svid;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::anchors::AnchorFile;
use super::channel::{self, ChannelError};
use super::requests::{ask, forget, service_name};
use super::subjects::{Rejection, Subjects, Subscription, newer};
use super::{Credentials, DestinationState, Subject, WorkloadState};
use crate::telemetry::metrics::Metrics;

/// How often destinations that nobody uses any more are let go.
const SWEEP: Duration = Duration::from_secs(60);
/// Messages to the control plane that may wait.
const QUEUE: usize = 256;

/// Why the stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the control plane ended the stream: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("a new certificate is to be shown")]
    Renewed,
    #[error("the workload stays after all")]
    Stays,
}

/// Who this sidecar says it is, and where the control plane is.
#[derive(Clone, Debug)]
pub struct DiscoverySource {
    pub control_plane: String,
    pub anchors: AnchorFile,
    pub namespace: String,
    pub workload: String,
}

/// The one writer of the workload and of every destination.
pub struct Discovery {
    source: DiscoverySource,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    subscriptions: mpsc::Receiver<Subscription>,
    workload: watch::Sender<WorkloadState>,
    workload_version: u64,
    /// The newest version of anything that this stream has brought.
    newest: u64,
    known: Subjects,
    metrics: Arc<Metrics>,
    seen: Seen,
    leaving: Leaving,
}

/// How a sidecar that ends is taken out of the mesh before it takes nothing more.
#[derive(Debug)]
pub struct Leaving {
    /// The sidecar has been told to end.
    pub told: watch::Sender<bool>,
    /// The control plane says that the workload goes.
    pub terminating: watch::Sender<bool>,
    /// Whoever called this workload has learned that it goes, or cannot be told.
    pub withdrawn: watch::Sender<bool>,
}

impl Leaving {
    fn is_under_way(&self) -> bool {
        *self.told.borrow() || *self.terminating.borrow()
    }
}

/// What the admin address shows of discovery.
#[derive(Debug)]
pub struct Seen {
    pub last_heard: watch::Sender<Option<Instant>>,
    pub known: Subjects,
}

/// What a message is about; neither: the workload itself.
#[derive(Default)]
struct About {
    destination: Option<ServiceRef>,
    address: Option<AddressRef>,
}

impl Discovery {
    pub fn new(
        source: DiscoverySource,
        credentials: watch::Receiver<Option<Arc<Credentials>>>,
        subscriptions: mpsc::Receiver<Subscription>,
        workload: watch::Sender<WorkloadState>,
        metrics: Arc<Metrics>,
        seen: Seen,
        leaving: Leaving,
    ) -> Self {
        Self {
            source,
            credentials,
            subscriptions,
            workload,
            workload_version: 0,
            newest: 0,
            known: seen.known.clone(),
            metrics,
            seen,
            leaving,
        }
    }

    /// Runs for as long as the process lives, connecting again whenever the stream ends.
    pub async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let error = match self.stream(&mut attempt).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.metrics.control_plane_connected.set(0);
            match error {
                StreamError::Renewed => continue,
                StreamError::Stays => {
                    self.leaving.withdrawn.send_replace(false);
                    continue;
                }
                _ => {}
            }
            if attempt > 0 && self.leaving.is_under_way() {
                // Nor could another stream be had: there is nobody left who could spread the word.
                self.leaving.withdrawn.send_replace(true);
            }
            let delay = svid::retry_delay(attempt, fastrand::f64());
            attempt = attempt.saturating_add(1);
            tracing::warn!(%error, retry_in = ?delay, "no stream from the control plane: the last good policy stays");
            self.meanwhile(tokio::time::sleep(delay)).await;
        }
    }

    /// Waits for something to be over. Subscriptions are taken down in the meantime, so that whoever made
    /// them waits for their answers and not for this; what the control plane is to be told of them is in
    /// `changes`.
    async fn until<T>(&mut self, over: impl Future<Output = T>, changes: &mut Vec<Kind>) -> T {
        let mut over = pin!(over);
        loop {
            tokio::select! {
                done = over.as_mut() => return done,
                Some(subscription) = self.subscriptions.recv() => {
                    changes.extend(self.take_down(subscription));
                }
            }
        }
    }

    /// The same where the next stream begins with all that is known.
    async fn meanwhile<T>(&mut self, over: impl Future<Output = T>) -> T {
        self.until(over, &mut Vec::new()).await
    }

    /// What the control plane is to be told, if anything.
    fn take_down(&mut self, subscription: Subscription) -> Vec<Kind> {
        let mut changes = Vec::new();
        if self.known.is_full() {
            changes.extend(self.known.sweep().iter().map(forget));
        }
        changes.extend(self.known.subscribe(subscription).as_ref().map(ask));
        changes
    }

    async fn stream(&mut self, attempt: &mut u32) -> Result<std::convert::Infallible, StreamError> {
        let credentials = self.next_credentials().await?;
        let anchors = &self.source.anchors;
        let anchors = anchors.choose(&credentials.bundle, *attempt);
        let address = self.source.control_plane.clone();
        let connecting = channel::connect(&address, Some(&credentials.svid), &anchors);
        let channel = self.meanwhile(connecting).await?;
        let (requests, outgoing) = mpsc::channel(QUEUE);
        // Versions are those of one control plane: another, or a later one, counts its own.
        self.workload_version = 0;
        self.newest = 0;
        self.known.begin();
        let mut told = self.leaving.told.subscribe();
        let mut asked = self.leaving.is_under_way();
        self.greet(&requests, asked).await?;
        let refused = |status| StreamError::Refused(Box::new(status));
        let mut client = DiscoveryClient::new(channel);
        let subscribing = client.subscribe(ReceiverStream::new(outgoing));
        let mut changes = Vec::new();
        let subscribed = self.until(subscribing, &mut changes).await;
        let mut incoming = subscribed.map_err(refused)?.into_inner();
        for change in changes {
            send(&requests, change).await?;
        }
        let mut greeted = false;
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                Ok(()) = told.changed(), if !asked => {
                    asked = true;
                    send(&requests, Kind::Draining(Draining {})).await?;
                }
                message = incoming.message() => {
                    let message = message.map_err(refused)?.ok_or(StreamError::Closed)?;
                    if !greeted {
                        // Before its first answer the control plane may still refuse the hello.
                        greeted = true;
                        *attempt = 0;
                        self.metrics.control_plane_connected.set(1);
                        tracing::info!(address = self.source.control_plane, "connected to the control plane");
                    }
                    if let Some(reply) = self.apply(message) {
                        send(&requests, reply).await?;
                    }
                    match (asked, self.leaving.is_under_way()) {
                        (false, true) => {
                            asked = true;
                            send(&requests, Kind::Draining(Draining {})).await?;
                        }
                        // What it was told was of another that had its name.
                        (true, false) => return Err(StreamError::Stays),
                        (false, false) | (true, true) => {}
                    }
                }
                Some(subscription) = self.subscriptions.recv() => {
                    for change in self.take_down(subscription) {
                        send(&requests, change).await?;
                    }
                }
                _ = sweep.tick() => self.sweep(&requests).await?,
                // While it drains, the certificate that it has shown does: another stream would mean
                // another Hello.
                changed = self.credentials.changed(), if !asked => {
                    return Err(if changed.is_ok() { StreamError::Renewed } else { StreamError::Closed });
                }
            }
        }
    }

    /// Lets go of what nobody follows any more.
    async fn sweep(
        &mut self,
        requests: &mpsc::Sender<DiscoveryRequest>,
    ) -> Result<(), StreamError> {
        for subject in self.known.sweep() {
            send(requests, forget(&subject)).await?;
        }
        Ok(())
    }

    async fn next_credentials(&mut self) -> Result<Arc<Credentials>, StreamError> {
        loop {
            if let Some(credentials) = self.credentials.borrow_and_update().clone() {
                return Ok(credentials);
            }
            let mut credentials = self.credentials.clone();
            let changed = self.meanwhile(credentials.changed()).await;
            changed.map_err(|_| StreamError::Closed)?;
        }
    }

    async fn greet(
        &self,
        requests: &mpsc::Sender<DiscoveryRequest>,
        draining: bool,
    ) -> Result<(), StreamError> {
        let hello = Hello {
            namespace: self.source.namespace.clone(),
            workload: self.source.workload.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining,
        };
        send(requests, Kind::Hello(hello)).await?;
        let known: Vec<Kind> = self.known.all().iter().map(ask).collect();
        let requests = requests.clone();
        // More than the queue holds may be known: they follow while the stream is being opened.
        tokio::spawn(async move {
            for asked in known {
                if send(&requests, asked).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Applies a snapshot whole or not at all, and says which.
    fn apply(&mut self, message: DiscoveryResponse) -> Option<Kind> {
        self.seen.last_heard.send_replace(Some(Instant::now()));
        let version = message.version;
        let mut about = About::default();
        let result = match message.resource {
            Some(Resource::Workload(workload)) => self.apply_workload(version, workload),
            Some(Resource::Destination(destination)) => {
                about.destination = destination.service.clone();
                self.apply_destination(version, destination)
            }
            Some(Resource::Missing(service)) => {
                let subject = Subject::Service(service_name(&service));
                about.destination = Some(service);
                self.known
                    .learn(&subject, version, Ok(DestinationState::Missing))
            }
            Some(Resource::Address(address)) => {
                about.address = Some(AddressRef {
                    address: address.address.clone(),
                });
                self.apply_address(version, address)
            }
            Some(Resource::Withdrawn(_)) => {
                self.leaving.withdrawn.send_replace(true);
                return None;
            }
            None => Err(Rejection::Empty),
        };
        Some(self.reply(version, about, result))
    }

    fn reply(&mut self, version: u64, about: About, result: Result<(), Rejection>) -> Kind {
        let About {
            destination,
            address,
        } = about;
        match result {
            Ok(()) => {
                self.newest = self.newest.max(version);
                let newest = i64::try_from(self.newest).unwrap_or(i64::MAX);
                self.metrics.config_version.set(newest);
                Kind::Ack(Ack {
                    destination,
                    version,
                    address,
                })
            }
            Err(rejection) => {
                self.metrics.config_rejected.inc();
                tracing::error!(version, %rejection, "rejected a snapshot: the last good one stays");
                Kind::Nack(Nack {
                    destination,
                    version,
                    reason: rejection.to_string(),
                    address,
                })
            }
        }
    }

    fn apply_workload(
        &mut self,
        version: u64,
        wire: outrider_api::proto::Workload,
    ) -> Result<(), Rejection> {
        newer(version, self.workload_version)?;
        let workload = Workload::try_from(wire)?;
        self.workload_version = version;
        self.leaving.terminating.send_replace(workload.terminating);
        self.workload.send_replace(Some(Arc::new(workload)));
        tracing::info!(version, "workload and policy applied");
        Ok(())
    }

    fn apply_destination(
        &mut self,
        version: u64,
        wire: outrider_api::proto::Destination,
    ) -> Result<(), Rejection> {
        let subject = wire
            .service
            .as_ref()
            .map(|service| Subject::Service(service_name(service)));
        let state = Destination::try_from(wire)
            .map(|destination| DestinationState::Ready(Arc::new(destination)));
        match subject {
            Some(subject) => self
                .known
                .learn(&subject, version, state.map_err(Rejection::from)),
            // Whatever it is, it is not what anybody asked for.
            None => state.map(|_| ()).map_err(Rejection::from),
        }
    }

    fn apply_address(
        &mut self,
        version: u64,
        wire: outrider_api::proto::Address,
    ) -> Result<(), Rejection> {
        let subject = wire.address.parse().map(Subject::Address).ok();
        let state = Address::try_from(wire).map(|address| match address.target {
            AddressTarget::Service(service) => DestinationState::Alias(service),
            AddressTarget::Instance(instance) => DestinationState::Ready(Arc::new(*instance)),
            AddressTarget::Unknown => DestinationState::Missing,
        });
        match subject {
            Some(subject) => self
                .known
                .learn(&subject, version, state.map_err(Rejection::from)),
            None => state.map(|_| ()).map_err(Rejection::from),
        }
    }
}

async fn send(requests: &mpsc::Sender<DiscoveryRequest>, kind: Kind) -> Result<(), StreamError> {
    requests
        .send(DiscoveryRequest { kind: Some(kind) })
        .await
        .map_err(|_| StreamError::Closed)
}
