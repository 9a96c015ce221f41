//! The rights that are installed, for a control plane of a test's own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Namespace;
use super::outrider::SYSTEM;
use crate::printed;

/// Of everything that is installed, in the order in which it is applied.
const KINDS: [&str; 5] = [
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];

impl Namespace {
    /// Makes the ServiceAccount `control-plane` here with the rights that `outrider install` gives the one
    /// in its own namespace, and no others.
    pub fn control_plane_account(&self, options: &[&str]) -> Result<()> {
        let here = printed::text(options)?.replace(SYSTEM, self.name());
        let objects: Vec<Value> = serde_saphyr::from_multiple(&here)?;
        let owner = self.owner()?;
        let rights: Vec<Value> = objects
            .into_iter()
            .filter_map(|object| self.own(object, &owner))
            .collect();
        // Without one of them the account could do less, and a test might not notice.
        let kinds: Vec<&str> = rights.iter().filter_map(|it| it["kind"].as_str()).collect();
        ensure!(kinds == KINDS, "expected {KINDS:?}, got {kinds:?}");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": rights});
        self.cluster().apply(&list.to_string())
    }

    /// A token of it.
    pub fn control_plane_token(&self) -> Result<String> {
        let token = self.kubectl(&["create", "token", "control-plane", "--duration", "1h"]);
        Ok(token.context("a token")?.trim().to_owned())
    }

    /// What is the control plane's, under a name that no other control plane has.
    fn own(&self, mut object: Value, owner: &Value) -> Option<Value> {
        let kind = object["kind"].as_str()?;
        let name = object["metadata"]["name"].as_str()?;
        if !KINDS.contains(&kind) || !name.ends_with("control-plane") {
            return None;
        }
        if kind.starts_with("Cluster") {
            object["metadata"]["name"] = self.name().into();
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        if object["roleRef"]["kind"] == "ClusterRole" {
            object["roleRef"]["name"] = self.name().into();
        }
        Some(object)
    }
}
