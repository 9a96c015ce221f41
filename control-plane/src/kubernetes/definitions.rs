//! The CustomResourceDefinitions of our kinds. Kubernetes deletes the objects of one with it, and says so
//! of each as if somebody had meant that object; but who takes a kind away has taken back no refusal.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::ApiResource;
use kube::{Api, Client};

/// Whether the kind is going, or gone. It is marked before the first of its objects is deleted, and what is
/// read here is never older than a deletion that was heard of before.
pub(super) async fn is_going(client: Client, resource: &ApiResource) -> kube::Result<bool> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let name = format!("{}.{}", resource.plural, resource.group);
    let found = definitions.get_metadata_opt(&name).await?;
    Ok(found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()))
}
