//! Whom all sidecars of the cluster trust: those of this replica, and, asked over HTTP, those of the
//! others.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use outrider_certs::bundle::TrustBundle;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::Trusted;
use crate::kubernetes::{Context, SELECTOR};

/// A replica that has not answered by then has sidecars that trust nobody new.
const ANSWER: Duration = Duration::from_secs(2);
/// 64 certificates in PEM.
const MAX_BYTES: usize = 256 * 1024;

/// See the module.
pub(crate) struct Replicas {
    pub(crate) context: Context,
    pub(crate) own: Trusted,
    /// Of everybody's admin address.
    pub(crate) port: u16,
}

impl Replicas {
    /// Whether every connected sidecar of every replica trusts `wanted`. Who cannot be asked does not.
    pub(super) async fn all_trust(&self, wanted: &TrustBundle) -> bool {
        if !self.own.bundle().is_some_and(|own| own.includes(wanted)) {
            return false;
        }
        let addresses = match addresses(&self.context).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(%error, "the replicas of the control plane cannot be listed");
                return false;
            }
        };
        let asked = addresses.into_iter().map(|address| async move {
            let trusted = timeout(ANSWER, ask(SocketAddr::new(address, self.port), "/trust", MAX_BYTES)).await;
            let text = trusted.ok().flatten().unwrap_or_default();
            let bundle = TrustBundle::from_pem(wanted.trust_domain().clone(), &text);
            let all = bundle.is_ok_and(|bundle| bundle.includes(wanted));
            if !all {
                tracing::debug!(%address, "a replica has sidecars that do not trust the next authority");
            }
            all
        });
        join_all(asked).await.into_iter().all(|all| all)
    }
}

/// Of every replica that runs, this one too.
pub(in crate::kubernetes) async fn addresses(
    context: &Context,
) -> Result<Vec<IpAddr>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &context.namespace);
    let pods = api.list(&ListParams::default().labels(SELECTOR)).await?;
    let statuses = pods.items.into_iter().filter_map(|pod| pod.status);
    let running = statuses.filter(|status| status.phase.as_deref() == Some("Running"));
    let addresses = running.filter_map(|status| status.pod_ip?.parse().ok());
    Ok(addresses.collect())
}

/// What a replica's admin address answers, if it is no longer than `most` bytes.
pub(in crate::kubernetes) async fn ask(
    address: SocketAddr,
    path: &str,
    most: usize,
) -> Option<Bytes> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get(path)
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answered = async {
        let response = sender.send_request(request).await.ok()?;
        let body = Limited::new(response.into_body(), most);
        Some(body.collect().await.ok()?.to_bytes())
    };
    tokio::select! {
        answer = answered => answer,
        _ = connection => None,
    }
}
