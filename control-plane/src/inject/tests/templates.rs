//! Objects that make pods.

use super::template::{Report, inject_object};
use super::*;

fn object(version: &str, kind: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "order"}})
}

fn run(object: &mut Value) -> Result<Report, String> {
    let mut report = Report::default();
    let result = inject_object(object, "shop", &settings(SidecarKind::Native), &mut report);
    result.map(|()| report).map_err(|error| error.to_string())
}

#[test]
fn pods_are_found_where_each_kind_has_them() {
    let table = [
        ("v1", "PodTemplate", "/template"),
        ("v1", "ReplicationController", "/spec/template"),
        ("apps/v1", "Deployment", "/spec/template"),
        ("apps/v1", "ReplicaSet", "/spec/template"),
        ("apps/v1", "StatefulSet", "/spec/template"),
        ("apps/v1", "DaemonSet", "/spec/template"),
        ("batch/v1", "Job", "/spec/template"),
        ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
    ];
    for (version, kind, path) in table {
        let template = json!({"spec": {"containers": [{"name": "order"}]}});
        let mut object = object(version, kind);
        let steps: Vec<&str> = path.split('/').skip(1).collect();
        let nested = steps
            .iter()
            .rev()
            .fold(template.clone(), |value, step| json!({*step: value}));
        json_patch::merge(&mut object, &nested);
        let report = run(&mut object).unwrap();
        assert_eq!(report.injected, [format!("{kind}/order")]);
        let expected = injected(&template);
        assert_eq!(object.pointer(path), Some(&expected), "{kind}");
    }
}

#[test]
fn a_pod_is_the_same_alone_and_in_a_list() {
    let mut alone = pod(json!({}));
    let mut list = json!({"apiVersion": "v1", "kind": "List", "items": [alone.clone(), object("v1", "Service")]});
    assert_eq!(run(&mut alone).unwrap().injected, ["Pod/order-1"]);
    assert_eq!(run(&mut list).unwrap().injected, ["Pod/order-1"]);
    assert_eq!(list["items"], json!([alone, object("v1", "Service")]));
    assert_eq!(alone, injected(&pod(json!({}))));
}

#[test]
fn what_makes_no_pods_stays_as_it_is() {
    let others = [
        object("v1", "Service"),
        object("apps/v1beta1", "Deployment"),
        object("example.com/v1", "Deployment"),
        json!({"kind": "Deployment"}),
        json!({"apiVersion": 1, "kind": []}),
        json!(null),
        json!(["a"]),
        json!("text"),
    ];
    for other in others {
        let mut object = other.clone();
        let report = run(&mut object).unwrap();
        assert!(!report.changed());
        assert_eq!(object, other);
    }
}

#[test]
fn who_stays_without_is_told() {
    let mut host = pod(json!({"hostNetwork": true}));
    let report = run(&mut host).unwrap();
    assert_eq!(report.left, [("Pod/order-1".to_owned(), Left::HostNetwork)]);
    assert_eq!(report.warnings.len(), 1);
    let mut system = pod(json!({}));
    system["metadata"]["namespace"] = json!("kube-system");
    let report = run(&mut system).unwrap();
    assert_eq!(
        report.left,
        [("Pod/order-1".to_owned(), Left::SystemNamespace)]
    );
}

#[test]
fn what_is_refused_is_named() {
    let mut deployment = object("apps/v1", "Deployment");
    let message = run(&mut deployment).unwrap_err();
    assert_eq!(
        message,
        "Deployment/order: not a pod: spec.template is missing"
    );
    let mut pod = annotated(json!({"outrider.mesh/workers": "0"}));
    assert!(
        run(&mut pod)
            .unwrap_err()
            .starts_with("Pod/order-1: annotation outrider.mesh/workers")
    );
}
