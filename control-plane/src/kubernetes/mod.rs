//! The mesh as a Kubernetes API server holds it. [`Source`] watches and keeps what it needs of each
//! object, [`Held`] is all of it at one moment, [`View`] what the rest of the control plane may know of
//! it.

pub(crate) mod authority;
pub(crate) mod bundle;
mod cluster;
mod definitions;
mod degrade;
mod derived;
mod entries;
mod kinds;
pub(crate) mod leader;
mod living;
mod namespaces;
mod objects;
mod once;
pub(crate) mod patience;
mod pods;
mod ported;
mod services;
mod source;
mod status;
pub(crate) mod tokens;
mod watches;

use std::collections::BTreeMap;

use kube::Client;
use outrider_certs::spiffe::TrustDomain;

use crate::metrics::Metrics;

pub(crate) use self::degrade::{DEFAULT_DENY, MESH_CONFIG, TOLERATED};
pub use self::once::{ReadError, Reading, read};
pub(crate) use self::source::{Held, Source, Standing, View};
pub(crate) use self::status::{Progress, StatusWriter};

/// Who writes, for the API server.
pub(crate) const MANAGER: &str = "outrider-control-plane";
/// Selects the control plane's own pods.
pub(crate) const SELECTOR: &str =
    "app.kubernetes.io/name=outrider,app.kubernetes.io/component=control-plane";

/// The labels of what the control plane makes.
pub(crate) fn labels() -> BTreeMap<String, String> {
    [("app.kubernetes.io/part-of", "outrider")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Why there is no API server to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(
        "expected to be in a pod, or a kubeconfig (in ~/.kube/config, or where KUBECONFIG says): {0}"
    )]
    Config(#[from] kube::config::InferConfigError),
    #[error("the client of the API server: {0}")]
    Client(#[from] kube::Error),
}

/// Whether there is no such object, or no such kind in that version. Of the latter the API server says it
/// in a plain text, which is no `Status` with the reason `NotFound`.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What was asked for by its name; `None`: it [`is_not_found`].
pub(crate) fn found<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What every part needs to talk to the cluster.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    /// The control plane's own namespace.
    pub(crate) namespace: String,
    /// Whose identities these are, where no MeshConfig says it.
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) metrics: Metrics,
}

/// In a pod, of its own cluster; else of the kubeconfig.
///
/// # Errors
/// There is neither.
pub(crate) async fn client() -> Result<Client, ClientError> {
    let config = kube::Config::infer().await?;
    Ok(Client::try_from(config)?)
}
