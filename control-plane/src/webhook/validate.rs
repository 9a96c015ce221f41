//! `/validate`: what `policy check` says of an object, together with what the cluster holds.
//!
//! An object that has no meaning is refused. One that has none *yet*, since what it is about is not
//! there or says the same, is let in with a warning: objects come in any order, and a replica may not
//! have seen the one before. Its status then says what became of it.

use std::path::Path;

use outrider_api::manifest::{self, Object, Problem};
use outrider_certs::bundle::TrustBundle;
use serde_json::Value;

use super::review::{Answer, Operation, Request};
use crate::index::{self, Shelves};
use crate::kubernetes::{DEFAULT_DENY, MESH_CONFIG, Standing, TOLERATED};

/// The group of our kinds, without the version.
const GROUP: &str = "outrider.mesh";
/// Where `kubectl apply` keeps what it was given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// A message names so many problems; the rest are counted.
const PROBLEMS_MAX: usize = 10;

/// What an object is judged beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside<'b> {
    pub(super) standing: &'b Standing,
    pub(super) trust: Option<&'b TrustBundle>,
    /// The mesh's own namespace.
    pub(super) namespace: &'b str,
}

/// Whether it takes judging: everything else is let in at once.
pub(super) fn concerns(request: &Request) -> bool {
    let ours = request.kind.group == GROUP;
    let route = request.kind.group == GATEWAY_GROUP && is_for_services(&request.object);
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    // Labels, finalizers and the like may change whatever became of the rest.
    let same = request.operation == Operation::Update
        && meant(&request.object).eq(meant(&request.old_object));
    let going = request.object.pointer("/metadata/deletionTimestamp");
    (ours || route) && written && !same && going.is_none_or(Value::is_null)
}

/// What somebody has written of an object that means something, or that they thought would.
fn meant(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "metadata" | "status"))
}

/// A route of which no parent is a Service is another controller's.
fn is_for_services(route: &Value) -> bool {
    let parents = route.pointer("/spec/parentRefs").and_then(Value::as_array);
    let is_service = |parent: &Value| {
        let group = parent.get("group").and_then(Value::as_str);
        parent.get("kind").and_then(Value::as_str) == Some("Service") && group == Some("")
    };
    parents.is_some_and(|parents| parents.iter().any(is_service))
}

/// Judges the object of a request that [`concerns`].
pub(super) fn validate(request: &Request, beside: Beside<'_>) -> Answer {
    let object = match read(request, &request.object) {
        Ok(object) => object,
        Err(problems) => return refused(&problems),
    };
    if let Some(written) = newly_applied(request)
        && let Err(problems) = read(request, &written)
    {
        return refused(&problems);
    }
    let mut answer = Answer::allowed();
    if request.kind.kind == "MeshConfig" && !is_read(&object, beside.namespace) {
        return answer.warning(format!(
            "is not read: the MeshConfig of a mesh is {}/{MESH_CONFIG}",
            beside.namespace
        ));
    }
    let file = object.location("").file;
    let standing = beside.standing;
    let problems = index::check(
        &around(&object, &standing.shelves),
        index::Beside {
            trust: beside.trust,
            trust_domain: standing.trust_domain.as_ref(),
            default_deny: DEFAULT_DENY,
            endpoints: Some(&standing.endpoints),
            tolerated: TOLERATED,
        },
        &mut standing.memo.of_ground(),
    );
    let own = problems.into_iter().filter(|it| it.location.file == file);
    let is_warning = |it: &Problem| it.is_warning() || TOLERATED.contains(&it.cause);
    let (warnings, errors): (Vec<_>, Vec<_>) = own.partition(is_warning);
    if !errors.is_empty() {
        return refused(&errors);
    }
    answer.warnings.extend(warnings.iter().map(shown));
    answer
}

/// What somebody gave to `kubectl apply`, as it was before it got here: kubectl leaves out what is null,
/// and a source that is left out is anybody, which nobody meant who wrote null.
fn newly_applied(request: &Request) -> Option<Value> {
    let noted = |object: &Value| {
        let annotations = object.pointer("/metadata/annotations")?;
        Some(annotations.get(LAST_APPLIED)?.as_str()?.to_owned())
    };
    let now = noted(&request.object)?;
    // What was applied once says nothing of an object that was changed in another way since.
    if noted(&request.old_object).as_ref() == Some(&now) {
        return None;
    }
    let mut written: Value = serde_json::from_str(&now).ok()?;
    if written.get("kind") != request.object.get("kind") {
        return None;
    }
    // The API server has made this version of whichever was written.
    let version = request.object.get("apiVersion")?.clone();
    written
        .as_object_mut()?
        .insert("apiVersion".to_owned(), version);
    Some(written)
}

/// JSON is YAML: one parser reads both. What Kubernetes itself keeps in the metadata is left out.
fn read(request: &Request, object: &Value) -> Result<Object, Vec<Problem>> {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let known = [
            "name",
            "namespace",
            "labels",
            "annotations",
            "creationTimestamp",
            "generation",
        ];
        metadata.retain(|field, value| known.contains(&field.as_str()) && !value.is_null());
        if metadata.get("name").is_none_or(|name| name == "") {
            // The server makes one of `generateName` later.
            metadata.insert("name".to_owned(), Value::from("generated"));
        }
        if !request.namespace.is_empty() {
            metadata.insert(
                "namespace".to_owned(),
                Value::from(request.namespace.as_str()),
            );
        }
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let file = format!(
        "{}/{}/{}",
        request.kind.kind, request.namespace, request.name
    );
    let objects = manifest::parse(Path::new(&file), &object.to_string())?;
    objects.into_iter().next().ok_or_else(Vec::new)
}

fn is_read(object: &Object, namespace: &str) -> bool {
    let metadata = object.metadata();
    metadata.name == MESH_CONFIG && metadata.namespace == namespace
}

/// What of `held` has a say in what is wrong with `object`, and `object` in its place. Services and pods
/// are all there are: what they mean together is known already.
fn around(object: &Object, held: &Shelves) -> Shelves {
    let beside = Shelves {
        services: held.services.clone(),
        workloads: held.workloads.clone(),
        ..Shelves::default()
    };
    let beside = match object {
        Object::MeshConfig(_) => beside,
        // Each is judged by itself.
        Object::AuthorizationPolicy(_) | Object::RateLimitPolicy(_) => Shelves {
            configs: held.configs.clone(),
            ..beside
        },
        Object::HttpRoute(_)
        | Object::GrpcRoute(_)
        | Object::TcpRoute(_)
        | Object::TrafficPolicy(_)
        | Object::Service(_)
        | Object::ServiceAccount(_)
        | Object::Workload(_) => {
            let namespace = &object.metadata().namespace;
            Shelves {
                configs: held.configs.clone(),
                routes: held.routes.of_namespace(namespace),
                traffic: held.traffic.of_namespace(namespace),
                ..beside
            }
        }
    };
    beside.with(object)
}

fn refused(problems: &[Problem]) -> Answer {
    let shown: Vec<String> = problems.iter().take(PROBLEMS_MAX).map(shown).collect();
    let mut message = shown.join("; ");
    if problems.len() > PROBLEMS_MAX {
        message.push_str(&format!("; and {} more", problems.len() - PROBLEMS_MAX));
    }
    Answer::refused(message)
}

/// Without the place: an object of a cluster has no lines.
fn shown(problem: &Problem) -> String {
    match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
