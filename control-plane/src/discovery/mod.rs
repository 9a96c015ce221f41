//! One stream for each sidecar: what it should know, and what it says of it. [`session`] greets,
//! [`stream`] serves, [`subscriptions`] knows what is new for it, [`ledger`] what it was sent,
//! [`fleet`] who is connected, and [`withdrawal`] takes out the endpoint of one that drains.

mod end;
mod fleet;
mod ledger;
mod names;
mod session;
mod stream;
mod subscriptions;
mod trust;
mod withdrawal;

use std::sync::Arc;
use std::time::SystemTime;

use outrider_api::proto::discovery_server::{Discovery, DiscoveryServer};
use outrider_api::proto::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use self::end::End;
pub(crate) use self::fleet::Fleet;
use self::session::Session;
use crate::metrics::Metrics;
use crate::server::Peer;
use crate::store::Store;

/// A message of a sidecar may be so large; a Nack's reason is the only long one.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// The gRPC service.
pub(crate) struct DiscoveryService {
    store: Arc<Store>,
    fleet: Arc<Fleet>,
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
}

impl DiscoveryService {
    pub(crate) fn server(
        store: Arc<Store>,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        shutdown: watch::Receiver<bool>,
    ) -> DiscoveryServer<Self> {
        DiscoveryServer::new(Self {
            store,
            fleet,
            metrics,
            shutdown,
        })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type SubscribeStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let Some(peer) = request
            .extensions()
            .get::<Peer>()
            .and_then(Peer::certificate)
        else {
            return Err(self.refuse(&End::NoCertificate));
        };
        if peer.not_after <= SystemTime::now() {
            return Err(self.refuse(&End::CertificateExpired));
        }
        // One place: a newer version takes the place of one that could not be sent.
        let (responses, receiver) = mpsc::channel(1);
        let session = Session::new(
            peer,
            Arc::clone(&self.store),
            Arc::clone(&self.fleet),
            self.metrics.clone(),
            responses,
        );
        tokio::spawn(session.run(request.into_inner(), self.shutdown.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl DiscoveryService {
    fn refuse(&self, end: &End) -> Status {
        tracing::warn!(reason = %end, "a discovery stream was refused");
        self.metrics
            .streams_ended
            .with_label_values(&[end.label()])
            .inc();
        end.status().unwrap_or_else(|| Status::internal(""))
    }
}
