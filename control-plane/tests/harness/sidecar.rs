//! A sidecar's half of the protocol.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use outrider_api::proto::address::Kind as At;
use outrider_api::proto::discovery_client::DiscoveryClient;
use outrider_api::proto::discovery_request::Kind;
use outrider_api::proto::discovery_response::Resource;
use outrider_api::proto::identity_client::IdentityClient;
use outrider_api::proto::{
    Ack, AddressRef, DiscoveryRequest, DiscoveryResponse, Draining, Hello, Nack, ServiceRef,
    SignRequest, SignResponse,
};
use outrider_certs::CertificateDer;
use outrider_certs::key::PrivateKey;
use outrider_certs::svid::Svid;
use outrider_certs::tls;
use outrider_control_plane::control_plane_id;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use tower_service::Service;

use super::{Mesh, within};

/// Connects to the control plane over mTLS.
#[derive(Clone)]
struct Connector {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, config } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let tls = TlsConnector::from(config)
                .connect(tls::server_name(), stream)
                .await?;
            Ok(TokioIo::new(tls))
        })
    }
}

impl Mesh {
    /// A channel with this certificate, or none.
    pub fn channel(&self, svid: Option<&Svid>) -> Channel {
        self.channel_with(svid, |endpoint| endpoint)
    }

    pub fn channel_with(
        &self,
        svid: Option<&Svid>,
        configure: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Channel {
        let expected = control_plane_id(&self.trust_domain()).unwrap();
        let config = tls::client_config(svid, &self.bundle(), &expected, &[b"h2"]).unwrap();
        let address = self.listen();
        configure(Endpoint::from_static("https://control-plane"))
            .connect_with_connector_lazy(Connector { address, config })
    }

    /// Asks for a certificate.
    pub async fn sign(&self, authorization: &str, csr: Vec<u8>) -> Result<SignResponse, Status> {
        let mut client = IdentityClient::new(self.channel(None));
        let mut request = Request::new(SignRequest {
            csr_der: csr.into(),
        });
        if !authorization.is_empty() {
            let value = authorization.parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let response = within("an answer to Sign", client.sign(request)).await?;
        Ok(response.into_inner())
    }

    /// A certificate of `account`.
    pub async fn svid(&self, account: &str) -> Svid {
        let key = PrivateKey::generate().unwrap();
        let bearer = format!("Bearer {}", self.token(account));
        let response = self
            .sign(&bearer, key.signing_request().unwrap())
            .await
            .unwrap();
        let chain = response
            .certificate_chain_der
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()));
        Svid::new(key, chain.collect()).unwrap()
    }

    /// The sidecar of order-1, which has said Hello.
    pub async fn order(&self) -> Sidecar {
        self.sidecar("order", "order-1").await
    }

    /// The sidecar of a workload, which has said Hello.
    pub async fn sidecar(&self, account: &str, workload: &str) -> Sidecar {
        let mut sidecar = self.silent(account).await;
        sidecar.hello(workload).await;
        sidecar
    }

    /// A sidecar that has said nothing yet.
    pub async fn silent(&self, account: &str) -> Sidecar {
        let svid = self.svid(account).await;
        Sidecar::connect(self.channel(Some(&svid))).await.unwrap()
    }
}

/// One discovery stream.
pub struct Sidecar {
    pub requests: mpsc::Sender<DiscoveryRequest>,
    pub responses: Streaming<DiscoveryResponse>,
}

impl Sidecar {
    pub async fn connect(channel: Channel) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let mut client = DiscoveryClient::new(channel);
        let stream = client.subscribe(ReceiverStream::new(receiver));
        let responses = within("a discovery stream", stream).await?.into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    pub async fn send(&self, kind: Option<Kind>) {
        self.requests.send(DiscoveryRequest { kind }).await.unwrap();
    }

    pub async fn hello(&mut self, workload: &str) {
        self.greet(workload, false).await;
    }

    pub async fn greet(&mut self, workload: &str, draining: bool) {
        self.send(Some(Kind::Hello(Hello {
            namespace: "shop".to_owned(),
            workload: workload.to_owned(),
            version: "test".to_owned(),
            draining,
        })))
        .await;
    }

    pub async fn subscribe(&self, name: &str) {
        self.send(Some(Kind::Subscribe(service(name)))).await;
    }

    pub async fn resolve(&self, address: &str) {
        self.send(Some(Kind::Resolve(address_ref(address)))).await;
    }

    pub async fn forget(&self, address: &str) {
        self.send(Some(Kind::Forget(address_ref(address)))).await;
    }

    pub async fn drain(&self) {
        self.send(Some(Kind::Draining(Draining {}))).await;
    }

    /// The next message, which is acknowledged.
    pub async fn take(&mut self) -> DiscoveryResponse {
        let response = self.next().await;
        self.ack(&response).await;
        response
    }

    pub async fn ack(&self, response: &DiscoveryResponse) {
        self.send(Some(Kind::Ack(Ack {
            destination: destination(response),
            address: address(response),
            version: response.version,
        })))
        .await;
    }

    pub async fn nack(&self, response: &DiscoveryResponse, reason: &str) {
        self.send(Some(Kind::Nack(Nack {
            destination: destination(response),
            address: address(response),
            version: response.version,
            reason: reason.to_owned(),
        })))
        .await;
    }

    /// The next message.
    pub async fn next(&mut self) -> DiscoveryResponse {
        within("a message", self.responses.message())
            .await
            .unwrap()
            .unwrap()
    }

    /// How the stream ends, whatever is still sent.
    pub async fn end(&mut self) -> Status {
        within("the end of the stream", async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                }
            }
        })
        .await
    }
}

pub fn service(name: &str) -> ServiceRef {
    ServiceRef {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

/// What a message is about, in a word.
pub fn about(response: &DiscoveryResponse) -> String {
    match response.resource.as_ref().unwrap() {
        Resource::Workload(workload) => format!("workload {}", workload.name),
        Resource::Destination(destination) => format!(
            "destination {} with {}",
            destination.service.as_ref().unwrap().name,
            destination.endpoints.len()
        ),
        Resource::Missing(service) => format!("missing {}", service.name),
        Resource::Address(address) => match address.kind.as_ref().unwrap() {
            At::Service(service) => format!("{} is service {}", address.address, service.name),
            At::Instance(instance) => format!(
                "{} is an instance of {} with {}",
                address.address,
                instance.service.as_ref().unwrap().name,
                instance.endpoints.len()
            ),
            At::Unknown(_) => format!("{} is unknown", address.address),
        },
        Resource::Withdrawn(_) => "withdrawn".to_owned(),
    }
}

fn destination(response: &DiscoveryResponse) -> Option<ServiceRef> {
    match response.resource.as_ref().unwrap() {
        Resource::Workload(_) | Resource::Address(_) | Resource::Withdrawn(_) => None,
        Resource::Destination(destination) => destination.service.clone(),
        Resource::Missing(service) => Some(service.clone()),
    }
}

pub fn address_ref(address: &str) -> AddressRef {
    AddressRef {
        address: address.to_owned(),
    }
}

fn address(response: &DiscoveryResponse) -> Option<AddressRef> {
    match response.resource.as_ref().unwrap() {
        Resource::Address(address) => Some(address_ref(&address.address)),
        _ => None,
    }
}
