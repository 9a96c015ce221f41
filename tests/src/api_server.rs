//! An API server of a test's own: etcd and kube-apiserver, without nodes and controllers, for tests that
//! install, upgrade and remove what a whole cluster has once.
//!
//! It listens on loopback only, with roles enforced; the programs are those of `tests/kubernetes`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::printed;
use crate::process::{Finished, Process, command, run, run_with_input};
use crate::programs::{self, root};
use crate::wait::eventually;

/// What one look or change may take while the machine has much else to do.
const LIMIT: Duration = Duration::from_secs(120);
/// The first time, Kubernetes is built.
const LIMIT_OF_BUILD: Duration = Duration::from_secs(1800);
/// The one user there is: of the group that may do everything.
const ADMIN: &str = "admin-of-the-test,admin,1,\"system:masters\"\n";

#[derive(Debug)]
pub struct ApiServer {
    /// Before etcd, which it needs to the end.
    server: Process,
    _etcd: Process,
    folder: TempDir,
    programs: PathBuf,
}

impl ApiServer {
    /// Ready to be asked.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
        let etcd = start_etcd(folder.path(), client, peer)?;
        make_account_keys(folder.path())?;
        fs::write(at("tokens.csv"), ADMIN)?;
        let mut start = command(&programs.join("kube-apiserver"))?;
        start
            .arg(format!("--etcd-servers=http://127.0.0.1:{client}"))
            .arg(format!("--secure-port={port}"))
            .arg("--bind-address=127.0.0.1")
            .arg("--authorization-mode=RBAC")
            // Webhooks are looked for at the endpoints of their Service, of which there are none: an
            // address of a Service would be somewhere outside of this machine.
            .arg("--enable-aggregator-routing=true")
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--service-account-issuer=https://kubernetes.default.svc");
        for (option, file) in [
            ("--cert-dir", "certificates"),
            ("--service-account-key-file", "accounts.key"),
            ("--service-account-signing-key-file", "accounts.key"),
            ("--token-auth-file", "tokens.csv"),
        ] {
            start.arg(option).arg(at(file));
        }
        // Webhooks are reached through a proxy otherwise, where the environment names one.
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
            start.env_remove(proxy);
        }
        let server = Process::start("kube-apiserver", folder.path(), &mut start)?;
        fs::write(at("kubeconfig"), kubeconfig(folder.path(), port))?;
        let this = Self {
            server,
            _etcd: etcd,
            folder,
            programs,
        };
        this.ready()?;
        Ok(this)
    }

    fn ready(&self) -> Result<()> {
        eventually("the API server is ready", LIMIT, || {
            let answer = self.try_kubectl("get --raw /readyz", "")?;
            // Without it, kubectl cannot tell what it applies.
            let schemas = self.try_kubectl("get --raw /openapi/v3", "")?;
            let good = answer.status.success() && schemas.status.success();
            Ok(good.then_some(()))
        })
        .with_context(|| self.server.log())
    }

    /// For programs that take `KUBECONFIG`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Runs a program that takes `KUBECONFIG` to its end; the exit status is the caller's to judge.
    pub fn run(&self, program: &Path, line: &str, input: &str) -> Result<Finished> {
        let mut command = command(program)?;
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path());
        run_with_input(&mut command, input.as_bytes(), LIMIT)
    }

    /// `kubectl` with the words of a line, and something to read: for `--filename -`.
    pub fn try_kubectl(&self, line: &str, input: &str) -> Result<Finished> {
        self.run(&self.programs.join("kubectl"), line, input)
    }

    /// What `kubectl` wrote. Fails unless it exits with 0.
    pub fn kubectl(&self, line: &str, input: &str) -> Result<String> {
        let finished = self.try_kubectl(line, input)?.success();
        let finished = finished.with_context(|| format!("kubectl {line}"))?;
        Ok(finished.stdout)
    }

    /// What `kubectl get` gives.
    pub fn read(&self, line: &str) -> Result<Value> {
        let json = self.kubectl(&format!("get --output json {line}"), "")?;
        serde_json::from_str(&json).with_context(|| format!("kubectl get gave {json}"))
    }

    /// Registers the validating webhook as it is installed, but by its address: there are no Services
    /// here. Returns when it is asked, which takes a control plane that leads.
    pub fn register_validator(&self, webhook: SocketAddr) -> Result<()> {
        let mut configuration = printed::object("ValidatingWebhookConfiguration")?;
        let webhooks = configuration["webhooks"].as_array_mut();
        for each in webhooks.context("webhooks")? {
            each["clientConfig"] = json!({"url": format!("https://{webhook}/validate")});
        }
        self.kubectl("apply --filename -", &configuration.to_string())?;
        let pointless = json!({
            "apiVersion": "outrider.mesh/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "is-it-asked", "namespace": "default"},
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "nowhere"}], "rules": [{}]},
        });
        eventually("the validator is asked", LIMIT, || {
            let dry = "create --dry-run=server --filename -";
            let told = self.try_kubectl(dry, &pointless.to_string())?.stderr;
            Ok(told.contains("there is no Service").then_some(()))
        })
    }

    /// What `helm` wrote. Fails unless it exits with 0.
    pub fn helm(&self, line: &str) -> Result<String> {
        let finished = self.run(&self.programs.join("helm"), line, "")?.success();
        let finished = finished.with_context(|| format!("helm {line}"))?;
        Ok(finished.stdout)
    }
}

/// One of the programs of Kubernetes, for what takes no API server.
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(programs()?.join(name))
}

/// Where the CRDs of the Gateway API are, one in a file.
pub fn gateway_api() -> Result<PathBuf> {
    folder("gateway-api")
}

/// Where the programs of Kubernetes are, which are built if they are not there.
fn programs() -> Result<PathBuf> {
    folder("build")
}

/// The folder that a command of `tests/kubernetes/cluster` prints.
fn folder(of: &str) -> Result<PathBuf> {
    let mut script = command(&root().join("tests/kubernetes/cluster"))?;
    let printed = run(script.arg(of), LIMIT_OF_BUILD)?.success()?;
    let folder = PathBuf::from(printed.stdout.trim());
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    Ok(folder)
}

/// Nothing outlives the test, so it waits for no disk.
fn start_etcd(folder: &Path, client: u16, peer: u16) -> Result<Process> {
    let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
    let mut start = command(&programs::find("etcd", "etcd-server")?)?;
    start
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--log-level", "warn", "--unsafe-no-fsync"])
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")]);
    Process::start("etcd", folder, &mut start)
}

fn make_account_keys(folder: &Path) -> Result<()> {
    let mut make = command(&programs::find("openssl", "openssl")?)?;
    make.args([
        // In the form that the API server reads: a key in PKCS #8 it takes for none.
        "ecparam",
        "-genkey",
        "-noout",
        "-name",
        "prime256v1",
    ])
    .arg("-out")
    .arg(folder.join("accounts.key"));
    run(&mut make, LIMIT)?.success()?;
    Ok(())
}

fn kubeconfig(folder: &Path, port: u16) -> String {
    let authority = folder.join("certificates/apiserver.crt");
    let authority = authority.display();
    let token = ADMIN.split(',').next().unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: \"{authority}\"}}
users:
- name: test
  user: {{token: {token}}}
contexts:
- name: test
  context: {{cluster: test, user: test}}
current-context: test
"
    )
}
