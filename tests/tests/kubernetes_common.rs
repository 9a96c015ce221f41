//! What tests of the installed mesh have in common: somebody who is called, and somebody who calls.

use anyhow::{Result, ensure};
use mesh_tests::kubernetes::{Namespace, PATIENCE, TOOLS};
use mesh_tests::process::Finished;
use mesh_tests::wait::eventually;
use serde_json::{Value, json};

/// Waits until the policy's status says that all of these sidecars enforce it.
pub(crate) fn enforced(namespace: &Namespace, policy: &str, sidecars: usize) -> Result<()> {
    let expected = format!("{sidecars} of {sidecars} sidecars");
    namespace.eventually(
        "the policy is enforced",
        &["authorizationpolicy", policy],
        |policy| {
            let conditions = policy["status"]["ancestors"][0]["conditions"].as_array()?;
            let programmed = conditions
                .iter()
                .find(|condition| condition["type"] == "Programmed")?;
            let said = programmed["message"].as_str()?;
            (programmed["status"] == "True" && said.contains(&expected)).then_some(())
        },
    )
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
    let answer = namespace.exec(
        &format!("{pod}/client"),
        &[
            "/usr/bin/curl",
            "--silent",
            "--include",
            "--max-time",
            "10",
            &format!("http://web{path}"),
        ],
    )?;
    ensure!(!answer.is_empty(), "an answer");
    Ok(answer)
}

/// A Deployment of two that says hello, and its Service.
pub(crate) fn web() -> String {
    web_with(&json!({}))
}

/// The same, whose pods have these annotations.
pub(crate) fn web_with(annotations: &Value) -> String {
    let nginx = "daemon off; error_log stderr; pid /tmp/nginx.pid; events {} http { access_log off; \
                 client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; \
                 uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; \
                 server { listen 8080; location / { return 200 'hello'; } } }";
    let command = format!("printf '%s' \"{nginx}\" >/tmp/c && exec /usr/sbin/nginx -c /tmp/c");
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": annotations},
                "spec": {"containers": [{
                    "name": "web",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-ec", command],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                }]},
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

/// A ServiceAccount, and a pod of it to call from.
pub(crate) fn client(name: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "client",
                "image": TOOLS,
                "imagePullPolicy": "Never",
                "command": ["/bin/sleep", "1000000"],
            }],
        },
    });
    documents(&[account, pod])
}

/// Lets the ServiceAccount `friend` call `web`.
pub(crate) fn allow_friend() -> String {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{
                "name": "friend",
                "sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "friend"}}],
            }],
        },
    })
    .to_string()
}

/// Several objects as one YAML.
fn documents(objects: &[Value]) -> String {
    objects
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}
