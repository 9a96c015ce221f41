//! Sidecars, as far as a control plane sees them: a stream each, with a certificate of the mesh, which
//! follows some Services and acknowledges whatever comes.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use outrider_api::proto::discovery_client::DiscoveryClient;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource;
use outrider_api::proto::{Ack, DiscoveryRequest, Hello, ServiceRef, Workload};
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::svid::Svid;
use outrider_certs::tls;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;

use crate::Arguments;
use crate::objects::{NAMESPACE, pod, rule, service, service_of_pod};

/// Handshakes at once.
const AT_ONCE: usize = 32;
/// A policy that is not acknowledged by then is lost.
const LIMIT: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// All of them.
pub(crate) struct Fleet {
    sidecars: usize,
    seen: Mutex<mpsc::Receiver<Seen>>,
    /// How long it took until all had their own workload.
    connected: Duration,
}

/// A sidecar has acknowledged this policy.
struct Seen {
    policy: u32,
    at: Instant,
}

impl Fleet {
    pub(crate) async fn connect(
        arguments: &Arguments,
        authority: &CertificateAuthority,
        address: SocketAddr,
    ) -> Result<Self> {
        let begun = Instant::now();
        let (tell, seen) = mpsc::channel(arguments.sidecars.max(1));
        let bundle = authority.trust_bundle();
        let streams = stream::iter(0..arguments.sidecars).map(|number| {
            let account = service(service_of_pod(arguments, number));
            let sidecar = Sidecar {
                number,
                calls: (1..=arguments.calls)
                    .map(|step| service((number + step * 7) % arguments.services.max(1)))
                    .collect(),
                tell: tell.clone(),
            };
            let bundle = &bundle;
            async move {
                let id = SpiffeId::workload(bundle.trust_domain(), NAMESPACE, &account)?;
                let svid = authority.issue_svid(&id, LIFETIME, SystemTime::now())?;
                sidecar.connect(&svid, bundle, address).await
            }
        });
        let _: Vec<()> = streams.buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(Self {
            sidecars: arguments.sidecars,
            seen: Mutex::new(seen),
            connected: begun.elapsed(),
        })
    }

    pub(crate) fn connected(&self) -> Duration {
        self.connected
    }

    /// How long each sidecar took to acknowledge a policy, from `applied` on.
    pub(crate) async fn acknowledged(
        &self,
        policy: u32,
        applied: Instant,
    ) -> Result<Vec<Duration>> {
        let deadline = (applied + LIMIT).into();
        let mut taken = Vec::with_capacity(self.sidecars);
        let mut seen = self.seen.lock().await;
        while taken.len() < self.sidecars {
            let next = timeout_at(deadline, seen.recv()).await;
            let next = next.with_context(|| {
                format!("{} of {} have acknowledged it", taken.len(), self.sidecars)
            })?;
            let next = next.context("no sidecar is left")?;
            if next.policy == policy {
                taken.push(next.at.duration_since(applied));
            }
        }
        Ok(taken)
    }
}

struct Sidecar {
    number: usize,
    calls: Vec<String>,
    tell: mpsc::Sender<Seen>,
}

impl Sidecar {
    /// Returns when it has its own workload, and goes on by itself.
    async fn connect(self, svid: &Svid, bundle: &TrustBundle, address: SocketAddr) -> Result<()> {
        let expected =
            SpiffeId::workload(bundle.trust_domain(), "outrider-system", "control-plane")?;
        let config = tls::client_config(Some(svid), bundle, &expected, &[b"h2"])?;
        let channel = Endpoint::from_static("https://control-plane")
            .connect_with_connector(Connector { address, config })
            .await?;
        let (requests, outgoing) = mpsc::channel(64);
        let hello = Hello {
            namespace: NAMESPACE.to_owned(),
            workload: pod(self.number),
            version: "scale".to_owned(),
            draining: false,
        };
        send(&requests, Kind::Hello(hello)).await?;
        let mut client = DiscoveryClient::new(channel);
        let answer = client.subscribe(ReceiverStream::new(outgoing)).await?;
        let mut responses = answer.into_inner();
        let first = responses.message().await?.context("the stream has ended")?;
        ensure!(
            matches!(first.resource, Some(Resource::Workload(_))),
            "the first message is not the workload"
        );
        acknowledge(&requests, &first).await?;
        for name in &self.calls {
            let called = ServiceRef {
                namespace: NAMESPACE.to_owned(),
                name: name.clone(),
            };
            send(&requests, Kind::Subscribe(called)).await?;
        }
        tokio::spawn(async move {
            let mut newest = 0;
            while let Ok(Some(response)) = responses.message().await {
                if acknowledge(&requests, &response).await.is_err() {
                    return;
                }
                let policy = match &response.resource {
                    Some(Resource::Workload(workload)) => newest_policy(workload, newest),
                    _ => None,
                };
                if let Some(policy) = policy {
                    newest = policy;
                    let at = Instant::now();
                    if self.tell.send(Seen { policy, at }).await.is_err() {
                        return;
                    }
                }
            }
            crate::say(&format!("the stream of {} has ended", pod(self.number)));
        });
        Ok(())
    }
}

/// The number in the name of the policy's rule, if it is a newer one.
fn newest_policy(workload: &Workload, newest: u32) -> Option<u32> {
    let policies = workload.authorization.iter().flat_map(|all| &all.policies);
    let rules = policies.flat_map(|policy| &policy.rules);
    let prefix = rule(0);
    let prefix = prefix.trim_end_matches('0');
    let numbers = rules.filter_map(|rule| rule.name.strip_prefix(prefix)?.parse().ok());
    numbers.max().filter(|number| *number > newest)
}

async fn acknowledge(
    requests: &mpsc::Sender<DiscoveryRequest>,
    response: &outrider_api::proto::DiscoveryResponse,
) -> Result<()> {
    let destination = match &response.resource {
        Some(Resource::Destination(destination)) => destination.service.clone(),
        Some(Resource::Missing(service)) => Some(service.clone()),
        _ => None,
    };
    let ack = Ack {
        destination,
        address: None,
        version: response.version,
    };
    send(requests, Kind::Ack(ack)).await
}

async fn send(requests: &mpsc::Sender<DiscoveryRequest>, kind: Kind) -> Result<()> {
    let request = DiscoveryRequest { kind: Some(kind) };
    Ok(requests.send(request).await?)
}

/// Connects over mTLS.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Poller<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, config } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(config);
            Ok(TokioIo::new(
                connector.connect(tls::server_name(), stream).await?,
            ))
        })
    }
}
