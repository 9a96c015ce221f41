//! Sidecars get into pods, and the API server's way to the webhooks stands or falls as it should. The
//! control plane runs on this machine with the rights that are installed, and the API server of a real
//! cluster calls it.

mod injector;
mod offline;
mod way;

use anyhow::{Context, Result, ensure};
use mesh_tests::metrics::Metrics;
use serde_json::{Value, json};

use self::injector::{Injector, annotated, create, created, has_sidecar, labelled, pod};

#[test]
fn namespace_and_pod_decide_together_who_gets_a_sidecar() -> Result<()> {
    let injector = Injector::start()?;
    let enabled = injector.namespace("enabled", Some("enabled"))?;
    let silent = injector.namespace("silent", None)?;
    let disabled = injector.namespace("disabled", Some("disabled"))?;
    let table = [
        (&enabled, pod("none", json!({})), true),
        (&enabled, labelled("true", "true"), true),
        (&enabled, labelled("false", "false"), false),
        (&silent, pod("none", json!({})), false),
        (&silent, labelled("true", "true"), true),
        (&silent, labelled("false", "false"), false),
        (&disabled, pod("none", json!({})), false),
        (&disabled, labelled("true", "true"), false),
    ];
    for (namespace, pod, expected) in table {
        let created = created(namespace, &pod)?;
        assert_eq!(
            has_sidecar(&created),
            expected,
            "{} {pod}",
            namespace.name()
        );
    }
    for namespace in [&enabled, &silent] {
        let refused = create(namespace, &labelled("odd", "yes"))?;
        assert!(
            refused
                .stderr
                .contains("label outrider.mesh/inject: \"yes\" is not known"),
            "{refused:?}"
        );
    }
    let asked = Metrics::scrape(injector.admin)?;
    let count = |result| {
        let labels = [("webhook", "inject"), ("result", result)];
        asked.sum("outrider_control_plane_webhook_reviews_total", &labels)
    };
    assert!(count("injected") >= 3.0 && count("left") >= 1.0 && count("refused") >= 2.0);
    Ok(())
}

#[test]
fn what_is_wrong_is_refused_with_the_remedy() -> Result<()> {
    let injector = Injector::start()?;
    let namespace = injector.namespace("wrong", Some("enabled"))?;
    let table = [
        (
            annotated("workers", json!({"outrider.mesh/workers": "many"})),
            "annotation outrider.mesh/workers: \"many\" is not a number from 1 to 256, such as 2",
        ),
        (
            annotated("typo", json!({"outrider.mesh/log-levl": "debug"})),
            "did you mean \"outrider.mesh/log-level\"?",
        ),
        (
            pod(
                "user",
                json!({"spec": {"securityContext": {"runAsUser": 2102}}}),
            ),
            "container app runs as user 2102",
        ),
    ];
    for (pod, message) in table {
        let refused = create(&namespace, &pod)?;
        ensure!(refused.status.code() == Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("namespace.injector.outrider.mesh"),
            "{refused:?}"
        );
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
    // Of a controller it is an event.
    let mut template = annotated("order", json!({"outrider.mesh/mtls": "strict"}));
    template
        .as_object_mut()
        .context("a pod")?
        .retain(|key, _| key == "metadata" || key == "spec");
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "order"},
        "spec": {"selector": {"matchLabels": {"app": "order"}}, "template": template},
    });
    namespace.apply(&deployment.to_string())?;
    namespace.eventually("the ReplicaSet has an event", &["events"], |events| {
        let mut events = events["items"].as_array()?.iter();
        events
            .any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                event["reason"] == "FailedCreate"
                    && message.contains(
                        "annotation outrider.mesh/mtls: \"strict\" is not Strict or Permissive",
                    )
            })
            .then_some(())
    })
}

#[test]
fn a_pod_of_the_hosts_network_gets_no_sidecar_and_an_event() -> Result<()> {
    let injector = Injector::start()?;
    let namespace = injector.namespace("host", Some("enabled"))?;
    let host = pod("host", json!({"spec": {"hostNetwork": true}}));
    let dry = create(&namespace, &host)?;
    assert!(
        dry.stderr
            .contains("Warning: no sidecar: the pod has hostNetwork"),
        "{dry:?}"
    );
    namespace.apply(&host.to_string())?;
    let stored = namespace.read(&["pod", "host"])?;
    assert!(!has_sidecar(&stored));
    let event = |kind: &'static str| {
        move |events: &Value| {
            let mut events = events["items"].as_array()?.iter();
            let told = |event: &&Value| {
                event["reason"] == "SidecarNotInjected" && event["involvedObject"]["kind"] == kind
            };
            events.find(told).cloned()
        }
    };
    let told = namespace.eventually("the pod has an event", &["events"], event("Pod"))?;
    assert_eq!(told["involvedObject"]["uid"], stored["metadata"]["uid"]);
    assert_eq!(told["type"], "Warning");

    let mut template = host;
    template
        .as_object_mut()
        .context("a pod")?
        .retain(|key, _| key == "metadata" || key == "spec");
    let daemons = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "host"},
        "spec": {"selector": {"matchLabels": {"app": "host"}}, "template": template},
    });
    namespace.apply(&daemons.to_string())?;
    let told = namespace.eventually(
        "the DaemonSet has an event",
        &["events"],
        event("DaemonSet"),
    )?;
    assert!(
        told["message"]
            .as_str()
            .context("a message")?
            .contains("hostNetwork")
    );
    Ok(())
}
