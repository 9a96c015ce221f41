//! One discovery stream, to its Hello and after its end; [`super::stream`] is what lies between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::{self, DiscoveryRequest, DiscoveryResponse};
use outrider_certs::tls::PeerCertificate;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::end::End;
use super::fleet::Fleet;
use super::stream::{Stream, received};
use crate::index::WorkloadName;
use crate::logging::one_line;
use crate::metrics::{Metrics, gauge_value};
use crate::store::{Snapshot, Store};

/// A stream that has not said Hello by then is not a sidecar's.
const HELLO: Duration = Duration::from_secs(10);
/// How long the status of an ended stream may wait to be taken.
const FAREWELL: Duration = Duration::from_secs(2);
/// A DNS name is no longer (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;
/// So much of a sidecar's own words is logged.
pub(super) const MAX_LOGGED_BYTES: usize = 1024;

pub(super) type Responses = mpsc::Sender<Result<DiscoveryResponse, Status>>;

/// A stream that has not said Hello yet.
pub(super) struct Session {
    pub(super) peer: Arc<PeerCertificate>,
    pub(super) store: Arc<Store>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) metrics: Metrics,
    pub(super) responses: Responses,
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
        if !hello.draining {
            self.restore(&name).await?;
        }
        let mut stream = Stream::new(self, name, member, workload);
        if hello.draining {
            stream.drain();
        }
        Ok(stream)
    }

    /// Who says Hello takes calls, whatever its predecessor said, unless it says that it does not.
    async fn restore(&self, name: &WorkloadName) -> Result<(), End> {
        self.fleet.cancel(name);
        if !self.store.restore(name) {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let version = spawn_blocking(move || store.refresh(Instant::now()))
            .await
            .map_err(|_| End::ShuttingDown)?;
        let newest = gauge_value(self.store.version());
        self.metrics.resource_version.set(newest);
        tracing::info!(workload = %name, version, "a withdrawn endpoint is back");
        Ok(())
    }
}

pub(super) fn check_identity<'s>(
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

fn checked(name: &str) -> Result<(), End> {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !printable {
        return Err(End::Protocol("a name that is not a DNS name"));
    }
    Ok(())
}
