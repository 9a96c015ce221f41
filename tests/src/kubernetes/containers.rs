//! A pod's containers by their names: where one stands depends on the cluster. A sidecar is an init container,
//! or one beside the app where the cluster is older.

use anyhow::{Context, Result};
use serde_json::Value;

/// The name of the container that injection adds.
pub const SIDECAR: &str = "outrider-proxy";

/// What was asked for of a container of `pod`.
pub fn container<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    named(&pod["spec"], ["initContainers", "containers"], name)
}

/// What has become of it. Fails while the kubelet has said nothing of it.
pub fn container_status<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    named(&pod["status"], lists, name)
}

fn named<'a>(of: &'a Value, lists: [&str; 2], name: &str) -> Result<&'a Value> {
    let lists = lists.iter().filter_map(|list| of[list].as_array());
    let mut found = lists.flatten().filter(|each| each["name"] == name);
    found
        .next()
        .with_context(|| format!("there is no {name} in {of:#}"))
}
