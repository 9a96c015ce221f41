//! `TrafficPolicy`: how callers treat a Service.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::authorization::TARGETS_MAX;
use super::field::{self, Accepted};
use super::meta::ObjectMeta;
use super::text;

mod effective;
mod grpc;
mod resolve;
mod settings;

pub use grpc::GrpcCode;
pub use resolve::Wrong;
pub use settings::{
    Abort, Algorithm, Budget, Fault, HashOn, HealthCheck, Limits, LoadBalancing, Locality,
    MinRetryRate, OutlierDetection, Retry, RetryBudget, Timeouts, Traffic, WhenAllEjected,
};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TrafficPolicy {
    pub metadata: ObjectMeta,
    pub spec: TrafficPolicySpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// 1 to 16 Services (GEP-713) of the policy's own namespace; none that another TrafficPolicy
    /// names.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<ServiceRef>,
    /// Field by field instead of what `MeshConfig.spec.traffic` says.
    #[schemars(flatten)]
    pub traffic: Traffic,
}

/// What is flattened here would lose its places if serde did it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    #[serde(deserialize_with = "targets")]
    target_refs: Vec<ServiceRef>,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    retry: Retry,
    #[serde(default)]
    retry_budget: RetryBudget,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    outlier_detection: OutlierDetection,
    #[serde(default)]
    health_check: HealthCheck,
    #[serde(default)]
    load_balancing: LoadBalancing,
    #[serde(default, deserialize_with = "settings::faults")]
    faults: Option<Vec<Fault>>,
}

impl<'de> Deserialize<'de> for TrafficPolicySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        Ok(Self {
            target_refs: written.target_refs,
            traffic: Traffic {
                timeouts: written.timeouts,
                retry: written.retry,
                retry_budget: written.retry_budget,
                limits: written.limits,
                outlier_detection: written.outlier_detection,
                health_check: written.health_check,
                load_balancing: written.load_balancing,
                faults: written.faults,
            },
        })
    }
}

/// A Service of the policy's own namespace: `{group: "", kind: Service, name: NAME}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenRef")]
pub struct ServiceRef {
    pub name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.group == '' && self.kind == 'Service'",
    "message": "expected group \"\" with kind Service"
}]))]
struct WrittenRef {
    /// The core group, `""`.
    #[schemars(length(max = 63))]
    group: String,
    /// `Service`.
    #[schemars(length(min = 1, max = 63))]
    kind: String,
    /// A DNS label.
    #[schemars(with = "text::Label")]
    #[serde(deserialize_with = "field::label")]
    name: String,
}

impl TryFrom<WrittenRef> for ServiceRef {
    type Error = String;

    fn try_from(WrittenRef { group, kind, name }: WrittenRef) -> Result<Self, String> {
        if (group.as_str(), kind.as_str()) == ("", "Service") {
            return Ok(Self { name });
        }
        Err(format!(
            "cannot target group {group:?}, kind {kind:?}, expected group \"\" with kind Service"
        ))
    }
}

fn targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ServiceRef>, D::Error> {
    let targets: Vec<ServiceRef> = Vec::deserialize(deserializer)?;
    if targets.is_empty() || targets.len() > TARGETS_MAX {
        let got = targets.len();
        let message = format!("has {got} entries, expected 1 to {TARGETS_MAX}");
        return Err(D::Error::custom(message));
    }
    Ok(targets)
}
