//! `targetRefs[]`: the workloads that a policy is about.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::kinds::{field, text};

/// At most this many targets (GEP-713).
pub(in crate::kinds) const TARGETS_MAX: usize = 16;

/// In the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
pub enum TargetRef {
    /// The workloads that a Service selects.
    Service { name: String },
    /// One Workload.
    Workload { name: String },
    /// The workloads with these labels; no labels: all of the namespace.
    Pods {
        match_labels: BTreeMap<String, String>,
    },
}

pub(in crate::kinds) fn target_refs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<TargetRef>, D::Error> {
    let targets = Vec::deserialize(deserializer)?;
    if targets.is_empty() || targets.len() > TARGETS_MAX {
        let got = targets.len();
        return Err(D::Error::custom(format!(
            "has {got} entries, expected 1 to {TARGETS_MAX}"
        )));
    }
    Ok(targets)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(self.group == '' && self.kind in ['Service', 'Pod']) || \
                 (self.group == 'outrider.mesh' && self.kind == 'Workload')",
        "message": "expected group \"\" with kind Service or Pod, or group \"outrider.mesh\" with kind Workload"
    },
    {
        "rule": "self.kind == 'Pod' ? has(self.selector) && !has(self.name) : has(self.name) && !has(self.selector)",
        "message": "expected \"selector\" and no \"name\" beside kind Pod, \"name\" and no \"selector\" beside another"
    }
]))]
struct Written {
    /// `""`; of a Workload `outrider.mesh`.
    #[schemars(length(max = 63))]
    group: String,
    /// `Service`, `Workload` or `Pod`.
    #[schemars(length(min = 1, max = 63))]
    kind: String,
    /// Of a Service or Workload.
    #[schemars(with = "Option<text::Subdomain>")]
    #[serde(default, deserialize_with = "some_subdomain")]
    name: Option<String>,
    /// Of kind Pod: the workloads with these labels.
    #[serde(default, deserialize_with = "field::present")]
    selector: Option<WrittenSelector>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenSelector {
    /// Left out or empty: every one of the namespace.
    #[schemars(with = "BTreeMap<String, text::LabelValue>")]
    #[serde(default, deserialize_with = "field::labels")]
    match_labels: BTreeMap<String, String>,
}

fn some_subdomain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    field::subdomain(deserializer).map(Some)
}

impl TryFrom<Written> for TargetRef {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let id = (written.group.as_str(), written.kind.as_str());
        match (id, written.name, written.selector) {
            (("", "Service"), Some(name), None) => Ok(Self::Service { name }),
            (("outrider.mesh", "Workload"), Some(name), None) => Ok(Self::Workload { name }),
            (("", "Pod"), None, Some(selector)) => Ok(Self::Pods {
                match_labels: selector.match_labels,
            }),
            (("", "Service") | ("outrider.mesh", "Workload"), _, _) => Err(format!(
                "expected \"name\" and no \"selector\" beside kind {}",
                written.kind
            )),
            (("", "Pod"), _, _) => {
                Err("expected \"selector\" and no \"name\" beside kind Pod".to_owned())
            }
            ((group, kind), _, _) => Err(format!(
                "cannot target group {group:?}, kind {kind:?}, expected group \"\" with kind \
                 Service or Pod, or group \"outrider.mesh\" with kind Workload"
            )),
        }
    }
}
