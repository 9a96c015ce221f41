//! Sidecars get into pods, and the API server's way to the webhooks stands or falls as it should. The
//! control plane runs on this machine with the rights that are installed, and the API server of a real
//! cluster calls it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::{Outrider, Turn};
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE, TOOLS};
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::process::{Finished, Process, command, run, run_with_input};
use mesh_tests::programs::{find, outrider};
use mesh_tests::wait::{eventually, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the API server finds programs of this machine.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 250, 1);
const IMAGE: &str = "outrider.test/outrider-proxy:injection";
const INJECT: &str = "outrider.mesh/inject";
const MUTATING: &str = "outrider-injector";
/// Says for which of these tests a namespace is.
const OF_TEST: &str = "tests.outrider.dev/injection";

/// A control plane that the API server asks about pods of the namespaces that are its own.
struct Injector {
    process: Option<Process>,
    folder: TempDir,
    webhook: u16,
    admin: u16,
    home: Namespace,
    /// The webhook's configuration has one name in the cluster.
    _alone: Turn,
}

impl Injector {
    fn start() -> Result<Self> {
        let mut injector = Self::configured()?;
        injector.start_control_plane()?;
        injector.asked()?;
        Ok(injector)
    }

    /// The API server would ask, and nobody answers.
    fn configured() -> Result<Self> {
        let alone = Outrider::absent()?;
        define()?;
        let injector = Self {
            process: None,
            folder: tempfile::tempdir()?,
            webhook: free_port()?,
            admin: free_port()?,
            home: Cluster::shared()?.namespace("injection")?,
            _alone: alone,
        };
        injector.home.control_plane_account(&[])?;
        let configuration = injector.configuration()?;
        injector.home.cluster().apply(&configuration.to_string())?;
        Ok(injector)
    }

    /// As it is installed, but for this machine, and for namespaces of this test only.
    fn configuration(&self) -> Result<Value> {
        let webhook = |name: &str, namespaces: Value, pods: Value| {
            json!({
                "name": name,
                "admissionReviewVersions": ["v1"],
                "sideEffects": "NoneOnDryRun",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "namespaceSelector": {
                    "matchLabels": {OF_TEST: self.home.name()},
                    "matchExpressions": [namespaces],
                },
                "objectSelector": {"matchExpressions": [pods]},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "clientConfig": {"url": format!("https://{HOST}:{}/inject", self.webhook)},
            })
        };
        Ok(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": MUTATING, "ownerReferences": [self.home.owner()?]},
            "webhooks": [
                webhook(
                    "namespace.injector.outrider.mesh",
                    json!({"key": INJECT, "operator": "In", "values": ["enabled"]}),
                    json!({"key": INJECT, "operator": "NotIn", "values": ["false"]}),
                ),
                webhook(
                    "pod.injector.outrider.mesh",
                    json!({"key": INJECT, "operator": "NotIn", "values": ["enabled", "disabled"]}),
                    json!({"key": INJECT, "operator": "Exists"}),
                ),
            ],
        }))
    }

    fn start_control_plane(&mut self) -> Result<()> {
        let webhook = format!("{HOST}:{}", self.webhook);
        let mut start = self.home.cluster().command_of(
            &outrider()?,
            &[
                "control-plane",
                "--kubernetes",
                "--namespace",
                self.home.name(),
                "--listen",
                &format!("{HOST}:0"),
                "--admin",
                &format!("127.0.0.1:{}", self.admin),
                "--webhook",
                &webhook,
                "--webhook-name",
                &HOST.to_string(),
                "--proxy-image",
                IMAGE,
                "--proxy-image-pull-policy",
                "Never",
            ],
        )?;
        start.env("KUBECONFIG", self.kubeconfig()?);
        self.process = Some(Process::start(
            "control-plane",
            self.folder.path(),
            &mut start,
        )?);
        Ok(())
    }

    /// Of the ServiceAccount that has the rights that are installed.
    fn kubeconfig(&self) -> Result<PathBuf> {
        let (cluster, path) = (self.home.cluster(), self.folder.path().join("kubeconfig"));
        std::fs::copy(cluster.kubeconfig(), &path)?;
        let token = self.home.control_plane_token()?;
        let name = "control-plane";
        for change in [
            &["set-credentials", name, "--token", &token][..],
            &["set-context", "--current", "--user", name],
        ] {
            let mut config = cluster.command(&[&["config"], change].concat())?;
            run(config.env("KUBECONFIG", &path), PATIENCE)?.success()?;
        }
        Ok(path)
    }

    fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("a control plane")?;
        process.terminate()?;
        process.exit(PATIENCE)?;
        Ok(())
    }

    /// Waits until the API server asks it, and believes it.
    fn asked(&self) -> Result<()> {
        let probe = self.namespace("probe", Some("enabled"))?;
        until("the webhook is asked", PATIENCE, || {
            let pod = create(&probe, &pod("probe", json!({})))?;
            Ok(has_sidecar(&serde_json::from_str(&pod.success()?.stdout)?))
        })
    }

    fn namespace(&self, label: &str, inject: Option<&str>) -> Result<Namespace> {
        let namespace = self.home.cluster().namespace(label)?;
        let own = format!("{OF_TEST}={}", self.home.name());
        let inject = inject.map(|value| format!("{INJECT}={value}"));
        let labels: Vec<&str> = std::iter::once(own.as_str())
            .chain(inject.as_deref())
            .collect();
        let arguments = [&["label", "namespace", namespace.name()], labels.as_slice()].concat();
        namespace.cluster().kubectl(&arguments)?;
        Ok(namespace)
    }

    fn bundle(&self) -> Result<Vec<String>> {
        let cluster = self.home.cluster();
        let configuration = cluster.read(&["mutatingwebhookconfiguration", MUTATING])?;
        let webhooks = configuration["webhooks"].as_array().context("webhooks")?;
        let bundle = |webhook: &Value| {
            webhook["clientConfig"]["caBundle"]
                .as_str()
                .map(str::to_owned)
        };
        Ok(webhooks.iter().filter_map(bundle).collect())
    }

    /// The authority of the mesh, from its Secret.
    fn authority(&self) -> Result<Authority> {
        for (key, file) in [("tls.crt", "ca.crt"), ("tls.key", "ca.key")] {
            let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
            let text =
                self.home
                    .kubectl(&["get", "secret", "outrider-ca", "--output", &template])?;
            std::fs::write(self.folder.path().join(file), text)?;
        }
        Authority::of_mesh(self.folder.path())
    }
}

/// The kinds of the mesh, without which there is none.
fn define() -> Result<()> {
    let mut install = command(&outrider()?)?;
    let kinds = run(install.args(["install", "--crds", "only"]), PATIENCE)?.success()?;
    let apply = ["apply", "--server-side", "--filename", "-"];
    let applied = Cluster::shared()?.try_kubectl_with(&kinds.stdout, &apply)?;
    applied.success()?;
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((HOST, 0))?.local_addr()?.port())
}

fn pod(name: &str, change: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "containers": [{
                "name": "app",
                "image": TOOLS,
                "imagePullPolicy": "Never",
                "command": ["sleep", "1000000"],
            }],
        },
    });
    merge(&mut pod, change);
    pod
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

fn labelled(name: &str, inject: &str) -> Value {
    pod(name, json!({"metadata": {"labels": {INJECT: inject}}}))
}

fn annotated(name: &str, annotations: Value) -> Value {
    pod(name, json!({"metadata": {"annotations": annotations}}))
}

/// What the API server would store.
fn create(namespace: &Namespace, object: &Value) -> Result<Finished> {
    let here = ["--namespace", namespace.name()];
    let create = [
        "create",
        "--dry-run=server",
        "--output",
        "json",
        "--filename",
        "-",
    ];
    let cluster = namespace.cluster();
    cluster.try_kubectl_with(&object.to_string(), &[&here[..], &create].concat())
}

fn created(namespace: &Namespace, object: &Value) -> Result<Value> {
    let finished = create(namespace, object)?.success()?;
    Ok(serde_json::from_str(&finished.stdout)?)
}

fn has_sidecar(pod: &Value) -> bool {
    let init = pod["spec"]["initContainers"].as_array();
    init.is_some_and(|all| {
        all.iter()
            .any(|container| container["name"] == "outrider-proxy")
    })
}

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
fn the_command_makes_what_the_webhook_makes() -> Result<()> {
    let injector = Injector::start()?;
    let meshed = injector.namespace("webhook", Some("enabled"))?;
    let plain = injector.namespace("command", None)?;
    let object = annotated(
        "order",
        json!({"outrider.mesh/exclude-outbound-ports": "3306", "outrider.mesh/cpu-limit": "1"}),
    );
    let by_webhook = created(&meshed, &object)?;
    let mut inject = command(&outrider()?)?;
    inject.args([
        "inject",
        "-f",
        "-",
        "--image",
        IMAGE,
        "--image-pull-policy",
        "Never",
        "--mesh-namespace",
        injector.home.name(),
    ]);
    let injected =
        run_with_input(&mut inject, object.to_string().as_bytes(), PATIENCE)?.success()?;
    let create = [
        "create",
        "--dry-run=server",
        "--output",
        "json",
        "--filename",
        "-",
    ];
    let here = ["--namespace", plain.name()];
    let stored = plain
        .cluster()
        .try_kubectl_with(&injected.stdout, &[&here[..], &create].concat())?
        .success()?;
    let by_command: Value = serde_json::from_str(&stored.stdout)?;
    assert_eq!(written(&by_webhook), written(&by_command));
    // And the webhook leaves alone what the command has done.
    let again = meshed
        .cluster()
        .try_kubectl_with(
            &injected.stdout,
            &[&["--namespace", meshed.name()][..], &create].concat(),
        )?
        .success()?;
    let again = serde_json::from_str(&again.stdout)?;
    assert_eq!(written(&again), written(&by_command));
    Ok(())
}

/// What whoever makes a pod decides: labels, annotations and spec.
fn written(pod: &Value) -> String {
    let metadata = &pod["metadata"];
    let mut spec = pod["spec"].clone();
    // The API server adds a volume with a token of its own: before the webhook is asked, under a name
    // made of chance.
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let name = |volume: &Value| volume["name"].as_str().map(str::to_owned);
    let added = volumes
        .filter_map(name)
        .find(|name| name.starts_with("kube-api-access-"));
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.sort_by_key(name);
    }
    let [labels, annotations] = ["labels", "annotations"].map(|field| &metadata[field]);
    let text = json!({"labels": labels, "annotations": annotations, "spec": spec}).to_string();
    added.map_or(text.clone(), |added| {
        text.replace(&added, "kube-api-access")
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

#[test]
fn while_nobody_answers_no_pod_goes_without() -> Result<()> {
    let mut injector = Injector::start()?;
    let meshed = injector.namespace("meshed", Some("enabled"))?;
    let silent = injector.namespace("silent", None)?;
    injector.stop()?;
    let refused = create(&meshed, &pod("order", json!({})))?;
    assert!(
        refused
            .stderr
            .contains("failed calling webhook \"namespace.injector.outrider.mesh\""),
        "{refused:?}"
    );
    let refused = create(&silent, &labelled("order", "true"))?;
    assert!(
        refused.stderr.contains("failed calling webhook"),
        "{refused:?}"
    );
    // Who is not of the mesh does not notice.
    assert!(!has_sidecar(&created(&meshed, &labelled("out", "false"))?));
    assert!(!has_sidecar(&created(&silent, &pod("order", json!({})))?));
    injector.start_control_plane()?;
    injector.asked()?;
    assert!(has_sidecar(&created(&meshed, &pod("order", json!({})))?));
    Ok(())
}

#[test]
fn an_expired_certificate_keeps_pods_out_until_there_is_a_new_one() -> Result<()> {
    let mut injector = Injector::start()?;
    let namespace = injector.namespace("expired", Some("enabled"))?;
    let authority = injector.authority()?;
    injector.stop()?;
    let leaf = Leaf::uris(&[])?.address(HOST.into()).expired();
    let identity = authority.issue(&leaf, injector.folder.path(), "expired")?;
    let server = serve_with(&injector, &identity.certificate, &identity.key)?;
    eventually("the certificate is refused", PATIENCE, || {
        let refused = create(&namespace, &pod("order", json!({})))?;
        ensure!(
            refused.stderr.contains("certificate has expired"),
            "{refused:?}"
        );
        Ok(Some(()))
    })?;
    assert!(!has_sidecar(&created(
        &namespace,
        &labelled("out", "false")
    )?));
    drop(server);
    injector.start_control_plane()?;
    injector.asked()?;
    assert!(has_sidecar(&created(&namespace, &pod("order", json!({})))?));
    Ok(())
}

/// A server in the place of the webhook.
fn serve_with(injector: &Injector, certificate: &Path, key: &Path) -> Result<Process> {
    let folder = injector.folder.path();
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr info;\nevents {{}}\nhttp {{\naccess_log off;\n\
         server {{ listen {HOST}:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; return 418; }}\n}}\n",
        folder = folder.display(),
        port = injector.webhook,
        certificate = certificate.display(),
        key = key.display(),
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let mut nginx = command(&find("nginx", "nginx-light")?)?;
    nginx.args(["-e", "stderr", "-c"]).arg(&file);
    let process = Process::start("nginx", folder, &mut nginx)?;
    let address = (HOST, injector.webhook);
    eventually("nginx listens", PATIENCE, || {
        std::net::TcpStream::connect(address)?;
        Ok(Some(()))
    })?;
    Ok(process)
}

#[test]
fn what_somebody_does_to_the_trust_bundle_is_undone() -> Result<()> {
    let injector = Injector::start()?;
    let before = injector.bundle()?;
    assert_eq!(before.len(), 2);
    let patch = json!([{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]);
    injector.home.cluster().kubectl(&[
        "patch",
        "mutatingwebhookconfiguration",
        MUTATING,
        "--type",
        "json",
        "--patch",
        &patch.to_string(),
    ])?;
    until("the bundle is there again", PATIENCE, || {
        Ok(injector.bundle()? == before)
    })
}
