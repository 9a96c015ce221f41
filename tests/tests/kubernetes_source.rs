//! What the control plane makes of what an API server says, and of one that is not well. It has the rights
//! that are installed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::{ApiServer, program};
use mesh_tests::faulty_server::{Fault, FaultyServer};
use mesh_tests::http::{Connection, local};
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::seconds;
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command};
use mesh_tests::programs::{outrider, root};
use mesh_tests::wait::{eventually, holds, until};
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
    webhook: u16,
    process: Process,
    pub(crate) faults: FaultyServer,
    _plain: Process,
    pub(crate) api: ApiServer,
    folder: TempDir,
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
        let faults = FaultyServer::before(plain)?;
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
            .args(["--webhook-name", "127.0.0.1"])
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

    fn errors(&self) -> Result<f64> {
        self.errors_of(&[])
    }

    /// What watches met that was wrong.
    pub(crate) fn errors_of(&self, labels: &[(&str, &str)]) -> Result<f64> {
        let name = "outrider_control_plane_watch_errors_total";
        Ok(Metrics::scrape(self.admin)?.sum(name, labels))
    }

    fn leads(&self, expected: bool) -> Result<()> {
        until(&format!("it leads: {expected}"), RECOVERED, || {
            let leads = Metrics::scrape(self.admin)?.value("outrider_control_plane_leader")?;
            Ok((leads > 0.5) == expected)
        })
    }

    /// The conditions of a policy at its first target.
    fn conditions(&self, kind: &str, name: &str) -> Result<Vec<Value>> {
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

#[test]
fn a_policy_says_what_became_of_it() -> Result<()> {
    let watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    let programmed = |message: &str| {
        eventually("its status says so", SEEN, || {
            let conditions = watched.conditions("authorizationpolicy", "allow")?;
            let is_it = |one: &&Value| one["type"] == "Programmed" && one["message"] == message;
            Ok(conditions
                .iter()
                .any(|one| is_it(&one))
                .then_some(conditions))
        })
    };
    let conditions = programmed("0 of 1 sidecars at generation 1")?;
    let accepted = conditions.iter().find(|one| one["type"] == "Accepted");
    let accepted = accepted.context("Accepted")?;
    assert_eq!(
        (&accepted["status"], &accepted["reason"]),
        (&json!("True"), &json!("Accepted"))
    );

    // A policy about what is not there; then it is.
    let mut early = policy("early");
    early["spec"]["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "later"}]);
    watched.apply(&[early])?;
    let reason = |expected: &str| {
        until(expected, SEEN, || {
            let conditions = watched.conditions("authorizationpolicy", "early")?;
            Ok(conditions.iter().any(|one| one["reason"] == expected))
        })
    };
    reason("TargetNotFound")?;
    watched.apply(&[json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "later", "namespace": "shop"},
        "spec": {"selector": {"app": "billing"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })])?;
    reason("Accepted")
}

#[test]
fn an_api_server_that_is_not_well_changes_nothing_until_it_is() -> Result<()> {
    let mut watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    let faults = [
        Fault::Expired,
        Fault::ExpiredWithin,
        Fault::Answer(429),
        Fault::Answer(500),
        Fault::Closed,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let (before, met) = (watched.errors()?, watched.faults.met());
        watched.faults.set(fault);
        let what = format!("watches meet {fault:?}");
        until(&what, RECOVERED, || Ok(watched.faults.met() >= met + 10))?;
        // To wait and try again is the client's own answer to 429.
        if fault != Fault::Answer(429) {
            until("they are counted", RECOVERED, || {
                Ok(watched.errors()? > before)
            })?;
        }
        let name = format!("during-{number}");
        watched.apply(&[policy(&name)])?;
        // What was known stays.
        holds(
            "it is ready, and knows its pod",
            Duration::from_secs(2),
            || Ok(watched.get("/ready")?.0 == 200 && watched.concerned(ALLOW)? == Some(1)),
        )?;
        ensure!(watched.process.running(), "it has ended: {fault:?}");
        watched.faults.set(Fault::None);
        let id = format!("AuthorizationPolicy/shop/{name}");
        let what = format!("what came during {fault:?} is seen");
        until(&what, RECOVERED, || Ok(watched.concerned(&id)? == Some(1)))?;
    }
    // Cut in the middle, with nothing wrong otherwise.
    watched.faults.cut();
    watched
        .api
        .kubectl("--namespace shop delete authorizationpolicy during-0", "")?;
    let gone = "AuthorizationPolicy/shop/during-0";
    until("a deletion is seen", RECOVERED, || {
        Ok(watched.programmed(gone)?.is_none())
    })
}

#[test]
fn an_api_server_that_refuses_takes_the_lead_only_while_it_does() -> Result<()> {
    let mut watched = Watched::start()?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    watched.leads(true)?;
    for status in [429, 500] {
        watched.faults.set(Fault::Answer(status));
        let name = format!("during-{status}");
        watched.apply(&[policy(&name)])?;
        watched.leads(false)?;
        ensure!(watched.process.running(), "it has ended: {status}");
        watched.faults.set(Fault::None);
        watched.leads(true)?;
        // What a leader does it does again.
        let what = format!("the status of what came during {status} is written");
        until(&what, RECOVERED, || {
            let conditions = watched.conditions("authorizationpolicy", &name)?;
            let mut accepted = conditions.iter().filter(|one| one["type"] == "Accepted");
            Ok(accepted.any(|one| one["status"] == "True" && one["reason"] == "Accepted"))
        })?;
    }
    Ok(())
}

#[test]
fn a_thousand_policies_at_once_are_judged_and_are_a_few_versions() -> Result<()> {
    let watched = Watched::start()?;
    watched.api.register_validator(local(watched.webhook))?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    let applied = || -> Result<f64> {
        let name = "outrider_control_plane_config_reloads_total";
        Ok(Metrics::scrape(watched.admin)?.sum(name, &[("result", "applied")]))
    };
    let judged = || -> Result<f64> {
        let name = "outrider_control_plane_webhook_reviews_total";
        let labels = [("webhook", "validate"), ("result", "allowed")];
        Ok(Metrics::scrape(watched.admin)?.sum(name, &labels))
    };
    let judged_before = judged()?;
    let (before, start) = (applied()?, std::time::Instant::now());
    let policies: Vec<Value> = (0..1000)
        .map(|number| policy(&format!("p-{number}")))
        .collect();
    watched.apply(&policies)?;
    let last = "AuthorizationPolicy/shop/p-999";
    until("the last is seen", RECOVERED, || {
        Ok(watched.concerned(last)? == Some(1))
    })?;
    let (_, body) = watched.get("/programmed")?;
    let all: Value = serde_json::from_str(&body)?;
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(1000));
    ensure!(judged()? - judged_before >= 1000.0, "some were not judged");
    // At most one in 100 ms.
    let most = start.elapsed().as_secs_f64() * 10.0 + 2.0;
    let reloads = applied()? - before;
    ensure!(
        reloads <= most,
        "{reloads} reloads, expected at most {most}"
    );
    Ok(())
}

#[test]
fn policy_holds_in_a_namespace_that_is_being_deleted() -> Result<()> {
    let watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    let told = || -> Result<f64> {
        let name = "outrider_control_plane_watch_last_event_timestamp_seconds";
        Ok(Metrics::scrape(watched.admin)?.sum(name, &[("kind", "Namespace")]))
    };
    let before = told()?;
    // Without a controller it stays so.
    watched
        .api
        .kubectl("delete namespace shop --wait=false", "")?;
    until("the namespace is known to be on its way", SEEN, || {
        Ok(told()? > before)
    })?;
    watched
        .api
        .kubectl("--namespace shop delete authorizationpolicy allow", "")?;
    holds("the policy holds", Duration::from_secs(3), || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    // With its pods gone and the namespace too, so is the policy.
    let now = "--namespace shop delete pod billing-1 --force --grace-period=0";
    watched.api.kubectl(now, "")?;
    let finalize = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
        "spec": {"finalizers": []}});
    let file = watched.folder.path().join("finalize.json");
    std::fs::write(&file, finalize.to_string())?;
    let path = "/api/v1/namespaces/shop/finalize";
    let replace = format!("replace --raw {path} --filename {}", file.display());
    watched.api.kubectl(&replace, "")?;
    until("the policy is gone", SEEN, || {
        Ok(watched.programmed(ALLOW)?.is_none())
    })
}

#[test]
fn an_address_that_is_used_again_is_its_new_pods() -> Result<()> {
    let watched = Watched::start()?;
    let of = |account: &str| {
        let mut policy = policy(account);
        policy["spec"]["targetRefs"] =
            json!([{"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": account}}}]);
        policy
    };
    watched.apply(&[of("old"), of("new")])?;
    watched.run("old", "old", "10.244.0.7")?;
    let (old, new) = (
        "AuthorizationPolicy/shop/old",
        "AuthorizationPolicy/shop/new",
    );
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(old)? == Some(1) && watched.concerned(new)? == Some(0))
    })?;
    // A pod counts in seconds when it was made.
    let second = seconds();
    until("the next second", SEEN, || Ok(seconds() > second))?;
    watched.run("new", "new", "10.244.0.7")?;
    until("the address is the new pod's", SEEN, || {
        Ok(watched.concerned(old)? == Some(0) && watched.concerned(new)? == Some(1))
    })
}
