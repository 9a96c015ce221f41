//! What a control plane on Kubernetes has besides: for identity the tasks that elect a leader, keep the
//! authority and hand out the trust bundle, and the reviewer of tokens; and the webhooks.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context as _;
use outrider_api::annotations::SidecarKind;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Base, bind};
use crate::args::KubernetesArgs;
use crate::identity::Tokens;
use crate::index::DEFAULT_TRUST_DOMAIN;
use crate::inject::Settings;
use crate::kubernetes::authority::replicas::Replicas;
use crate::kubernetes::authority::{Keeper, Kept, Timing};
use crate::kubernetes::bundle::Bundles;
use crate::kubernetes::leader::Candidate;
use crate::kubernetes::tokens::{PeerAddresses, TokenReviewer};
use crate::kubernetes::{Context, MANAGER, Progress, StatusWriter, View};
use crate::reload::{Authorities, AuthorityFiles};
use crate::webhook;

/// What it takes.
pub(super) struct Identity<'a> {
    pub(super) context: &'a Context,
    pub(super) cluster: &'a KubernetesArgs,
    /// An authority that is no Secret's.
    pub(super) given: Option<AuthorityFiles>,
    pub(super) meshed: watch::Receiver<Arc<BTreeSet<String>>>,
    /// The port of everybody's admin address.
    pub(super) admin: u16,
    pub(super) progress: Progress,
}

impl Identity<'_> {
    /// Starts the tasks, which end at the shutdown; says where the authority comes from, and whether
    /// this replica leads.
    pub(super) fn start(
        self,
        base: &Base,
    ) -> (Authorities, Vec<JoinHandle<()>>, watch::Receiver<bool>) {
        let (leads, is_leader) = watch::channel(false);
        let bundles = Bundles {
            context: self.context.clone(),
            authority: base.authority.follow(),
            meshed: self.meshed.clone(),
            leads: is_leader.clone(),
        };
        let status = StatusWriter {
            context: self.context.clone(),
            progress: self.progress.clone(),
            meshed: self.meshed.clone(),
            leads: is_leader.clone(),
            port: self.admin,
        };
        let mut tasks = vec![
            tokio::spawn(status.run(base.shutdown.subscribe())),
            tokio::spawn(self.candidate(leads).run(base.shutdown.subscribe())),
            tokio::spawn(bundles.run(base.shutdown.subscribe())),
        ];
        if let Some(files) = self.given {
            return (Authorities::Files(files), tasks, is_leader);
        }
        let (known, domain) = watch::channel(None);
        let keeper = Keeper {
            kept: if self.cluster.ca_secret_managed_elsewhere {
                Kept::Elsewhere
            } else {
                Kept::Here
            },
            context: self.context.clone(),
            name: self.cluster.ca_secret.clone(),
            authority: base.authority.clone(),
            domain,
            store: Arc::clone(&base.store),
            leads: is_leader.clone(),
            replicas: Replicas {
                context: self.context.clone(),
                own: base.trusted(),
                port: self.admin,
            },
            lifetime: self.cluster.ca_lifetime,
            timing: Timing {
                settle: self.cluster.ca_settle,
                patience: self.cluster.ca_patience,
            },
        };
        tasks.push(tokio::spawn(keeper.run(base.shutdown.subscribe())));
        (Authorities::Secret(known), tasks, is_leader)
    }

    fn candidate(&self, leads: watch::Sender<bool>) -> Candidate {
        Candidate {
            client: self.context.client.clone(),
            namespace: self.context.namespace.clone(),
            name: MANAGER.to_owned(),
            identity: identity(self.cluster.replica.as_deref()),
            leads,
            gauge: self.context.metrics.authority.leads.clone(),
        }
    }
}

/// The webhooks of this replica, not yet started.
///
/// # Errors
/// Their address is in use.
pub(super) async fn webhooks(
    context: &Context,
    cluster: &KubernetesArgs,
    base: &Base,
    view: View,
    leader: watch::Receiver<bool>,
) -> anyhow::Result<webhook::Parts> {
    Ok(webhook::Parts {
        client: context.client.clone(),
        listener: bind(cluster.webhook).await.context("--webhook")?,
        names: webhook::names(&context.namespace, &cluster.webhook_name),
        settings: sidecars(cluster)?,
        standing: view.standing,
        authority: base.authority.follow(),
        leader,
        metrics: base.metrics.webhook.clone(),
        replica: cluster.replica.clone(),
    })
}

/// What the sidecars of this mesh have in common.
fn sidecars(cluster: &KubernetesArgs) -> anyhow::Result<Settings> {
    let image = cluster.proxy_image.clone();
    let address = cluster.control_plane_address.clone();
    Ok(Settings {
        image: image.unwrap_or_else(|| Settings::default_image(None)),
        image_pull_policy: cluster.proxy_image_pull_policy.clone(),
        control_plane: address
            .unwrap_or_else(|| Settings::default_control_plane(&cluster.namespace)),
        // The authority's takes its place.
        trust_domain: DEFAULT_TRUST_DOMAIN.parse()?,
        namespace: cluster.namespace.clone(),
        // As soon as it is known, that which the cluster takes.
        sidecar: SidecarKind::Native,
    })
}

/// Who may ask for certificates.
pub(super) fn tokens(context: &Context, cluster: &KubernetesArgs) -> Tokens {
    let addresses = if cluster.translated_addresses {
        PeerAddresses::Translated
    } else {
        PeerAddresses::Checked
    };
    let reviewer = TokenReviewer::new(context.client.clone(), addresses);
    Tokens::Reviewed(Box::new(reviewer))
}

/// The replica's name, and what no other process of that name has.
fn identity(replica: Option<&str>) -> String {
    let host = || std::env::var("HOSTNAME").ok();
    let name = replica.map(str::to_owned).or_else(host);
    let name = name.unwrap_or_else(|| "outrider-control-plane".to_owned());
    format!("{name}_{:08x}", fastrand::u32(..))
}
