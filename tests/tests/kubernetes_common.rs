//! What tests of the installed mesh have in common: somebody who is called, and somebody who calls.

use anyhow::{Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Namespace, PATIENCE, TOOLS};
use mesh_tests::process::Finished;
use mesh_tests::wait::eventually;
use serde_json::{Value, json};

/// Waits until the policy's status says that all of these sidecars enforce it.
pub(crate) fn enforced(namespace: &Namespace, policy: &str, sidecars: usize) -> Result<()> {
    programmed(namespace, "authorizationpolicy", policy, sidecars)
}

/// Waits until the status of a policy says that all of these sidecars go by what is written in it now.
pub(crate) fn programmed(
    namespace: &Namespace,
    kind: &str,
    policy: &str,
    sidecars: usize,
) -> Result<()> {
    let what = format!("the {kind} is programmed");
    namespace.eventually(&what, &[kind, policy], |policy| {
        let generation = &policy["metadata"]["generation"];
        let message = format!("{sidecars} of {sidecars} sidecars at generation {generation}");
        let ancestor = &policy["status"]["ancestors"][0];
        let mut conditions = ancestor["conditions"].as_array()?.iter();
        let programmed = conditions.find(|condition| condition["type"] == "Programmed")?;
        let is_so = programmed["status"] == "True"
            && programmed["reason"] == "Programmed"
            && programmed["message"] == message
            && programmed["observedGeneration"] == *generation
            && ancestor["controllerName"] == "outrider.mesh/control-plane";
        is_so.then_some(())
    })
}

/// A namespace in which `friend` may call `web`, and the sidecars of both know it.
pub(crate) fn befriended(outrider: &Outrider, label: &str) -> Result<Namespace> {
    let namespace = outrider.meshed_namespace(label)?;
    namespace.apply(&web())?;
    namespace.apply(&client("friend"))?;
    namespace.apply(&allow_friend())?;
    namespace.rolled_out("deployment/web")?;
    namespace.wait("pod/friend", "Ready")?;
    enforced(&namespace, "web", 2)?;
    Ok(namespace)
}

/// `kubectl apply`, with what it says; waits until the webhook is known to the API server.
pub(crate) fn try_apply(namespace: &Namespace, yaml: &str, options: &[&str]) -> Result<Finished> {
    let arguments = ["apply", "--filename", "-", "--namespace", namespace.name()];
    let arguments = [&arguments[..], options].concat();
    eventually("the webhook answers", PATIENCE, || {
        let applied = namespace.cluster().try_kubectl_with(yaml, &arguments)?;
        ensure!(
            !applied.stderr.contains("failed calling webhook"),
            "{}",
            applied.stderr
        );
        Ok(Some(applied))
    })
}

/// What `curl -i` says of a path of the Service `web`.
pub(crate) fn call(namespace: &Namespace, pod: &str, path: &str) -> Result<String> {
    get(namespace, pod, &[&format!("http://web{path}")])
}

/// What `curl -i` says in a pod, once the name that it is given is known to the cluster's DNS.
pub(crate) fn get(namespace: &Namespace, pod: &str, arguments: &[&str]) -> Result<String> {
    const UNKNOWN_HOST: i32 = 6;
    let curl = ["/usr/bin/curl", "--silent", "--include", "--max-time", "10"];
    let curl = [&curl[..], arguments].concat();
    let finished = eventually("the name is known", PATIENCE, || {
        let finished = namespace.try_exec(&format!("{pod}/client"), &curl)?;
        let is_known = finished.status.code() != Some(UNKNOWN_HOST);
        Ok(is_known.then_some(finished))
    })?;
    let answer = finished.success()?.stdout;
    ensure!(!answer.is_empty(), "an answer");
    Ok(answer)
}

/// Whoever asked was let in by nobody's policy, and is told so.
pub(crate) fn assert_denied(answer: &str) {
    assert_refused(answer, 403, "http_request_denied", "authorization_denied");
}

/// A sidecar has answered, with this status, type of error (RFC 9209) and reason. It may say what became
/// of retries besides.
pub(crate) fn assert_refused(answer: &str, status: u16, error: &str, reason: &str) {
    let first = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&first), "expected {status}: {answer}");
    let why = format!("Proxy-Status: outrider; error={error}; details=\"{reason}\"");
    assert!(
        answer
            .lines()
            .filter_map(|line| line.strip_prefix(&why))
            .any(|rest| rest.is_empty() || rest.starts_with("; ")),
        "expected {why}: {answer}"
    );
}

const HELLO: &str = "location / { return 200 'hello'; } \
                     location = /who { return 200 $http_x_forwarded_client_cert; }";

/// A Deployment of two that says hello, at `/who` who it was told is calling, and its Service.
pub(crate) fn web() -> String {
    web_with(&json!({}))
}

/// The same, whose pods have these annotations.
pub(crate) fn web_with(annotations: &Value) -> String {
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": annotations},
                "spec": {"containers": [nginx(HELLO)]},
            },
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
        },
    });
    documents(&[deployment, service])
}

/// A container of an nginx with these locations, which is ready when `/` is answered.
pub(crate) fn nginx(locations: &str) -> Value {
    let configuration = format!(
        "daemon off; error_log stderr; pid /tmp/nginx.pid; events {{}} http {{ access_log off; \
         client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; \
         uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; default_type text/plain; \
         server {{ listen 8080; {locations} }} }}"
    );
    let command = "printf '%s' \"$CONFIGURATION\" >/tmp/c && exec /usr/sbin/nginx -c /tmp/c";
    json!({
        "name": "web",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-ec", command],
        "env": [{"name": "CONFIGURATION", "value": configuration}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    })
}

/// A ServiceAccount, and a pod of it to call from.
pub(crate) fn client(name: &str) -> String {
    client_beside(name, &[])
}

/// The same, with further containers beside it.
pub(crate) fn client_beside(name: &str, containers: &[Value]) -> String {
    let client = json!({
        "name": "client",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "1000000"],
    });
    let containers = [&[client], containers].concat();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 1,
            "containers": containers,
        },
    });
    documents(&[account, pod])
}

/// A container that may cut its pod off from the control plane.
pub(crate) fn knife() -> Value {
    json!({
        "name": "knife",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "1000000"],
        "securityContext": {
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
    })
}

/// From now on the sidecar of a pod with a [`knife`] hears nothing of the control plane, and says nothing to it.
pub(crate) fn cut_off(namespace: &Namespace, pod: &str) -> Result<()> {
    let rules = "add table inet cut; \
                 add chain inet cut out { type filter hook output priority 0; }; \
                 add chain inet cut in { type filter hook input priority 0; }; \
                 add rule inet cut out tcp dport 15012 drop; \
                 add rule inet cut in tcp sport 15012 drop";
    namespace.exec(&format!("{pod}/knife"), &["/usr/sbin/nft", rules])?;
    Ok(())
}

pub(crate) fn mend(namespace: &Namespace, pod: &str) -> Result<()> {
    namespace.exec(
        &format!("{pod}/knife"),
        &["/usr/sbin/nft", "delete table inet cut"],
    )?;
    Ok(())
}

/// Lets the ServiceAccount `friend` call `web`.
pub(crate) fn allow_friend() -> String {
    allow_friend_to_call("web")
}

/// Lets the ServiceAccount `friend` call this Service: the policy has its name.
pub(crate) fn allow_friend_to_call(service: &str) -> String {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": service},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": service}],
            "rules": [{
                "name": "friend",
                "sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "friend"}}],
            }],
        },
    })
    .to_string()
}

/// Several objects as one YAML.
pub(crate) fn documents(objects: &[Value]) -> String {
    objects
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}
