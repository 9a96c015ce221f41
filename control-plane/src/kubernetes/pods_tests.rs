use outrider_api::kinds::{Mtls, TargetPort, Workload};
use outrider_api::manifest::Object;
use outrider_api::model::ProbeKind;

use super::*;

/// As an injector leaves it and a kubelet runs it.
pub(crate) fn pod(name: &str, more: &Value) -> v1::Pod {
    let mut pod = json!({
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": format!("uid-of-{name}"),
            "labels": {"app": "billing"},
            "creationTimestamp": "2026-11-27T08:00:00Z",
        },
        "spec": {
            "serviceAccountName": "billing",
            "nodeName": "node-1",
            "initContainers": [
                {"name": "outrider-init", "image": "p"},
                {"name": "outrider-proxy", "image": "p", "restartPolicy": "Always",
                 "ports": [{"containerPort": 15008}],
                 "startupProbe": {"httpGet": {"path": "/ready", "port": 15020}}},
            ],
            "containers": [{"name": "app", "image": "a"}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.244.0.7",
            "podIPs": [{"ip": "10.244.0.7"}, {"ip": "fd00::7"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

/// Objects are merged, anything else replaced.
pub(crate) fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn workload(pod: &v1::Pod) -> Workload {
    let (_, entry) = read(pod).expect("a pod of the mesh");
    match entry.object {
        Some(Object::Workload(workload)) => Workload::clone(&workload),
        _ => panic!("{:?}", entry.problems),
    }
}

fn numbers(workload: &Workload) -> Vec<u16> {
    workload.spec.ports.iter().map(|port| port.port).collect()
}

#[test]
fn a_pod_is_a_workload() {
    let containers = json!([{
        "name": "app", "image": "a",
        "ports": [
            {"containerPort": 8080, "name": "http"},
            {"containerPort": 53, "protocol": "UDP"},
            {"containerPort": 8080, "name": "again"},
        ],
    }]);
    let pod = pod("billing-1", &json!({"spec": {"containers": containers}}));
    let (record, entry) = read(&pod).unwrap();
    assert_eq!(entry.id.to_string(), "Pod/shop/billing-1");
    assert_eq!(record.service_account, "billing");
    assert_eq!(record.node.as_deref(), Some("node-1"));
    assert!(record.ready && !record.ended);
    let workload = workload(&pod);
    let addresses = [workload.spec.address.unwrap(), workload.spec.addresses[0]];
    assert_eq!(
        addresses.map(|ip| ip.to_string()),
        ["10.244.0.7", "fd00::7"]
    );
    assert_eq!(workload.spec.app_address, workload.spec.address);
    assert_eq!(workload.spec.service_account, "billing");
    assert_eq!(workload.spec.mesh_port, 15008);
    assert_eq!(numbers(&workload), [8080]);
    assert_eq!(workload.spec.ports[0].name.as_deref(), Some("http"));
    assert_eq!(workload.metadata.labels["app"], "billing");
    assert!(workload.spec.probes.is_empty(), "our own are not the app's");
}

#[test]
fn only_pods_with_a_sidecar_are_of_the_mesh() {
    let without = pod("billing-1", &json!({"spec": {"initContainers": null}}));
    assert!(read(&without).is_none());
    let classic = json!([{"name": "outrider-proxy", "image": "p"}, {"name": "app", "image": "a"}]);
    let classic = pod(
        "billing-1",
        &json!({"spec": {"initContainers": null, "containers": classic}}),
    );
    assert!(read(&classic).is_some());
}

#[test]
fn what_the_kubelet_asks_is_let_in_and_nothing_else() {
    let containers = json!([{
        "name": "app", "image": "a",
        "ports": [{"containerPort": 8080, "name": "web"}],
        "livenessProbe": {"httpGet": {"path": "healthz?deep=1", "port": "web"}},
        "readinessProbe": {"tcpSocket": {"port": 9000}},
        "startupProbe": {"grpc": {"port": 9090, "service": "shop"}},
        "lifecycle": {"preStop": {"httpGet": {"path": "/quit", "port": 8081}}},
    }, {
        "name": "other", "image": "a",
        "livenessProbe": {"exec": {"command": ["true"]}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 8443, "scheme": "HTTPS"}},
        "startupProbe": {"httpGet": {"path": "/", "port": 8082, "host": "elsewhere"}},
        "lifecycle": {"preStop": {"httpGet": {"path": "/hold", "port": 15020}}},
    }]);
    let init = json!([
        {"name": "outrider-proxy", "image": "p", "restartPolicy": "Always"},
        {"name": "log", "image": "l", "restartPolicy": "Always",
         "readinessProbe": {"httpGet": {"port": 7000}}},
        {"name": "once", "image": "o", "ports": [{"containerPort": 6000}]},
    ]);
    let pod = pod(
        "billing-1",
        &json!({"spec": {"initContainers": init, "containers": containers}}),
    );
    let workload = workload(&pod);
    let probes: Vec<(TargetPort, ProbeKind)> = workload
        .spec
        .probes
        .iter()
        .map(|probe| (probe.port.clone(), probe.kind.clone()))
        .collect();
    let http = |path: &str| ProbeKind::Http {
        path: path.to_owned(),
        tls: false,
        headers: Vec::new(),
    };
    let grpc = ProbeKind::Grpc {
        service: "shop".to_owned(),
    };
    assert_eq!(
        probes,
        [
            (TargetPort::Number(7000), http("/")),
            (TargetPort::Number(8080), http("/healthz?deep=1")),
            (TargetPort::Number(9000), ProbeKind::Tcp),
            (TargetPort::Number(9090), grpc),
            (TargetPort::Number(8081), http("/quit")),
        ]
    );
    assert_eq!(numbers(&workload), [8080, 7000, 9000, 9090, 8081]);
}

#[test]
fn what_is_asked_of_the_sidecar_instead_is_about_the_app() {
    let headers = json!([
        {"name": "Host", "value": "shop"},
        {"name": "X-Key", "value": "a"},
        {"name": "Connection", "value": "close"},
        {"name": "X-Broken", "value": "a\nb"},
    ]);
    let asks = |path: &str| json!({"httpGet": {"path": path, "port": 15020, "scheme": "HTTP"}});
    let mut https = asks("/probe/https/8443/live?full");
    https["httpGet"]["httpHeaders"] = headers.clone();
    let containers = json!([{
        "name": "app", "image": "a",
        "livenessProbe": asks("/probe/tcp/5432"),
        "readinessProbe": https,
        "startupProbe": asks("/ready"),
        "lifecycle": {"postStart": asks("/probe/https/8443/warm")},
    }, {
        "name": "other", "image": "a",
        "readinessProbe": {"httpGet": {"path": "/a b", "port": 8080}},
        "livenessProbe": {"httpGet": {"path": "/", "port": 8081, "httpHeaders": headers}},
    }]);
    let pod = pod("billing-1", &json!({"spec": {"containers": containers}}));
    let workload = workload(&pod);
    let get = |path: &str, tls, headers: &[(&str, &str)]| {
        let header = |(name, value): &(&str, &str)| ProbeHeader::new(name, value.as_bytes());
        let headers: Result<_, _> = headers.iter().map(header).collect();
        let (path, headers) = (path.to_owned(), headers.unwrap());
        ProbeKind::Http { path, tls, headers }
    };
    let sent = [("host", "shop"), ("x-key", "a")];
    let expected = [
        (5432, ProbeKind::Tcp),
        (8443, get("/live?full", true, &sent)),
        (8443, get("/warm", true, &[])),
        (8081, get("/", false, &sent)),
    ];
    let probes = workload.spec.probes.iter();
    let probes: Vec<_> = probes
        .map(|probe| (probe.port.clone(), probe.kind.clone()))
        .collect();
    let expected = expected.map(|(port, kind)| (TargetPort::Number(port), kind));
    assert_eq!(probes, expected);
    assert_eq!(numbers(&workload), [5432, 8443, 8081]);
}

#[test]
fn annotations_say_what_a_pod_cannot() {
    let annotations = json!({
        "outrider.mesh/mtls": "Permissive",
        "outrider.mesh/app-protocols": "8080=grpc, 5432=opaque",
    });
    let containers = json!([{"name": "a", "image": "a", "ports": [{"containerPort": 8080}]}]);
    let pod = pod(
        "billing-1",
        &json!({"metadata": {"annotations": annotations}, "spec": {"containers": containers}}),
    );
    let workload = workload(&pod);
    assert_eq!(workload.spec.mtls, Some(Mtls::Permissive));
    let ports = workload.spec.ports.iter();
    let ports: Vec<_> = ports
        .map(|port| (port.port, port.app_protocol.as_deref()))
        .collect();
    assert_eq!(ports.len(), 2);
    assert_eq!(ports[0], (8080, Some("grpc")));
    assert_eq!(ports[1].0, 5432);
}

#[test]
fn a_pod_that_ends_or_is_not_ready_says_so() {
    let ending = pod(
        "billing-1",
        &json!({"metadata": {"deletionTimestamp": "2026-11-27T09:00:00Z"}}),
    );
    let (record, _) = read(&ending).unwrap();
    assert!(record.terminating && !record.ready, "it is on its way out");
    assert!(workload(&ending).spec.terminating);
    assert!(!workload(&pod("billing-1", &json!({}))).spec.terminating);
    let starting = pod("billing-1", &json!({"status": {"conditions": []}}));
    assert!(!read(&starting).unwrap().0.ready);
    for phase in ["Succeeded", "Failed"] {
        let ended = pod("billing-1", &json!({"status": {"phase": phase}}));
        assert!(read(&ended).unwrap().0.ended, "{phase}");
    }
    let unscheduled = pod(
        "billing-1",
        &json!({"status": null, "spec": {"nodeName": null}}),
    );
    let (record, _) = read(&unscheduled).unwrap();
    assert_eq!((record.addresses, record.node), (Vec::new(), None));
}

#[test]
fn an_annotation_that_cannot_be_read_counts_as_not_written() {
    let bad = pod(
        "billing-1",
        &json!({"metadata": {"annotations": {"outrider.mesh/mtls": "Sometimes"}}}),
    );
    let (_, entry) = read(&bad).unwrap();
    let problem = &entry.problems[0];
    assert_eq!(problem.location.file.to_str(), Some("Pod/shop/billing-1"));
    assert!(problem.is_warning(), "{problem}");
    assert!(problem.message.contains("outrider.mesh/mtls"), "{problem}");
    // The pod runs on: as if nothing were written.
    assert_eq!(workload(&bad).spec.mtls, None);
}
