//! What the sidecars of a cluster measured and know, asked through the API server.

use std::time::Duration;

use serde::Deserialize;

use super::access::{Cluster, ClusterError};
use super::forward::{Answer, Door, ForwardError};
use super::many::ask_each;
use super::names::{ADMIN_PORT, TELEMETRY_PORT};
use super::pods::{self, Scope, Sidecar};
use crate::certs::authorities::Life;
use crate::telemetry::edges::{Scrape, Scraped};
use crate::telemetry::exposition::Exposition;

/// How long one pod may take, the way through API server and kubelet included.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Everything that the sidecars of `scope` expose now, and who did not answer, with the reason.
pub(crate) async fn scrape(
    cluster: &Cluster,
    scope: &Scope,
) -> Result<(Scrape, Vec<(String, String)>), ClusterError> {
    let sidecars = pods::sidecars(cluster, scope).await?;
    let answers = ask_each("sidecars", sidecars, |sidecar| async move {
        let door = Door::new(&sidecar.namespace, &sidecar.pod, TELEMETRY_PORT);
        let answer = good(&door, door.get(cluster, "/metrics", LIMIT).await);
        (sidecar, answer)
    })
    .await;
    let (mut scrape, mut silent) = (Scrape::new(), Vec::new());
    for (sidecar, answer) in answers {
        match answer {
            Ok(answer) => {
                let metrics = Exposition::parse(&String::from_utf8_lossy(&answer.body));
                let identity = sidecar.identity();
                scrape.insert(sidecar.name(), Scraped { identity, metrics });
            }
            Err(reason) => silent.push((sidecar.name(), reason)),
        }
    }
    silent.sort();
    Ok((scrape, silent))
}

/// What a sidecar says of itself at its admin port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known {
    pub(crate) seconds_since_control_plane: Option<u64>,
    pub(crate) certificate: Option<Certificate>,
}

/// The certificate that it shows to others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    /// How many it has had.
    pub(crate) generation: u64,
}

impl Certificate {
    pub(crate) fn life(&self) -> Life {
        Life {
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

impl Known {
    /// Reads the answer to `GET /config`.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| format!("/config is not understood: {error}"))
    }
}

/// What the sidecar of one pod knows, and its answer with the time of its clock.
pub(crate) async fn ask(cluster: &Cluster, sidecar: &Sidecar) -> Result<(Known, Answer), String> {
    let door = Door::new(&sidecar.namespace, &sidecar.pod, ADMIN_PORT);
    let answer = good(&door, door.get(cluster, "/config", LIMIT).await)?;
    let known = Known::parse(&answer.body).map_err(|error| format!("{door}: {error}"))?;
    Ok((known, answer))
}

/// The reason of who does not answer as it should begins with its name.
fn good(door: &Door, answer: Result<Answer, ForwardError>) -> Result<Answer, String> {
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status.is_success() {
        true => Ok(answer),
        false => Err(format!("{door} answers {}", answer.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sidecar_says_is_understood() {
        let said = br#"{"version": 7, "secondsSinceControlPlane": 3, "certificate":
            {"id": "spiffe://a/ns/b/sa/c", "notBefore": 10, "notAfter": 20, "generation": 2}, "workload": null}"#;
        let known = Known::parse(said).unwrap();
        assert_eq!(known.seconds_since_control_plane, Some(3));
        assert_eq!(known.certificate.unwrap().not_after, 20);
        let none = br#"{"secondsSinceControlPlane": null, "certificate": null}"#;
        assert_eq!(Known::parse(none).unwrap().certificate, None);
        assert!(Known::parse(b"try /metrics").is_err());
    }
}
