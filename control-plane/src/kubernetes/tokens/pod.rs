//! What a reviewed token is bound to, and whether that pod may ask: pure.

use std::net::IpAddr;

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use outrider_certs::token::AUDIENCE;

/// A pod is of the mesh if it has a container of this name.
const SIDECAR: &str = "outrider-proxy";
const USER_PREFIX: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why the holder of a token that the API server accepts gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PodError {
    #[error("the API server does not say that the token is for {AUDIENCE}")]
    Audience,
    #[error("the token is not a ServiceAccount's")]
    NotServiceAccount,
    #[error("the token is not bound to a pod: expected a projected one")]
    NotBound,
    #[error("there is no pod {0} any more that the token is bound to")]
    Gone(String),
    #[error("the pod {pod} has the ServiceAccount {found}, the token is of {expected}")]
    ServiceAccount {
        pod: String,
        found: String,
        expected: String,
    },
    #[error("the pod {pod} is on the node {found}, the token is for {expected}")]
    Node {
        pod: String,
        found: String,
        expected: String,
    },
    #[error("the pod {0} has ended")]
    Ended(String),
    #[error("the pod {0} has no sidecar: expected a container {SIDECAR}")]
    NoSidecar(String),
    #[error("the pod {0} is in its node's network: expected one of its own")]
    HostNetwork(String),
    #[error("the pod {0} has no address yet")]
    NoAddress(String),
    #[error("the token of the pod {pod} comes from {peer}, which is not the pod's address")]
    Address { pod: String, peer: IpAddr },
}

impl PodError {
    /// A bounded name for metrics and logs.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Audience => "token_audience",
            Self::NotServiceAccount => "token_subject",
            Self::NotBound => "token_not_bound",
            Self::Gone(_) => "pod_gone",
            Self::ServiceAccount { .. } => "pod_service_account",
            Self::Node { .. } => "pod_node",
            Self::Ended(_) => "pod_ended",
            Self::NoSidecar(_) => "pod_no_sidecar",
            Self::HostNetwork(_) => "pod_host_network",
            Self::NoAddress(_) => "pod_no_address",
            Self::Address { .. } => "pod_address",
        }
    }
}

/// What a token is bound to, as the API server has shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) pod: String,
    uid: String,
    /// API servers before 1.30 do not say it.
    node: Option<String>,
}

impl Bound {
    /// Of a token that was authenticated.
    pub(super) fn of(status: &TokenReviewStatus) -> Result<Self, PodError> {
        let audiences = status.audiences.as_deref().unwrap_or_default();
        // Without ours the token was reviewed for the API server itself.
        if !audiences.iter().any(|audience| audience == AUDIENCE) {
            return Err(PodError::Audience);
        }
        let user = status.user.as_ref().ok_or(PodError::NotServiceAccount)?;
        let name = user.username.as_deref().unwrap_or_default();
        let (namespace, service_account) = name
            .strip_prefix(USER_PREFIX)
            .and_then(|rest| rest.split_once(':'))
            .filter(|(namespace, account)| !namespace.is_empty() && is_name(account))
            .ok_or(PodError::NotServiceAccount)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: one(user, POD_NAME)?.ok_or(PodError::NotBound)?,
            uid: one(user, POD_UID)?.ok_or(PodError::NotBound)?,
            node: one(user, NODE_NAME)?,
        })
    }

    /// Whether the pod may ask for its ServiceAccount's certificate from `peer`, or, without one, from
    /// anywhere.
    pub(super) fn check(&self, pod: Option<&Pod>, peer: Option<IpAddr>) -> Result<(), PodError> {
        let name = || format!("{}/{}", self.namespace, self.pod);
        // One of the same name is another.
        let pod = pod
            .filter(|pod| pod.metadata.uid.as_deref() == Some(self.uid.as_str()))
            .ok_or_else(|| PodError::Gone(name()))?;
        let no_spec = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&no_spec);
        let found = spec.service_account_name.as_deref().unwrap_or_default();
        if found != self.service_account {
            return Err(PodError::ServiceAccount {
                pod: name(),
                found: found.to_owned(),
                expected: self.service_account.clone(),
            });
        }
        let found = spec.node_name.as_deref().unwrap_or_default();
        if let Some(expected) = self.node.as_deref().filter(|node| *node != found) {
            return Err(PodError::Node {
                pod: name(),
                found: found.to_owned(),
                expected: expected.to_owned(),
            });
        }
        if has_ended(pod) {
            return Err(PodError::Ended(name()));
        }
        if !has_sidecar(spec) {
            return Err(PodError::NoSidecar(name()));
        }
        if spec.host_network == Some(true) {
            return Err(PodError::HostNetwork(name()));
        }
        let Some(peer) = peer else {
            return Ok(());
        };
        let addresses = addresses(pod);
        if addresses.is_empty() {
            return Err(PodError::NoAddress(name()));
        }
        if !addresses.contains(&peer) {
            return Err(PodError::Address { pod: name(), peer });
        }
        Ok(())
    }
}

fn is_name(account: &str) -> bool {
    !account.is_empty() && !account.contains(':')
}

/// The one value of an extra; several cannot all be meant.
fn one(user: &UserInfo, key: &str) -> Result<Option<String>, PodError> {
    let values = user.extra.as_ref().and_then(|extra| extra.get(key));
    match values.map(Vec::as_slice) {
        None => Ok(None),
        Some([value]) if !value.is_empty() => Ok(Some(value.clone())),
        Some(_) => Err(PodError::NotBound),
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn has_sidecar(spec: &PodSpec) -> bool {
    let is_sidecar = |container: &Container| container.name == SIDECAR;
    spec.containers.iter().any(is_sidecar) || spec.init_containers.iter().flatten().any(is_sidecar)
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = status.pod_ips.iter().flatten().map(|address| &address.ip);
    let parsed = all.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok());
    parsed.map(|ip: IpAddr| ip.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PEER: [u8; 4] = [10, 244, 0, 7];

    fn status(change: impl FnOnce(&mut Value)) -> TokenReviewStatus {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["outrider-control-plane"],
            "user": {
                "username": "system:serviceaccount:shop:order",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["order-1"],
                    "authentication.kubernetes.io/pod-uid": ["1111"],
                    "authentication.kubernetes.io/node-name": ["one"],
                },
            },
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "order-1", "namespace": "shop", "uid": "1111"},
            "spec": {
                "serviceAccountName": "order",
                "nodeName": "one",
                "initContainers": [{"name": "outrider-init"}, {"name": "outrider-proxy"}],
                "containers": [{"name": "order"}],
            },
            "status": {
                "phase": "Pending",
                "podIP": "10.244.0.7",
                "podIPs": [{"ip": "10.244.0.7"}, {"ip": "fd00:244::7"}],
            },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_a_review_must_say() {
        let of = |change: fn(&mut Value)| Bound::of(&status(change));
        let bound = of(|_| {}).unwrap();
        assert_eq!(
            (bound.namespace.as_str(), bound.service_account.as_str()),
            ("shop", "order")
        );
        assert_eq!(
            (bound.pod.as_str(), bound.node.as_deref()),
            ("order-1", Some("one"))
        );
        let user = |name: &str| {
            Bound::of(&status(|status| status["user"]["username"] = json!(name))).map(|_| ())
        };
        for name in [
            "",
            "admin",
            "system:node:one",
            "system:serviceaccount:shop",
            "system:serviceaccount::order",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:order:x",
        ] {
            assert_eq!(user(name), Err(PodError::NotServiceAccount), "{name}");
        }
        assert_eq!(of(|s| s["audiences"] = json!([])), Err(PodError::Audience));
        assert_eq!(
            of(|s| s["audiences"] = json!(["https://kubernetes"])),
            Err(PodError::Audience)
        );
        assert_eq!(
            of(|s| {
                s.as_object_mut().unwrap().remove("audiences");
            }),
            Err(PodError::Audience)
        );
        assert_eq!(
            of(|s| {
                s.as_object_mut().unwrap().remove("user");
            }),
            Err(PodError::NotServiceAccount)
        );
        for key in [POD_NAME, POD_UID] {
            let without = status(|status| {
                status["user"]["extra"].as_object_mut().unwrap().remove(key);
            });
            assert_eq!(Bound::of(&without), Err(PodError::NotBound), "{key}");
            for values in [json!([]), json!([""]), json!(["a", "b"])] {
                let other = status(|status| status["user"]["extra"][key] = values.clone());
                assert_eq!(
                    Bound::of(&other),
                    Err(PodError::NotBound),
                    "{key}: {values}"
                );
            }
        }
    }

    #[test]
    fn which_pod_may_ask() {
        let bound = Bound::of(&status(|_| {})).unwrap();
        let check = |change: fn(&mut Value)| bound.check(Some(&pod(change)), Some(PEER.into()));
        let name = "shop/order-1".to_owned();
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(bound.check(None, None), Err(PodError::Gone(name.clone())));
        type Row = (fn(&mut Value), PodError);
        let table: [Row; 7] = [
            (
                |p| p["metadata"]["uid"] = json!("2222"),
                PodError::Gone(name.clone()),
            ),
            (
                |p| p["spec"]["serviceAccountName"] = json!("billing"),
                PodError::ServiceAccount {
                    pod: name.clone(),
                    found: "billing".to_owned(),
                    expected: "order".to_owned(),
                },
            ),
            (
                |p| p["spec"]["nodeName"] = json!("two"),
                PodError::Node {
                    pod: name.clone(),
                    found: "two".to_owned(),
                    expected: "one".to_owned(),
                },
            ),
            (
                |p| p["status"]["phase"] = json!("Failed"),
                PodError::Ended(name.clone()),
            ),
            (
                |p| p["spec"]["initContainers"] = json!([]),
                PodError::NoSidecar(name.clone()),
            ),
            (
                |p| p["spec"]["hostNetwork"] = json!(true),
                PodError::HostNetwork(name.clone()),
            ),
            (
                |p| p["status"] = json!({"phase": "Pending"}),
                PodError::NoAddress(name.clone()),
            ),
        ];
        for (change, error) in table {
            assert_eq!(check(change), Err(error));
        }
    }

    #[test]
    fn a_call_comes_from_an_address_of_the_pod() {
        let bound = Bound::of(&status(|_| {})).unwrap();
        let from = |peer: &str| bound.check(Some(&pod(|_| {})), Some(peer.parse().unwrap()));
        assert_eq!(from("10.244.0.7"), Ok(()));
        assert_eq!(from("fd00:244::7"), Ok(()));
        for peer in ["10.244.0.8", "fd00:244::8", "127.0.0.1"] {
            let error = PodError::Address {
                pod: "shop/order-1".to_owned(),
                peer: peer.parse().unwrap(),
            };
            assert_eq!(from(peer), Err(error));
        }
        // Where addresses are translated nothing is said of them, and a pod need not have one.
        let early = pod(|pod| pod["status"] = json!({}));
        assert_eq!(bound.check(Some(&early), None), Ok(()));
    }

    #[test]
    fn an_api_server_that_says_nothing_of_nodes() {
        let bound = Bound::of(&status(|status| {
            status["user"]["extra"]
                .as_object_mut()
                .unwrap()
                .remove(NODE_NAME);
        }));
        assert_eq!(
            bound.unwrap().check(Some(&pod(|_| {})), Some(PEER.into())),
            Ok(())
        );
    }
}
