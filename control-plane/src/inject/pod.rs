//! What is read of a pod. Everything else passes through as it is, also what this version of
//! Kubernetes does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Refusal;

#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metadata: Metadata,
    /// Templates may have none.
    #[serde(skip)]
    pub(super) has_metadata: bool,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_network: bool,
    #[serde(default, rename = "hostPID", deserialize_with = "or_default")]
    pub(super) host_pid: bool,
    #[serde(default)]
    pub(super) share_process_namespace: Option<bool>,
    #[serde(default)]
    pub(super) restart_policy: Option<String>,
    #[serde(default)]
    pub(super) termination_grace_period_seconds: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) security_context: SecurityContext,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) init_containers: Vec<Container>,
    pub(super) containers: Vec<Container>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) volumes: Vec<Named>,
    #[serde(default)]
    os: Option<Named>,
    #[serde(default, deserialize_with = "or_default")]
    node_selector: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default)]
    restart_policy: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ports: Vec<Port>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) security_context: SecurityContext,
    #[serde(default)]
    pub(super) liveness_probe: Option<Asked>,
    #[serde(default)]
    pub(super) readiness_probe: Option<Asked>,
    #[serde(default)]
    pub(super) startup_probe: Option<Asked>,
    /// Its hooks; `None`: it has none.
    #[serde(default)]
    pub(super) lifecycle: Option<Lifecycle>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lifecycle {
    #[serde(default)]
    pub(super) post_start: Option<Asked>,
    #[serde(default)]
    pub(super) pre_stop: Option<Asked>,
}

/// What the kubelet asks, of a probe or a hook.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) tcp_socket: Option<TcpSocket>,
    #[serde(default)]
    pub(super) http_get: Option<HttpGet>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TcpSocket {
    pub(super) port: PortRef,
    /// Somebody else than the pod.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct HttpGet {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) path: String,
    pub(super) port: PortRef,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) scheme: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PortRef {
    Number(i64),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    #[serde(default)]
    name: Option<String>,
    pub(super) container_port: i64,
    #[serde(default)]
    pub(super) protocol: Option<String>,
}

/// Of a pod or of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityContext {
    #[serde(default)]
    pub(super) run_as_user: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) privileged: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) capabilities: Capabilities,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) add: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) name: String,
}

/// Kubernetes takes null for left out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Pod {
    pub(super) fn read(pod: &Value) -> Result<Self, Refusal> {
        let read = Self::deserialize(pod).map_err(|error| Refusal::NotAPod(error.to_string()))?;
        Ok(Self {
            has_metadata: pod.get("metadata").is_some_and(Value::is_object),
            ..read
        })
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.metadata
            .annotations
            .contains_key("kubernetes.io/config.mirror")
    }
}

impl Container {
    /// Of an init container: that it runs beside the others.
    pub(super) fn is_native_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    /// A name is one of the container's own.
    pub(super) fn port_number(&self, port: &PortRef) -> Option<u16> {
        let number = match port {
            PortRef::Number(number) => *number,
            PortRef::Name(name) => {
                let mut ports = self.ports.iter();
                let named = ports.find(|port| port.name.as_ref() == Some(name));
                named?.container_port
            }
        };
        u16::try_from(number).ok().filter(|number| *number != 0)
    }
}

impl Spec {
    pub(super) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    pub(super) fn has_container(&self, name: &str) -> bool {
        self.all_containers()
            .any(|container| container.name == name)
    }

    pub(super) fn is_windows(&self) -> bool {
        let os = self.os.as_ref().map(|os| os.name.as_str());
        let selected = self.node_selector.get("kubernetes.io/os");
        os == Some("windows") || selected.is_some_and(|os| os == "windows")
    }

    /// The user of a container; `None`: what its image says.
    pub(super) fn user(&self, container: &Container) -> Option<i64> {
        let own = container.security_context.run_as_user;
        own.or(self.security_context.run_as_user)
    }
}
