//! Where in an object the pod is that it makes.

use serde_json::Value;

use super::{Left, Outcome, Refusal, Settings, apply, inject};

/// The kinds that make pods, with the way to the pod.
const KINDS: [(&str, &str, &str); 9] = [
    ("v1", "Pod", ""),
    ("v1", "PodTemplate", "/template"),
    ("v1", "ReplicationController", "/spec/template"),
    ("apps/v1", "Deployment", "/spec/template"),
    ("apps/v1", "ReplicaSet", "/spec/template"),
    ("apps/v1", "StatefulSet", "/spec/template"),
    ("apps/v1", "DaemonSet", "/spec/template"),
    ("batch/v1", "Job", "/spec/template"),
    ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// What became of an object. Displayed names are `Kind/name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pods and templates that got a sidecar.
    pub injected: Vec<String>,
    /// Those that stay as they are.
    pub left: Vec<(String, Left)>,
    /// What their authors should know.
    pub warnings: Vec<(String, String)>,
}

impl Report {
    /// Whether the object is another one now.
    #[must_use]
    pub fn changed(&self) -> bool {
        !self.injected.is_empty()
    }
}

/// An object of which the pod is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {refusal}")]
pub struct Refused {
    /// `Kind/name`.
    pub object: String,
    pub refusal: Refusal,
}

/// Gives a sidecar to the pod of `object`, or of each in a List. What makes no pods stays as it is.
/// `namespace` is that of objects that name none.
///
/// # Errors
/// A pod cannot have one as it is written; `object` is half done then.
pub fn inject_object(
    object: &mut Value,
    namespace: &str,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), Refused> {
    if let Some(items) = list(object) {
        return items
            .iter_mut()
            .try_for_each(|item| inject_object(item, namespace, settings, report));
    }
    let Some(path) = path(object) else {
        return Ok(());
    };
    let name = name(object);
    let own = object
        .pointer("/metadata/namespace")
        .and_then(Value::as_str);
    let namespace = own.unwrap_or(namespace).to_owned();
    let refused = |refusal| Refused {
        object: name.clone(),
        refusal,
    };
    let Some(pod) = object.pointer_mut(path) else {
        let missing = path.trim_start_matches('/').replace('/', ".");
        return Err(refused(Refusal::NotAPod(format!("{missing} is missing"))));
    };
    match inject(pod, &namespace, settings).map_err(refused)? {
        Outcome::Left(left) => {
            let warning = left.warning().map(ToOwned::to_owned);
            report.warnings.extend(warning.map(|it| (name.clone(), it)));
            report.left.push((name, left));
        }
        Outcome::Injected { patch, warnings } => {
            apply(pod, &patch).map_err(|error| refused(Refusal::NotAPod(error.to_string())))?;
            let warnings = warnings.into_iter().map(|it| (name.clone(), it));
            report.warnings.extend(warnings);
            report.injected.push(name);
        }
    }
    Ok(())
}

fn text<'o>(object: &'o Value, field: &str) -> &'o str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// As `kubectl get` and `helm template` write several objects.
fn list(object: &mut Value) -> Option<&mut Vec<Value>> {
    let is_list = text(object, "apiVersion") == "v1" && text(object, "kind") == "List";
    is_list
        .then(|| object.get_mut("items")?.as_array_mut())
        .flatten()
}

fn path(object: &Value) -> Option<&'static str> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let mut kinds = KINDS.into_iter();
    let known = kinds.find(|(known, name, _)| *known == version && *name == kind);
    known.map(|(_, _, path)| path)
}

fn name(object: &Value) -> String {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let name = match text(metadata, "name") {
        "" => text(metadata, "generateName"),
        name => name,
    };
    format!("{}/{name}", text(object, "kind"))
}
