//! What is refused, what is let in, and what is said of it.

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

fn standing(text: &str) -> Standing {
    let objects = match text {
        "" => Vec::new(),
        text => manifest::parse(Path::new("held"), text).unwrap(),
    };
    Standing {
        shelves: objects.into_iter().collect(),
        ..Standing::default()
    }
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
    let request = request(object);
    assert!(concerns(&request));
    let beside = Beside {
        standing: &standing(text),
        trust: None,
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
    let null = json!({"rules": [{"name": "a", "sources": null, "http": [{"methods": ["GET"]}]}]});
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
fn what_stands_beside_an_object_has_a_say() {
    let calm = |timeouts: Value, port: u16| {
        json!({
            "apiVersion": API_VERSION,
            "kind": "TrafficPolicy",
            "metadata": {"name": "calm", "namespace": "shop"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "billing"}],
                "timeouts": timeouts,
                "healthCheck": {"path": "/", "port": port},
            },
        })
    };
    let config = "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default, namespace: outrider-system}\nspec: {traffic: {timeouts: {request: 1s}}}\n";
    let beside = format!("{SERVICE}---\n{config}");
    let longer = judged_beside(calm(json!({"backendRequest": "5s"}), 80), &beside);
    assert!(longer.refusal.is_some(), "{longer:?}");
    let alone = judged(calm(json!({"backendRequest": "5s"}), 80));
    assert_eq!(alone, Answer::allowed());
    // The Service may get the port next.
    let early = judged(calm(json!({}), 9090));
    assert_eq!(
        (&early.refusal, early.warnings.len()),
        (&None, 1),
        "{early:?}"
    );

    let first = calm(json!({}), 80)
        .to_string()
        .replace("\"calm\"", "\"a-first\"");
    let answer = judged_beside(calm(json!({}), 80), &format!("{SERVICE}---\n{first}"));
    assert!(
        answer.warnings[0].contains("has two TrafficPolicies"),
        "{answer:?}"
    );
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
    let beside = Beside {
        standing: &standing(SERVICE),
        trust: None,
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
    asked.object["metadata"]["labels"] = json!({"a": "b"});
    asked.object["status"] = json!({});
    assert!(!concerns(&asked), "nothing that is meant");
    let mut misplaced = asked.object.clone();
    misplaced["action"] = json!("DENY");
    let misplaced = Request {
        object: misplaced,
        ..asked.clone()
    };
    assert!(concerns(&misplaced), "somebody means to change it");
    asked.old_object = policy(json!({"rules": []}));
    assert!(concerns(&asked));
    asked.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(!concerns(&asked), "it is going");
}

#[test]
fn many_problems_are_counted() {
    let problems: Vec<Problem> = (0..25)
        .map(|index| {
            let location = standing(SERVICE).shelves.first.unwrap();
            Problem::new(location, format!("spec.a[{index}]"), "is wrong")
        })
        .collect();
    let message = refused(&problems).refusal.unwrap();
    assert!(
        message.ends_with("spec.a[9]: is wrong; and 15 more"),
        "{message}"
    );
}
