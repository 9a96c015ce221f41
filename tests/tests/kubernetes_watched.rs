//! What tests of the control plane's view of an API server have in common: an API server, and control planes
//! with the rights that are installed, behind proxies that can be told to fail.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use mesh_tests::api_server::{ApiServer, program};
use mesh_tests::faulty_server::FaultyServer;
use mesh_tests::http::{Connection, local};
use mesh_tests::metrics::Metrics;
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command};
use mesh_tests::programs::{outrider, root};
use mesh_tests::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

/// For a change to be seen, on a busy machine.
pub(crate) const SEEN: Duration = Duration::from_secs(30);
/// As long as the longest wait between two attempts of a watch, and more.
pub(crate) const RECOVERED: Duration = Duration::from_secs(60);

/// A control plane behind a proxy that can be told to fail.
pub(crate) struct Watched {
    /// Where sidecars find it.
    pub(crate) listen: String,
    pub(crate) admin: u16,
    pub(crate) webhook: u16,
    pub(crate) process: Process,
    pub(crate) faults: FaultyServer,
    _plain: Process,
    pub(crate) api: Rc<ApiServer>,
    pub(crate) folder: TempDir,
}

impl Watched {
    /// Ready: of an API server that has our kinds.
    pub(crate) fn start() -> Result<Self> {
        let api = ApiServer::start()?;
        let definitions = root().join("manifests/crds");
        api.kubectl(&format!("apply --kustomize {}", definitions.display()), "")?;
        established(&api)?;
        let watched = Self::of(api)?;
        watched.ready()?;
        Ok(watched)
    }

    pub(crate) fn of(api: ApiServer) -> Result<Self> {
        prepare(&api)?;
        Self::start_at(Rc::new(api), FaultyServer::before)
    }

    /// Another replica at the same API server. This one sees what `before` makes of a port of plain HTTP.
    pub(crate) fn beside(&self, before: fn(u16) -> Result<FaultyServer>) -> Result<Self> {
        Self::start_at(Rc::clone(&self.api), before)
    }

    fn start_at(api: Rc<ApiServer>, before: fn(u16) -> Result<FaultyServer>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // In plain HTTP, as the ServiceAccount that is installed.
        let plain = free_port()?;
        let mut proxy = command(&program("kubectl")?)?;
        proxy
            .args(["proxy", "--port", &plain.to_string()])
            .args([
                "--as",
                "system:serviceaccount:outrider-system:control-plane",
            ])
            .env("KUBECONFIG", api.kubeconfig());
        let proxy = Process::start("kubectl-proxy", folder.path(), &mut proxy)?;
        let faults = before(plain)?;
        let kubeconfig = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("http://127.0.0.1:{}", faults.port()),
            }}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let (admin, webhook) = (free_port()?, free_port()?);
        let mut start = command(&outrider()?)?;
        start
            .args(["control-plane", "--kubernetes", "--listen", &listen])
            .args(["--webhook-name", "127.0.0.1", "--ca-settle", "1s"])
            .env("KUBECONFIG", &kubeconfig);
        for (option, port) in [("--admin", admin), ("--webhook", webhook)] {
            start.args([option, &format!("127.0.0.1:{port}")]);
        }
        Ok(Self {
            listen,
            admin,
            webhook,
            process: Process::start("control-plane", folder.path(), &mut start)?,
            faults,
            _plain: proxy,
            api,
            folder,
        })
    }

    pub(crate) fn ready(&self) -> Result<()> {
        until("the control plane is ready", SEEN, || {
            Ok(self.get("/ready")?.0 == 200)
        })
    }

    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        apply(&self.api, objects)
    }

    /// A pod of a ServiceAccount, as its kubelet says that it runs.
    pub(crate) fn run(&self, pod: &str, account: &str, address: &str) -> Result<()> {
        self.apply(&[service_account(account), self::pod(pod, account)])?;
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let patch =
            format!("--namespace shop patch pod {pod} --subresource status --patch {status}");
        self.api.kubectl(&patch, "")?;
        Ok(())
    }

    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = Connection::open(local(self.admin))?.get("127.0.0.1", path)?;
        Ok((response.status, response.text()))
    }

    /// What `/programmed` says of an object; `None`: it is not of the mesh.
    pub(crate) fn programmed(&self, id: &str) -> Result<Option<Value>> {
        let (_, body) = self.get("/programmed")?;
        let all: Value = serde_json::from_str(&body)?;
        Ok(all.get(id).cloned())
    }

    pub(crate) fn concerned(&self, id: &str) -> Result<Option<u64>> {
        let count = self.programmed(id)?;
        Ok(count.and_then(|count| count["concerned"].as_u64()))
    }

    pub(crate) fn errors(&self) -> Result<f64> {
        self.errors_of(&[])
    }

    /// What watches met that was wrong.
    pub(crate) fn errors_of(&self, labels: &[(&str, &str)]) -> Result<f64> {
        let name = "outrider_control_plane_watch_errors_total";
        Ok(Metrics::scrape(self.admin)?.sum(name, labels))
    }

    pub(crate) fn leads(&self, expected: bool) -> Result<()> {
        until(&format!("it leads: {expected}"), RECOVERED, || {
            let leads = Metrics::scrape(self.admin)?.value("outrider_control_plane_leader")?;
            Ok((leads > 0.5) == expected)
        })
    }

    /// The conditions of a policy at its first target.
    pub(crate) fn conditions(&self, kind: &str, name: &str) -> Result<Vec<Value>> {
        let object = self.api.read(&format!("--namespace shop {kind} {name}"))?;
        let conditions = object["status"]["ancestors"][0]["conditions"].as_array();
        Ok(conditions.cloned().unwrap_or_default())
    }
}

/// Two namespaces: that of the control plane, with its rights, and one that is meshed.
fn prepare(api: &ApiServer) -> Result<()> {
    let namespace = |name: &str, labels: Value| {
        let metadata = json!({"name": name, "labels": labels});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    };
    let meshed = namespace("shop", json!({"outrider.mesh/inject": "enabled"}));
    apply(api, &[namespace("outrider-system", json!({})), meshed])?;
    let rights = root().join("manifests/base/rbac.yaml");
    api.kubectl(
        &format!("apply --server-side --filename {}", rights.display()),
        "",
    )?;
    Ok(())
}

/// Every definition that was applied is served.
pub(crate) fn established(api: &ApiServer) -> Result<()> {
    api.kubectl(
        "wait --for=condition=Established customresourcedefinition --all",
        "",
    )?;
    Ok(())
}

pub(crate) fn apply(api: &ApiServer, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    api.kubectl("apply --server-side --filename -", &list.to_string())?;
    Ok(())
}

fn service_account(name: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "shop"});
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
}

pub(crate) fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Pod", "selector": {}}], "rules": [{}]},
    })
}

fn pod(name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": account}},
        "spec": {
            "serviceAccountName": account, "nodeName": "nowhere",
            "automountServiceAccountToken": false,
            "initContainers": [{"name": "outrider-proxy", "image": "p", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "a", "ports": [{"containerPort": 8080}]}],
        },
    })
}

pub(crate) const ALLOW: &str = "AuthorizationPolicy/shop/allow";
