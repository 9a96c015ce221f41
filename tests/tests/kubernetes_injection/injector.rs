//! A control plane on this machine that the API server of the cluster asks about pods.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::outrider::{Outrider, Turn};
use mesh_tests::kubernetes::{Cluster, Namespace, PATIENCE, TOOLS};
use mesh_tests::pki::Authority;
use mesh_tests::ports::free_port;
use mesh_tests::printed;
use mesh_tests::process::{Finished, Process, command, run};
use mesh_tests::programs::outrider;
use mesh_tests::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the API server finds programs of this machine.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 250, 1);
pub(super) const IMAGE: &str = "outrider.test/outrider-proxy:injection";
const INJECT: &str = "outrider.mesh/inject";
/// The kind of a configuration, and its name.
pub(super) type Configuration = (&'static str, &'static str);
pub(super) const MUTATING: Configuration = ("MutatingWebhookConfiguration", "outrider-injector");
pub(super) const VALIDATING: Configuration =
    ("ValidatingWebhookConfiguration", "outrider-validator");
/// Says for which of these tests a namespace is.
const OF_TEST: &str = "tests.outrider.dev/injection";

/// A control plane that the API server asks about pods of the namespaces that are its own.
pub(super) struct Injector {
    pub(super) process: Option<Process>,
    pub(super) folder: TempDir,
    pub(super) webhook: u16,
    pub(super) admin: u16,
    pub(super) home: Namespace,
    /// The webhook's configuration has one name in the cluster.
    _alone: Turn,
}

impl Injector {
    pub(super) fn start() -> Result<Self> {
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
        for (kind, _) in [MUTATING, VALIDATING] {
            let configuration = injector.configuration(kind)?;
            injector.home.cluster().apply(&configuration.to_string())?;
        }
        Ok(injector)
    }

    /// As it is installed, but for this machine, and for namespaces of this test only.
    fn configuration(&self, kind: &str) -> Result<Value> {
        let mut configuration = printed::object(kind)?;
        configuration["metadata"]["ownerReferences"] = json!([self.home.owner()?]);
        let webhooks = configuration["webhooks"].as_array_mut();
        for webhook in webhooks.context("webhooks")? {
            let path = webhook["clientConfig"]["service"]["path"].as_str();
            let path = path.context("a path of the Service")?;
            let url = format!("https://{HOST}:{}{path}", self.webhook);
            webhook["clientConfig"] = json!({ "url": url });
            webhook["namespaceSelector"]["matchLabels"] = json!({OF_TEST: self.home.name()});
        }
        Ok(configuration)
    }

    pub(super) fn start_control_plane(&mut self) -> Result<()> {
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

    pub(super) fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("a control plane")?;
        process.terminate()?;
        process.exit(PATIENCE)?;
        Ok(())
    }

    /// Waits until the API server asks it, and believes it.
    pub(super) fn asked(&self) -> Result<()> {
        let probe = self.namespace("probe", Some("enabled"))?;
        until("the webhook is asked", PATIENCE, || {
            let pod = create(&probe, &pod("probe", json!({})))?;
            Ok(has_sidecar(&serde_json::from_str(&pod.success()?.stdout)?))
        })
    }

    pub(super) fn namespace(&self, label: &str, inject: Option<&str>) -> Result<Namespace> {
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

    /// Whom the API server trusts, of each webhook.
    pub(super) fn bundle(&self, (kind, name): Configuration) -> Result<Vec<String>> {
        let cluster = self.home.cluster();
        let configuration = cluster.read(&[kind, name])?;
        let webhooks = configuration["webhooks"].as_array().context("webhooks")?;
        let bundle = |webhook: &Value| {
            webhook["clientConfig"]["caBundle"]
                .as_str()
                .map(str::to_owned)
        };
        Ok(webhooks.iter().filter_map(bundle).collect())
    }

    /// The authority of the mesh, from its Secret.
    pub(super) fn authority(&self) -> Result<Authority> {
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

pub(super) fn pod(name: &str, change: Value) -> Value {
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

pub(super) fn labelled(name: &str, inject: &str) -> Value {
    pod(name, json!({"metadata": {"labels": {INJECT: inject}}}))
}

pub(super) fn annotated(name: &str, annotations: Value) -> Value {
    pod(name, json!({"metadata": {"annotations": annotations}}))
}

/// What the API server would store.
pub(super) fn create(namespace: &Namespace, object: &Value) -> Result<Finished> {
    create_written(namespace, &object.to_string())
}

/// The same, of YAML.
fn create_written(namespace: &Namespace, manifest: &str) -> Result<Finished> {
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
    cluster.try_kubectl_with(manifest, &[&here[..], &create].concat())
}

pub(super) fn created(namespace: &Namespace, object: &Value) -> Result<Value> {
    created_of(namespace, &object.to_string())
}

pub(super) fn created_of(namespace: &Namespace, manifest: &str) -> Result<Value> {
    let finished = create_written(namespace, manifest)?.success()?;
    Ok(serde_json::from_str(&finished.stdout)?)
}

pub(super) fn has_sidecar(pod: &Value) -> bool {
    let init = pod["spec"]["initContainers"].as_array();
    init.is_some_and(|all| {
        all.iter()
            .any(|container| container["name"] == "outrider-proxy")
    })
}
