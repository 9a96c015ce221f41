//! The admission webhooks: `/inject` gives sidecars to pods that are created, `/validate` judges policy
//! before it is stored. Every replica answers; only the leader writes to the webhooks' configurations.
//!
//! - [`review`]: what is asked and answered;
//! - `mutate`, `validate`: the two answers;
//! - `server`: the port; `connections`: who has a place there; `certificate`: what it is known by; `bundle`: how the API server knows it;
//! - `sidecars`: which kind the cluster takes;
//! - `events`: who is told of pods without a sidecar.

mod bundle;
mod certificate;
mod connections;
mod events;
mod mutate;
pub mod review;
mod server;
mod sidecars;
mod validate;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use outrider_api::annotations::SidecarKind;
use rustls::pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use self::connections::Share;
use self::events::Events;
use self::review::{Answer, Request, ReviewError};
use crate::identity::Replacements;
use crate::index::DEFAULT_TRUST_DOMAIN;
use crate::inject::Settings;
use crate::kubernetes::Standing;
use crate::metrics::WebhookMetrics;

pub use self::bundle::{MUTATING, VALIDATING};

/// A review waits so long for a replica that has just started; the API server gives up after ten seconds.
const EARLY: Duration = Duration::from_secs(5);
/// So many objects are judged at once: a thousand that are applied together must not keep the sidecars
/// waiting.
const JUDGES: usize = 2;

/// A kind of ours that a mesh on Kubernetes has no use for.
const WORKLOAD: &str = "Workload";
const NOT_READ: &str = "is not read: on Kubernetes the pods are the workloads of a mesh; a Workload is for a directory of files";

/// Whoever waits for a judge is told so after so long: by then the API server has given up.
const JUDGE: Duration = Duration::from_secs(10);

/// What the webhooks are made of.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) listener: TcpListener,
    /// By which names the API server calls them.
    pub(crate) names: Vec<ServerName<'static>>,
    /// What every sidecar gets; the trust domain is the authority's as soon as there is one.
    pub(crate) settings: Settings,
    /// What is applied; absent until anything was judged.
    pub(crate) standing: watch::Receiver<Option<Arc<Standing>>>,
    pub(crate) authority: Replacements,
    pub(crate) leader: watch::Receiver<bool>,
    pub(crate) metrics: WebhookMetrics,
    /// Which replica this is.
    pub(crate) replica: Option<String>,
}

impl Parts {
    /// Starts what they take.
    pub(crate) fn start(self) -> Vec<JoinHandle<()>> {
        let (serving, is_serving) = watch::channel(None);
        let (events, writer) = Events::new();
        let (kind, sidecars) = watch::channel(None);
        let server = server::Server {
            listener: self.listener,
            serving: is_serving,
            webhooks: Webhooks(Arc::new(Shared {
                settings: self.settings,
                sidecars,
                standing: self.standing,
                authority: self.authority.clone(),
                events,
                judges: Arc::new(Semaphore::new(JUDGES)),
                metrics: self.metrics.clone(),
            })),
        };
        let certificate = certificate::Keeper {
            authority: self.authority.clone(),
            names: self.names,
            serving,
            metrics: self.metrics,
            clock: Box::new(SystemTime::now),
        };
        let bundle = bundle::Keeper {
            client: self.client.clone(),
            authority: self.authority,
            leader: self.leader,
        };
        let sidecars = sidecars::Keeper {
            client: self.client.clone(),
            kind,
        };
        vec![
            tokio::spawn(server.run()),
            tokio::spawn(certificate.keep()),
            tokio::spawn(bundle.keep()),
            tokio::spawn(sidecars.keep()),
            tokio::spawn(writer.run(self.client, self.replica)),
        ]
    }
}

/// The names by which a cluster knows the webhooks of a control plane in `namespace`, and further ones.
pub(crate) fn names(namespace: &str, further: &[ServerName<'static>]) -> Vec<ServerName<'static>> {
    let service = format!("outrider-control-plane.{namespace}");
    let of_service = ["svc".to_owned(), format!("svc.{DEFAULT_TRUST_DOMAIN}")]
        .into_iter()
        .filter_map(|suffix| ServerName::try_from(format!("{service}.{suffix}")).ok());
    of_service.chain(further.iter().cloned()).collect()
}

/// Answers reviews; cheap to clone.
#[derive(Clone)]
pub(crate) struct Webhooks(Arc<Shared>);

struct Shared {
    settings: Settings,
    /// Those that the cluster takes; absent until that is known.
    sidecars: watch::Receiver<Option<SidecarKind>>,
    standing: watch::Receiver<Option<Arc<Standing>>>,
    authority: Replacements,
    events: Events,
    judges: Arc<Semaphore>,
    metrics: WebhookMetrics,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("the answer cannot be written: {0}")]
    Write(#[from] serde_json::Error),
    #[error("the object was not judged to the end")]
    Unfinished,
    #[error("this replica has only begun to read the cluster")]
    Early,
    #[error(
        "this replica does not know yet which sidecars this cluster takes: the API server has not told \
         it its version, or that of the kubelets"
    )]
    Sidecars,
    #[error("this replica judges more objects than it can")]
    Busy,
}

impl Webhooks {
    pub(crate) const PATHS: [&str; 2] = ["/inject", "/validate"];

    /// The body that answers `body`, which came to `path` from somebody who has `share` of what there is.
    async fn review(
        &self,
        path: &str,
        body: &[u8],
        share: &Share,
    ) -> Result<Vec<u8>, WebhookError> {
        let inject = path == Self::PATHS[0];
        let webhook = if inject { "inject" } else { "validate" };
        let answer = match Request::read(body) {
            Ok(request) if inject => self.inject(request).await,
            Ok(request) => self.validate(request, share).await,
            Err(error) => Err(error.into()),
        };
        let result = match &answer {
            Ok((_, result, _)) => result,
            Err(_) => "invalid",
        };
        self.0
            .metrics
            .reviews
            .with_label_values(&[webhook, result])
            .inc();
        let (answer, _, uid) = answer?;
        Ok(answer.write(&uid)?)
    }

    async fn inject(
        &self,
        request: Request,
    ) -> Result<(Answer, &'static str, String), WebhookError> {
        let sidecar = known(&self.0.sidecars).await;
        let sidecar = sidecar.ok_or(WebhookError::Sidecars)?;
        let mutated = mutate::mutate(&request, &self.settings(sidecar));
        if let Some(left) = mutated.told {
            self.0.events.tell(&request, left);
        }
        if let Some(reason) = &mutated.answer.refusal {
            tracing::info!(namespace = request.namespace, reason, "a pod was refused");
        }
        Ok((mutated.answer, mutated.result, request.uid))
    }

    /// The settings, with what is known by now: the trust domain is the authority's.
    fn settings(&self, sidecar: SidecarKind) -> Settings {
        let mut settings = Settings {
            sidecar,
            ..self.0.settings.clone()
        };
        if let Some(authority) = &*self.0.authority.borrow() {
            settings.trust_domain = authority.trust_bundle().trust_domain().clone();
        }
        settings
    }

    /// A judge, once it is the turn of whoever has `share`.
    async fn judge(&self, share: &Share) -> Result<[OwnedSemaphorePermit; 2], WebhookError> {
        // Closed semaphores do not happen.
        let free = async |judges: &Arc<Semaphore>| {
            let judge = Arc::clone(judges).acquire_owned().await;
            judge.map_err(|_| WebhookError::Unfinished)
        };
        let turn = free(&share.judges).await?;
        Ok([turn, free(&self.0.judges).await?])
    }

    async fn validate(
        &self,
        request: Request,
        share: &Share,
    ) -> Result<(Answer, &'static str, String), WebhookError> {
        let uid = request.uid.clone();
        let is_workload = request.kind.kind == WORKLOAD;
        if !validate::concerns(&request) {
            return Ok((Answer::allowed(), "other", uid));
        }
        let judge = timeout(JUDGE, self.judge(share)).await;
        let judge = judge.map_err(|_| WebhookError::Busy)??;
        let standing = known(&self.0.standing).await.ok_or(WebhookError::Early)?;
        let authority = self.0.authority.borrow().clone();
        let namespace = self.0.settings.namespace.clone();
        let judged = spawn_blocking(move || {
            // It judges on where nobody waits for it any more.
            let _judge = judge;
            let trust = authority.map(|authority| authority.trust_bundle());
            let beside = validate::Beside {
                standing: &standing,
                trust: trust.as_ref(),
                namespace: &namespace,
            };
            validate::validate(&request, beside)
        });
        let mut answer = judged.await.map_err(|_| WebhookError::Unfinished)?;
        let result = match answer.refusal {
            Some(_) => "refused",
            None => "allowed",
        };
        if is_workload && result == "allowed" {
            answer = answer.warning(NOT_READ);
        }
        Ok((answer, result, uid))
    }
}

/// What is in it, once anything is; `None`: it takes too long.
async fn known<T: Clone>(receiver: &watch::Receiver<Option<T>>) -> Option<T> {
    let mut receiver = receiver.clone();
    let first = timeout(EARLY, receiver.wait_for(Option::is_some)).await;
    first.ok()?.ok()?.clone()
}

#[cfg(test)]
mod tests;
