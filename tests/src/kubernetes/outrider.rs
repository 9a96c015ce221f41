//! Outrider in the cluster, installed from what `outrider install` prints, one for all tests. They take
//! turns: some of them end it, or its control plane, or need the names that it has.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, Image, Namespace, PATIENCE, PortForward};
use crate::api_server::program;
use crate::process::run;
use crate::programs::{outrider, target};

/// Where it is installed.
pub const SYSTEM: &str = "outrider-system";
/// The port of a replica that says how it is.
const ADMIN: u16 = 15014;
const CONTROL_PLANE: &str = "deployment/outrider-control-plane";

/// Whose turn it is.
pub type Turn = MutexGuard<'static, ()>;

fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An installed Outrider, until it is dropped the only test's.
#[derive(Debug)]
pub struct Outrider {
    cluster: &'static Cluster,
    _turn: Turn,
}

impl Outrider {
    /// Installs it, with three replicas, where it is not there.
    pub fn installed() -> Result<Self> {
        let outrider = Self::in_turn()?;
        if !outrider.is_there()? {
            outrider.install()?;
        }
        outrider.ready()?;
        Ok(outrider)
    }

    /// Not installed, for a test that installs it in another way. It uninstalls it, too.
    pub fn none() -> Result<Self> {
        let outrider = Self::in_turn()?;
        outrider.remove()?;
        Ok(outrider)
    }

    /// For a test that has a control plane of its own: there is no other while the turn is held, but
    /// the kinds are there.
    pub fn absent() -> Result<Turn> {
        let outrider = Self::in_turn()?;
        if outrider.is_there()? {
            outrider.uninstall()?;
        }
        // The last test's control plane ends with its namespace, and writes into others until then.
        outrider
            .cluster
            .eventually("what has ended is gone", &["namespaces"], |list| {
                let ending = |item: &&Value| item["status"]["phase"] == "Terminating";
                let ending = list["items"].as_array()?.iter().find(ending);
                ending.is_none().then_some(())
            })?;
        let kinds = outrider.print(&["install", "--crds", "only"])?;
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            "-",
        ];
        outrider
            .cluster
            .try_kubectl_with(&kinds, &arguments)?
            .success()?;
        Ok(outrider._turn)
    }

    fn in_turn() -> Result<Self> {
        let turn = turn();
        Ok(Self {
            cluster: Cluster::shared()?,
            _turn: turn,
        })
    }

    fn is_there(&self) -> Result<bool> {
        let there = self
            .cluster
            .try_kubectl(&["get", CONTROL_PLANE, "--namespace", SYSTEM])?;
        Ok(there.status.success())
    }

    fn install(&self) -> Result<()> {
        for archive in images()? {
            self.cluster.load(&archive)?;
        }
        self.install_version(env!("CARGO_PKG_VERSION"))
    }

    /// Installs the images with this tag, over what there is, and waits until they serve.
    pub fn install_version(&self, tag: &str) -> Result<()> {
        let manifests = self.print(&["install", "--profile", "ha", "--image-tag", tag])?;
        self.cluster.apply(&manifests)?;
        self.ready()
    }

    /// Gives the nodes the same programs as images with another tag, as if they were another version.
    pub fn publish(&self, tag: &str) -> Result<()> {
        self.publish_at("", tag)
    }

    /// The same, of a registry: what stands before the names of images.
    pub fn publish_at(&self, registry: &str, tag: &str) -> Result<()> {
        let programs = format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH);
        for (name, user) in [
            ("outrider-proxy", "2102"),
            ("outrider-control-plane", "65532"),
        ] {
            let program = target().join(&programs).join(name);
            ensure!(
                program.is_file(),
                "{} is missing: run tests/run, which makes it",
                program.display()
            );
            let path = format!("/{name}");
            let image = Image::new(&format!("{registry}{name}:{tag}"))
                .file(&program, &path)
                .option("--user", user)
                .option("--entrypoint", &path);
            self.cluster.load(&image.make()?)?;
        }
        Ok(())
    }

    /// Deletes what `outrider uninstall` prints, and waits until it is gone.
    pub fn uninstall(&self) -> Result<()> {
        let manifests = self.print(&["uninstall"])?;
        let arguments = ["delete", "--ignore-not-found", "--filename", "-"];
        self.cluster
            .try_kubectl_with(&manifests, &arguments)?
            .success()
            .context("kubectl delete of what outrider uninstall prints")?;
        Ok(())
    }

    /// Uninstalls it, and waits until its namespace is gone, too.
    pub fn remove(&self) -> Result<()> {
        self.uninstall()?;
        self.cluster
            .eventually("it is gone", &["namespaces"], |list| {
                let mut items = list["items"].as_array()?.iter();
                items
                    .all(|item| item["metadata"]["name"] != SYSTEM)
                    .then_some(())
            })
    }

    fn print(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(&mut self.command(arguments)?, PATIENCE)?
            .success()
            .with_context(|| format!("outrider {}", arguments.join(" ")))?
            .stdout)
    }

    /// `outrider` with the kubeconfig of the cluster.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        self.cluster.command_of(&outrider()?, arguments)
    }

    /// `helm` with the kubeconfig of the cluster.
    pub fn helm(&self, arguments: &[&str]) -> Result<Command> {
        self.cluster.command_of(&program("helm")?, arguments)
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// Waits until every replica of the control plane is ready.
    pub fn ready(&self) -> Result<()> {
        let timeout = format!("{}s", PATIENCE.as_secs() - 10);
        let arguments = ["rollout", "status", CONTROL_PLANE, "--namespace", SYSTEM];
        self.cluster
            .kubectl(&[&arguments[..], &["--timeout", &timeout]].concat())?;
        Ok(())
    }

    /// A namespace of the mesh.
    pub fn meshed_namespace(&self, label: &str) -> Result<Namespace> {
        let namespace = self.cluster.namespace(label)?;
        self.take_in(&namespace)?;
        Ok(namespace)
    }

    /// Makes a namespace one of the mesh.
    pub fn take_in(&self, namespace: &Namespace) -> Result<()> {
        let label = "outrider.mesh/inject=enabled";
        self.cluster
            .kubectl(&["label", "namespace", namespace.name(), label])?;
        Ok(())
    }

    /// The names of the control plane's pods.
    pub fn control_planes(&self) -> Result<Vec<String>> {
        self.of_control_planes("/metadata/name")
    }

    /// Their addresses.
    pub fn control_plane_addresses(&self) -> Result<Vec<String>> {
        self.of_control_planes("/status/podIP")
    }

    fn of_control_planes(&self, field: &str) -> Result<Vec<String>> {
        let pods = self.cluster.read(&[
            "pods",
            "--namespace",
            SYSTEM,
            "--selector",
            "app.kubernetes.io/component=control-plane",
        ])?;
        let pods = pods["items"].as_array().context("a list")?;
        let text = |pod: &Value| pod.pointer(field)?.as_str().map(str::to_owned);
        Ok(pods.iter().filter_map(text).collect())
    }

    /// A way to what each of them says of itself: health, metrics, `/programmed`.
    pub fn admins(&self) -> Result<Vec<PortForward>> {
        let pods = self.control_planes()?;
        let forward =
            |pod: &String| PortForward::start(self.cluster, SYSTEM, &format!("pod/{pod}"), ADMIN);
        pods.iter().map(forward).collect()
    }

    /// Ends pods of the control plane at once, as if their node were gone.
    pub fn kill(&self, pods: &[&str]) -> Result<()> {
        ensure!(!pods.is_empty(), "a pod to kill");
        let arguments = ["delete", "pod", "--namespace", SYSTEM, "--grace-period=0"];
        self.cluster
            .kubectl(&[&arguments[..], &["--force"], pods].concat())?;
        Ok(())
    }

    /// The certificate of the authority that signs now, as its Secret has it.
    pub fn issuer(&self) -> Result<String> {
        let arguments = ["secret", "outrider-ca", "--namespace", SYSTEM];
        let secret = self.cluster.read(&arguments)?;
        let certificate = secret["data"]["tls.crt"].as_str();
        Ok(certificate.context("it has a certificate")?.to_owned())
    }

    /// Asks for another authority.
    pub fn rotate(&self) -> Result<()> {
        self.print(&["certs", "rotate"])?;
        Ok(())
    }
}

/// The images of the mesh, as `manifests/images/build` makes them, and one of the command for the shop.
fn images() -> Result<Vec<PathBuf>> {
    let version = env!("CARGO_PKG_VERSION");
    let folder = target().join("images");
    let mut archives = Vec::new();
    for name in ["outrider-proxy", "outrider-control-plane"] {
        let archive = folder.join(format!("{name}.tar"));
        ensure!(
            archive.is_file(),
            "{} is missing: run tests/run, which makes it",
            archive.display()
        );
        archives.push(archive);
    }
    let shop = Image::new(&format!("outrider:{version}"))
        .file(&outrider()?, "/outrider")
        .libraries()
        // Not the sidecar's, which interception leaves alone.
        .option("--user", "1000")
        .option("--entrypoint", "/outrider");
    archives.push(shop.make()?);
    Ok(archives)
}
