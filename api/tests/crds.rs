//! The CustomResourceDefinitions are what an API server takes: structural schemas, which say as much as
//! the types do. That a real one takes them, and refuses what is wrong, is tested end to end.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use outrider_api::crd;
use serde_json::{Value, json};

fn definitions() -> Vec<Value> {
    let all = crd::all().unwrap();
    all.iter()
        .map(|one| serde_json::to_value(one).unwrap())
        .collect()
}

fn schema(kind: &str) -> Value {
    let definitions = definitions();
    let found = definitions
        .iter()
        .find(|one| one["spec"]["names"]["kind"] == kind);
    found.unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The node at a path such as `spec.rules[].name`.
fn at<'s>(schema: &'s Value, path: &str) -> &'s Value {
    path.split('.').fold(schema, |node, step| {
        let name = step.trim_end_matches("[]");
        let depth = (step.len() - name.len()) / 2;
        let node = &node["properties"][name];
        let node = (0..depth).fold(node, |node, _| &node["items"]);
        assert!(node.is_object(), "nothing at {step} of {path}");
        node
    })
}

fn each_node(path: &str, node: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, node);
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        each_node(&format!("{path}.{name}"), property, visit);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = node.get(inner) {
            each_node(&format!("{path}[]"), inner, visit);
        }
    }
}

#[test]
fn every_schema_is_structural() {
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        each_node(kind, &schema(kind), &mut |path, node| {
            let is_either = node["x-kubernetes-int-or-string"] == true;
            assert!(node["type"].is_string() != is_either, "{path}: {node}");
            // Conditions on values say nothing of types.
            let conditions = node["oneOf"].as_array().into_iter().flatten();
            for condition in conditions.chain(node.get("not")) {
                let text = condition.to_string();
                for keyword in [
                    "\"description\"",
                    "\"nullable\"",
                    "\"default\"",
                    "\"items\"",
                ] {
                    assert!(!text.contains(keyword), "{path}: {text}");
                }
                assert!(condition.get("type").is_none(), "{path}: {text}");
            }
            assert!(node.get("default").is_none(), "{path}: a default is stored");
        });
    }
}

#[test]
fn nothing_that_users_write_is_dropped_before_it_is_judged() {
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = schema(kind);
        assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(schema["required"], json!(["spec"]));
        each_node("spec", at(&schema, "spec"), &mut |path, node| {
            let properties = node["properties"].as_object();
            if properties.is_some() {
                assert_eq!(
                    node["x-kubernetes-preserve-unknown-fields"], true,
                    "{kind} {path} drops unknown fields"
                );
            }
            let required = node["required"].as_array().cloned().unwrap_or_default();
            for (name, property) in properties.into_iter().flatten() {
                let is_required = required.contains(&json!(name));
                assert!(
                    is_required || property["nullable"] == true,
                    "{kind} {path}.{name}: null would be dropped"
                );
            }
        });
    }
}

#[test]
fn bounds_of_the_types_are_bounds_of_the_schema() {
    let authorization = schema("AuthorizationPolicy");
    let targets = at(&authorization, "spec.targetRefs");
    assert_eq!(
        (&targets["minItems"], &targets["maxItems"]),
        (&json!(1), &json!(16))
    );
    let action = at(&authorization, "spec.action");
    assert_eq!(action["enum"], json!(["ALLOW", "DENY", "AUDIT"]));
    let port = at(&authorization, "spec.rules[].networkAttributes.ports[]");
    assert_eq!(
        (&port["minimum"], &port["maximum"]),
        (&json!(1.0), &json!(65535.0))
    );
    let source = at(&authorization, "spec.rules[].sources[].type");
    assert_eq!(
        source["enum"],
        json!(["ServiceAccount", "Namespace", "SPIFFE", "IPBlock"])
    );
    assert!(
        at(&authorization, "spec.rules[].http")
            .get("minItems")
            .is_some()
    );

    let traffic = schema("TrafficPolicy");
    let request = at(&traffic, "spec.timeouts.request");
    assert_eq!(request["pattern"], outrider_api::duration::PATTERN);
    assert_eq!(request["maxLength"], 28);
    assert_eq!(
        request["x-kubernetes-validations"][0]["message"],
        "expected 0s to 24h"
    );
    let code = at(&traffic, "spec.retry.grpcCodes[]");
    assert_eq!(code["x-kubernetes-int-or-string"], true);
    assert_eq!(at(&traffic, "spec.faults")["maxItems"], 16);

    let limits = schema("RateLimitPolicy");
    let list = at(&limits, "spec.limits");
    assert_eq!(list["x-kubernetes-list-map-keys"], json!(["name"]));

    let mesh = schema("MeshConfig");
    assert_eq!(
        at(&mesh, "spec.mtls")["enum"],
        json!(["Strict", "Permissive"])
    );
    assert_eq!(at(&mesh, "spec.traffic.faults")["maxItems"], 16);
}

#[test]
fn every_field_of_a_spec_is_described() {
    for definition in definitions() {
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = schema(kind);
        each_node("spec", at(&schema, "spec"), &mut |path, node| {
            for (name, property) in node["properties"].as_object().into_iter().flatten() {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{kind} {path}.{name} is not described");
            }
        });
    }
}

#[test]
fn policies_are_found_as_policies() {
    for definition in definitions() {
        let spec = &definition["spec"];
        let kind = spec["names"]["kind"].as_str().unwrap();
        let labels = &definition["metadata"]["labels"];
        let is_policy = kind.ends_with("Policy");
        let expected = if is_policy {
            json!("Direct")
        } else {
            Value::Null
        };
        assert_eq!(
            labels["gateway.networking.k8s.io/policy"], expected,
            "{kind}"
        );
        assert_eq!(spec["names"]["categories"], json!(["outrider"]));
        let version = &spec["versions"][0];
        assert_eq!(version["subresources"], json!({"status": {}}));
        let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
        let list = if is_policy { "ancestors" } else { "conditions" };
        assert!(status[list].is_object(), "{kind}");
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        let names: Vec<_> = columns
            .iter()
            .filter_map(|one| one["name"].as_str())
            .collect();
        assert!(
            names.ends_with(&["Accepted", "Programmed", "Age"]),
            "{names:?}"
        );
    }
}
