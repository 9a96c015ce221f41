//! What can be chosen of an installation, and the names that cannot: other parts of the mesh know them.

use std::collections::BTreeMap;

use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrider_certs::spiffe::TrustDomain;

use crate::kubernetes::names;

/// Where the control plane runs.
pub const NAMESPACE: &str = names::SYSTEM;
/// The Deployment, the Service, the Lease, the roles.
pub const CONTROL_PLANE: &str = names::CONTROL_PLANE;
/// The control plane's ServiceAccount, and so its identity.
pub const SERVICE_ACCOUNT: &str = "control-plane";
/// The Secret of the certificate authority that the control plane makes.
pub const CA_SECRET: &str = names::CA_SECRET;
/// The ConfigMap of trust anchors in each namespace of the mesh.
pub const TRUST_BUNDLE: &str = names::TRUST_BUNDLE;
/// The MutatingWebhookConfiguration.
pub const INJECTOR: &str = names::INJECTOR;
/// The ValidatingWebhookConfiguration.
pub const VALIDATOR: &str = names::VALIDATOR;
/// The label of namespaces and pods that says whether pods get a sidecar.
pub const INJECT_LABEL: &str = names::INJECT;

/// Sidecars.
pub const GRPC_PORT: i32 = 15012;
/// Metrics and health.
pub const ADMIN_PORT: i32 = 15014;
/// The API server's webhooks.
pub const WEBHOOK_PORT: i32 = 15017;

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Settings {
    pub profile: Profile,
    /// Without a slash at its end.
    pub registry: Option<String>,
    pub tag: String,
    pub pull_policy: PullPolicy,
    pub pull_secrets: Vec<String>,
    /// Left out: the control plane's default.
    pub trust_domain: Option<TrustDomain>,
    pub authority: Authority,
    pub network_policy: bool,
    /// Tokens are taken from any address.
    pub translated_addresses: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            registry: None,
            tag: env!("CARGO_PKG_VERSION").to_owned(),
            pull_policy: PullPolicy::default(),
            pull_secrets: Vec::new(),
            trust_domain: None,
            authority: Authority::Own,
            network_policy: false,
            translated_addresses: false,
        }
    }
}

impl Settings {
    /// The full name of one of the images.
    pub(super) fn image(&self, name: &str) -> String {
        let tag = &self.tag;
        match &self.registry {
            Some(registry) => format!("{registry}/{name}:{tag}"),
            None => format!("{name}:{tag}"),
        }
    }
}

/// How much may fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// One replica: while it is away nothing changes, and pods of the mesh do not start
    #[default]
    Default,
    /// Three replicas, apart from each other, at most one of which may be drained at once
    Ha,
}

/// When nodes pull an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PullPolicy {
    /// Each time a container starts
    #[value(name = "Always")]
    Always,
    /// Where the node does not have it
    #[default]
    #[value(name = "IfNotPresent")]
    IfNotPresent,
    /// Never: the node has it
    #[value(name = "Never")]
    Never,
}

impl PullPolicy {
    /// Kubernetes' word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Who makes the certificate authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The control plane.
    Own,
    /// Somebody else, in this Secret, which is read only.
    Elsewhere(String),
}

/// The labels of everything.
pub(super) fn labels() -> BTreeMap<String, String> {
    let mut labels = selector();
    labels.insert(
        "app.kubernetes.io/part-of".to_owned(),
        "outrider".to_owned(),
    );
    labels
}

/// The labels by which the control plane's pods are selected; they may never change.
pub(super) fn selector() -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/name", "outrider"),
        ("app.kubernetes.io/component", "control-plane"),
    ];
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Of an object of the whole cluster.
pub(super) fn of_cluster(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

/// Of an object in the control plane's namespace.
pub(super) fn of_namespace(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(NAMESPACE.to_owned()),
        ..of_cluster(name)
    }
}
