//! Into a pod through the API server: one HTTP request to one of its ports, also to one that listens
//! on its loopback only. Needs `pods/portforward`, and no way to the pods' network.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use kube::client::UpgradeConnectionError;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::access::{Cluster, ClusterError};
use crate::fetch::{self, FetchError};

/// How long the reason for a broken connection is waited for.
const REASON: Duration = Duration::from_millis(200);

/// A port of a pod. Displays as `NAMESPACE/NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) port: u16,
}

/// Why a pod did not answer.
#[derive(Debug, Error)]
pub(crate) enum ForwardError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(
        "{0}: the API server forbids port-forwarding: it takes get and create of pods/portforward in that namespace; \
         `kubectl auth can-i create pods/portforward` asks for both"
    )]
    Forbidden(String),
    #[error("{0}: there is no such pod any more")]
    Gone(String),
    #[error("{0}: the API server did not open a way to it: {1}")]
    Upgrade(String, String),
    #[error("{0}: nobody listens there: {1}")]
    Refused(String, String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What a pod answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// By its own clock.
    pub(crate) date: Option<SystemTime>,
    pub(crate) body: Bytes,
}

impl Door {
    pub(crate) fn new(namespace: &str, pod: &str, port: u16) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
        }
    }

    /// GETs `path`, all within `limit`.
    pub(crate) async fn get(
        &self,
        cluster: &Cluster,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, ForwardError> {
        let place = self.to_string();
        let exchange = async {
            let (stream, forwarder) = self.open(cluster).await?;
            self.exchange(stream, forwarder, path).await
        };
        let answer = timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(FetchError::Timeout(place, limit).into()))?;
        Ok(Answer {
            status: answer.status(),
            date: date(answer.headers()),
            body: answer.into_body(),
        })
    }

    /// A connection. The forwarder knows why, when it breaks.
    pub(crate) async fn open(
        &self,
        cluster: &Cluster,
    ) -> Result<
        (
            impl AsyncRead + AsyncWrite + Unpin + Send + use<>,
            Portforwarder,
        ),
        ForwardError,
    > {
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &self.namespace);
        let mut forwarder = pods
            .portforward(&self.pod, &[self.port])
            .await
            .map_err(|error| self.unopened(cluster, error))?;
        match forwarder.take_stream(self.port) {
            Some(stream) => Ok((stream, forwarder)),
            None => Err(ForwardError::Upgrade(
                self.to_string(),
                "no stream".to_owned(),
            )),
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        mut forwarder: Portforwarder,
        path: &str,
    ) -> Result<Response<Bytes>, ForwardError> {
        let told = forwarder.take_error(self.port);
        let place = self.to_string();
        let exchange = fetch::exchange(stream, &place, Request::get(path), Bytes::new()).await;
        let broken = match exchange {
            Ok(answer) => return Ok(answer),
            Err(broken) => broken,
        };
        let said = match told {
            Some(told) => timeout(REASON, told).await.ok().flatten(),
            None => None,
        };
        forwarder.abort();
        Err(match said {
            Some(said) => ForwardError::Refused(place, reason(&said)),
            None => broken.into(),
        })
    }

    fn unopened(&self, cluster: &Cluster, error: kube::Error) -> ForwardError {
        let place = self.to_string();
        match error {
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
                match status {
                    StatusCode::FORBIDDEN => ForwardError::Forbidden(place),
                    StatusCode::NOT_FOUND => ForwardError::Gone(place),
                    status => ForwardError::Upgrade(place, status.to_string()),
                }
            }
            kube::Error::UpgradeConnection(error) => {
                ForwardError::Upgrade(place, error.to_string())
            }
            error => cluster.failed(error).into(),
        }
    }
}

/// What a kubelet says of a connection that it could not make names sandboxes and namespaces, which
/// say nothing to whoever has asked.
fn reason(said: &str) -> String {
    const REFUSED: &str = "connection refused";
    match said {
        said if said.contains(REFUSED) => REFUSED.to_owned(),
        said => said.trim().to_owned(),
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.pod, self.port)
    }
}

/// When whoever answered thinks that it is (RFC 9110 §6.6.1); to the second.
pub(crate) fn date(headers: &header::HeaderMap) -> Option<SystemTime> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let parsed = k8s_openapi::jiff::fmt::rfc2822::parse(text).ok()?;
    Some(parsed.timestamp().into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn what_a_kubelet_says_comes_to_a_few_words() {
        let said = "error forwarding port 15000 to pod cc443f, uid : failed to connect to localhost:15000 inside \
                    namespace \"cc443f\", IPv4: dial tcp4 127.0.0.1:15000: connect: connection refused IPv6 dial tcp6: \
                    address localhost: no suitable address found";
        assert_eq!(reason(said), "connection refused");
        assert_eq!(reason("no such container\n"), "no such container");
    }

    #[test]
    fn a_date_is_a_moment() {
        let read = |text| {
            let headers = HeaderMap::from_iter([(header::DATE, HeaderValue::from_static(text))]);
            date(&headers)
        };
        let moment = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(moment));
        assert_eq!(read("yesterday"), None);
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
