//! One connection of the sidecars' port, from the handshake to its end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrider_api::proto::discovery_server::DiscoveryServer;
use outrider_api::proto::identity_server::IdentityServer;
use outrider_certs::tls::{self as certs, PeerError};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::Peer;
use super::tls::Serving;
use crate::discovery::DiscoveryService;
use crate::identity::IdentityService;
use crate::metrics::Metrics;

/// A client that has not finished its handshake by then is not waited for.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client without a certificate comes for one, which does not take long.
const ANONYMOUS: Duration = Duration::from_secs(30);
/// How long a connection may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(4);
/// A call of Identity takes no longer, even if its body does not come.
const SIGN: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it lives, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A sidecar needs one stream, and one more for each certificate.
const MAX_STREAMS: u32 = 32;
/// Headers are a path and a token of at most 8 KiB.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// What is served; cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) identity: IdentityServer<IdentityService>,
    pub(crate) discovery: DiscoveryServer<DiscoveryService>,
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) serving: Serving,
    pub(super) services: Services,
    pub(super) metrics: Metrics,
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) handshake: OwnedSemaphorePermit,
    pub(super) _open: OwnedSemaphorePermit,
}

impl Accepted {
    pub(super) async fn run(mut self) {
        let handshake = timeout(
            HANDSHAKE,
            shake_hands(self.stream, self.address.ip(), &self.serving),
        )
        .await;
        drop(self.handshake);
        let result = handshake.unwrap_or(Err("timeout_or_eof"));
        let label = match &result {
            Ok(_) => "ok",
            Err(reason) => reason,
        };
        self.metrics.handshakes.with_label_values(&[label]).inc();
        match result {
            Ok((tls, peer)) => serve(tls, peer, self.services, &mut self.shutdown).await,
            Err(reason) => {
                tracing::debug!(address = %self.address, reason, "a TLS handshake failed");
            }
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: IpAddr,
    serving: &Serving,
) -> Result<(TlsStream<TcpStream>, Peer), &'static str> {
    // Small messages, each waited for.
    let _ = stream.set_nodelay(true);
    let tls = TlsAcceptor::from(Arc::clone(&serving.config))
        .accept(stream)
        .await
        .map_err(|error| certs::handshake_reason(&error))?;
    let (_, session) = tls.get_ref();
    let certificate = match certs::peer(
        session.peer_certificates(),
        &serving.trust_domain,
        SystemTime::now(),
    ) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(PeerError::NoCertificate) => None,
        Err(error) => return Err(error.label()),
    };
    let peer = Peer {
        certificate,
        address,
    };
    Ok((tls, peer))
}

async fn serve(
    tls: TlsStream<TcpStream>,
    peer: Peer,
    services: Services,
    shutdown: &mut watch::Receiver<bool>,
) {
    let anonymous = peer.certificate.is_none();
    let service = service_fn(move |request| route(services.clone(), peer.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(tls), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(ANONYMOUS), if anonymous => {}
        _ = shutdown.wait_for(|now| *now) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Whatever has not ended by then is cut.
    let _ = timeout(FAREWELL, connection).await;
}

async fn route(
    mut services: Services,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(peer);
    match service_of(request.uri().path()) {
        IdentityServer::<IdentityService>::NAME => {
            match timeout(SIGN, services.identity.call(request)).await {
                Ok(response) => response,
                Err(_) => Ok(Status::deadline_exceeded("the request took too long").into_http()),
            }
        }
        DiscoveryServer::<DiscoveryService>::NAME => services.discovery.call(request).await,
        _ => Ok(Status::unimplemented("no such service").into_http()),
    }
}

/// `outrider.v1.Identity` of `/outrider.v1.Identity/Sign`.
fn service_of(path: &str) -> &str {
    path.strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .map_or("", |(service, _)| service)
}

#[cfg(test)]
mod tests {
    use super::service_of;

    #[test]
    fn a_path_names_its_service() {
        assert_eq!(
            service_of("/outrider.v1.Identity/Sign"),
            "outrider.v1.Identity"
        );
        for path in [
            "",
            "/",
            "*",
            "outrider.v1.Identity/Sign",
            "/outrider.v1.Identity",
        ] {
            assert_eq!(service_of(path), "", "{path}");
        }
    }
}
