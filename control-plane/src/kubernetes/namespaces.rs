//! Namespaces, and which of them are being deleted. Kubernetes deletes what is in one in any order, and says so of each
//! object as if somebody had meant that object; but its policies are for its pods, which may go last.

use k8s_openapi::api::core::v1;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use outrider_api::annotations::INJECT;

use super::cluster::Namespace;

/// So many are read at once.
const PAGE: u32 = 500;

/// A namespace that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

impl Ending {
    /// `None`: it stays.
    fn of(namespace: PartialObjectMeta<v1::Namespace>) -> Option<Self> {
        let metadata = namespace.metadata;
        metadata.deletion_timestamp?;
        Some(Self {
            name: metadata.name?,
            uid: metadata.uid,
        })
    }
}

/// What is kept of one.
pub(super) fn read(namespace: &v1::Namespace) -> Namespace {
    let labels = namespace.metadata.labels.as_ref();
    let inject = labels.and_then(|labels| labels.get(INJECT));
    Namespace {
        uid: namespace.metadata.uid.clone(),
        is_meshed: inject.is_some_and(|inject| inject == "enabled"),
        is_ending: namespace.metadata.deletion_timestamp.is_some(),
    }
}

/// Whether it is being deleted. It is marked before the first of its objects is deleted, and goes after the
/// last; what is read here is never older than a deletion that was heard of before.
pub(super) async fn ending(client: Client, name: &str) -> kube::Result<Option<Ending>> {
    let found = Api::<v1::Namespace>::all(client)
        .get_metadata_opt(name)
        .await?;
    Ok(found.and_then(Ending::of))
}

/// All that are.
pub(super) async fn all_ending(client: Client) -> kube::Result<Vec<Ending>> {
    let api = Api::<v1::Namespace>::all(client);
    let mut params = ListParams::default().limit(PAGE);
    let mut ending = Vec::new();
    loop {
        let page = api.list_metadata(&params).await?;
        ending.extend(page.items.into_iter().filter_map(Ending::of));
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params = params.continue_token(&next),
            _ => return Ok(ending),
        }
    }
}
