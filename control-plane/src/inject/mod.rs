//! Sidecars into pods: a pod in, a patch out. Pure: the admission webhook and `outrider inject` call
//! the same [`inject`], so that both make the same pod of the same pod.
//!
//! - `pod`: what is read of a pod;
//! - `check`: which pods cannot have a sidecar, and what users should be warned of;
//! - `container`: the containers and volumes that are added;
//! - `probes`: what the kubelet asks the sidecar instead of the app;
//! - [`template`]: where in a Deployment and its like the pod is.

mod check;
mod container;
mod pod;
mod probes;
mod select;
pub mod template;
#[cfg(test)]
mod tests;

use json_patch::{Patch, PatchOperation};
use outrider_api::annotations::{
    AnnotationError, Annotations, INIT_CONTAINER, INJECT, SidecarKind,
};
use outrider_certs::spiffe::TrustDomain;
use serde_json::{Value, json};

use self::pod::{Pod, Spec};

pub use self::check::Conflict;
pub use self::select::{NamespaceChoice, Wanted, wanted};
pub use outrider_api::annotations::SIDECAR_CONTAINER;

/// The ConfigMap with the trust anchors, in every namespace with sidecars.
pub const TRUST_BUNDLE: &str = "outrider-trust-bundle";
/// Its key.
pub const TRUST_BUNDLE_KEY: &str = "trust-bundle.pem";
/// For whom the sidecar's token is.
pub const TOKEN_AUDIENCE: &str = "outrider-control-plane";
/// Where the sidecar's program is in its image.
pub const PROGRAM: &str = "/outrider-proxy";
/// Whose pods never get a sidecar, besides those of the mesh's own namespace.
pub const SYSTEM_NAMESPACE: &str = "kube-system";
/// Which container is meant where none is named; for `kubectl`.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What all sidecars of a mesh have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image of the sidecar and of `init`.
    pub image: String,
    /// Of that image: `Always`, `IfNotPresent` or `Never`; `None`: as Kubernetes decides.
    pub image_pull_policy: Option<String>,
    /// Where sidecars find the control plane, HOST:PORT.
    pub control_plane: String,
    pub trust_domain: TrustDomain,
    /// The mesh's own namespace.
    pub namespace: String,
    /// Which kind the cluster takes; pods may say otherwise.
    pub sidecar: SidecarKind,
}

impl Settings {
    /// The image of a release, from `registry` where one is given.
    #[must_use]
    pub fn default_image(registry: Option<&str>) -> String {
        let name = concat!("outrider-proxy:", env!("CARGO_PKG_VERSION"));
        match registry {
            Some(registry) => format!("{}/{name}", registry.trim_end_matches('/')),
            None => name.to_owned(),
        }
    }

    /// Where sidecars find the control plane of a mesh that is installed in `namespace`.
    #[must_use]
    pub fn default_control_plane(namespace: &str) -> String {
        format!("outrider-control-plane.{namespace}.svc:15012")
    }
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It gets a sidecar.
    Injected {
        /// The way from the pod that was given to the one with a sidecar (RFC 6902).
        patch: Patch,
        /// What its author should know.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    Left(Left),
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    AlreadyInjected,
    OptedOut,
    /// Of the cluster's own or the mesh's own namespace.
    SystemNamespace,
    HostNetwork,
    Windows,
    /// The kubelet's own record of a pod that it runs from a file.
    Mirror,
}

impl Left {
    /// What the author of the pod should hear of it, who may think that it has a sidecar.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::AlreadyInjected | Self::OptedOut | Self::SystemNamespace | Self::Mirror => None,
            Self::HostNetwork => Some(
                "no sidecar: the pod has hostNetwork, and the rules of interception would be those \
                 of the whole node; it calls and is called without identity and policy",
            ),
            Self::Windows => Some(
                "no sidecar: the pod is of Windows; it calls and is called without identity and policy",
            ),
        }
    }
}

/// Why a pod is refused. Displays what is wrong and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not a pod: {0}")]
    NotAPod(String),
    #[error("label {INJECT}: {value:?} is not known, expected \"true\" or \"false\"")]
    Label { value: String },
    #[error("{}", join(.0))]
    Annotations(Vec<AnnotationError>),
    #[error("{}", join(.0))]
    Conflicts(Vec<Conflict>),
}

fn join<T: ToString>(list: &[T]) -> String {
    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
    list.join("; ")
}

/// Makes a pod of `namespace`, or the template of one, a pod with a sidecar.
///
/// That it is to have one has been decided (by the selectors of the webhook, or by whoever calls the
/// command): this heeds only what the pod itself says, see [`wanted`].
///
/// # Errors
/// It cannot have a sidecar as it is written.
pub fn inject(pod: &Value, namespace: &str, settings: &Settings) -> Result<Outcome, Refusal> {
    let read = Pod::read(pod)?;
    if let Some(left) = left(&read, namespace, settings)? {
        return Ok(Outcome::Left(left));
    }
    let annotations = read.metadata.annotations.iter();
    let annotations =
        Annotations::parse(annotations.map(|(key, value)| (key.as_str(), value.as_str())))
            .map_err(Refusal::Annotations)?;
    let conflicts = check::conflicts(&read.spec);
    if !conflicts.is_empty() {
        return Err(Refusal::Conflicts(conflicts));
    }
    let sidecar = Sidecar {
        settings,
        kind: annotations.sidecar.unwrap_or(settings.sidecar),
        annotations: &annotations,
        ends_with: check::ends_with(&read.spec),
    };
    Ok(Outcome::Injected {
        patch: Patch(sidecar.operations(&read)),
        warnings: check::warnings(&read.spec, &annotations, sidecar.kind),
    })
}

/// `pod` as `patch` makes it.
///
/// # Errors
/// The patch is of another pod.
pub fn apply(pod: &mut Value, patch: &Patch) -> Result<(), json_patch::PatchError> {
    json_patch::patch(pod, patch)
}

fn left(pod: &Pod, namespace: &str, settings: &Settings) -> Result<Option<Left>, Refusal> {
    if pod.spec.has_container(SIDECAR_CONTAINER) {
        return Ok(Some(Left::AlreadyInjected));
    }
    if namespace == SYSTEM_NAMESPACE || namespace == settings.namespace {
        return Ok(Some(Left::SystemNamespace));
    }
    if pod.is_mirror() {
        return Ok(Some(Left::Mirror));
    }
    match pod.metadata.labels.get(INJECT).map(String::as_str) {
        None | Some("true") => {}
        Some("false") => return Ok(Some(Left::OptedOut)),
        Some(value) => {
            let value = value.to_owned();
            return Err(Refusal::Label { value });
        }
    }
    if pod.spec.is_windows() {
        return Ok(Some(Left::Windows));
    }
    Ok(pod.spec.host_network.then_some(Left::HostNetwork))
}

/// A sidecar that is to be added.
struct Sidecar<'a> {
    settings: &'a Settings,
    kind: SidecarKind,
    annotations: &'a Annotations,
    /// Of a pod that ends by itself: how many containers have to end before a classic sidecar does.
    ends_with: Option<usize>,
}

impl Sidecar<'_> {
    fn operations(&self, pod: &Pod) -> Vec<PatchOperation> {
        let spec = &pod.spec;
        let init = container::init(self);
        let sidecar = container::sidecar(self);
        let mut operations = Operations::default();
        hold_apps(spec, &mut operations);
        probes::redirect(spec, self.annotations, self.kind, &mut operations);
        match self.kind {
            SidecarKind::Native => {
                operations.first(
                    "/spec/initContainers",
                    spec.init_containers.len(),
                    [init, sidecar],
                );
            }
            SidecarKind::Classic => {
                // What runs before the sidecar could not reach anything once there are rules.
                operations.last("/spec/initContainers", spec.init_containers.len(), [init]);
                operations.first("/spec/containers", spec.containers.len(), [sidecar]);
                if self.ends_with.is_some() {
                    operations.add("/spec/shareProcessNamespace", json!(true));
                }
                self.name_default_container(pod, &mut operations);
            }
        }
        operations.last("/spec/volumes", spec.volumes.len(), container::volumes());
        operations.0
    }

    /// The sidecar comes first, and `kubectl logs` is to mean the app's container all the same.
    fn name_default_container(&self, pod: &Pod, operations: &mut Operations) {
        let Some(app) = pod.spec.containers.first() else {
            return;
        };
        let annotations = &pod.metadata.annotations;
        if !pod.has_metadata {
            operations.add("/metadata", json!({}));
        }
        if annotations.is_empty() {
            operations.add(
                "/metadata/annotations",
                json!({DEFAULT_CONTAINER: app.name}),
            );
        } else if !annotations.contains_key(DEFAULT_CONTAINER) {
            let path = format!(
                "/metadata/annotations/{}",
                DEFAULT_CONTAINER.replace('/', "~1")
            );
            operations.add(&path, json!(app.name));
        }
    }
}

/// An app hears that it is to end when nobody calls it any more: the kubelet would tell it at once, and
/// what its callers still send would be lost. What its author wrote for that moment stays.
fn hold_apps(spec: &Spec, operations: &mut Operations) {
    for (index, app) in spec.containers.iter().enumerate() {
        let path = format!("/spec/containers/{index}/lifecycle");
        match &app.lifecycle {
            None => operations.add(&path, json!({"preStop": container::hold()})),
            Some(hooks) if hooks.pre_stop.is_none() => {
                operations.add(&format!("{path}/preStop"), container::hold());
            }
            Some(_) => {}
        }
    }
}

/// Changes, one after the other.
#[derive(Default)]
struct Operations(Vec<PatchOperation>);

impl Operations {
    fn add(&mut self, path: &str, value: Value) {
        // Paths are written here, and are all good.
        if let Ok(path) = path.parse() {
            let operation = json_patch::AddOperation { path, value };
            self.0.push(PatchOperation::Add(operation));
        }
    }

    fn remove(&mut self, path: &str) {
        if let Ok(path) = path.parse() {
            self.0
                .push(PatchOperation::Remove(json_patch::RemoveOperation { path }));
        }
    }

    /// Before the entries of a list that has `length`.
    fn first<const N: usize>(&mut self, list: &str, length: usize, values: [Value; N]) {
        if length == 0 {
            return self.add(list, Value::Array(values.into()));
        }
        for (index, value) in values.into_iter().enumerate() {
            self.add(&format!("{list}/{index}"), value);
        }
    }

    /// After them.
    fn last<const N: usize>(&mut self, list: &str, length: usize, values: [Value; N]) {
        if length == 0 {
            return self.add(list, Value::Array(values.into()));
        }
        for value in values {
            self.add(&format!("{list}/-"), value);
        }
    }
}
