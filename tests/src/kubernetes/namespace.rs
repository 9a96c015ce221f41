//! A test's own namespace.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::process::{Pid, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Cluster, PATIENCE};
use crate::process::{Finished, Process};
use crate::wait::eventually;

/// The label that says which process made a namespace.
const MADE_BY: &str = "tests.outrider.dev/made-by";

/// Deleted when dropped, with all that is in it.
#[derive(Debug)]
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

impl Namespace {
    pub(super) fn new(cluster: &'static Cluster, label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::create(cluster, format!("{label}-{process}-{count}"))
    }

    /// One of this very name, which there is not.
    pub(super) fn create(cluster: &'static Cluster, name: String) -> Result<Self> {
        let process = process::id();
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    {MADE_BY}: \"{process}\"\n"
        ))?;
        let namespace = Self { cluster, name };
        // Pods are refused before.
        namespace.eventually(
            "the namespace has its account",
            &["serviceaccounts"],
            |accounts| (!accounts["items"].as_array()?.is_empty()).then_some(()),
        )?;
        Ok(namespace)
    }

    /// One that an example makes itself.
    pub(super) fn adopt(cluster: &'static Cluster, name: &str) -> Self {
        Self {
            cluster,
            name: name.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// What `ownerReferences` of an object outside of namespaces needs, so that it goes with this one.
    pub fn owner(&self) -> Result<Value> {
        let namespace = self.cluster.read(&["namespace", &self.name])?;
        let uid = &namespace["metadata"]["uid"];
        Ok(json!({"apiVersion": "v1", "kind": "Namespace", "name": self.name, "uid": uid}))
    }

    /// The arguments, with this namespace before them.
    fn here<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--namespace", &self.name], arguments].concat()
    }

    /// [`Cluster::kubectl`] in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&self.here(arguments))
    }

    /// [`Cluster::try_kubectl`] in this namespace.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        self.cluster.try_kubectl(&self.here(arguments))
    }

    /// Applies objects that do not name a namespace: they come into this one.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster
            .try_kubectl_with(yaml, &self.here(&["apply", "--filename", "-"]))?
            .success()
            .with_context(|| format!("kubectl apply of\n{yaml}"))?;
        Ok(())
    }

    /// [`Cluster::read`] in this namespace.
    pub fn read(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.read(&self.here(arguments))
    }

    /// [`Cluster::eventually`] in this namespace.
    pub fn eventually<T>(
        &self,
        what: &str,
        arguments: &[&str],
        find: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        self.cluster.eventually(what, &self.here(arguments), find)
    }

    /// Waits until an object has a condition, as `kubectl wait` does: `pod/web`, `Ready`.
    pub fn wait(&self, object: &str, condition: &str) -> Result<()> {
        self.kubectl(&[
            "wait",
            "--for",
            &format!("condition={condition}"),
            "--timeout",
            &format!("{}s", PATIENCE.as_secs() - 10),
            object,
        ])?;
        Ok(())
    }

    /// Waits until a Deployment's pods are those that it describes, and available.
    pub fn rolled_out(&self, object: &str) -> Result<()> {
        let timeout = format!("{}s", PATIENCE.as_secs() - 10);
        self.kubectl(&["rollout", "status", "--timeout", &timeout, object])?;
        Ok(())
    }

    /// Runs a program in a container, `pod` or `pod/container`, to its end.
    pub fn try_exec(&self, container: &str, program: &[&str]) -> Result<Finished> {
        let (pod, container) = container.split_once('/').unwrap_or((container, ""));
        let container: &[&str] = match container {
            "" => &[],
            container => &["--container", container],
        };
        self.try_kubectl(&[&["exec", pod], container, &["--"], program].concat())
    }

    /// What a program wrote in a container. Fails unless it exits with 0.
    pub fn exec(&self, container: &str, program: &[&str]) -> Result<String> {
        let finished = self.try_exec(container, program)?;
        let finished = finished
            .success()
            .with_context(|| format!("in {container}: {}", program.join(" ")))?;
        Ok(finished.stdout)
    }

    /// A way from loopback to a port of a pod, or of one of a Service's: `pod/web`, `service/web`.
    pub fn port_forward(&self, target: &str, port: u16) -> Result<PortForward> {
        PortForward::start(self.cluster, &self.name, target, port)
    }

    /// Has it deleted, as whoever drops it does.
    pub fn delete(&self) -> Result<()> {
        delete(self.cluster, &self.name)?;
        Ok(())
    }

    /// One of the same name, once this one is gone.
    pub fn anew(&self) -> Result<Self> {
        let field = format!("metadata.name={}", self.name);
        let arguments = ["namespaces", "--field-selector", &field];
        self.cluster
            .eventually("the namespace is gone", &arguments, |list| {
                list["items"].as_array()?.is_empty().then_some(())
            })?;
        Self::create(self.cluster, self.name.clone())
    }
}

impl Drop for Namespace {
    /// What was in it is shown by the test runner only when the test has failed.
    fn drop(&mut self) {
        for what in [&["pods", "--output", "wide"][..], &["events"]] {
            if let Ok(finished) = self.try_kubectl(&[&["get"], what].concat()) {
                eprintln!("---- {} in {}\n{}", what[0], self.name, finished.output());
            }
        }
        let _ = delete(self.cluster, &self.name);
    }
}

/// Does not wait until it is gone.
fn delete(cluster: &Cluster, namespace: &str) -> Result<String> {
    cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"])
}

/// Deletes what killed runs have left.
pub(super) fn sweep(cluster: &Cluster) -> Result<()> {
    let namespaces = cluster.read(&["namespaces", "--selector", MADE_BY])?;
    for namespace in namespaces["items"].as_array().into_iter().flatten() {
        let metadata = &namespace["metadata"];
        let process = metadata["labels"][MADE_BY]
            .as_str()
            .and_then(|process| process.parse().ok())
            .and_then(Pid::from_raw);
        let alive = process.is_some_and(|process| test_kill_process(process).is_ok());
        if let (false, Some(name)) = (alive, metadata["name"].as_str()) {
            delete(cluster, name)?;
        }
    }
    Ok(())
}

/// `kubectl port-forward`, until it is dropped.
#[derive(Debug)]
pub struct PortForward {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl PortForward {
    pub(super) fn start(
        cluster: &Cluster,
        namespace: &str,
        target: &str,
        port: u16,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = format!(":{port}");
        let here = ["--namespace", namespace, "port-forward"];
        let what = ["--address", "127.0.0.1", target, &port];
        let mut start = cluster.command(&[&here[..], &what].concat())?;
        let mut process = Process::start("port-forward", folder.path(), &mut start)?;
        let port = eventually("kubectl forwards a port", PATIENCE, || {
            anyhow::ensure!(process.running(), "it ended:\n{}", process.log());
            let log = process.log();
            let port = log
                .strip_prefix("Forwarding from 127.0.0.1:")
                .and_then(|rest| rest.split_once(' '));
            Ok(port.and_then(|(port, _)| port.parse().ok()))
        })?;
        Ok(Self {
            process,
            port,
            _folder: folder,
        })
    }

    /// The port of loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What kubectl wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
