//! The sidecars' port: accept, TLS, HTTP/2, and which service a request is for. Owns the listener and
//! every connection; knows nothing of what the services do.

mod connection;
pub(crate) mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_certs::tls::PeerCertificate;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use self::connection::Services;
use self::tls::Serving;
use crate::metrics::Metrics;

/// So many handshakes are under way at once; the next connections wait in the listener's queue.
const MAX_HANDSHAKES: usize = 512;
/// So many connections are open at once.
const MAX_CONNECTIONS: usize = 16_384;
/// How long accepting rests after it has failed (no file descriptors, most likely).
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long connections may take to end at a shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Who is at the other end, as the handshake has shown it. In a request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    certificate: Option<Arc<PeerCertificate>>,
    address: IpAddr,
}

impl Peer {
    /// Its certificate; absent where it has none yet.
    pub(crate) fn certificate(&self) -> Option<Arc<PeerCertificate>> {
        self.certificate.clone()
    }

    /// Where it calls from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }
}

/// The sidecars' port.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    /// Absent until there is a mesh: then connections are closed as they come.
    pub(crate) serving: watch::Receiver<Option<Serving>>,
    pub(crate) services: Services,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Server {
    /// Serves until the shutdown, then waits a little for the connections to end.
    pub(crate) async fn run(self) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        let mut shutdown = self.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&handshakes, &connections) => accepted,
                Some(_) = tasks.join_next() => continue,
                _ = shutdown.wait_for(|now| *now) => break,
            };
            if let Some(accepted) = accepted {
                tasks.spawn(accepted.run());
            }
        }
        drop(self.listener);
        let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(connections = tasks.len(), "connections are cut");
        }
    }

    /// The next connection, once there is room for it. Its errors are passing: they are counted, and
    /// accepting goes on.
    async fn accept(
        &self,
        handshakes: &Arc<Semaphore>,
        connections: &Arc<Semaphore>,
    ) -> Option<connection::Accepted> {
        // Closed semaphores do not happen; if one were, nothing would be accepted.
        let open = Arc::clone(connections).acquire_owned().await.ok()?;
        let handshake = Arc::clone(handshakes).acquire_owned().await.ok()?;
        let (stream, address) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.metrics.accept_errors.inc();
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                return None;
            }
        };
        let Some(serving) = self.serving.borrow().clone() else {
            tracing::debug!(%address, "closed: there is no mesh yet");
            return None;
        };
        Some(connection::Accepted {
            stream,
            address,
            serving,
            services: self.services.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            handshake,
            _open: open,
        })
    }
}
