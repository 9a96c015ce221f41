//! The cluster that the tests of the mesh on Kubernetes rely on does what they rely on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{get, local};
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE, TOOLS};
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::{find, root};
use serde_json::{Value, json};

#[test]
fn its_nodes_are_ready() -> Result<()> {
    let nodes = Cluster::shared()?.read(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("a list")?;
    assert!(!nodes.is_empty());
    for node in nodes {
        let ready = node["status"]["conditions"]
            .as_array()
            .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
        assert_eq!(
            ready.map(|condition| &condition["status"]),
            Some(&json!("True")),
            "{node:#}"
        );
    }
    Ok(())
}

/// As kind and k3d have it, a kubeconfig of their own: with it ours is somebody else's.
#[test]
fn a_cluster_of_somebody_else_is_used_and_left_alone() -> Result<()> {
    let cluster = Cluster::shared()?;
    let folder = tempfile::tempdir()?;
    let theirs = folder.path().join("config");
    fs::copy(cluster.kubeconfig(), &theirs)?;
    let script = |line: &str| -> Result<Finished> {
        let mut command = command(&root().join("tests/kubernetes/cluster"))?;
        let command = command.args(line.split(' ')).env("KUBECONFIG", &theirs);
        run(command, PATIENCE)
    };
    let up = script("up")?.success()?;
    assert_eq!(Path::new(up.stdout.trim()), theirs);
    let context = cluster.kubectl(&["config", "current-context"])?;
    let file = format!("--kubeconfig={}", theirs.display());
    cluster.kubectl(&["config", "rename-context", context.trim(), "office", &file])?;
    // Any file: it does not come to be read.
    let load = script(&format!("load {}", theirs.display()))?;
    let said = load.output();
    ensure!(!load.status.success(), "{said}");
    ensure!(
        said.contains("office is neither kind's nor k3d's"),
        "{said}"
    );
    script("down")?.success()?;
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"])?, "ok");

    let config = fs::read_to_string(&theirs)?;
    let server = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: "))
        .context("a server")?;
    fs::write(&theirs, config.replace(server, "https://127.0.0.1:1"))?;
    let up = script("up")?;
    let said = up.output();
    ensure!(!up.status.success(), "{said}");
    ensure!(
        said.contains("does not answer: start it, or unset KUBECONFIG"),
        "{said}"
    );
    Ok(())
}

/// What an injected pod is made of: a step that needs NET_ADMIN, then a native sidecar, then the app.
#[test]
fn an_init_step_may_write_rules_before_a_native_sidecar_and_the_app_start() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("sidecar")?;
    namespace.apply(&pod(
        "injected",
        json!({
            "initContainers": [
                {
                    "name": "init",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-ec", "nft add table inet outrider; nft list tables"],
                    "securityContext": {
                        "runAsUser": 0,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                    },
                },
                {
                    "name": "sidecar",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "restartPolicy": "Always",
                    "command": ["/bin/sh", "-c", "touch /shared/started; sleep 1000000"],
                    "startupProbe": {"exec": {"command": ["cat", "/shared/started"]}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                },
            ],
            "containers": [{
                "name": "app",
                "image": TOOLS,
                "imagePullPolicy": "Never",
                // Ends with an error if the sidecar was not there first.
                "command": ["/bin/sh", "-ec", "cat /shared/started; id -u; sleep 1000000"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
            }],
            "volumes": [{"name": "shared", "emptyDir": {}}],
        }),
    ))?;
    namespace.wait("pod/injected", "Ready")?;

    let rules = namespace.kubectl(&["logs", "injected", "--container", "init"])?;
    assert_eq!(rules.trim(), "table inet outrider");
    let app = namespace.kubectl(&["logs", "injected", "--container", "app"])?;
    assert_eq!(app.trim(), "65532");
    let status = &namespace.read(&["pod", "injected"])?["status"];
    assert_eq!(
        status["containerStatuses"][0]["restartCount"], 0,
        "{status:#}"
    );
    assert_eq!(
        status["initContainerStatuses"][1]["started"], true,
        "{status:#}"
    );
    Ok(())
}

#[test]
fn a_job_ends_although_its_native_sidecar_runs() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("job")?;
    let container = |name: &str, command: &str| {
        json!({
            "name": name,
            "image": TOOLS,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", command],
        })
    };
    let mut sidecar = container(
        "sidecar",
        "trap 'exit 0' TERM; while true; do sleep 1; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    namespace.apply(
        &json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "once"},
            "spec": {"backoffLimit": 0, "template": {"spec": {
                "restartPolicy": "Never",
                "initContainers": [sidecar],
                "containers": [container("work", "cat /bin/sh >/dev/null")],
            }}},
        })
        .to_string(),
    )?;
    namespace.wait("job/once", "Complete")
}

#[test]
fn a_service_answers_by_name_from_another_namespace() -> Result<()> {
    let cluster = Cluster::shared()?;
    let (servers, clients) = (cluster.namespace("servers")?, cluster.namespace("clients")?);
    serve(
        &servers,
        "user",
        "listen 8080; listen [::]:8080;",
        "return 200 $host;",
    )?;
    service(&servers, "user", 8080)?;
    clients.apply(&pod("client", idle()))?;
    servers.wait("pod/user", "Ready")?;
    clients.wait("pod/client", "Ready")?;

    let families = servers.read(&["service", "user"])?["spec"]["ipFamilies"].clone();
    let families = families.as_array().context("families")?;
    for family in families {
        let option = if family == "IPv6" { "-6" } else { "-4" };
        let short = format!("user.{}", servers.name());
        let long = format!("{short}.svc.cluster.local");
        assert_eq!(reach(&clients, "client", option, &short)?, short);
        assert_eq!(reach(&clients, "client", option, &long)?, long);
        // To itself, through its Service.
        assert_eq!(reach(&servers, "user", option, &short)?, short);
    }
    // The world is not asked.
    let unknown = clients.try_exec("client", &["curl", "-sS", "http://example.invalid/"])?;
    assert!(
        unknown.stderr.contains("Could not resolve host"),
        "{unknown:?}"
    );
    Ok(())
}

/// What a pod gets from `http://NAME/`, once kube-proxy has heard of the endpoints.
fn reach(namespace: &Namespace, pod: &str, family: &str, name: &str) -> Result<String> {
    let url = format!("http://{name}/");
    let patient = ["--retry", "20", "--retry-delay", "1", "--retry-all-errors"];
    let curl = ["curl", "-sS", "--max-time", "60", family];
    namespace.exec(pod, &[&curl[..], &patient, &[&url]].concat())
}

#[test]
fn a_projected_token_is_for_its_audience_and_names_its_pod() -> Result<()> {
    const AUDIENCE: &str = "outrider-control-plane";
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("token")?;
    let mut spec = idle();
    spec["containers"][0]["volumeMounts"] = json!([{"name": "token", "mountPath": "/token"}]);
    spec["volumes"] = json!([{"name": "token", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 600}},
    ]}}]);
    namespace.apply(&pod("holder", spec))?;
    namespace.wait("pod/holder", "Ready")?;
    let token = namespace.exec("holder", &["cat", "/token/token"])?;
    let review = |audience: &str| {
        cluster.create(&json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }))
    };

    let ours = &review(AUDIENCE)?["status"];
    assert_eq!(ours["authenticated"], true, "{ours:#}");
    assert_eq!(ours["audiences"], json!([AUDIENCE]));
    let account = format!("system:serviceaccount:{}:default", namespace.name());
    assert_eq!(ours["user"]["username"], json!(account));
    let holder = namespace.read(&["pod", "holder"])?;
    let extra = &ours["user"]["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-uid"],
        json!([holder["metadata"]["uid"]])
    );
    assert_eq!(
        extra["authentication.kubernetes.io/node-name"],
        json!([holder["spec"]["nodeName"]])
    );

    let theirs = &review("somebody-else")?["status"];
    assert_ne!(theirs["authenticated"], true, "{theirs:#}");
    Ok(())
}

#[test]
fn a_port_of_a_pod_is_forwarded_to_loopback() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("forward")?;
    serve(&namespace, "web", "listen 8080;", "return 200 forwarded;")?;
    namespace.wait("pod/web", "Ready")?;
    let forward = namespace.port_forward("pod/web", 8080)?;
    let response = get(local(forward.port()), "web", "/")?;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "forwarded")
    );
    Ok(())
}

#[test]
fn an_account_may_do_nothing_that_it_was_not_given() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("rbac")?;
    let account = format!("system:serviceaccount:{}:default", namespace.name());
    let refused = namespace.try_kubectl(&["get", "secrets", "--as", &account])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("Forbidden"), "{refused:?}");

    namespace.kubectl(&[
        "create",
        "role",
        "reader",
        "--verb",
        "list",
        "--resource",
        "secrets",
    ])?;
    let whom = format!("{}:default", namespace.name());
    namespace.kubectl(&[
        "create",
        "rolebinding",
        "reader",
        "--role",
        "reader",
        "--serviceaccount",
        &whom,
    ])?;
    // The API server hears of it a moment later.
    namespace.eventually(
        "the account may list Secrets",
        &["secrets", "--as", &account],
        |_| Some(()),
    )
}

/// The API server is not in a pod: it gets to one by what kube-proxy does on its host.
#[test]
fn the_api_server_reaches_a_webhook_by_its_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let namespace = cluster.namespace("webhook")?;
    let host = format!("webhook.{}.svc", namespace.name());
    let folder = tempfile::tempdir()?;
    let authority = Authority::stranger()?;
    let leaf = Leaf::uris(&[])?.dns(&host)?;
    let identity = authority.issue(&leaf, folder.path(), "webhook")?;
    namespace.kubectl(&[
        "create",
        "secret",
        "tls",
        "webhook",
        "--cert",
        identity.certificate.to_str().context("a path")?,
        "--key",
        identity.key.to_str().context("a path")?,
    ])?;
    serve(
        &namespace,
        "webhook",
        "listen 8080; listen 8443 ssl;\n\
         ssl_certificate /tls/tls.crt; ssl_certificate_key /tls/tls.key;",
        "return 418;",
    )?;
    service(&namespace, "webhook", 8443)?;
    namespace.wait("pod/webhook", "Ready")?;
    let bundle = folder.path().join("ca.crt");
    std::fs::write(&bundle, authority.certificate())?;
    let mut base64 = mesh_tests::process::command(&find("base64", "coreutils")?)?;
    let bundle = run(base64.arg("-w0").arg(bundle), Duration::from_secs(20))?.success()?;
    cluster.apply(&webhook(&namespace, &bundle.stdout)?.to_string())?;

    // It is asked a moment later, and answers what no webhook may.
    let asked = || -> Result<Option<()>> {
        let create = ["create", "configmap", "asked", "--dry-run=server"];
        let answer = namespace.try_kubectl(&create)?;
        ensure!(answer.stderr.contains("418"), "{answer:?}");
        Ok(Some(()))
    };
    mesh_tests::eventually(
        "the webhook is asked",
        mesh_tests::kubernetes::PATIENCE,
        asked,
    )
}

/// It is asked about ConfigMaps of one namespace, and goes with it.
fn webhook(namespace: &Namespace, bundle: &str) -> Result<Value> {
    Ok(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace.name(), "ownerReferences": [namespace.owner()?]},
        "webhooks": [{
            "name": "teapot.tests.outrider.dev",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name()}},
            "rules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["configmaps"],
            }],
            "clientConfig": {
                "caBundle": bundle,
                "service": {"namespace": namespace.name(), "name": "webhook", "port": 80},
            },
        }],
    }))
}

fn pod(name: &str, mut spec: Value) -> String {
    spec["terminationGracePeriodSeconds"] = json!(1);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    })
    .to_string()
}

/// A container to run programs in.
fn idle() -> Value {
    json!({"containers": [{
        "name": "idle",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": ["sleep", "1000000"],
    }]})
}

/// A pod with an nginx that is ready when it listens on 8080.
fn serve(namespace: &Namespace, name: &str, listen: &str, answer: &str) -> Result<()> {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path /tmp/{kind}; "))
        .concat();
    let configuration = format!(
        "daemon off; pid /tmp/nginx.pid; error_log stderr info;\nevents {{}}\nhttp {{\n\
         access_log off; {temporary}\nserver {{\n{listen}\nlocation / {{ {answer} }}\n}}\n}}\n"
    );
    namespace.apply(
        &json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"nginx.conf": configuration},
        })
        .to_string(),
    )?;
    let spec = json!({
        "containers": [{
            "name": "nginx",
            "image": TOOLS,
            "imagePullPolicy": "Never",
            "command": ["nginx", "-e", "stderr", "-c", "/etc/nginx/nginx.conf"],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            "volumeMounts": [
                {"name": "configuration", "mountPath": "/etc/nginx"},
                {"name": "tls", "mountPath": "/tls"},
            ],
        }],
        "volumes": [
            {"name": "configuration", "configMap": {"name": name}},
            {"name": "tls", "secret": {"secretName": name, "optional": true}},
        ],
    });
    namespace.apply(&pod(name, spec))
}

/// Port 80 of all families that the cluster has.
fn service(namespace: &Namespace, name: &str, port: u16) -> Result<()> {
    namespace.apply(
        &json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "ipFamilyPolicy": "PreferDualStack",
                "selector": {"app": name},
                "ports": [{"port": 80, "targetPort": port}],
            },
        })
        .to_string(),
    )
}
