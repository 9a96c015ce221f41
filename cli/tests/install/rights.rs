//! What the roles allow: no wildcard, no Secret outside the control plane's namespace, and of what it
//! writes only what it owns.

use serde_json::Value;

use super::{OPTIONS, find, printed};

fn rules(object: &Value) -> impl Iterator<Item = &Value> {
    object["rules"].as_array().into_iter().flatten()
}

fn words<'v>(rule: &'v Value, field: &str) -> Vec<&'v str> {
    let words = rule[field].as_array().into_iter().flatten();
    words.filter_map(Value::as_str).collect()
}

#[test]
fn no_role_has_a_wildcard_or_makes_rights() {
    for options in OPTIONS {
        for object in printed(options) {
            for rule in rules(&object) {
                for field in ["apiGroups", "resources", "verbs", "resourceNames"] {
                    let words = words(rule, field);
                    assert!(!words.iter().any(|word| word.contains('*')), "{rule}");
                }
                let verbs = words(rule, "verbs");
                for verb in ["escalate", "bind", "impersonate"] {
                    assert!(!verbs.contains(&verb), "{rule}");
                }
                assert!(rule.get("nonResourceURLs").is_none(), "{rule}");
            }
        }
    }
}

#[test]
fn secrets_are_read_by_name_in_its_own_namespace_only() {
    for (options, secret) in [(OPTIONS[0], "outrider-ca"), (OPTIONS[3], "mesh-ca")] {
        let objects = printed(options);
        for object in &objects {
            let secrets =
                rules(object).filter(|rule| words(rule, "resources").contains(&"secrets"));
            for rule in secrets {
                assert_eq!(object["kind"], "Role", "{rule}");
                assert_eq!(object["metadata"]["namespace"], "outrider-system");
                if words(rule, "verbs") != ["create"] {
                    assert_eq!(words(rule, "resourceNames"), [secret], "{rule}");
                }
            }
        }
    }
    // What somebody else manages is not written.
    let objects = printed(OPTIONS[3]);
    let role = find(&objects, "Role", "outrider-control-plane");
    let mut secrets = rules(role).filter(|rule| words(rule, "resources").contains(&"secrets"));
    let rule = secrets.next().unwrap();
    assert_eq!(words(rule, "verbs"), ["get", "list", "watch"]);
    assert!(secrets.next().is_none());
}

#[test]
fn the_control_plane_writes_only_what_is_its_own() {
    let objects = printed(&[]);
    let role = find(&objects, "ClusterRole", "outrider-control-plane");
    /// What it may write of any name: status, reviews, events, and XMesh.
    const ANY_NAME: [&str; 3] = ["events", "tokenreviews", "xmeshes"];
    for rule in rules(role) {
        let writes = words(rule, "verbs")
            .into_iter()
            .any(|verb| !["get", "list", "watch"].contains(&verb));
        if !writes || !words(rule, "resourceNames").is_empty() {
            continue;
        }
        for resource in words(rule, "resources") {
            assert!(
                resource.ends_with("/status") || ANY_NAME.contains(&resource),
                "{resource}: {rule}"
            );
        }
    }
    // Nobody but the control plane has that role, and its ServiceAccount has no other.
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        let binding = find(&objects, kind, "outrider-control-plane");
        let expected = serde_json::json!([{
            "kind": "ServiceAccount",
            "name": "control-plane",
            "namespace": "outrider-system",
        }]);
        assert_eq!(binding["subjects"], expected);
    }
    let bindings = objects.iter().filter(|one| {
        let kind = one["kind"].as_str().unwrap();
        kind.ends_with("RoleBinding") || kind.ends_with("ClusterRoleBinding")
    });
    assert_eq!(bindings.count(), 2);
}

#[test]
fn people_get_what_their_role_in_a_namespace_says() {
    let objects = printed(&[]);
    let view = find(&objects, "ClusterRole", "outrider-view");
    let edit = find(&objects, "ClusterRole", "outrider-edit");
    for rule in rules(view) {
        assert_eq!(words(rule, "verbs"), ["get", "list", "watch"]);
    }
    for rule in rules(edit) {
        let resources = words(rule, "resources");
        // What holds for the whole mesh, and who is part of it from outside, is not theirs to say.
        assert!(!resources.contains(&"meshconfigs") && !resources.contains(&"workloads"));
        assert!(!resources.iter().any(|resource| resource.contains('/')));
    }
    let to_view = "rbac.authorization.k8s.io/aggregate-to-view";
    assert_eq!(view["metadata"]["labels"][to_view], "true");
    assert_eq!(edit["metadata"]["labels"].get(to_view), None);
}
