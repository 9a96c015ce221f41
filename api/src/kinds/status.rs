//! `status`: what the control plane says of an object (GEP-713, Gateway API). Nobody else writes it,
//! and no sidecar reads it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who writes these, in `controllerName`.
pub const CONTROLLER_NAME: &str = "outrider.mesh/control-plane";
/// At most this many ancestors (GEP-713).
pub const ANCESTORS_MAX: usize = 16;

/// Of a policy: for each object that it targets, what became of it there (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// One for each target; at most 16.
    #[schemars(length(max = 16))]
    pub ancestors: Vec<Ancestor>,
}

/// What became of a policy for one of its targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// The target.
    pub ancestor_ref: ObjectRef,
    /// Who says so.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// Accepted and Programmed.
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// An object, as the Gateway API refers to one (its ParentReference).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The core group is `""`.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Such as `Service`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Left out: the policy's own.
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of pods that labels select: that of the policy.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Of what is no policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Accepted and Programmed.
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// As `metav1.Condition` of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Such as `Accepted`.
    #[schemars(length(min = 1, max = 316))]
    pub r#type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// The `metadata.generation` that this is said of.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` became what it is: RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}
