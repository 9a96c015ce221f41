//! Which pods get no sidecar, and which are refused.

use super::*;

#[track_caller]
fn left_as(pod: &Value) -> Left {
    match outcome(pod, SidecarKind::Native).unwrap() {
        Outcome::Left(left) => left,
        Outcome::Injected { .. } => panic!("injected"),
    }
}

#[track_caller]
fn refusal(pod: &Value) -> String {
    outcome(pod, SidecarKind::Native).unwrap_err().to_string()
}

fn labelled(value: &str) -> Value {
    let mut pod = pod(json!({}));
    pod["metadata"]["labels"][INJECT] = json!(value);
    pod
}

/// The table of docs/reference/annotations.md.
#[test]
fn namespace_and_pod_decide_together() {
    use NamespaceChoice::{Disabled, Enabled, Silent};
    use Wanted::{No, Unclear, Yes};
    let table = [
        (Enabled, None, Yes),
        (Enabled, Some("true"), Yes),
        (Enabled, Some("false"), No),
        (Enabled, Some("yes"), Unclear),
        (Silent, None, No),
        (Silent, Some("true"), Yes),
        (Silent, Some("false"), No),
        (Silent, Some(""), Unclear),
        (Disabled, None, No),
        (Disabled, Some("true"), No),
        (Disabled, Some("false"), No),
        (Disabled, Some("yes"), No),
    ];
    for (namespace, pod, expected) in table {
        assert_eq!(wanted(namespace, pod), expected, "{namespace:?} {pod:?}");
    }
}

#[test]
fn namespaces_say_it_by_a_label() {
    let of = |value| NamespaceChoice::of([("a", "b"), (INJECT, value)]);
    assert_eq!(of("enabled"), NamespaceChoice::Enabled);
    assert_eq!(of("disabled"), NamespaceChoice::Disabled);
    assert_eq!(of("true"), NamespaceChoice::Silent);
    assert_eq!(
        NamespaceChoice::of([("a", "enabled")]),
        NamespaceChoice::Silent
    );
}

/// What the webhook is asked about is what the namespace lets through: the pod's label is left.
#[test]
fn the_pod_has_the_last_word() {
    assert_eq!(left_as(&labelled("false")), Left::OptedOut);
    assert!(matches!(
        outcome(&labelled("true"), SidecarKind::Native),
        Ok(Outcome::Injected { .. })
    ));
    for value in ["yes", "True", "enabled", ""] {
        let message = refusal(&labelled(value));
        assert!(
            message.starts_with("label outrider.mesh/inject: "),
            "{message}"
        );
        assert!(
            message.contains("expected \"true\" or \"false\""),
            "{message}"
        );
    }
}

#[test]
fn a_pod_that_has_a_sidecar_stays_as_it_is() {
    for kind in [SidecarKind::Native, SidecarKind::Classic] {
        let (once, _) = injected_as(&pod(json!({})), kind);
        for again in [SidecarKind::Native, SidecarKind::Classic] {
            assert_eq!(
                outcome(&once, again),
                Ok(Outcome::Left(Left::AlreadyInjected))
            );
        }
    }
}

#[test]
fn pods_of_the_system_stay_as_they_are() {
    for namespace in ["kube-system", "outrider-system"] {
        let outcome = inject(&labelled("true"), namespace, &settings(SidecarKind::Native));
        assert_eq!(outcome, Ok(Outcome::Left(Left::SystemNamespace)));
    }
    let mirror = annotated(json!({"kubernetes.io/config.mirror": "x"}));
    assert_eq!(left_as(&mirror), Left::Mirror);
}

#[test]
fn pods_that_cannot_have_one_say_so() {
    let host = pod(json!({"hostNetwork": true}));
    assert_eq!(left_as(&host), Left::HostNetwork);
    assert!(Left::HostNetwork.warning().unwrap().contains("hostNetwork"));
    for windows in [
        json!({"os": {"name": "windows"}}),
        json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
    ] {
        assert_eq!(left_as(&pod(windows)), Left::Windows);
    }
    let linux = pod(json!({"os": {"name": "linux"}, "hostNetwork": false}));
    assert!(matches!(
        outcome(&linux, SidecarKind::Native),
        Ok(Outcome::Injected { .. })
    ));
}

#[test]
fn annotations_that_cannot_be_used_are_refused_all_at_once() {
    let message = refusal(&annotated(json!({
        "outrider.mesh/workers": "many",
        "outrider.mesh/log-levl": "debug",
    })));
    let expected = [
        "annotation outrider.mesh/workers: \"many\" is not a number from 1 to 256, such as 2",
        "annotation outrider.mesh/log-levl: is not known",
        "did you mean \"outrider.mesh/log-level\"?",
    ];
    for expected in expected {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_sidecars_user_is_its_own() {
    let user = json!({"runAsUser": 2102});
    let table = [
        json!({"securityContext": user}),
        json!({"containers": [{"name": "order", "securityContext": user}]}),
        json!({"initContainers": [{"name": "order", "securityContext": user}]}),
    ];
    for spec in table {
        let message = refusal(&pod(spec));
        assert!(
            message.contains("container order runs as user 2102"),
            "{message}"
        );
        assert!(message.contains("expected another runAsUser"), "{message}");
    }
    let own = json!({
        "securityContext": user,
        "containers": [{"name": "order", "securityContext": {"runAsUser": 1000}}],
    });
    assert!(outcome(&pod(own), SidecarKind::Native).is_ok());
}

#[test]
fn the_sidecars_ports_are_its_own() {
    for port in [15000, 15001, 15006, 15008, 15020] {
        let container = |protocol: &str| {
            let ports = json!([{"containerPort": port, "protocol": protocol}]);
            pod(json!({"containers": [{"name": "order", "ports": ports}]}))
        };
        let message = refusal(&container("TCP"));
        assert!(
            message.contains(&format!("container order listens on port {port}")),
            "{message}"
        );
        assert!(outcome(&container("UDP"), SidecarKind::Native).is_ok());
    }
}

#[test]
fn names_that_clash_are_refused() {
    let volume = pod(json!({"volumes": [{"name": "outrider-token", "emptyDir": {}}]}));
    assert!(refusal(&volume).contains("a volume is named outrider-token"));
    let init = pod(json!({"initContainers": [{"name": "outrider-init"}]}));
    assert!(refusal(&init).contains("a container is named outrider-init"));
}

#[test]
fn what_is_no_pod_is_refused() {
    let table = [
        json!(null),
        json!([]),
        json!("pod"),
        json!({}),
        json!({"spec": {}}),
        json!({"spec": {"containers": {}}}),
        json!({"spec": {"containers": [{}]}}),
        json!({"spec": {"containers": [], "initContainers": "x"}}),
        json!({"spec": {"containers": []}, "metadata": {"labels": []}}),
        json!({"spec": {"containers": []}, "metadata": {"annotations": {"a": 1}}}),
    ];
    for pod in table {
        assert!(refusal(&pod).starts_with("not a pod: "), "{pod}");
    }
}
