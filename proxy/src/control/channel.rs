//! The connection to the control plane: gRPC over mutual TLS, to exactly the control plane's SPIFFE ID.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, SpiffeIdError};
use outrider_certs::svid::Svid;
use outrider_certs::tls::{self, TlsError};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

const NAMESPACE: &str = "outrider-system";
const SERVICE_ACCOUNT: &str = "control-plane";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the control plane's identity: {0}")]
    Identity(#[from] SpiffeIdError),
    #[error("TLS to the control plane: {0}")]
    Tls(#[from] TlsError),
    #[error("cannot connect to the control plane at {address}: {source}")]
    Connect {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to `address` (`host:port`), showing `svid` where there is one yet.
pub async fn connect(
    address: &str,
    svid: Option<&Svid>,
    bundle: &TrustBundle,
) -> Result<Channel, ChannelError> {
    let expected = SpiffeId::workload(bundle.trust_domain(), NAMESPACE, SERVICE_ACCOUNT)?;
    let tls = tls::client_config(svid, bundle, &expected, &[b"h2"])?;
    let connector = Connector {
        address: Arc::from(address),
        tls,
    };
    Endpoint::from_static("http://control-plane.outrider-system")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ChannelError::Connect {
            address: address.to_owned(),
            source,
        })
}

#[derive(Clone)]
struct Connector {
    address: Arc<str>,
    tls: Arc<ClientConfig>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(tls)
                .connect(tls::server_name(), stream)
                .await?;
            Ok(TokioIo::new(stream))
        })
    }
}
