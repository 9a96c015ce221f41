//! `/validate`: what `policy check` says of an object, together with what the cluster holds.
//!
//! An object that has no meaning is refused. One that has none *yet*, since what it is about is not
//! there or says the same, is let in with a warning: objects come in any order, and a replica may not
//! have seen the one before. Its status then says what became of it.

use std::path::Path;

use outrider_api::manifest::{self, Object, Problem};
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;
use serde_json::Value;

use super::review::{Answer, Operation, Request};
use crate::index::{self, Endpoints};
use crate::kubernetes::{DEFAULT_DENY, MESH_CONFIG, TOLERATED};

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
    pub(super) held: &'b [&'b Object],
    pub(super) endpoints: Option<&'b Endpoints>,
    pub(super) trust: Option<&'b TrustBundle>,
    /// Whose identities these are, where no MeshConfig says it.
    pub(super) trust_domain: Option<&'b TrustDomain>,
    /// The mesh's own namespace.
    pub(super) namespace: &'b str,
}

/// Whether it takes judging: everything else is let in at once.
pub(super) fn concerns(request: &Request) -> bool {
    let ours = request.kind.group == GROUP;
    let route = request.kind.group == GATEWAY_GROUP && is_for_services(&request.object);
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    // Labels, finalizers and the like may change whatever became of the rest.
    let same = request.object.get("spec") == request.old_object.get("spec")
        && request.operation == Operation::Update;
    let going = request.object.pointer("/metadata/deletionTimestamp");
    (ours || route) && written && !same && going.is_none_or(Value::is_null)
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
    let others = beside.held.iter().copied();
    let others = others.filter(|held| matters(held, &object));
    let all = others.chain(std::iter::once(&object)).cloned();
    let found = index::fold(
        &all.collect(),
        index::Beside {
            trust: beside.trust,
            trust_domain: beside.trust_domain,
            default_deny: DEFAULT_DENY,
            endpoints: beside.endpoints,
            tolerated: TOLERATED,
        },
        &mut index::Memo::default(),
    );
    let problems = match found {
        Ok(mesh) => mesh.warnings().to_vec(),
        Err(problems) => problems,
    };
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

/// Whether `held` has a say in what is wrong with `object`. An object is judged beside its namespace and
/// all Services, so that it takes no longer in a large mesh.
fn matters(held: &Object, object: &Object) -> bool {
    let (old, new) = (held.metadata(), object.metadata());
    let replaced =
        held.kind() == object.kind() && (&old.namespace, &old.name) == (&new.namespace, &new.name);
    let beside = match held {
        Object::Service(_) => true,
        Object::MeshConfig(_) => !matches!(object, Object::MeshConfig(_)),
        // Each is judged by itself.
        Object::AuthorizationPolicy(_) | Object::RateLimitPolicy(_) => false,
        Object::ServiceAccount(_)
        | Object::Workload(_)
        | Object::HttpRoute(_)
        | Object::GrpcRoute(_)
        | Object::TcpRoute(_)
        | Object::TrafficPolicy(_) => old.namespace == new.namespace,
    };
    beside && !replaced
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
mod tests {
    use outrider_api::kinds::API_VERSION;
    use serde_json::json;

    use super::*;

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop}
spec:
  selector: {app: billing}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: billing-1, namespace: shop, labels: {app: billing}}
spec:
  serviceAccount: billing
  address: 10.0.0.1
  ports: [{port: 8080}]
";

    fn held(text: &str) -> Vec<Object> {
        manifest::parse(Path::new("held"), text).unwrap()
    }

    fn policy(spec: Value) -> Value {
        let mut policy = json!({
            "apiVersion": API_VERSION,
            "kind": "AuthorizationPolicy",
            "metadata": {
                "name": "billing",
                "namespace": "shop",
                "uid": "1",
                "generateName": null,
                "managedFields": [{"manager": "kubectl"}],
                "finalizers": ["a/b"],
            },
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "billing"}],
                "rules": [{"name": "a", "http": [{"methods": ["GET"]}]}],
            },
            "status": {"conditions": []},
        });
        json_patch::merge(&mut policy["spec"], &spec);
        policy
    }

    fn request(object: Value) -> Request {
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let version = text("apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let request = json!({
            "uid": "u-1",
            "kind": {"group": group, "version": version, "kind": text("kind")},
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": "CREATE",
            "object": object,
        });
        serde_json::from_value(request).unwrap()
    }

    fn judged_beside(object: Value, text: &str) -> Answer {
        let held = if text.is_empty() {
            Vec::new()
        } else {
            held(text)
        };
        let request = request(object);
        assert!(concerns(&request));
        let held: Vec<&Object> = held.iter().collect();
        let beside = Beside {
            held: &held,
            endpoints: None,
            trust: None,
            trust_domain: None,
            namespace: "outrider-system",
        };
        validate(&request, beside)
    }

    fn judged(object: Value) -> Answer {
        judged_beside(object, SERVICE)
    }

    #[test]
    fn what_is_good_is_let_in() {
        assert_eq!(judged(policy(json!({}))), Answer::allowed());
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_field_and_remedy() {
        let table = [
            (
                json!({"rulez": []}),
                "spec.rulez: unknown field",
                "did you mean \"rules\"?",
            ),
            (
                json!({"action": "ALOW"}),
                "spec.action: is \"ALOW\"",
                "did you mean \"ALLOW\"?",
            ),
            (
                json!({"rules": [{"name": "a", "http": [{"paths": [{"type": "Exact", "value": "x"}]}]}]}),
                "spec.rules[0].http[0].paths[0]",
                "",
            ),
        ];
        for (spec, field, remedy) in table {
            let refusal = judged(policy(spec)).refusal.unwrap();
            assert!(
                refusal.contains(field) && refusal.contains(remedy),
                "{refusal}"
            );
        }
    }

    #[test]
    fn what_kubectl_leaves_out_is_judged_as_it_was_written() {
        let applied = |written: Value| {
            let mut object = policy(json!({}));
            object["metadata"]["annotations"] = json!({ LAST_APPLIED: written.to_string() });
            object
        };
        let null =
            json!({"rules": [{"name": "a", "sources": null, "http": [{"methods": ["GET"]}]}]});
        let refusal = judged(applied(policy(null.clone()))).refusal.unwrap();
        assert!(refusal.starts_with("spec.rules[0].sources"), "{refusal}");
        assert_eq!(judged(applied(policy(json!({})))), Answer::allowed());

        // It was applied before, and is replaced by something else now.
        let mut later = request(applied(policy(null)));
        later.operation = Operation::Update;
        later.old_object = later.object.clone();
        later.object["spec"]["rules"][0]["name"] = json!("b");
        assert_eq!(newly_applied(&later), None);
        for text in ["", "{", "[1]", "{}", "{\"kind\": \"Service\"}"] {
            let mut object = policy(json!({}));
            object["metadata"]["annotations"] = json!({ LAST_APPLIED: text });
            assert_eq!(newly_applied(&request(object)), None, "{text}");
        }
        // Another version, which the API server serves as well.
        let mut older = policy(json!({}));
        older["apiVersion"] = json!("outrider.mesh/v1alpha0");
        assert_eq!(judged(applied(older)), Answer::allowed());
    }

    #[test]
    fn what_is_not_there_yet_is_a_warning() {
        let answer = judged_beside(policy(json!({})), "");
        assert_eq!(answer.refusal, None);
        assert!(
            answer.warnings[0].starts_with("spec.targetRefs[0].name: there is no Service"),
            "{answer:?}"
        );
        let ports = json!({"rules": [{"name": "a", "networkAttributes": {"ports": [9999]}}]});
        let answer = judged(policy(ports));
        assert_eq!((answer.refusal, answer.warnings.len()), (None, 1));
    }

    #[test]
    fn what_is_wrong_elsewhere_is_not_this_objects_fault() {
        let bad = "---\napiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: shop}\nspec:\n  selector: {app: billing}\n  ports: [{name: x, port: 80, targetPort: nowhere}]\n";
        let answer = judged_beside(policy(json!({})), &format!("{SERVICE}{bad}"));
        assert_eq!(answer.refusal, None, "{answer:?}");
    }

    #[test]
    fn an_object_replaces_itself() {
        let traffic = |timeout: &str| {
            json!({
                "apiVersion": API_VERSION,
                "kind": "TrafficPolicy",
                "metadata": {"name": "billing", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "billing"}], "timeouts": {"request": timeout}},
            })
        };
        let text = format!("{SERVICE}---\n{}", traffic("1s"));
        assert_eq!(judged_beside(traffic("2s"), &text), Answer::allowed());
    }

    #[test]
    fn only_one_meshconfig_is_read() {
        let config = |name: &str, namespace: &str| {
            json!({
                "apiVersion": API_VERSION,
                "kind": "MeshConfig",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"defaultDeny": true},
            })
        };
        assert_eq!(
            judged(config("default", "outrider-system")),
            Answer::allowed()
        );
        for (name, namespace) in [("mesh", "outrider-system"), ("default", "shop")] {
            let answer = judged(config(name, namespace));
            assert!(answer.warnings[0].starts_with("is not read"), "{answer:?}");
        }
        let mut wrong = config("default", "outrider-system");
        wrong["spec"]["defaultDenny"] = json!(true);
        assert!(judged(wrong).refusal.is_some());
    }

    #[test]
    fn a_name_that_the_server_makes_is_no_mistake() {
        let mut object = policy(json!({}));
        object["metadata"]["name"] = Value::Null;
        object["metadata"]["generateName"] = json!("billing-");
        let mut request = request(object);
        request.name = String::new();
        let held = held(SERVICE);
        let held: Vec<&Object> = held.iter().collect();
        let beside = Beside {
            held: &held,
            endpoints: None,
            trust: None,
            trust_domain: None,
            namespace: "outrider-system",
        };
        assert_eq!(validate(&request, beside), Answer::allowed());
    }

    #[test]
    fn only_what_is_written_for_this_mesh_is_judged() {
        let route = |parents: Value| {
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": "r", "namespace": "shop"},
                "spec": {"parentRefs": parents, "futureField": 1},
            })
        };
        let service = json!({"group": "", "kind": "Service", "name": "billing"});
        let gateway = json!({"name": "gateway"});
        assert!(concerns(&request(route(json!([gateway, service])))));
        for parents in [json!([gateway]), json!([]), json!(null), json!("x")] {
            assert!(!concerns(&request(route(parents))));
        }
        let mut asked = request(policy(json!({})));
        for (operation, expected) in [
            (Operation::Create, true),
            (Operation::Update, true),
            (Operation::Delete, false),
            (Operation::Connect, false),
        ] {
            asked.operation = operation;
            assert_eq!(concerns(&asked), expected, "{operation:?}");
        }
        asked.operation = Operation::Update;
        asked.old_object = policy(json!({}));
        assert!(!concerns(&asked), "the same spec");
        asked.old_object = policy(json!({"rules": []}));
        assert!(concerns(&asked));
        asked.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!concerns(&asked), "it is going");
    }

    #[test]
    fn many_problems_are_counted() {
        let problems: Vec<Problem> = (0..25)
            .map(|index| {
                let location = held(SERVICE)[0].location("");
                Problem::new(location, format!("spec.a[{index}]"), "is wrong")
            })
            .collect();
        let message = refused(&problems).refusal.unwrap();
        assert!(
            message.ends_with("spec.a[9]: is wrong; and 15 more"),
            "{message}"
        );
    }
}
