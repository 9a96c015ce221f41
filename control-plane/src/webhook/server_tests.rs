use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use futures_util::future::select_all;
use hyper::client::conn::http1;
use outrider_certs::authority::{CertificateAuthority, NewAuthority};
use outrider_certs::tls::named_server_config;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::webhook::tests;

const NAME: &str = "outrider-control-plane.outrider-system.svc";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The webhooks' port on loopback, with everything known.
struct Port {
    address: SocketAddr,
    client: TlsConnector,
}

impl Port {
    async fn open() -> Self {
        let (now, path) = (SystemTime::now(), Path::new("the test's"));
        let domain = "cluster.local".parse().unwrap();
        let made = NewAuthority::generate(&domain, DAY, now).unwrap();
        let (certificate, key) = (made.certificate.as_bytes(), made.key.as_bytes());
        let authority =
            CertificateAuthority::from_pem((path, certificate), (path, key), &domain).unwrap();
        let names = [ServerName::try_from(NAME).unwrap()];
        let certificate = authority.issue_server(&names, DAY, now).unwrap();
        let config = named_server_config(&certificate, &[b"h2", b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            listener,
            serving: watch::channel(Some(config)).1,
            webhooks: tests::webhooks(),
        };
        tokio::spawn(server.run());
        let mut roots = RootCertStore::empty();
        for anchor in authority.trust_bundle().anchors() {
            roots.add(anchor.clone()).unwrap();
        }
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            client: Arc::new(client).into(),
        }
    }

    /// A connection from 127.0.0.`host`.
    async fn connect(&self, host: u8) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, host], 0).into()).unwrap();
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        self.client.connect(name, stream).await
    }

    /// So many from one address that say nothing; those of them that were let in.
    async fn crowd(&self, host: u8, count: usize) -> Vec<TlsStream<TcpStream>> {
        let mut crowd = Vec::new();
        for _ in 0..count {
            crowd.extend(self.connect(host).await);
        }
        crowd
    }
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_the_api_server_out() {
    let port = Port::open().await;
    let mut crowds = Vec::new();
    for host in 2..6 {
        crowds.push(port.crowd(host, 64).await);
        assert_eq!(crowds.last().unwrap().len(), 64);
    }
    let stream = timeout(PATIENCE, port.connect(1)).await.unwrap().unwrap();
    let (mut api_server, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "order"}]}});
    let body = tests::review(&kind, &pod);
    let review = || {
        let request = Request::post("/inject").header("content-type", JSON);
        let body = Full::new(Bytes::from(body.clone()));
        request.header("host", NAME).body(body).unwrap()
    };
    let mut ask = async || {
        let answer = api_server.send_request(review()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(status, StatusCode::OK, "{body:?}");
    };
    timeout(PATIENCE, ask()).await.unwrap();

    // Its connection stays, since it has one, and others have more.
    let late = port.crowd(6, 64).await;
    timeout(PATIENCE, ask()).await.unwrap();
    drop(late);
    // One of the first has gone.
    let mut first = crowds.remove(0);
    let ends = first.iter_mut().map(|stream| {
        // Nothing but the end comes.
        Box::pin(async { stream.read_u8().await.unwrap_err() })
    });
    timeout(PATIENCE, select_all(ends)).await.unwrap();
}

fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).unwrap();
    refuse(&request, path).map(|answer| answer.status().as_u16())
}

#[test]
fn what_is_no_review_is_refused_before_its_body_is_read() {
    let json = [("content-type", "application/json")];
    assert_eq!(status("POST", "/inject", &json), None);
    assert_eq!(
        status(
            "POST",
            "/validate",
            &[("content-type", "application/JSON; charset=utf-8")]
        ),
        None
    );
    assert_eq!(status("POST", "/", &json), Some(404));
    assert_eq!(status("POST", "/inject/x", &json), Some(404));
    assert_eq!(status("GET", "/inject", &json), Some(405));
    assert_eq!(status("POST", "/inject", &[]), Some(415));
    assert_eq!(
        status("POST", "/inject", &[("content-type", "application/yaml")]),
        Some(415)
    );
    assert_eq!(
        status("POST", "/inject", &[("content-type", "application/jsonx")]),
        Some(415)
    );
    let long = |length: &'static str| [json[0], ("content-length", length)];
    assert_eq!(status("POST", "/inject", &long("8388608")), None);
    assert_eq!(status("POST", "/inject", &long("8388609")), Some(413));
}
