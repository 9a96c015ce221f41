//! The containers and volumes of a sidecar.

use ipnet::IpNet;
use outrider_api::annotations::{Annotations, Quantity, SidecarKind};
use outrider_api::duration;
use outrider_api::kinds::Mode;
use outrider_api::sidecar::{HOLD_PATH, TELEMETRY_PORT, UID};
use serde_json::{Map, Value, json};

use super::{
    INIT_CONTAINER, PROGRAM, SIDECAR_CONTAINER, Sidecar, TOKEN_AUDIENCE, TRUST_BUNDLE,
    TRUST_BUNDLE_KEY,
};

const TRUST_VOLUME: &str = "outrider-trust";
const TOKEN_VOLUME: &str = "outrider-token";
/// What is added to the pod's.
pub(super) const VOLUMES: [&str; 2] = [TRUST_VOLUME, TOKEN_VOLUME];
const TRUST_DIR: &str = "/var/run/outrider/trust";
const TOKEN_DIR: &str = "/var/run/outrider/token";
const TOKEN_FILE: &str = "token";
/// Seconds; the kubelet renews it before it ends.
const TOKEN_LIFETIME: u32 = 3600;

/// Without a word of the pod.
const CPU_REQUEST: &str = "10m";
const MEMORY_REQUEST: &str = "32Mi";
/// Looks of a second each, before a sidecar that is not ready is started again.
const STARTUP_LOOKS: u32 = 300;

/// Writes the rules of interception, and ends. Root, since Kubernetes gives capabilities to nobody else.
pub(super) fn init(sidecar: &Sidecar<'_>) -> Value {
    let mut container = Container::new(INIT_CONTAINER, sidecar);
    container.set("args", json!(init_arguments(sidecar.annotations)));
    container.set("securityContext", security(0, &["NET_ADMIN"]));
    container.finish()
}

fn init_arguments(annotations: &Annotations) -> Vec<String> {
    // Whoever may forward a port of the pod comes as root: the kubelet's runtime.
    let mut arguments = vec!["init".to_owned(), "--admin-uids=0".to_owned()];
    if mode(annotations) == Mode::TProxy {
        arguments.push("--mode=tproxy".to_owned());
    }
    let lists = [
        (
            "exclude-inbound-ports",
            list(&annotations.exclude_inbound_ports),
        ),
        (
            "exclude-outbound-ports",
            list(&annotations.exclude_outbound_ports),
        ),
        (
            "exclude-outbound-cidrs",
            list(annotations.exclude_outbound_cidrs.iter().map(IpNet::trunc)),
        ),
    ];
    for (option, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
        arguments.push(format!("--{option}={values}"));
    }
    arguments
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    values.join(",")
}

/// The sidecar itself.
pub(super) fn sidecar(sidecar: &Sidecar<'_>) -> Value {
    let mut container = Container::new(SIDECAR_CONTAINER, sidecar);
    container.set("env", environment(sidecar));
    container.set(
        "ports",
        json!([{"name": "outrider-stats", "containerPort": TELEMETRY_PORT, "protocol": "TCP"}]),
    );
    container.set("securityContext", sidecar_security(sidecar.annotations));
    container.set("readinessProbe", ready(5, 3));
    container.set(
        "volumeMounts",
        json!([
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIR, "readOnly": true},
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true},
        ]),
    );
    match sidecar.kind {
        SidecarKind::Native => {
            container.set("restartPolicy", json!("Always"));
            // What comes after it is not started before it is ready.
            container.set("startupProbe", ready(1, STARTUP_LOOKS));
        }
        SidecarKind::Classic => {
            // Containers are started one after the other, each when the hook of the one before is done.
            let wait = json!({"exec": {"command": [PROGRAM, "wait"]}});
            container.set("lifecycle", json!({"postStart": wait}));
        }
    }
    container.finish()
}

fn sidecar_security(annotations: &Annotations) -> Value {
    match mode(annotations) {
        Mode::Redirect => security(UID, &[]),
        // It becomes the user by itself, since a user that Kubernetes starts has no capability.
        Mode::TProxy => security(0, &["NET_ADMIN", "SETGID", "SETUID"]),
    }
}

fn mode(annotations: &Annotations) -> Mode {
    annotations.interception_mode.unwrap_or_default()
}

fn security(user: u32, capabilities: &[&str]) -> Value {
    let mut kept = json!({"drop": ["ALL"]});
    if !capabilities.is_empty() {
        kept["add"] = json!(capabilities);
    }
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": kept,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "runAsUser": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn ready(period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": "/ready", "port": TELEMETRY_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

/// The hook of an app that waits until nobody calls it any more.
pub(super) fn hold() -> Value {
    json!({"httpGet": {"path": HOLD_PATH, "port": TELEMETRY_PORT}})
}

fn environment(sidecar: &Sidecar<'_>) -> Value {
    let (settings, annotations) = (sidecar.settings, sidecar.annotations);
    let of_pod = |name: &str, field: &str| {
        let source = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": field}});
        json!({"name": name, "valueFrom": source})
    };
    let mut variables = vec![
        of_pod("POD_NAMESPACE", "metadata.namespace"),
        of_pod("POD_NAME", "metadata.name"),
    ];
    let mut set = |name: &str, value: String| {
        variables.push(json!({"name": name, "value": value}));
    };
    set(
        "OUTRIDER_WORKLOAD",
        "$(POD_NAMESPACE)/$(POD_NAME)".to_owned(),
    );
    set("OUTRIDER_CONTROL_PLANE", settings.control_plane.clone());
    set("OUTRIDER_TRUST_DOMAIN", settings.trust_domain.to_string());
    set(
        "OUTRIDER_TRUST_BUNDLE",
        format!("{TRUST_DIR}/{TRUST_BUNDLE_KEY}"),
    );
    set("OUTRIDER_TOKEN_FILE", format!("{TOKEN_DIR}/{TOKEN_FILE}"));
    match mode(annotations) {
        Mode::Redirect => set("OUTRIDER_INTERCEPT", "redirect".to_owned()),
        Mode::TProxy => {
            set("OUTRIDER_INTERCEPT", "tproxy".to_owned());
            set("OUTRIDER_USER", UID.to_string());
        }
    }
    set("OUTRIDER_LOG_FORMAT", "json".to_owned());
    if let Some(level) = &annotations.log_level {
        set("OUTRIDER_LOG", level.clone());
    }
    if let Some(workers) = annotations.workers {
        set("OUTRIDER_WORKERS", workers.to_string());
    }
    if let Some(timeout) = annotations.drain_timeout {
        set("OUTRIDER_DRAIN_TIMEOUT", duration::format(timeout));
    }
    if let (SidecarKind::Classic, Some(containers)) = (sidecar.kind, sidecar.ends_with) {
        set("OUTRIDER_END_WITH", containers.to_string());
    }
    Value::Array(variables)
}

/// A container with what both have.
struct Container(Map<String, Value>);

impl Container {
    fn new(name: &str, sidecar: &Sidecar<'_>) -> Self {
        let (settings, annotations) = (sidecar.settings, sidecar.annotations);
        let image = annotations.proxy_image.as_ref().unwrap_or(&settings.image);
        let mut container = Self(Map::new());
        container.set("name", json!(name));
        container.set("image", json!(image));
        if let Some(policy) = &settings.image_pull_policy {
            container.set("imagePullPolicy", json!(policy));
        }
        container.set("resources", resources(annotations));
        container
    }

    fn set(&mut self, field: &str, value: Value) {
        self.0.insert(field.to_owned(), value);
    }

    fn finish(self) -> Value {
        Value::Object(self.0)
    }
}

/// A request that nobody wrote is not above a limit that somebody wrote.
fn resources(annotations: &Annotations) -> Value {
    let request = |request: &Option<Quantity>, limit: &Option<Quantity>, default: &str| {
        let written = request.as_ref().or(limit.as_ref());
        written.map_or_else(|| default.to_owned(), ToString::to_string)
    };
    let mut resources = json!({"requests": {
        "cpu": request(&annotations.cpu_request, &annotations.cpu_limit, CPU_REQUEST),
        "memory": request(&annotations.memory_request, &annotations.memory_limit, MEMORY_REQUEST),
    }});
    let limits = [
        ("cpu", &annotations.cpu_limit),
        ("memory", &annotations.memory_limit),
    ];
    let limits: Map<String, Value> = limits
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), json!(limit.as_ref()?.as_str()))))
        .collect();
    if !limits.is_empty() {
        resources["limits"] = Value::Object(limits);
    }
    resources
}

/// The trust anchors, and the token by which the sidecar gets its first certificate.
pub(super) fn volumes() -> [Value; 2] {
    let token = json!({"serviceAccountToken": {
        "audience": TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_LIFETIME,
        "path": TOKEN_FILE,
    }});
    [
        json!({"name": TRUST_VOLUME, "configMap": {"name": TRUST_BUNDLE}}),
        json!({"name": TOKEN_VOLUME, "projected": {"sources": [token]}}),
    ]
}
