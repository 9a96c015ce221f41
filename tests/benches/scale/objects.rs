//! What is in the API server: made by its API, as controllers and kubelets would make it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use outrider_certs::authority::CertificateAuthority;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Arguments;

/// Where all of it is.
pub(crate) const NAMESPACE: &str = "scale";
const SYSTEM: &str = "outrider-system";
/// Requests at once.
const AT_ONCE: usize = 64;

/// An API server that has the mesh.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The authority's certificate and key, which are in the Secret, too.
    authority: Arc<TempDir>,
}

impl Cluster {
    pub(crate) async fn connect(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            authority: Arc::new(tempfile::tempdir()?),
        })
    }

    /// The authority of the mesh.
    pub(crate) async fn authority(&self) -> Result<CertificateAuthority> {
        let domain = "cluster.local".parse()?;
        let folder = self.authority.path();
        Ok(CertificateAuthority::load_or_create(
            folder,
            &domain,
            SystemTime::now(),
        )?)
    }

    /// Everything.
    pub(crate) async fn make(&self, arguments: &Arguments) -> Result<()> {
        self.namespaces().await?;
        self.secret().await?;
        let services = 0..arguments.services;
        let accounts = services.clone().map(|number| {
            json!({"metadata": {"name": service(number)}, "automountServiceAccountToken": false})
        });
        self.create_all::<ServiceAccount>(accounts).await?;
        self.create_all::<Service>(services.clone().map(service_of))
            .await?;
        let pods: Vec<usize> = (0..arguments.endpoints).collect();
        let made = pods.iter().map(|number| pod_of(arguments, *number));
        self.create_all::<Pod>(made).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let statuses = stream::iter(pods).map(|number| {
            let api = api.clone();
            async move {
                let status = json!({"status": status_of(number)});
                let params = PatchParams::default();
                api.patch_status(&pod(number), &params, &Patch::Merge(&status))
                    .await
            }
        });
        let _: Vec<Pod> = statuses.buffer_unordered(AT_ONCE).try_collect().await?;
        let slices = services.map(|number| slice_of(arguments, number));
        self.create_all::<EndpointSlice>(slices).await
    }

    async fn namespaces(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        for (name, inject) in [(NAMESPACE, "enabled"), (SYSTEM, "disabled")] {
            let labels = json!({"outrider.mesh/inject": inject});
            let namespace = json!({"metadata": {"name": name, "labels": labels}});
            api.create(&PostParams::default(), &serde_json::from_value(namespace)?)
                .await?;
        }
        Ok(())
    }

    async fn secret(&self) -> Result<()> {
        self.authority().await?;
        let read = |name| std::fs::read_to_string(self.authority.path().join(name));
        let (certificate, key) = (read("ca.crt")?, read("ca.key")?);
        let secret = json!({
            "metadata": {"name": "outrider-ca"},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key, "trust-bundle.pem": certificate},
        });
        let api: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        api.create(&PostParams::default(), &serde_json::from_value(secret)?)
            .await?;
        Ok(())
    }

    async fn create_all<K>(&self, objects: impl Iterator<Item = Value>) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), NAMESPACE);
        let made = stream::iter(objects).map(|object| {
            let api = api.clone();
            async move {
                let typed: K = serde_json::from_value(object)?;
                api.create(&PostParams::default(), &typed).await?;
                anyhow::Ok(())
            }
        });
        made.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// A policy about every pod, whose one rule has the number in its name.
    pub(crate) async fn apply_policy(&self, number: u32) -> Result<()> {
        let every =
            json!({"group": "", "kind": "Pod", "selector": {"matchLabels": {"mesh": "yes"}}});
        self.apply("all", &every, &rule(number)).await
    }

    /// As many policies as are asked for, each about a Service, as fast as they are taken; how long each
    /// took.
    pub(crate) async fn apply_many(&self, arguments: &Arguments) -> Result<Vec<Duration>> {
        let applied = stream::iter(0..arguments.at_once).map(|number| async move {
            let called = service(number as usize % arguments.services.max(1));
            let target = json!({"group": "", "kind": "Service", "name": called});
            let begun = Instant::now();
            let name = format!("one-of-many-{number}");
            self.apply(&name, &target, &name).await?;
            anyhow::Ok(begun.elapsed())
        });
        applied.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn apply(&self, name: &str, target: &Value, rule: &str) -> Result<()> {
        let kind = GroupVersionKind::gvk("outrider.mesh", "v1alpha1", "AuthorizationPolicy");
        let resource = ApiResource::from_gvk_with_plural(&kind, "authorizationpolicies");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource);
        let policy = json!({
            "apiVersion": "outrider.mesh/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {
                "targetRefs": [target],
                "rules": [{"name": rule, "sources": [
                    {"type": "ServiceAccount", "serviceAccount": {"name": service(0)}}]}],
            },
        });
        let params = PatchParams::apply("mesh-scale").force();
        let applied = api.patch(name, &params, &Patch::Apply(&policy)).await;
        applied.with_context(|| format!("the policy {name} was not applied"))?;
        Ok(())
    }

    /// The endpoint of this turn is the other of ready and not ready.
    pub(crate) async fn change_endpoint(&self, arguments: &Arguments, turn: usize) -> Result<()> {
        let (service_number, round) = (turn % arguments.services, turn / arguments.services);
        let of_service = members(arguments, service_number);
        let index = round / 2 % of_service.len().max(1);
        let ready = round % 2 == 1;
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = json!([{
            "op": "replace",
            "path": format!("/endpoints/{index}/conditions/ready"),
            "value": ready,
        }]);
        let patch: json_patch::Patch = serde_json::from_value(patch)?;
        api.patch(
            &service(service_number),
            &PatchParams::default(),
            &Patch::<()>::Json(patch),
        )
        .await?;
        Ok(())
    }
}

/// The rule of a policy.
pub(crate) fn rule(number: u32) -> String {
    format!("policy-{number}")
}

/// The Service of this number, and its ServiceAccount.
pub(crate) fn service(number: usize) -> String {
    format!("service-{number}")
}

/// The pod of this number.
pub(crate) fn pod(number: usize) -> String {
    format!("pod-{number}")
}

/// Whose endpoint a pod is.
pub(crate) fn service_of_pod(arguments: &Arguments, pod: usize) -> usize {
    pod % arguments.services.max(1)
}

fn members(arguments: &Arguments, service: usize) -> Vec<usize> {
    (service..arguments.endpoints)
        .step_by(arguments.services.max(1))
        .collect()
}

fn address(pod: usize) -> String {
    format!(
        "10.{}.{}.{}",
        100 + pod / 65_536,
        pod / 256 % 256,
        pod % 256
    )
}

fn service_of(number: usize) -> Value {
    json!({
        "metadata": {"name": service(number)},
        "spec": {
            "selector": {"app": service(number)},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        },
    })
}

fn pod_of(arguments: &Arguments, number: usize) -> Value {
    let app = service(service_of_pod(arguments, number));
    json!({
        "metadata": {"name": pod(number), "labels": {"app": app, "mesh": "yes"}},
        "spec": {
            "serviceAccountName": app,
            "automountServiceAccountToken": false,
            "nodeName": format!("node-{}", number % 100),
            "initContainers": [{"name": "outrider-proxy", "image": "outrider-proxy:0.1.0", "restartPolicy": "Always"}],
            "containers": [{
                "name": "app",
                "image": "app:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            }],
        },
    })
}

fn status_of(number: usize) -> Value {
    json!({
        "phase": "Running",
        "podIP": address(number),
        "podIPs": [{"ip": address(number)}],
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

fn slice_of(arguments: &Arguments, number: usize) -> Value {
    let endpoints = members(arguments, number);
    let endpoints = endpoints.iter().map(|member| {
        json!({
            "addresses": [address(*member)],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod(*member)},
        })
    });
    json!({
        "metadata": {"name": service(number), "labels": {"kubernetes.io/service-name": service(number)}},
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"}],
    })
}
