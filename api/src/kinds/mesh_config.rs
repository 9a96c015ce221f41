//! `MeshConfig`: one for each mesh.

use std::time::Duration;

use outrider_certs::spiffe::TrustDomain;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::bounded::Span;
use super::field::{self, Accepted};
use super::meta::ObjectMeta;
use super::text;
use super::traffic::Traffic;
use crate::model;

mod network;

pub use network::{Network, Ranges};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshConfig {
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: MeshConfigSpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshConfigSpec {
    /// Whose identities these are. Default `cluster.local`.
    #[schemars(with = "Option<text::Domain>")]
    #[serde(deserialize_with = "field::some_from_str")]
    pub trust_domain: Option<TrustDomain>,
    /// What becomes of a call to a workload that no ALLOW policy selects. Default true on a cluster,
    /// false in a directory.
    pub default_deny: Option<bool>,
    /// Of certificates issued from now on. Default 24h.
    #[schemars(with = "Span<1000, 31_536_000_000>")]
    #[serde(deserialize_with = "certificate_lifetime")]
    pub certificate_lifetime: Duration,
    /// One line for each request in every sidecar. Default false.
    pub access_log: bool,
    /// How long a sidecar that ends lets requests finish. Default 10s.
    #[schemars(with = "Span<0, 3_600_000>")]
    #[serde(deserialize_with = "drain_timeout")]
    pub drain_timeout: Duration,
    /// How long the first bytes of a connection are waited for where the protocol is not declared:
    /// what servers that speak first are held up by. Default 50ms.
    #[schemars(with = "Span<1, 10_000>")]
    #[serde(deserialize_with = "detect_timeout")]
    pub detect_timeout: Duration,
    /// What becomes of plaintext that comes to an app, where its Workload says nothing. Default Strict.
    pub mtls: Mtls,
    /// What becomes of a connection of an app to what is not of the mesh. Default Allow.
    pub unknown_destinations: UnknownDestinations,
    /// Where addresses that are not written come from.
    pub network: Network,
    /// For every Service, where its TrafficPolicy says nothing.
    pub traffic: Traffic,
}

impl Default for MeshConfigSpec {
    fn default() -> Self {
        Self {
            trust_domain: None,
            default_deny: None,
            certificate_lifetime: Duration::from_secs(24 * 3600),
            access_log: false,
            drain_timeout: Duration::from_secs(10),
            detect_timeout: Duration::from_millis(50),
            mtls: Mtls::default(),
            unknown_destinations: UnknownDestinations::default(),
            network: Network::default(),
            traffic: Traffic::default(),
        }
    }
}

/// What becomes of a call that has no identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mtls {
    /// It is refused.
    #[default]
    Strict,
    /// It is let in without an identity, and counted: a policy may still refuse it.
    Permissive,
}

impl From<Mtls> for model::Mtls {
    fn from(mtls: Mtls) -> Self {
        match mtls {
            Mtls::Strict => Self::Strict,
            Mtls::Permissive => Self::Permissive,
        }
    }
}

/// What becomes of a connection of an app to what is not of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum UnknownDestinations {
    /// It passes through as it is, and is counted.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

impl From<UnknownDestinations> for model::UnknownDestinations {
    fn from(unknown: UnknownDestinations) -> Self {
        match unknown {
            UnknownDestinations::Allow => Self::Allow,
            UnknownDestinations::Deny => Self::Deny,
        }
    }
}

fn certificate_lifetime<'de, D: Deserializer<'de>>(de: D) -> Result<Duration, D::Error> {
    between(
        de,
        Duration::from_secs(1),
        Duration::from_secs(365 * 24 * 3600),
    )
}

fn drain_timeout<'de, D: Deserializer<'de>>(de: D) -> Result<Duration, D::Error> {
    between(de, Duration::ZERO, Duration::from_secs(3600))
}

fn detect_timeout<'de, D: Deserializer<'de>>(de: D) -> Result<Duration, D::Error> {
    between(de, Duration::from_millis(1), Duration::from_secs(10))
}

fn between<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: Duration,
    most: Duration,
) -> Result<Duration, D::Error> {
    let duration = field::duration(deserializer)?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    let [got, least, most] = [duration, least, most].map(crate::duration::format);
    Err(D::Error::custom(format!(
        "is {got}, expected {least} to {most}"
    )))
}
