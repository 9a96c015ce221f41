//! Which kind of sidecar the cluster takes: native ones are on in API server and kubelets from Kubernetes
//! 1.29 on. Before, a pod with one hangs in its init containers, so nothing is guessed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use outrider_api::annotations::SidecarKind;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::kubernetes::patience::Patience;

/// Clusters are upgraded.
const AGAIN: Duration = Duration::from_secs(300);
/// All nodes of a large cluster are listed by then.
const ANSWER: Duration = Duration::from_secs(30);
/// The first Kubernetes 1.x that takes native sidecars.
const NATIVE: u32 = 29;
/// A kubelet is so many versions older than the API server at the most.
const SKEW: u32 = 3;
/// So many nodes are read at once.
const PAGE: u32 = 500;

/// Keeps what is known of it.
pub(super) struct Keeper {
    pub(super) client: Client,
    /// Absent until it is known.
    pub(super) kind: watch::Sender<Option<SidecarKind>>,
}

impl Keeper {
    /// Asks until it is known, and from then on now and then.
    pub(super) async fn keep(self) {
        keep(&self.kind, || ask(&self.client)).await;
    }
}

async fn keep<F>(kind: &watch::Sender<Option<SidecarKind>>, ask: impl Fn() -> F)
where
    F: Future<Output = kube::Result<SidecarKind>>,
{
    let mut patience = Patience::new();
    loop {
        let error = match timeout(ANSWER, ask()).await {
            Ok(Ok(now)) => {
                if kind.send_replace(Some(now)) != Some(now) {
                    tracing::info!(kind = ?now, "the sidecars that pods get");
                }
                sleep(AGAIN).await;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        if kind.borrow().is_none() {
            tracing::warn!(
                error,
                "which sidecars this cluster takes is not known yet: pods of the mesh are not created"
            );
        } else {
            tracing::debug!(error, "which sidecars this cluster takes is asked again");
        }
        patience.wait().await;
    }
}

async fn ask(client: &Client) -> kube::Result<SidecarKind> {
    let version = client.apiserver_version().await?;
    match of_server(&version.major, &version.minor) {
        Some(kind) => Ok(kind),
        None => of_nodes(client).await,
    }
}

/// By the version of the API server; `None`: it depends on the kubelets. A version that cannot be read is
/// a new one.
fn of_server(major: &str, minor: &str) -> Option<SidecarKind> {
    match (number(major), number(minor)) {
        (Some(1), Some(minor)) if minor < NATIVE => Some(SidecarKind::Classic),
        (Some(1), Some(minor)) if minor < NATIVE + SKEW => None,
        _ => Some(SidecarKind::Native),
    }
}

/// While nodes are upgraded, a pod may come to any of them.
async fn of_nodes(client: &Client) -> kube::Result<SidecarKind> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = nodes.list(&params).await?;
        let infos = page
            .items
            .iter()
            .filter_map(|node| node.status.as_ref()?.node_info.as_ref());
        let mut versions = infos.map(|info| info.kubelet_version.as_str());
        if versions.any(is_old) {
            return Ok(SidecarKind::Classic);
        }
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params = params.continue_token(&next),
            _ => return Ok(SidecarKind::Native),
        }
    }
}

/// `v1.28.3`, also with something behind.
fn is_old(kubelet: &str) -> bool {
    let parts = kubelet.trim_start_matches('v').split_once('.');
    parts.is_some_and(|(major, minor)| {
        number(major) == Some(1) && number(minor).is_some_and(|minor| minor < NATIVE)
    })
}

fn number(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::core::Status;

    use super::*;

    #[test]
    fn sidecars_are_native_where_the_cluster_takes_them() {
        for (major, minor, expected) in [
            ("1", "27", Some(SidecarKind::Classic)),
            ("1", "28+", Some(SidecarKind::Classic)),
            ("1", "29", None),
            ("1", "31+", None),
            ("1", "32", Some(SidecarKind::Native)),
            ("1", "36+", Some(SidecarKind::Native)),
            ("2", "0", Some(SidecarKind::Native)),
            ("", "", Some(SidecarKind::Native)),
        ] {
            assert_eq!(of_server(major, minor), expected, "{major}.{minor}");
        }
        for old in ["v1.28.3", "v1.26.15-eks-1234567", "1.28"] {
            assert!(is_old(old), "{old}");
        }
        for new in ["v1.29.0", "v1.31.2+k3s1", "v2.0.0", "", "unknown"] {
            assert!(!is_old(new), "{new}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_until_it_is_known_and_again_after_an_upgrade() {
        use SidecarKind::{Classic, Native};

        let failure = || Err(kube::Error::Api(Box::new(Status::failure("no", "No"))));
        let answers = [
            failure(),
            failure(),
            failure(),
            Ok(Classic),
            Ok(Classic),
            failure(),
            Ok(Native),
        ];
        let answers = Mutex::new(answers.into_iter());
        let (kind, mut known) = watch::channel(None);
        let ask = || {
            let answer = answers.lock().unwrap().next();
            // What was said last is said for ever.
            std::future::ready(answer.unwrap_or(Ok(Native)))
        };
        let changes = async {
            let mut seen = vec![*known.borrow_and_update()];
            while seen.last() != Some(&Some(Native)) {
                known.changed().await.unwrap();
                let now = *known.borrow_and_update();
                if seen.last() != Some(&now) {
                    seen.push(now);
                }
            }
            seen
        };
        tokio::select! {
            () = keep(&kind, ask) => unreachable!("it has no end"),
            seen = changes => assert_eq!(seen, [None, Some(Classic), Some(Native)]),
        }
    }
}
