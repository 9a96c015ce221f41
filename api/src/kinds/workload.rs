//! `Workload`: an instance outside Kubernetes, the file source's stand-in for a Pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::field::{self, Accepted};
use super::mesh_config::Mtls;
use super::meta::ObjectMeta;
use super::text;
use crate::sidecar;

mod interception;
mod probe;

pub use interception::{Interception, Mode};
pub use probe::Probe;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    pub metadata: ObjectMeta,
    pub spec: WorkloadSpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// A DNS subdomain; with the namespace, the identity.
    #[schemars(with = "text::Subdomain")]
    #[serde(deserialize_with = "field::subdomain")]
    pub service_account: String,
    /// What peers dial. Left out: one of each family of `MeshConfig.spec.network.workloads`.
    #[schemars(with = "Option<text::Address>")]
    #[serde(default, deserialize_with = "field::some_address")]
    pub address: Option<IpAddr>,
    /// Further ones of its own, for instance of the other family.
    #[schemars(with = "Vec<text::Address>")]
    #[serde(default, deserialize_with = "field::addresses")]
    pub addresses: Vec<IpAddr>,
    /// Where the sidecar listens for peers. Default 15008.
    #[schemars(range(min = 1))]
    #[serde(default = "default_mesh_port", deserialize_with = "field::port")]
    pub mesh_port: u16,
    /// Where the app listens. Left out: 127.0.0.1 where `address` is given, else the address that is
    /// assigned.
    #[schemars(with = "Option<text::Address>")]
    #[serde(default, deserialize_with = "field::some_address")]
    pub app_address: Option<IpAddr>,
    /// What becomes of plaintext that comes to its ports. Left out: as `MeshConfig.spec.mtls` says.
    #[serde(default, deserialize_with = "field::present")]
    pub mtls: Option<Mtls>,
    /// The app's ports.
    #[serde(default)]
    pub ports: Vec<WorkloadPort>,
    /// What is answered without an identity, and without a policy: these and nothing else.
    #[schemars(with = "Vec<probe::Written>")]
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// It is about to end: nobody is to call it any more, and its sidecar says when nobody does.
    #[serde(default)]
    pub terminating: bool,
    /// What the sidecar listens on for the app, on loopback.
    #[serde(default)]
    pub outbound: Outbound,
    /// The sidecar's, on loopback. Default 15000.
    #[schemars(range(min = 1))]
    #[serde(default = "default_admin_port", deserialize_with = "field::port")]
    pub admin_port: u16,
    /// The sidecar's metrics and health. Default 15020.
    #[schemars(range(min = 1))]
    #[serde(default = "default_telemetry_port", deserialize_with = "field::port")]
    pub telemetry_port: u16,
    /// The app, for `outrider up` to start. Empty: something else starts it.
    #[serde(default)]
    pub command: Vec<String>,
    /// The app's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The app's user, for `outrider up --netns`; not 2102, which is the sidecar's. Left out: that of
    /// `outrider up`.
    #[schemars(
        range(max = 4_294_967_294_u32),
        extend("x-kubernetes-validations" = [{"rule": "self != 2102", "message": "2102 is the sidecar's own"}])
    )]
    #[serde(default, deserialize_with = "user")]
    pub run_as_user: Option<u32>,
    /// What `outrider up --netns` leaves alone, and how it takes the rest.
    #[serde(default)]
    pub interception: Interception,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadPort {
    /// For a Service's `targetPort`; may declare the protocol.
    #[serde(default)]
    pub name: Option<String>,
    /// On which the app listens.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "field::port")]
    pub port: u16,
    /// What is spoken.
    #[serde(default)]
    pub app_protocol: Option<String>,
    /// What becomes of plaintext that comes to this port. Default: the Workload's.
    #[serde(default, deserialize_with = "field::present")]
    pub mtls: Option<Mtls>,
}

/// What the sidecar listens on for the app, on loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outbound {
    /// Routes HTTP by authority.
    #[schemars(range(min = 1))]
    #[serde(default, deserialize_with = "field::some_port")]
    pub http_port: Option<u16>,
    /// Local ports, each of which leads to one port of one Service, whatever is spoken.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
}

/// A local port that leads to one port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Upstream {
    /// A DNS label.
    #[schemars(with = "text::Label")]
    #[serde(deserialize_with = "field::label")]
    pub service: String,
    /// Of the Service. Default: the Workload's own.
    #[schemars(with = "Option<text::Label>")]
    #[serde(default, deserialize_with = "field::some_label")]
    pub namespace: Option<String>,
    /// Of the Service.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "field::port")]
    pub port: u16,
    /// On loopback.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "field::port")]
    pub local_port: u16,
}

fn default_mesh_port() -> u16 {
    sidecar::MESH_PORT
}

fn default_admin_port() -> u16 {
    sidecar::ADMIN_PORT
}

fn default_telemetry_port() -> u16 {
    sidecar::TELEMETRY_PORT
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    match u32::try_from(number) {
        Ok(sidecar::UID) => Err(D::Error::custom(format!(
            "is {number}, the sidecar's own, whose connections are not taken; expected another"
        ))),
        // The last one is "no user" to the kernel.
        Ok(user) if user != u32::MAX => Ok(Some(user)),
        _ => Err(D::Error::custom(format!(
            "{number} is not a user, expected 0 to {}",
            u32::MAX - 1
        ))),
    }
}
