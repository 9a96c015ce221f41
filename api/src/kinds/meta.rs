//! `metadata`, the same for each kind.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::field::{self, Accepted};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// A DNS subdomain.
    #[serde(deserialize_with = "field::subdomain")]
    pub name: String,
    /// A DNS label. Default `default`.
    #[serde(default = "default_namespace", deserialize_with = "field::label")]
    pub namespace: String,
    #[serde(default, deserialize_with = "field::labels")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339, as Kubernetes writes it.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    #[serde(default)]
    pub generation: Option<i64>,
    #[serde(default, rename = "uid")]
    _uid: Accepted,
    #[serde(default, rename = "resourceVersion")]
    _resource_version: Accepted,
    #[serde(default, rename = "managedFields")]
    _managed_fields: Accepted,
    #[serde(default, rename = "ownerReferences")]
    _owner_references: Accepted,
    #[serde(default, rename = "finalizers")]
    _finalizers: Accepted,
    #[serde(default, rename = "selfLink")]
    _self_link: Accepted,
}

fn default_namespace() -> String {
    "default".to_owned()
}
