//! `RateLimitPolicy`: how much a workload takes.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::authorization::{TargetRef, target_refs};
use super::bounded::{Count, Span};
use super::field::{self, Accepted};
use super::meta::ObjectMeta;
use super::source::Source;
use super::text;
use crate::model::traffic as model;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;
/// At most this many limits in a policy.
const LIMITS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitPolicy {
    pub metadata: ObjectMeta,
    pub spec: RateLimitPolicySpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RateLimitPolicySpec {
    /// 1 to 16 (GEP-713), in the policy's own namespace, as AuthorizationPolicy's.
    #[schemars(length(min = 1, max = 16))]
    #[serde(deserialize_with = "target_refs")]
    pub target_refs: Vec<TargetRef>,
    /// All that fit a request are asked; the first that is exhausted refuses it with 429. No name
    /// twice.
    #[schemars(
        length(min = 1, max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, deserialize_with = "limits")]
    pub limits: Vec<Limit>,
    /// Requests at once in the app. Left out: no bound.
    #[serde(default, deserialize_with = "field::present")]
    pub concurrency: Option<Concurrency>,
}

/// A token bucket for each peer identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limit {
    /// For people and the `RateLimit` header: a DNS label.
    #[schemars(with = "text::Label")]
    #[serde(deserialize_with = "field::label")]
    pub name: String,
    /// As AuthorizationPolicy's. Left out: every peer.
    #[schemars(length(min = 1))]
    #[serde(default, deserialize_with = "some_sources")]
    pub sources: Option<Vec<Source>>,
    /// Of the app, not of the Service. Left out: every port.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    #[serde(default, deserialize_with = "field::ports")]
    pub ports: Vec<u16>,
    /// In each `interval`.
    pub requests: Count<1, 1_000_000_000>,
    /// In which they are counted. Default 1s.
    #[serde(default = "default_interval")]
    pub interval: Span<1, DAY>,
    /// How many requests at once after a pause. Default: as many as `requests`.
    #[serde(default, deserialize_with = "field::present")]
    pub burst: Option<Count<1, 1_000_000_000>>,
}

/// Requests at once in the app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Concurrency {
    /// What is more waits, or is shed with 503.
    pub max_requests: Count<1, 1_000_000>,
    /// How many may wait; 0 sheds at once. Default 0.
    #[serde(default = "default_queued")]
    pub max_queued: Count<0, 1_000_000>,
    /// How long one may wait before it is shed. Default 100ms.
    #[serde(default = "default_wait")]
    pub max_wait: Span<1, MINUTE>,
}

impl RateLimitPolicy {
    /// What the sidecar enforces.
    pub fn rates(&self) -> impl Iterator<Item = model::RateLimit> {
        let namespace = &self.metadata.namespace;
        let policy = format!("{namespace}/{}", self.metadata.name);
        self.spec.limits.iter().map(move |limit| model::RateLimit {
            policy: policy.clone(),
            name: limit.name.clone(),
            sources: limit.sources.as_ref().map(|sources| {
                let sources = sources.iter();
                sources.map(|source| source.resolve(namespace)).collect()
            }),
            ports: limit.ports.clone(),
            requests: limit.requests.get(),
            interval: limit.interval.get(),
            burst: limit.burst.unwrap_or(limit.requests).get(),
        })
    }

    #[must_use]
    pub fn concurrency(&self) -> Option<model::Concurrency> {
        self.spec
            .concurrency
            .as_ref()
            .map(|bound| model::Concurrency {
                max_requests: bound.max_requests.get(),
                max_queued: bound.max_queued.get(),
                max_wait: bound.max_wait.get(),
            })
    }
}

fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Limit>, D::Error> {
    let limits: Vec<Limit> = field::non_empty(deserializer)?;
    if limits.len() > LIMITS_MAX {
        let got = limits.len();
        let message = format!("has {got} entries, expected at most {LIMITS_MAX}");
        return Err(D::Error::custom(message));
    }
    for (index, limit) in limits.iter().enumerate() {
        if limits[..index].iter().any(|other| other.name == limit.name) {
            let message = format!("has two limits named {:?}, expected one", limit.name);
            return Err(D::Error::custom(message));
        }
    }
    Ok(limits)
}

/// An empty list would limit nobody.
fn some_sources<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Source>>, D::Error> {
    field::non_empty(deserializer).map(Some)
}

fn default_interval() -> Span<1, DAY> {
    Span::nearest(std::time::Duration::from_secs(1))
}

fn default_queued() -> Count<0, 1_000_000> {
    Count::nearest(0)
}

fn default_wait() -> Span<1, MINUTE> {
    Span::nearest(std::time::Duration::from_millis(100))
}
