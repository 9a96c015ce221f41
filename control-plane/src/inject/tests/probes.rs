//! What the kubelet asks the sidecar instead of the app.

use super::*;

/// How a container of an annotated pod comes out, but for the hook that is added.
fn probed(app: &Value, annotations: &Value, kind: SidecarKind) -> Value {
    let mut before = pod(json!({"containers": [app]}));
    before["metadata"]["annotations"] = annotations.clone();
    own_words(container(&injected_as(&before, kind).0, "order"))
}

fn asks(path: &str) -> Value {
    json!({"path": path, "port": 15020, "scheme": "HTTP"})
}

#[test]
fn what_the_sidecar_lets_through_stays_as_it_is() {
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 3});
    let app = json!({
        "name": "order",
        "livenessProbe": probe,
        "readinessProbe": {"grpc": {"port": 9000}},
        "startupProbe": {"exec": {"command": ["true"]}},
    });
    for kind in [SidecarKind::Native, SidecarKind::Classic] {
        assert_eq!(probed(&app, &json!({}), kind), app);
    }
}

#[test]
fn of_tcp_and_https_the_sidecar_is_asked() {
    let headers = json!([{"name": "Host", "value": "shop"}]);
    let https = |path: &str| json!({"httpGet": {"path": path, "port": 8443, "scheme": "HTTPS", "httpHeaders": headers}, "timeoutSeconds": 3});
    let app = json!({
        "name": "order",
        "ports": [{"containerPort": 5432, "name": "db"}],
        "livenessProbe": {"tcpSocket": {"port": "db"}, "periodSeconds": 3, "failureThreshold": 2},
        "readinessProbe": https("/live?full=1"),
        "startupProbe": {"tcpSocket": {"host": "", "port": 80}, "httpGet": null},
    });
    let mut expected = app.clone();
    expected["livenessProbe"] =
        json!({"httpGet": asks("/probe/tcp/5432"), "periodSeconds": 3, "failureThreshold": 2});
    expected["readinessProbe"]["httpGet"] = asks("/probe/https/8443/live?full=1");
    expected["readinessProbe"]["httpGet"]["httpHeaders"] = headers.clone();
    expected["startupProbe"] = json!({"httpGet": asks("/probe/tcp/80")});
    for kind in [SidecarKind::Native, SidecarKind::Classic] {
        assert_eq!(probed(&app, &json!({}), kind), expected);
    }
}

#[test]
fn hooks_over_https_ask_the_sidecar_too() {
    let https = |path: &str| json!({"httpGet": {"path": path, "port": 8443, "scheme": "HTTPS"}});
    let hooks = json!({"postStart": https("warm"), "preStop": https("/quit")});
    let after = injected(&pod(
        json!({"containers": [{"name": "order", "lifecycle": hooks}]}),
    ));
    let expected = json!({
        "postStart": {"httpGet": asks("/probe/https/8443/warm")},
        "preStop": {"httpGet": asks("/probe/https/8443/quit")},
    });
    assert_eq!(container(&after, "order")["lifecycle"], expected);
}

#[test]
fn what_is_not_intercepted_or_not_known_stays_as_it_is() {
    let excluded = json!({"outrider.mesh/exclude-inbound-ports": "5432,8443"});
    let tcp = |socket: Value| json!({"tcpSocket": socket});
    let get = |get: Value| json!({"httpGet": get});
    for probe in [
        tcp(json!({"port": 5432})),
        tcp(json!({"port": "db"})),
        tcp(json!({"port": "unknown"})),
        tcp(json!({"port": 5433, "host": "192.0.2.1"})),
        tcp(json!({"port": 0})),
        tcp(json!({"port": 15008})),
        get(json!({"port": 8443, "scheme": "HTTPS"})),
        get(json!({"port": "unknown", "scheme": "HTTPS"})),
        get(json!({"port": 9443, "scheme": "HTTPS", "host": "shop"})),
    ] {
        let ports = json!([{"containerPort": 5432, "name": "db"}]);
        let app = json!({"name": "order", "ports": ports, "readinessProbe": probe});
        assert_eq!(probed(&app, &excluded, SidecarKind::Native), app);
    }
}

#[test]
fn of_init_containers_those_that_run_beside_a_native_sidecar_are_asked_by_way_of_it() {
    let probe = json!({"tcpSocket": {"port": 24224}});
    let log = json!({"name": "log", "restartPolicy": "Always", "startupProbe": probe});
    let before = pod(json!({"initContainers": [{"name": "migrate"}, log]}));
    let after = injected(&before);
    let expected = json!({"httpGet": asks("/probe/tcp/24224")});
    assert_eq!(container(&after, "log")["startupProbe"], expected);
    // It has started before a classic one, which could not answer.
    let (after, _) = injected_as(&before, SidecarKind::Classic);
    assert_eq!(*container(&after, "log"), log);
}

#[test]
fn twice_is_as_good_as_once() {
    let app = json!({"name": "order", "readinessProbe": {"tcpSocket": {"port": 80}}});
    let once = injected(&pod(json!({"containers": [app]})));
    assert_eq!(
        outcome(&once, SidecarKind::Native),
        Ok(Outcome::Left(Left::AlreadyInjected))
    );
    // Also of one from which somebody has taken the sidecar, and nothing else.
    let mut again = once.clone();
    for list in ["initContainers", "volumes"] {
        again["spec"].as_object_mut().unwrap().remove(list);
    }
    assert_eq!(injected(&again), once);
}
