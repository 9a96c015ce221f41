//! The XMesh that says what this mesh can do (GEP-3949). It is made where its kind exists; what others
//! write into its spec stays.

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, ObjectMeta, TypeMeta};
use outrider_api::kinds::status::CONTROLLER_NAME;
use serde_json::{Value, json};

use super::super::{Context, MANAGER, found, labels};

const NAME: &str = "outrider";

/// By the names of the Gateway API's conformance tests, sorted.
const FEATURES: [&str; 12] = [
    "GRPCRoute",
    "HTTPRoute",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Makes it where it is missing, and says what there is to say.
///
/// # Errors
/// The API server refused, or could not be asked. Where there is no such kind there is nothing to do.
pub(super) async fn publish(context: &Context, now: &str) -> kube::Result<()> {
    let kind = GroupVersionKind::gvk("gateway.networking.x-k8s.io", "v1alpha1", "XMesh");
    let resource = ApiResource::from_gvk_with_plural(&kind, "xmeshes");
    let api = Api::<DynamicObject>::all_with(context.client.clone(), &resource);
    let mesh = match found(api.get(NAME).await)? {
        Some(mesh) => mesh,
        None => match api.create(&PostParams::default(), &made(&resource)).await {
            Ok(mesh) => mesh,
            // No such kind; or another leader was first, and the next look finds it.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    if mesh.data["spec"]["controllerName"] != CONTROLLER_NAME {
        return Ok(());
    }
    let generation = mesh.metadata.generation.unwrap_or(0);
    let status = status(&mesh.data["status"], generation, now);
    if mesh.data["status"] == status {
        return Ok(());
    }
    let patch = json!({"status": status});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api.patch_status(NAME, &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}

fn made(resource: &ApiResource) -> DynamicObject {
    DynamicObject {
        types: Some(TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        }),
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(labels()),
            ..ObjectMeta::default()
        },
        data: json!({"spec": {"controllerName": CONTROLLER_NAME}}),
    }
}

fn status(before: &Value, generation: i64, now: &str) -> Value {
    let mut conditions = before["conditions"].as_array().into_iter().flatten();
    let accepted = |one: &&Value| one["type"] == "Accepted" && one["status"] == "True";
    let since = conditions.find(accepted);
    let since = since.and_then(|one| one["lastTransitionTime"].as_str());
    let features = FEATURES.map(|name| json!({ "name": name }));
    json!({
        "conditions": [{
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "this mesh runs",
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or(now),
        }],
        "supportedFeatures": features,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted_and_what_is_said_again_is_the_same() {
        assert!(FEATURES.is_sorted());
        let first = status(&Value::Null, 1, "2026-11-27T10:00:00Z");
        assert_eq!(first["supportedFeatures"][2]["name"], "Mesh");
        assert_eq!(status(&first, 1, "2026-11-27T11:00:00Z"), first);
    }
}
