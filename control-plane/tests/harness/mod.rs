//! A control plane in this process, and sidecars that talk to it over real TLS.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod sidecar;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};
use outrider_certs::token::TokenIssuer;
use outrider_control_plane::{Args, ControlPlane};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Nothing that is waited for takes longer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A shop: order-1 calls billing, which billing-1 and billing-2 are.
pub const SHOP: &str = "
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true}
---
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec: {selector: {app: billing}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: order, namespace: shop}
spec: {selector: {app: order}, ports: [{name: http, port: 80, targetPort: 8081}]}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-1, namespace: shop, labels: {app: billing}}
spec: {serviceAccount: billing, address: 10.0.0.1, ports: [{name: http, port: 8080}]}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: order-1, namespace: shop, labels: {app: order}}
spec: {serviceAccount: order, address: 10.0.0.2, ports: [{name: http, port: 8081}]}
";

/// billing-2, which SHOP lacks.
pub const BILLING_2: &str = "
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-2, namespace: shop, labels: {app: billing}}
spec: {serviceAccount: billing, address: 10.0.0.3, ports: [{name: http, port: 8080}]}
";

/// order may call billing.
pub const POLICY: &str = "
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: billing, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: billing}]
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: order}}]}]
";

pub struct Mesh {
    dir: TempDir,
    running: Option<ControlPlane>,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Mesh {
    /// A control plane for these files.
    pub async fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut mesh = Self {
            dir,
            running: None,
            listen: any,
            admin: any,
        };
        for (name, text) in files {
            mesh.write(name, text);
        }
        mesh.run().await;
        mesh
    }

    /// The shop, ready.
    pub async fn shop() -> Self {
        let mesh = Self::start(&[("shop.yaml", SHOP)]).await;
        mesh.ready().await;
        mesh
    }

    async fn run(&mut self) {
        let mut args = Args::for_directory(self.dir.path());
        args.listen = Some(self.listen);
        args.admin = Some(self.admin);
        let running = ControlPlane::start(&args).await.unwrap();
        (self.listen, self.admin) = (running.listen(), running.admin());
        self.running = Some(running);
    }

    /// Ends it, and starts it again at the same addresses.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.run().await;
        self.ready().await;
    }

    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shut_down().await;
        }
    }

    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(".outrider").join(name)
    }

    /// Writes a file as an editor does: beside it, then over it.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.path(&format!(".{name}.swp"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    pub fn trust_domain(&self) -> TrustDomain {
        "shop.example".parse().unwrap()
    }

    pub fn bundle(&self) -> TrustBundle {
        let pem = fs::read(self.state("ca.crt")).unwrap();
        TrustBundle::from_pem(self.trust_domain(), &pem).unwrap()
    }

    pub fn id(&self, account: &str) -> SpiffeId {
        SpiffeId::workload(&self.trust_domain(), "shop", account).unwrap()
    }

    /// A good bootstrap token.
    pub fn token(&self, account: &str) -> String {
        TokenIssuer::load_or_create(&self.state(""))
            .unwrap()
            .mint(
                &self.id(account),
                Duration::from_secs(60),
                SystemTime::now(),
            )
            .unwrap()
    }

    pub async fn ready(&self) {
        eventually("ready", async || self.get("/ready").await.0 == 200).await;
    }

    /// Status and body of an answer of the admin address.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.admin).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "admin")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The value of a series, 0 if there is none. `name` is without its prefix, with its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let series = format!("outrider_control_plane_{name} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&series))
            .map_or(0.0, |value| value.parse().unwrap())
    }

    pub async fn metric_becomes(&self, name: &str, expected: f64) {
        let what = format!("{name} to be {expected}");
        eventually(&what, async || self.metric(name).await == expected).await;
    }
}

/// Asks until it is true.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that must happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
