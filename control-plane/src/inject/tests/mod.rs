mod pods;
mod probes;
mod properties;
mod refused;
mod templates;

use outrider_api::annotations::{INIT_CONTAINER, SIDECAR_CONTAINER, SidecarKind};
use serde_json::{Value, json};

use super::*;

fn settings(sidecar: SidecarKind) -> Settings {
    Settings {
        image: "registry.example/outrider-proxy:1".to_owned(),
        image_pull_policy: None,
        control_plane: Settings::default_control_plane("outrider-system"),
        trust_domain: "shop.example".parse().unwrap(),
        namespace: "outrider-system".to_owned(),
        sidecar,
    }
}

/// A pod with one container, and `spec` over it.
fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "order-1", "labels": {"app": "order"}},
        "spec": {"containers": [{"name": "order", "image": "order"}]},
    });
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

fn annotated(annotations: Value) -> Value {
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] = annotations;
    pod
}

fn outcome(pod: &Value, sidecar: SidecarKind) -> Result<Outcome, Refusal> {
    inject(pod, "shop", &settings(sidecar))
}

/// The pod with its sidecar, and the warnings.
#[track_caller]
fn injected_as(pod: &Value, sidecar: SidecarKind) -> (Value, Vec<String>) {
    match outcome(pod, sidecar).unwrap() {
        Outcome::Injected { patch, warnings } => {
            let mut pod = pod.clone();
            apply(&mut pod, &patch).unwrap();
            (pod, warnings)
        }
        Outcome::Left(left) => panic!("left: {left:?}"),
    }
}

#[track_caller]
fn injected(pod: &Value) -> Value {
    injected_as(pod, SidecarKind::Native).0
}

#[track_caller]
fn warnings(pod: &Value, sidecar: SidecarKind) -> Vec<String> {
    injected_as(pod, sidecar).1
}

/// A container as its author wrote it: without the hook that is added.
fn own_words(container: &Value) -> Value {
    let mut container = container.clone();
    assert_eq!(container["lifecycle"], json!({"preStop": hold()}));
    container.as_object_mut().unwrap().remove("lifecycle");
    container
}

/// The hook that is added to apps.
fn hold() -> Value {
    json!({"httpGet": {"path": "/hold", "port": 15020}})
}

fn names(list: &Value) -> Vec<&str> {
    let entries = list.as_array().into_iter().flatten();
    entries
        .map(|entry| entry["name"].as_str().unwrap())
        .collect()
}

fn container<'p>(pod: &'p Value, name: &str) -> &'p Value {
    let all = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    let mut all = all.into_iter().flatten().flatten();
    all.find(|container| container["name"] == name).unwrap()
}

fn variable<'p>(pod: &'p Value, name: &str) -> Option<&'p str> {
    let variables = container(pod, SIDECAR_CONTAINER)["env"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name)?;
    variable["value"].as_str()
}
