//! What is deleted, and in which order.
//!
//! First what would refuse, then who would make things anew, with its rights; then what it has made;
//! the definitions, and with them every policy, and the namespace last.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::settings::{CA_SECRET, CONTROL_PLANE, NAMESPACE, Profile, Settings, TRUST_BUNDLE};
use super::{InstallError, Objects};

/// The names of everything that `outrider install` prints with any option, and `found` in the cluster,
/// in the order in which they are deleted.
///
/// # Errors
/// See [`InstallError`].
pub fn removed(found: Vec<Value>) -> Result<Vec<Value>, InstallError> {
    let mut all = Vec::new();
    let Objects {
        crds,
        namespace,
        rbac,
        control_plane,
        webhooks,
    } = Objects::new(&everything())?;
    all.extend(webhooks);
    all.extend(control_plane);
    all.extend(rbac.into_iter().rev());
    all.extend(found);
    all.extend(made());
    all.extend(crds);
    all.extend(namespace);
    Ok(all.iter().map(name_only).collect())
}

/// Options that add objects.
fn everything() -> Settings {
    Settings {
        profile: Profile::Ha,
        network_policy: true,
        ..Settings::default()
    }
}

/// What a running control plane has made in its own namespace.
fn made() -> [Value; 3] {
    let of = |api: &str, kind: &str, name: &str| {
        json!({
            "apiVersion": api,
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
        })
    };
    [
        of("v1", "ConfigMap", TRUST_BUNDLE),
        of("v1", "Secret", CA_SECRET),
        of("coordination.k8s.io/v1", "Lease", CONTROL_PLANE),
    ]
}

/// As much as `kubectl delete` reads.
fn name_only(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let names = ["name", "namespace"]
        .into_iter()
        .filter_map(|field| Some((field, metadata.get(field)?.clone())));
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "metadata": names.collect::<BTreeMap<_, _>>(),
    })
}
