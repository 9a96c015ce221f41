//! What only a running mesh can have made, found in the cluster with the user's kubeconfig: trust
//! bundles in the namespaces of apps, and Gateway API's XMesh. Nothing is changed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use outrider_api::kinds::status::CONTROLLER_NAME;
use serde_json::{Value, json};

use super::settings::{NAMESPACE, TRUST_BUNDLE};
use crate::args::ClusterArgs;
use crate::kubernetes::access::{Cluster, ClusterError};
use crate::kubernetes::pods::{self, Scope};

/// More namespaces than this are not named.
const NAMED_MAX: usize = 10;

/// What is left, and who still has a sidecar.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Value>,
    /// Pods with a sidecar, by namespace.
    riders: BTreeMap<String, usize>,
}

impl Found {
    /// For people.
    pub(super) fn note(&self) -> Option<String> {
        let pods: usize = self.riders.values().sum();
        let named: Vec<&str> = self
            .riders
            .keys()
            .take(NAMED_MAX)
            .map(String::as_str)
            .collect();
        let more = match self.riders.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more namespaces"),
        };
        (pods > 0).then(|| {
            format!(
                "{pods} pods have a sidecar, in {}{more}: each goes on with what it knows until its \
                 certificate ends. Take the label outrider.mesh/inject away, and start them anew \
                 when the mesh is gone",
                named.join(", ")
            )
        })
    }
}

pub(super) async fn find(args: &ClusterArgs) -> Result<Found, ClusterError> {
    let cluster = Cluster::connect(args).await?;
    let mut objects = trust_bundles(&cluster).await?;
    objects.extend(meshes(&cluster).await?);
    let mut riders = BTreeMap::new();
    for sidecar in pods::sidecars(&cluster, &Scope::All).await? {
        *riders.entry(sidecar.namespace).or_default() += 1;
    }
    Ok(Found { objects, riders })
}

async fn trust_bundles(cluster: &Cluster) -> Result<Vec<Value>, ClusterError> {
    let named = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE}"));
    let everywhere = Api::<ConfigMap>::all(cluster.client.clone());
    let found = everywhere.list(&named).await;
    let found = found.map_err(|error| cluster.failed(error))?;
    let namespaces = found
        .items
        .into_iter()
        .filter_map(|one| one.metadata.namespace);
    // That of its own namespace is named there.
    let namespaces = namespaces.filter(|namespace| namespace != NAMESPACE);
    let objects = namespaces.map(|namespace| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST_BUNDLE, "namespace": namespace},
        })
    });
    Ok(objects.collect())
}

/// None, too, where the Gateway API is not there.
async fn meshes(cluster: &Cluster) -> Result<Vec<Value>, ClusterError> {
    let kind = GroupVersionKind::gvk("gateway.networking.x-k8s.io", "v1alpha1", "XMesh");
    let resource = ApiResource::from_gvk_with_plural(&kind, "xmeshes");
    let api = Api::<DynamicObject>::all_with(cluster.client.clone(), &resource);
    let found = match api.list(&ListParams::default()).await {
        Ok(found) => found.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(cluster.failed(error)),
    };
    let ours = found
        .into_iter()
        .filter(|mesh| mesh.data["spec"]["controllerName"] == CONTROLLER_NAME);
    let objects = ours.map(|mesh| {
        json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": mesh.metadata.name},
        })
    });
    Ok(objects.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_still_has_a_sidecar_is_told_within_bounds() {
        assert_eq!(Found::default().note(), None);
        let riders = (0..12).map(|index| (format!("ns-{index:02}"), 2)).collect();
        let found = Found {
            riders,
            ..Found::default()
        };
        let note = found.note().unwrap();
        let expected = "24 pods have a sidecar, in ns-00, ns-01";
        assert!(note.starts_with(expected), "{note}");
        assert!(note.contains("ns-09 and 2 more namespaces"), "{note}");
    }
}
