//! Kubernetes' Service and ServiceAccount, as far as a mesh reads them (core v1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use super::field::{self, Accepted};
use super::meta::ObjectMeta;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Labels of the workloads behind it. Empty: none.
    #[serde(default, deserialize_with = "field::labels")]
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,
    /// Left out, or empty: assigned.
    #[serde(default, rename = "clusterIP", deserialize_with = "some_cluster_ip")]
    pub cluster_ip: Option<ClusterIp>,
    /// The first is `clusterIP`, where both are given.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Vec<ClusterIp>,
    #[serde(default, rename = "externalIPs")]
    _external_ips: Accepted,
    #[serde(default, rename = "externalName")]
    _external_name: Accepted,
    #[serde(default, rename = "externalTrafficPolicy")]
    _external_traffic_policy: Accepted,
    #[serde(default, rename = "internalTrafficPolicy")]
    _internal_traffic_policy: Accepted,
    #[serde(default, rename = "trafficDistribution")]
    _traffic_distribution: Accepted,
    #[serde(default, rename = "healthCheckNodePort")]
    _health_check_node_port: Accepted,
    #[serde(default, rename = "ipFamilies")]
    _ip_families: Accepted,
    #[serde(default, rename = "ipFamilyPolicy")]
    _ip_family_policy: Accepted,
    #[serde(default, rename = "loadBalancerClass")]
    _load_balancer_class: Accepted,
    #[serde(default, rename = "loadBalancerIP")]
    _load_balancer_ip: Accepted,
    #[serde(default, rename = "loadBalancerSourceRanges")]
    _load_balancer_source_ranges: Accepted,
    #[serde(default, rename = "allocateLoadBalancerNodePorts")]
    _allocate_load_balancer_node_ports: Accepted,
    #[serde(default, rename = "publishNotReadyAddresses")]
    _publish_not_ready_addresses: Accepted,
    #[serde(default, rename = "sessionAffinity")]
    _session_affinity: Accepted,
    #[serde(default, rename = "sessionAffinityConfig")]
    _session_affinity_config: Accepted,
}

/// The `type` of a Service. To a mesh, only an alias for a name outside is different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A `clusterIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// `None`: the Service is headless.
    Headless,
    Address(IpAddr),
}

impl ClusterIp {
    fn read<E: Error>(text: &str) -> Result<Self, E> {
        if text == "None" {
            return Ok(Self::Headless);
        }
        let address: Result<IpAddr, _> = text.parse();
        let address = address
            .map_err(|_| E::custom(format!("{text:?} is not an address, expected one, or None")))?;
        Ok(Self::Address(address.to_canonical()))
    }
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?)
    }
}

/// Kubernetes takes the empty text, and null, for left out.
fn some_cluster_ip<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ClusterIp>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => ClusterIp::read(text).map(Some),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(deserialize_with = "field::port")]
    pub port: u16,
    /// Default: the same as `port`.
    #[serde(default, deserialize_with = "field::present")]
    pub target_port: Option<TargetPort>,
    /// What is spoken, see [`crate::model::Protocol::from_declared`].
    #[serde(default)]
    pub app_protocol: Option<String>,
    /// `TCP` (default); a mesh carries nothing else.
    #[serde(default, rename = "protocol")]
    pub transport: Transport,
    #[serde(default, rename = "nodePort")]
    _node_port: Accepted,
}

/// The `protocol` of a Service's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A port of the workload, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetPortVisitor)
    }
}

#[derive(Clone, Copy)]
struct TargetPortVisitor;

impl Visitor<'_> for TargetPortVisitor {
    type Value = TargetPort;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a port from 1 to 65535 or the name of a port")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<TargetPort, E> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(TargetPort::Number(port)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<TargetPort, E> {
        let positive = u64::try_from(number);
        self.visit_u64(positive.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<TargetPort, E> {
        // A port's name is a label with a letter in it (RFC 6335 section 5.1).
        let letter = name.bytes().any(|b| b.is_ascii_alphabetic());
        if !letter || crate::names::check_label(name).is_err() {
            return Err(E::invalid_value(Unexpected::Str(name), &self));
        }
        Ok(TargetPort::Name(name.to_owned()))
    }
}

/// Accepted, so that the same files work with Kubernetes; an identity exists by being used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccount {
    pub metadata: ObjectMeta,
    #[serde(default, rename = "secrets")]
    _secrets: Accepted,
    #[serde(default, rename = "imagePullSecrets")]
    _image_pull_secrets: Accepted,
    #[serde(default, rename = "automountServiceAccountToken")]
    _automount_service_account_token: Accepted,
}
