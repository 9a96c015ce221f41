//! Which pods have a sidecar, and which have none though their namespace is meshed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec};
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use outrider_control_plane::inject::{NamespaceChoice, SYSTEM_NAMESPACE, Wanted, wanted};
use serde::de::DeserializeOwned;

use super::access::{Cluster, ClusterError};
use super::names::{INJECT, SIDECAR, SYSTEM};
use crate::args::ScopeArgs;
use crate::output;

/// So many objects come at once, so that a large cluster is not in memory as a whole.
const PAGE: u32 = 500;

/// Which namespaces are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Namespace(String),
}

impl Scope {
    /// What was typed, or the context's namespace.
    pub(crate) fn of(args: &ScopeArgs, cluster: &Cluster) -> Self {
        match &args.namespace {
            _ if args.all_namespaces => Self::All,
            Some(namespace) => Self::Namespace(namespace.clone()),
            None => Self::Namespace(cluster.namespace.clone()),
        }
    }

    pub(crate) fn api<K>(&self, cluster: &Cluster) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::All => Api::all(cluster.client.clone()),
            Self::Namespace(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        }
    }
}

/// A pod with a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) account: String,
    /// As its container was told.
    pub(crate) trust_domain: Option<String>,
    /// The tag of its image.
    pub(crate) version: Option<String>,
    pub(crate) running: bool,
    pub(crate) ready: bool,
}

impl Sidecar {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    pub(crate) fn identity(&self) -> String {
        let domain = self.trust_domain.as_deref().unwrap_or("cluster.local");
        format!(
            "spiffe://{domain}/ns/{}/sa/{}",
            self.namespace, self.account
        )
    }
}

/// What a pod is to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    Sidecar(Sidecar),
    /// It should have one, by its namespace or by its own label.
    Missing {
        namespace: String,
        pod: String,
    },
    /// It shares its node's network, and cannot have one.
    HostNetwork {
        namespace: String,
        pod: String,
    },
    /// Nobody wants one, or the pod has ended.
    None,
}

/// What the namespaces say of their pods, by their label.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(BTreeMap<String, NamespaceChoice>);

impl Namespaces {
    fn choice(&self, name: &str) -> NamespaceChoice {
        let choice = self.0.get(name).copied();
        choice.unwrap_or(NamespaceChoice::Silent)
    }

    /// Those whose pods get a sidecar.
    pub(crate) fn meshed(&self) -> impl Iterator<Item = &str> {
        let enabled =
            |(_, choice): &(&String, &NamespaceChoice)| **choice == NamespaceChoice::Enabled;
        self.0.iter().filter(enabled).map(|(name, _)| name.as_str())
    }
}

/// What `pod` is.
pub(crate) fn membership(pod: &Pod, namespaces: &Namespaces) -> Membership {
    let Some(spec) = &pod.spec else {
        return Membership::None;
    };
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Membership::None;
    }
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    if let Some(container) = sidecar_container(spec) {
        return Membership::Sidecar(Sidecar {
            account: account(spec),
            trust_domain: environment(container, "OUTRIDER_TRUST_DOMAIN"),
            version: container.image.as_deref().and_then(tag).map(str::to_owned),
            running: phase == Some("Running") && pod.metadata.deletion_timestamp.is_none(),
            ready: is_ready(pod),
            namespace,
            pod: name,
        });
    }
    let label = pod.labels().get(INJECT).map(String::as_str);
    let never = [SYSTEM_NAMESPACE, SYSTEM].contains(&namespace.as_str()) || is_windows(spec);
    match wanted(namespaces.choice(&namespace), label) {
        _ if never => Membership::None,
        Wanted::No => Membership::None,
        Wanted::Yes | Wanted::Unclear if spec.host_network == Some(true) => {
            Membership::HostNetwork {
                namespace,
                pod: name,
            }
        }
        Wanted::Yes | Wanted::Unclear => Membership::Missing {
            namespace,
            pod: name,
        },
    }
}

fn is_windows(spec: &PodSpec) -> bool {
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    let mut selected = spec.node_selector.iter().flatten();
    let selects = |(label, os): (&String, &String)| label == "kubernetes.io/os" && os == "windows";
    os == Some("windows") || selected.any(selects)
}

/// The sidecars of `scope` that run.
pub(crate) async fn sidecars(
    cluster: &Cluster,
    scope: &Scope,
) -> Result<Vec<Sidecar>, ClusterError> {
    let nowhere = Namespaces::default();
    let pods = scope.api(cluster);
    let running = |pod: Pod| match membership(&pod, &nowhere) {
        Membership::Sidecar(sidecar) => sidecar.running.then_some(sidecar),
        Membership::Missing { .. } | Membership::HostNetwork { .. } | Membership::None => None,
    };
    collect(cluster, &pods, "pods", running).await
}

/// Of every namespace that says anything, but for those that are being deleted: nothing can be made there, and
/// what is there goes.
pub(crate) async fn namespaces(cluster: &Cluster) -> Result<Namespaces, ClusterError> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let list = namespaces.list(&ListParams::default().labels(INJECT)).await;
    let list = list.map_err(|error| cluster.failed(error))?;
    let choice = |namespace: &Namespace| {
        let labels = namespace.labels().iter();
        NamespaceChoice::of(labels.map(|(key, value)| (key.as_str(), value.as_str())))
    };
    let stays = |namespace: &&Namespace| namespace.metadata.deletion_timestamp.is_none();
    let choices = list.iter().filter(stays);
    let choices = choices.map(|it| (it.name_any(), choice(it)));
    Ok(Namespaces(choices.collect()))
}

/// What `keep` makes of each object, which come page by page; `what` are they, for people.
pub(crate) async fn collect<K, T>(
    cluster: &Cluster,
    api: &Api<K>,
    what: &str,
    mut keep: impl FnMut(K) -> Option<T>,
) -> Result<Vec<T>, ClusterError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    let (mut kept, mut seen) = (Vec::new(), 0);
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(|error| cluster.failed(error))?;
        seen += page.items.len();
        kept.extend(page.items.into_iter().filter_map(&mut keep));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => {
                output::progress(format_args!("read {seen} {what}"));
                params = params.continue_token(&token);
            }
            None => break,
        }
    }
    if seen > PAGE as usize {
        output::progress("");
    }
    Ok(kept)
}

fn sidecar_container(spec: &PodSpec) -> Option<&Container> {
    let native = spec.init_containers.iter().flatten();
    let mut all = native.chain(&spec.containers);
    all.find(|container| container.name == SIDECAR)
}

fn account(spec: &PodSpec) -> String {
    let account = spec.service_account_name.as_deref();
    account
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned()
}

fn environment(container: &Container, name: &str) -> Option<String> {
    let mut all = container.env.iter().flatten();
    all.find(|variable| variable.name == name)?.value.clone()
}

/// The tag of an image: "v1" of `registry:5000/outrider-proxy:v1@sha256:…`.
pub(crate) fn tag(image: &str) -> Option<&str> {
    let (image, _) = image.split_once('@').unwrap_or((image, ""));
    let (_, name) = image.rsplit_once('/').unwrap_or(("", image));
    name.split_once(':').map(|(_, tag)| tag)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// How many of each: "3 of 0.2.0, 1 of 0.1.0".
pub(crate) fn versions<'a>(versions: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for version in versions {
        *counted.entry(version.unwrap_or("no version")).or_default() += 1;
    }
    let counted: Vec<String> = counted
        .into_iter()
        .map(|(version, count)| format!("{count} of {version}"))
        .collect();
    counted.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(pod: Value) -> Membership {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let chosen = [
            ("shop", NamespaceChoice::Enabled),
            ("outside", NamespaceChoice::Disabled),
        ];
        let chosen = chosen.map(|(name, choice)| (name.to_owned(), choice));
        membership(&pod, &Namespaces(chosen.into()))
    }

    fn pod(namespace: &str, labels: Value, spec: Value, phase: &str) -> Value {
        json!({
            "metadata": {"namespace": namespace, "name": "order-1", "labels": labels},
            "spec": spec,
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    fn plain() -> Value {
        json!({"containers": [{"name": "app"}]})
    }

    #[test]
    fn a_native_sidecar_is_one() {
        let spec = json!({
            "serviceAccountName": "order",
            "initContainers": [
                {"name": "outrider-init"},
                {"name": "outrider-proxy", "restartPolicy": "Always", "image": "r:5000/outrider-proxy:0.1.0",
                 "env": [{"name": "OUTRIDER_TRUST_DOMAIN", "value": "shop.example"}]}],
            "containers": [{"name": "app"}],
        });
        let Membership::Sidecar(sidecar) = of(pod("elsewhere", json!({}), spec, "Running")) else {
            panic!("it has a sidecar");
        };
        assert_eq!(
            sidecar.identity(),
            "spiffe://shop.example/ns/elsewhere/sa/order"
        );
        assert_eq!(sidecar.version.as_deref(), Some("0.1.0"));
        assert!(sidecar.running && sidecar.ready);
    }

    #[test]
    fn who_should_have_one() {
        let missing = |membership| matches!(membership, Membership::Missing { .. });
        assert!(missing(of(pod("shop", json!({}), plain(), "Running"))));
        assert!(!missing(of(pod("default", json!({}), plain(), "Running"))));
        assert!(missing(of(pod(
            "default",
            json!({INJECT: "true"}),
            plain(),
            "Pending"
        ))));
        assert!(!missing(of(pod(
            "shop",
            json!({INJECT: "false"}),
            plain(),
            "Running"
        ))));
        assert!(!missing(of(pod("shop", json!({}), plain(), "Succeeded"))));
        for never in ["outside", "kube-system", "outrider-system"] {
            let asks = json!({INJECT: "true"});
            assert!(
                !missing(of(pod(never, asks, plain(), "Running"))),
                "{never}"
            );
        }
        let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "app"}]});
        assert!(!missing(of(pod("shop", json!({}), windows, "Running"))));
    }

    #[test]
    fn a_pod_of_the_nodes_network_cannot_have_one() {
        let spec = json!({"hostNetwork": true, "containers": [{"name": "app"}]});
        assert_eq!(
            of(pod("shop", json!({}), spec, "Running")),
            Membership::HostNetwork {
                namespace: "shop".to_owned(),
                pod: "order-1".to_owned()
            }
        );
    }

    #[test]
    fn the_tag_of_an_image() {
        for (image, expected) in [
            ("outrider-proxy:0.1.0", Some("0.1.0")),
            ("r:5000/a/outrider-proxy:0.1.0@sha256:ab", Some("0.1.0")),
            ("r:5000/outrider-proxy", None),
            ("outrider-proxy", None),
        ] {
            assert_eq!(tag(image), expected, "{image}");
        }
    }

    #[test]
    fn versions_are_counted() {
        let all = [Some("0.1.0"), None, Some("0.2.0"), Some("0.1.0")];
        assert_eq!(
            versions(all.into_iter()),
            "2 of 0.1.0, 1 of 0.2.0, 1 of no version"
        );
    }
}
