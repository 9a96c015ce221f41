//! What is added to pods that get a sidecar.

use super::*;

#[test]
fn a_native_sidecar_comes_first_after_init() {
    let before = pod(json!({
        "initContainers": [{"name": "migrate"}, {"name": "agent", "restartPolicy": "Always"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }));
    let after = injected(&before);
    let spec = &after["spec"];
    let init = names(&spec["initContainers"]);
    assert_eq!(
        init,
        [INIT_CONTAINER, SIDECAR_CONTAINER, "migrate", "agent"]
    );
    assert_eq!(names(&spec["containers"]), ["order"]);
    assert_eq!(
        names(&spec["volumes"]),
        ["data", "outrider-trust", "outrider-token"]
    );
    assert_eq!(
        container(&after, SIDECAR_CONTAINER)["restartPolicy"],
        "Always"
    );
    // Nothing else is different.
    assert_eq!(after["metadata"], before["metadata"]);
    assert_eq!(
        own_words(&spec["containers"][0]),
        before["spec"]["containers"][0]
    );
    let own = &spec["initContainers"].as_array().unwrap()[2..];
    assert_eq!(own, before["spec"]["initContainers"].as_array().unwrap());
}

#[test]
fn the_app_waits_for_a_native_sidecar_and_counts_its_readiness() {
    let after = injected(&pod(json!({})));
    let sidecar = container(&after, SIDECAR_CONTAINER);
    for probe in ["startupProbe", "readinessProbe"] {
        let get = &sidecar[probe]["httpGet"];
        assert_eq!(*get, json!({"path": "/ready", "port": 15020}), "{probe}");
    }
    assert_eq!(sidecar["startupProbe"]["periodSeconds"], 1);
    assert!(sidecar.get("lifecycle").is_none() && sidecar.get("livenessProbe").is_none());
}

#[test]
fn a_sidecar_has_no_privilege_and_init_has_one() {
    let after = injected(&pod(
        json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000}}),
    ));
    let expected = |user: u32, capabilities: Value| {
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": capabilities,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": user,
            "runAsNonRoot": user != 0,
            "runAsUser": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    };
    let sidecar = &container(&after, SIDECAR_CONTAINER)["securityContext"];
    assert_eq!(*sidecar, expected(2102, json!({"drop": ["ALL"]})));
    let init = &container(&after, INIT_CONTAINER)["securityContext"];
    assert_eq!(
        *init,
        expected(0, json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}))
    );
}

#[test]
fn a_sidecar_knows_who_it_is_and_whom_to_ask() {
    let after = injected(&pod(json!({})));
    let expected = [
        ("OUTRIDER_WORKLOAD", "$(POD_NAMESPACE)/$(POD_NAME)"),
        (
            "OUTRIDER_CONTROL_PLANE",
            "outrider-control-plane.outrider-system.svc:15012",
        ),
        ("OUTRIDER_TRUST_DOMAIN", "shop.example"),
        (
            "OUTRIDER_TRUST_BUNDLE",
            "/var/run/outrider/trust/trust-bundle.pem",
        ),
        ("OUTRIDER_TOKEN_FILE", "/var/run/outrider/token/token"),
        ("OUTRIDER_INTERCEPT", "redirect"),
        ("OUTRIDER_LOG_FORMAT", "json"),
    ];
    for (name, value) in expected {
        assert_eq!(variable(&after, name), Some(value), "{name}");
    }
    let absent = [
        "OUTRIDER_LOG",
        "OUTRIDER_WORKERS",
        "OUTRIDER_DRAIN_TIMEOUT",
        "OUTRIDER_USER",
        "OUTRIDER_END_WITH",
    ];
    for name in absent {
        assert_eq!(variable(&after, name), None, "{name}");
    }
    let token = &after["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(token["audience"], "outrider-control-plane");
    assert_eq!(token["expirationSeconds"], 3600);
    let image = |name| container(&after, name)["image"].as_str();
    assert_eq!(
        image(SIDECAR_CONTAINER),
        Some("registry.example/outrider-proxy:1")
    );
    assert_eq!(image(INIT_CONTAINER), image(SIDECAR_CONTAINER));
    let arguments = &container(&after, INIT_CONTAINER)["args"];
    assert_eq!(*arguments, json!(["init", "--admin-uids=0"]));
}

#[test]
fn annotations_change_what_is_added() {
    let after = injected(&annotated(json!({
        "outrider.mesh/exclude-inbound-ports": "9091, 9090",
        "outrider.mesh/exclude-outbound-ports": "3306",
        "outrider.mesh/exclude-outbound-cidrs": "10.0.0.0/8,fd00::1",
        "outrider.mesh/log-level": "debug",
        "outrider.mesh/drain-timeout": "1m",
        "outrider.mesh/workers": "2",
        "outrider.mesh/cpu-request": "100m",
        "outrider.mesh/cpu-limit": "1",
        "outrider.mesh/memory-limit": "64Mi",
        "outrider.mesh/proxy-image": "own/proxy@sha256:00",
        "outrider.mesh/mtls": "Permissive",
        "outrider.mesh/app-protocols": "8080=http",
        "prometheus.io/scrape": "true",
    })));
    let arguments = &container(&after, INIT_CONTAINER)["args"];
    let expected = [
        "init",
        "--admin-uids=0",
        "--exclude-inbound-ports=9090,9091",
        "--exclude-outbound-ports=3306",
        "--exclude-outbound-cidrs=10.0.0.0/8,fd00::1/128",
    ];
    assert_eq!(*arguments, json!(expected));
    assert_eq!(variable(&after, "OUTRIDER_LOG"), Some("debug"));
    assert_eq!(variable(&after, "OUTRIDER_DRAIN_TIMEOUT"), Some("1m"));
    assert_eq!(variable(&after, "OUTRIDER_WORKERS"), Some("2"));
    for name in [INIT_CONTAINER, SIDECAR_CONTAINER] {
        let container = container(&after, name);
        assert_eq!(container["image"], "own/proxy@sha256:00");
        // A request that nobody wrote is as much as the limit.
        let expected = json!({
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        });
        assert_eq!(container["resources"], expected, "{name}");
    }
}

#[test]
fn without_a_word_the_sidecar_asks_for_little_and_has_no_limit() {
    let after = injected(&pod(json!({})));
    let expected = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    assert_eq!(container(&after, SIDECAR_CONTAINER)["resources"], expected);
}

#[test]
fn tproxy_takes_capabilities() {
    let after = injected(&annotated(
        json!({"outrider.mesh/interception-mode": "TProxy"}),
    ));
    assert_eq!(
        container(&after, INIT_CONTAINER)["args"],
        json!(["init", "--admin-uids=0", "--mode=tproxy"])
    );
    assert_eq!(variable(&after, "OUTRIDER_INTERCEPT"), Some("tproxy"));
    assert_eq!(variable(&after, "OUTRIDER_USER"), Some("2102"));
    let security = &container(&after, SIDECAR_CONTAINER)["securityContext"];
    let expected = json!({"add": ["NET_ADMIN", "SETGID", "SETUID"], "drop": ["ALL"]});
    assert_eq!(security["capabilities"], expected);
    assert_eq!(security["runAsUser"], 0);
}

#[test]
fn a_classic_sidecar_is_the_first_container_and_holds_the_others() {
    let before = pod(json!({"initContainers": [{"name": "migrate"}]}));
    let (after, warnings) = injected_as(&before, SidecarKind::Classic);
    let spec = &after["spec"];
    // What runs before the sidecar must not be intercepted yet.
    assert_eq!(names(&spec["initContainers"]), ["migrate", INIT_CONTAINER]);
    assert_eq!(names(&spec["containers"]), [SIDECAR_CONTAINER, "order"]);
    let sidecar = container(&after, SIDECAR_CONTAINER);
    let wait = json!({"postStart": {"exec": {"command": ["/outrider-proxy", "wait"]}}});
    assert_eq!(sidecar["lifecycle"], wait);
    assert!(sidecar.get("restartPolicy").is_none() && sidecar.get("startupProbe").is_none());
    let annotation = &after["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    assert_eq!(*annotation, "order");
    assert!(spec.get("shareProcessNamespace").is_none());
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("past the mesh: migrate"),
        "{warnings:?}"
    );
}

#[test]
fn the_default_container_is_the_authors_to_name() {
    let key = "kubectl.kubernetes.io/default-container";
    let default = |annotations: Value| {
        let (after, _) = injected_as(&annotated(annotations), SidecarKind::Classic);
        after["metadata"]["annotations"][key]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(default(json!({key: "other"})), "other");
    assert_eq!(default(json!({"a/b": "c"})), "order");
    let mut bare = pod(json!({}));
    bare.as_object_mut().unwrap().remove("metadata");
    let (after, _) = injected_as(&bare, SidecarKind::Classic);
    assert_eq!(after["metadata"]["annotations"][key], "order");
}

#[test]
fn a_pod_may_ask_for_the_other_kind() {
    let of = |kind: &str, cluster| {
        let pod = annotated(json!({"outrider.mesh/sidecar": kind}));
        let (after, _) = injected_as(&pod, cluster);
        names(&after["spec"]["containers"]).len()
    };
    assert_eq!(of("classic", SidecarKind::Native), 2);
    assert_eq!(of("native", SidecarKind::Classic), 1);
}

#[test]
fn a_job_ends_with_a_sidecar_of_either_kind() {
    let job = |policy: &str| pod(json!({"restartPolicy": policy}));
    for policy in ["Never", "OnFailure"] {
        let (after, warnings) = injected_as(&job(policy), SidecarKind::Native);
        assert_eq!(
            (variable(&after, "OUTRIDER_END_WITH"), warnings.len()),
            (None, 0)
        );
        assert_eq!(after["spec"]["restartPolicy"], policy);
    }
    let (after, warnings) = injected_as(&job("Never"), SidecarKind::Classic);
    assert_eq!(variable(&after, "OUTRIDER_END_WITH"), Some("1"));
    assert_eq!(after["spec"]["shareProcessNamespace"], true);
    assert!(warnings.is_empty());
    // A container that is gone may come back, or is not seen.
    let blind = [
        json!({"restartPolicy": "OnFailure"}),
        json!({"restartPolicy": "Never", "shareProcessNamespace": false}),
        json!({"restartPolicy": "Never", "hostPID": true}),
    ];
    for spec in blind {
        let (after, warnings) = injected_as(&pod(spec.clone()), SidecarKind::Classic);
        assert_eq!(variable(&after, "OUTRIDER_END_WITH"), None, "{spec}");
        assert!(warnings[0].contains("keeps it from ending"), "{warnings:?}");
    }
}

#[test]
fn an_app_is_held_until_nobody_calls_it_unless_it_says_otherwise() {
    let own = json!({"exec": {"command": ["sleep", "5"]}});
    let hooks = |lifecycle: Value| {
        pod(json!({"containers": [
            {"name": "order", "lifecycle": lifecycle}, {"name": "other"},
        ]}))
    };
    for kind in [SidecarKind::Native, SidecarKind::Classic] {
        let hooked = |lifecycle| {
            let (after, _) = injected_as(&hooks(lifecycle), kind);
            ["order", "other"].map(|name| container(&after, name)["lifecycle"].clone())
        };
        let added = json!({"preStop": hold()});
        for none in [Value::Null, json!({}), json!({"preStop": null})] {
            assert_eq!(hooked(none), [added.clone(), added.clone()]);
        }
        let start = json!({"postStart": own});
        let both = json!({"postStart": own, "preStop": hold()});
        assert_eq!(hooked(start), [both, added.clone()]);
        let stop = json!({"preStop": own});
        assert_eq!(hooked(stop.clone()), [stop, added]);
    }
}

#[test]
fn what_is_null_is_left_out() {
    let before = pod(json!({}));
    let mut null = before.clone();
    for field in [
        "initContainers",
        "volumes",
        "hostNetwork",
        "securityContext",
        "os",
        "nodeSelector",
    ] {
        null["spec"][field] = Value::Null;
    }
    null["metadata"]["annotations"] = Value::Null;
    null["spec"]["containers"][0]["ports"] = Value::Null;
    let list = |pod: &Value| injected(pod)["spec"]["initContainers"].clone();
    assert_eq!(list(&null), list(&before));
}

#[test]
fn fields_that_are_not_known_pass_through() {
    let before =
        pod(json!({"futureField": {"a": [1, 2.5, null]}, "resources": {"limits": {"cpu": "1"}}}));
    let after = injected(&before);
    assert_eq!(after["spec"]["futureField"], before["spec"]["futureField"]);
    assert_eq!(after["spec"]["resources"], before["spec"]["resources"]);
}

#[test]
fn authors_are_warned() {
    let grace = |seconds: i64| {
        warnings(
            &pod(json!({"terminationGracePeriodSeconds": seconds})),
            SidecarKind::Native,
        )
    };
    assert_eq!(grace(15), Vec::<String>::new());
    assert!(
        grace(14)[0].contains("may take 15s to drain"),
        "{:?}",
        grace(14)
    );
    assert_eq!(grace(0).len(), 1);
    let mut short = annotated(json!({"outrider.mesh/drain-timeout": "2s"}));
    short["spec"]["terminationGracePeriodSeconds"] = json!(3);
    assert_eq!(warnings(&short, SidecarKind::Native), Vec::<String>::new());
    let powerful = [
        json!({"privileged": true}),
        json!({"capabilities": {"add": ["NET_ADMIN"]}}),
        json!({"capabilities": {"add": ["cap_net_admin"]}}),
        json!({"capabilities": {"add": ["ALL"]}}),
    ];
    for context in powerful {
        let pod = pod(json!({"containers": [{"name": "order", "securityContext": context}]}));
        let warnings = warnings(&pod, SidecarKind::Native);
        assert!(
            warnings[0].starts_with("container order may change the rules"),
            "{warnings:?}"
        );
    }
}
