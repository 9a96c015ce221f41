//! The control plane's Deployment, its Service, and what keeps it available.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Namespace, PodTemplateSpec, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::settings::{
    ADMIN_PORT, CONTROL_PLANE, GRPC_PORT, INJECT_LABEL, NAMESPACE, Profile, Settings, WEBHOOK_PORT,
    labels, of_cluster, of_namespace, selector,
};
use super::{InstallError, pod, value};

/// Its pods meet the strictest of the Pod Security Standards.
pub(super) fn namespace() -> Namespace {
    let mut metadata = of_cluster(NAMESPACE);
    let labels = metadata.labels.get_or_insert_default();
    let more = [
        (INJECT_LABEL, "disabled"),
        ("pod-security.kubernetes.io/enforce", "restricted"),
    ];
    labels.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    Namespace {
        metadata,
        ..Namespace::default()
    }
}

pub(super) fn objects(settings: &Settings) -> Result<Vec<Value>, InstallError> {
    let mut objects = vec![value(&service())?, value(&deployment(settings))?];
    if settings.profile == Profile::Ha {
        objects.push(value(&disruption_budget())?);
    }
    if settings.network_policy {
        objects.push(value(&network_policy())?);
    }
    Ok(objects)
}

fn service() -> Service {
    let port = |name: &str, port, target: &str| ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(target.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: of_namespace(CONTROL_PLANE),
        spec: Some(ServiceSpec {
            selector: Some(selector()),
            ports: Some(vec![
                port("grpc", GRPC_PORT, "grpc"),
                port("webhook", 443, "webhook"),
                port("metrics", ADMIN_PORT, "metrics"),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn deployment(settings: &Settings) -> Deployment {
    let replicas = match settings.profile {
        Profile::Default => 1,
        Profile::Ha => 3,
    };
    Deployment {
        metadata: of_namespace(CONTROL_PLANE),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: own_pods(),
            // The next one serves before the last one goes.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    annotations: Some(scraped()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::spec(settings)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// For Prometheus' usual discovery of pods.
fn scraped() -> BTreeMap<String, String> {
    let pairs = [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", ADMIN_PORT.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn disruption_budget() -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: of_namespace(CONTROL_PLANE),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(own_pods()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// From anywhere, but to these ports only: sidecars are everywhere, and the API server is no pod.
fn network_policy() -> NetworkPolicy {
    let port = |port| NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    NetworkPolicy {
        metadata: of_namespace(CONTROL_PLANE),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own_pods()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: None,
                ports: Some(vec![port(GRPC_PORT), port(ADMIN_PORT), port(WEBHOOK_PORT)]),
            }]),
            egress: None,
        }),
    }
}

fn own_pods() -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector()),
        match_expressions: None,
    }
}
