//! `outrider check`, `stat` and `certs` on a real cluster: what each user may, and what is said where
//! one may not.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Cluster, Namespace, TOOLS};
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::outrider;
use mesh_tests::wait::PATIENCE;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Somebody with a kubeconfig.
struct User {
    folder: TempDir,
}

impl User {
    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// With the kubeconfig of the tests' administrator, changed.
    fn new(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let view = [
            "config",
            "view",
            "--raw",
            "--flatten",
            "--minify",
            "--output",
            "json",
        ];
        let mut config: Value = serde_json::from_str(&cluster.kubectl(&view)?)?;
        change(&mut config);
        let user = Self { folder };
        std::fs::write(user.kubeconfig(), config.to_string())?;
        Ok(user)
    }

    fn administrator(cluster: &Cluster) -> Result<Self> {
        Self::new(cluster, |_| {})
    }

    /// With this token.
    fn with_token(cluster: &Cluster, token: &str) -> Result<Self> {
        Self::new(cluster, |config| {
            config["users"][0]["user"] = json!({"token": token});
        })
    }

    /// A ServiceAccount of `namespace` that may nothing.
    fn nobody(namespace: &Namespace) -> Result<Self> {
        namespace.kubectl(&["create", "serviceaccount", "nobody"])?;
        let token = namespace.kubectl(&["create", "token", "nobody"])?;
        Self::with_token(namespace.cluster(), token.trim())
    }

    fn outrider(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = command(&outrider()?)?;
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        run(&mut command, PATIENCE)
    }

    /// What `check` found, whatever its exit status.
    fn check(&self, arguments: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
        let finished = self.outrider(&[&["check", "--output", "json"], arguments].concat())?;
        let report: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no report: {}", finished.output()))?;
        let findings = report["findings"].as_array().context("no findings")?;
        Ok((finished.status.code(), findings.clone()))
    }
}

/// The level and the message of each finding of one check.
fn of<'f>(findings: &'f [Value], check: &str) -> Vec<(&'f str, &'f str)> {
    let text = |finding: &'f Value, field: &str| finding[field].as_str().unwrap_or_default();
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check
        .map(|finding| (text(finding, "level"), text(finding, "message")))
        .collect()
}

#[test]
fn an_administrator_may_install() -> Result<()> {
    let user = User::administrator(Cluster::shared()?)?;
    let (status, findings) = user.check(&["--pre"])?;
    assert_eq!(status, Some(0), "{findings:#?}");
    for check in [
        "kubernetes-version",
        "clock",
        "native-sidecars",
        "permissions",
    ] {
        let found = of(&findings, check);
        assert!(
            matches!(found.as_slice(), [("ok", _)]),
            "{check}: {findings:#?}"
        );
    }
    Ok(())
}

#[test]
fn who_may_not_install_is_told_what_is_missing() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("command")?;
    let user = User::nobody(&namespace)?;
    let (status, findings) = user.check(&["--pre"])?;
    assert_eq!(status, Some(1), "{findings:#?}");
    let missing = of(&findings, "permissions");
    for expected in [
        (
            "error",
            "you may not create, get, patch customresourcedefinitions.apiextensions.k8s.io",
        ),
        (
            "error",
            "you may not create, get, patch deployments.apps in the namespace outrider-system",
        ),
        (
            "error",
            "you may not bind, create, escalate, get, patch clusterroles.rbac.authorization.k8s.io",
        ),
    ] {
        assert!(
            missing.contains(&expected),
            "{expected:?} is not in {missing:#?}"
        );
    }
    Ok(())
}

#[test]
fn what_is_forbidden_comes_with_a_remedy_that_works() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("command")?;
    let user = User::nobody(&namespace)?;
    let stat = || user.outrider(&["stat", "--namespace", namespace.name()]);
    let finished = stat()?;
    assert_eq!(finished.status.code(), Some(1));
    let account = format!("system:serviceaccount:{}:nobody", namespace.name());
    let refused = format!(
        "outrider: {account} may not list pods in the namespace {}; ",
        namespace.name()
    );
    assert!(finished.stderr.starts_with(&refused), "{}", finished.stderr);
    let (_, commands) = finished
        .stderr
        .split_once("an administrator allows it with: ")
        .context("no remedy")?;
    for remedy in commands.trim().split("; ") {
        let arguments: Vec<&str> = remedy.split_whitespace().skip(1).collect();
        namespace.cluster().kubectl(&arguments)?;
    }
    let finished = stat()?;
    assert_eq!(
        finished.stderr.trim(),
        format!(
            "no pod with a sidecar runs in the namespace {}; -n names another, -A takes all",
            namespace.name()
        )
    );
    Ok(())
}

#[test]
fn who_may_not_forward_is_told_so() -> Result<()> {
    let namespace = Cluster::shared()?.namespace("command")?;
    let user = User::nobody(&namespace)?;
    let account = format!("--serviceaccount={}:nobody", namespace.name());
    namespace.kubectl(&["create", "role", "reader", "--verb=list", "--resource=pods"])?;
    namespace.kubectl(&["create", "rolebinding", "reader", "--role=reader", &account])?;
    // A pod that is taken for one with a sidecar, of which nobody listens.
    pod(&namespace, "outrider-proxy")?;
    let stat = || user.outrider(&["stat", "--namespace", namespace.name()]);
    let said = stat()?.stderr;
    assert!(
        said.contains(
            "the API server forbids port-forwarding: it takes get and create of pods/portforward"
        ),
        "{said}"
    );
    namespace.kubectl(&[
        "create",
        "role",
        "forwarder",
        "--verb=get,create",
        "--resource=pods/portforward",
    ])?;
    namespace.kubectl(&[
        "create",
        "rolebinding",
        "forwarder",
        "--role=forwarder",
        &account,
    ])?;
    assert_eq!(
        stat()?.stderr.trim(),
        format!(
            "none of the 1 sidecars answers; {}/app:15020: nobody listens there: connection refused",
            namespace.name()
        )
    );
    Ok(())
}

#[test]
fn explain_and_policy_test_read_the_cluster() -> Result<()> {
    // Whoever installs it meanwhile has policies refused until its webhook answers.
    let outrider = Outrider::installed()?;
    let user = User::administrator(outrider.cluster())?;
    let namespace = outrider.meshed_namespace("command")?;
    pod(&namespace, "outrider-proxy")?;
    let policies = "
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: app}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  rules: [{name: order, sources: [{type: ServiceAccount, serviceAccount: {name: order}}]}]
---
apiVersion: outrider.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: app}
spec: {targetRefs: [{group: '', kind: Service, name: app}], timeouts: {request: 3s}}
";
    namespace.apply(policies)?;
    let (to, order, other) = (
        format!("{}/app", namespace.name()),
        format!("{}/order", namespace.name()),
        format!("{}/other", namespace.name()),
    );
    let ask = |command: &[&str], from: &str| {
        let about = [
            "--from", from, "--to", &to, "--path", "/x", "--output", "json",
        ];
        user.outrider(&[command, &about].concat())
    };
    let told = ask(&["explain"], &order)?.success()?.stdout;
    let told: Value = serde_json::from_str(&told)?;
    let authorization = &told["authorization"][0];
    assert_eq!(authorization["allowed"], true, "{told:#}");
    assert_eq!(
        authorization["rule"],
        format!("{to} rule order"),
        "{told:#}"
    );
    let settings = told["settings"].as_array().context("no settings")?;
    let timeout = settings
        .iter()
        .find(|setting| setting["field"] == "timeouts.request");
    let timeout = timeout.context("no timeout")?.to_string();
    assert!(
        timeout.contains("3s") && timeout.contains(&format!("TrafficPolicy/{to}")),
        "{timeout}"
    );
    let refused = ask(&["policy", "test"], &other)?;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.output());
    assert!(
        refused.stdout.contains("authorization_denied"),
        "{}",
        refused.stdout
    );
    Ok(())
}

/// A pod with one container of this name, which sleeps.
fn pod(namespace: &Namespace, container: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "labels": {"app": "app"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": container, "image": TOOLS, "imagePullPolicy": "Never",
            "command": ["/bin/busybox", "sleep", "3600"],
        }]},
    });
    namespace.apply(&pod.to_string())?;
    namespace.wait("pod/app", "Ready")
}

#[test]
fn credentials_that_nobody_knows_are_said_to_be_such() -> Result<()> {
    let user = User::with_token(Cluster::shared()?, "of-another-cluster")?;
    let finished = user.outrider(&["edges", "-A"])?;
    assert_eq!(finished.status.code(), Some(1));
    ensure!(
        finished.stderr.contains("does not know these credentials")
            && finished.stderr.contains("kubectl auth whoami"),
        "{}",
        finished.stderr
    );
    let (status, findings) = user.check(&[])?;
    assert_eq!(status, Some(1));
    assert!(
        matches!(of(&findings, "api-server").as_slice(), [("error", _)]),
        "{findings:#?}"
    );
    Ok(())
}

#[test]
fn a_cluster_that_is_down_is_said_to_be_unreachable() -> Result<()> {
    let user = User::new(Cluster::shared()?, |config| {
        // The port of TCP's multiplexer, on which nobody listens.
        config["clusters"][0]["cluster"]["server"] = json!("https://127.0.0.1:1");
    })?;
    let finished = user.outrider(&["certs", "-A"])?;
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(
        finished.stderr.trim(),
        "outrider: https://127.0.0.1:1 cannot be reached: Connection refused (os error 111); is it the right context, \
         and the cluster up?"
    );
    Ok(())
}

#[test]
fn it_is_a_plugin_of_kubectl() -> Result<()> {
    let cluster = Cluster::shared()?;
    let folder = tempfile::tempdir()?;
    symlink(outrider()?, folder.path().join("kubectl-outrider"))?;
    let plugin = |arguments: &[&str]| {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut kubectl = cluster.command(&[&["outrider"], arguments].concat())?;
        kubectl.env("PATH", format!("{}:{path}", folder.path().display()));
        run(&mut kubectl, PATIENCE)
    };
    let help = plugin(&["check", "--help"])?.success()?.stdout;
    assert!(help.contains("Usage: kubectl outrider check"), "{help}");
    let checked = plugin(&["check", "--pre"])?.success()?.stdout;
    assert!(checked.contains("everything is allowed"), "{checked}");
    Ok(())
}
