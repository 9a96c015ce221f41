//! `Workload`: an instance outside Kubernetes, the file source's stand-in for a Pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::{self, Accepted};
use super::meta::ObjectMeta;

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
    #[serde(deserialize_with = "field::subdomain")]
    pub service_account: String,
    /// What peers dial.
    #[schemars(with = "String")]
    #[serde(deserialize_with = "field::from_str")]
    pub address: IpAddr,
    /// Where the sidecar listens for peers. Default 15008.
    #[serde(default = "default_mesh_port", deserialize_with = "field::port")]
    pub mesh_port: u16,
    /// Where the app listens. Default 127.0.0.1.
    #[schemars(with = "String")]
    #[serde(default = "default_app_address", deserialize_with = "field::from_str")]
    pub app_address: IpAddr,
    /// The app's ports.
    #[serde(default)]
    pub ports: Vec<WorkloadPort>,
    /// What the sidecar listens on for the app, on loopback.
    #[serde(default)]
    pub outbound: Outbound,
    /// The sidecar's, on loopback. Default 15000.
    #[serde(default = "default_admin_port", deserialize_with = "field::port")]
    pub admin_port: u16,
    /// The sidecar's metrics and health. Default 15020.
    #[serde(default = "default_telemetry_port", deserialize_with = "field::port")]
    pub telemetry_port: u16,
    /// The app, for `outrider up` to start. Empty: something else starts it.
    #[serde(default)]
    pub command: Vec<String>,
    /// The app's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorkloadPort {
    /// For a Service's `targetPort`; may declare the protocol.
    #[serde(default)]
    pub name: Option<String>,
    /// On which the app listens.
    #[serde(deserialize_with = "field::port")]
    pub port: u16,
    /// What is spoken.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// What the sidecar listens on for the app, on loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outbound {
    /// Routes HTTP by authority.
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
    #[serde(deserialize_with = "field::label")]
    pub service: String,
    /// Of the Service. Default: the Workload's own.
    #[serde(default, deserialize_with = "field::some_label")]
    pub namespace: Option<String>,
    /// Of the Service.
    #[serde(deserialize_with = "field::port")]
    pub port: u16,
    /// On loopback.
    #[serde(deserialize_with = "field::port")]
    pub local_port: u16,
}

fn default_mesh_port() -> u16 {
    15008
}

fn default_admin_port() -> u16 {
    15000
}

fn default_telemetry_port() -> u16 {
    15020
}

fn default_app_address() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}
