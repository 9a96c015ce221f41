//! Containers, webhooks and what keeps the control plane available.

use clap::Parser as _;
use outrider_cli::args::Cli;
use serde_json::{Value, json};

use super::{OPTIONS, find, printed};

fn pods(objects: &[Value]) -> Vec<&Value> {
    let templates = objects.iter().map(|object| &object["spec"]["template"]);
    let pods: Vec<_> = templates.filter(|template| template.is_object()).collect();
    assert!(!pods.is_empty());
    pods
}

#[test]
fn every_container_is_hardened() {
    for options in OPTIONS {
        let objects = printed(options);
        for pod in pods(&objects) {
            let spec = &pod["spec"];
            let security = &spec["securityContext"];
            assert_eq!(security["runAsNonRoot"], true);
            assert!(security["runAsUser"].as_i64().unwrap() > 0);
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            for field in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
                assert_eq!(spec.get(field), None);
            }
            let containers = spec["containers"].as_array().unwrap();
            let init = spec["initContainers"].as_array().into_iter().flatten();
            for container in containers.iter().chain(init) {
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": true,
                });
                assert_eq!(container["securityContext"], expected);
                let resources = &container["resources"];
                assert!(resources["requests"]["cpu"].is_string());
                assert!(resources["requests"]["memory"].is_string());
                assert!(resources["limits"]["memory"].is_string());
                for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                    assert_eq!(container[probe]["httpGet"]["port"], "metrics");
                }
            }
        }
    }
}

#[test]
fn the_control_plane_takes_its_arguments() {
    for options in OPTIONS {
        let objects = printed(options);
        let container = &pods(&objects)[0]["spec"]["containers"][0];
        let arguments = container["args"].as_array().unwrap();
        let line = ["outrider", "control-plane"]
            .into_iter()
            .chain(arguments.iter().map(|one| one.as_str().unwrap()));
        let parsed = Cli::try_parse_from(line);
        assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
    }
}

#[test]
fn the_service_leads_to_the_pods() {
    let objects = printed(&[]);
    let service = find(&objects, "Service", "outrider-control-plane");
    let pod = pods(&objects)[0];
    let labels = pod["metadata"]["labels"].as_object().unwrap();
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(labels.get(key), Some(value));
    }
    let named = |name: &Value| {
        let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == *name);
        port.unwrap()["containerPort"].as_i64().unwrap()
    };
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    let ports: Vec<_> = ports
        .map(|port| (port["port"].as_i64().unwrap(), named(&port["targetPort"])))
        .collect();
    assert_eq!(ports, [(15012, 15012), (443, 15017), (15014, 15014)]);
}

#[test]
fn three_replicas_are_kept_apart() {
    let objects = printed(&["--profile", "ha"]);
    let deployment = find(&objects, "Deployment", "outrider-control-plane");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let update = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(*update, json!({"maxSurge": 1, "maxUnavailable": 0}));
    let spec = &deployment["spec"]["template"]["spec"];
    let apart = "preferredDuringSchedulingIgnoredDuringExecution";
    let term = &spec["affinity"]["podAntiAffinity"][apart][0]["podAffinityTerm"];
    assert_eq!(term["topologyKey"], "kubernetes.io/hostname");
    let zones = &spec["topologySpreadConstraints"][0];
    assert_eq!(zones["topologyKey"], "topology.kubernetes.io/zone");
    let budget = find(&objects, "PodDisruptionBudget", "outrider-control-plane");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);

    let one = printed(&[]);
    assert_eq!(
        find(&one, "Deployment", "outrider-control-plane")["spec"]["replicas"],
        1
    );
    // With one replica a budget would only keep nodes from being drained.
    assert!(
        !one.iter()
            .any(|object| object["kind"] == "PodDisruptionBudget")
    );
}

#[test]
fn webhooks_fail_closed_and_never_keep_the_control_plane_from_starting() {
    let objects = printed(&[]);
    let injector = find(
        &objects,
        "MutatingWebhookConfiguration",
        "outrider-injector",
    );
    for webhook in injector["webhooks"].as_array().unwrap() {
        assert_eq!(webhook["failurePolicy"], "Fail");
        let expressions = webhook["namespaceSelector"]["matchExpressions"].as_array();
        let never = json!({
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-system", "outrider-system"],
        });
        assert!(expressions.unwrap().contains(&never), "{webhook}");
    }
    let validator = find(
        &objects,
        "ValidatingWebhookConfiguration",
        "outrider-validator",
    );
    let webhooks = validator["webhooks"].as_array().unwrap();
    assert_eq!(webhooks[0]["failurePolicy"], "Fail");
    // What goes must always go: no webhook sees a DELETE.
    for webhook in webhooks {
        let operations = &webhook["rules"][0]["operations"];
        assert_eq!(*operations, json!(["CREATE", "UPDATE"]));
    }
    // Applied again, it does not take away what the control plane has written there.
    for object in [injector, validator] {
        for webhook in object["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["clientConfig"].get("caBundle"), None);
        }
    }
}
