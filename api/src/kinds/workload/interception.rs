//! `interception` of a Workload: what of its traffic the sidecar takes.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::{field, text};

/// What of its connections `outrider up --netns` leaves alone, and how it takes the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Interception {
    /// How connections are taken. Default Redirect.
    pub mode: Mode,
    /// Of the app: plaintext comes straight to them, past every policy.
    #[schemars(inner(range(min = 1)))]
    #[serde(deserialize_with = "field::port_list")]
    pub exclude_inbound_ports: Vec<u16>,
    /// Of others: the app connects to them itself.
    #[schemars(inner(range(min = 1)))]
    #[serde(deserialize_with = "field::port_list")]
    pub exclude_outbound_ports: Vec<u16>,
    /// Who comes from there comes straight to the app, past every policy.
    #[schemars(with = "Vec<text::Block>")]
    #[serde(rename = "excludeInboundCIDRs", deserialize_with = "field::nets")]
    pub exclude_inbound_cidrs: Vec<IpNet>,
    /// The app connects to what is there itself.
    #[schemars(with = "Vec<text::Block>")]
    #[serde(rename = "excludeOutboundCIDRs", deserialize_with = "field::nets")]
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Users whose connections are not taken.
    #[serde(rename = "excludeUIDs")]
    pub exclude_uids: Vec<u32>,
}

/// How connections are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Mode {
    /// The app sees connections come from itself.
    #[default]
    Redirect,
    /// The app sees the client's own address.
    TProxy,
}
