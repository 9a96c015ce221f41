//! A mesh in network namespaces with `web`, an nginx that says who called it, and its callers
//! `client-1` and `other-1`, who run whatever a test runs there.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::placed::Placed;
use crate::programs::find;
use crate::wait::{PATIENCE, until};

/// In every answer of nginx.
pub const ANSWER: &str = "an-answer-that-nobody-else-may-read";

/// What a mesh of this kind may have different.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// More of `MeshConfig.spec`, as in a flow mapping, each with a comma before.
    pub mesh: &'a str,
    /// The same of each web Workload's `spec`.
    pub web: &'a str,
    pub instances: usize,
    /// Whether nginx is started.
    pub serves: bool,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self {
            mesh: "",
            web: "",
            instances: 1,
            serves: true,
        }
    }
}

#[derive(Debug)]
pub struct Shop {
    pub mesh: Placed,
    folder: TempDir,
}

impl Shop {
    pub fn start(label: &str, settings: Settings<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut yaml = MESH.replace("MORE", settings.mesh);
        for number in 1..=settings.instances {
            let name = format!("web-{number}");
            write_nginx(&folder, &name)?;
            let command = match settings.serves {
                true => format!(", command: {:?}", nginx(&folder, &name)?),
                false => String::new(),
            };
            let more = format!("{}{command}", settings.web);
            yaml += &WEB.replace("NAME", &name).replace("MORE", &more);
        }
        let mesh = Placed::start(label, &[("mesh.yaml", &yaml)])?;
        Ok(Self { mesh, folder })
    }

    /// The words that start the nginx of a web Workload.
    pub fn nginx(&self, name: &str) -> Result<Vec<String>> {
        nginx(&self.folder, name)
    }

    /// Where `client-1` finds web.
    pub fn web(&self) -> Result<SocketAddr> {
        let address = &self.mesh.addresses("client-1", "web")?[0];
        Ok(format!("{address}:80").parse()?)
    }

    /// The status of a call of `client-1`; 0: none.
    pub fn call(&self) -> Result<u16> {
        Ok(self.mesh.curl("client-1", &["http://web/"])?.status)
    }

    /// What `up` and the sidecars have said.
    pub fn log(&self) -> Result<String> {
        Ok(self.mesh.up.as_ref().context("up runs")?.log())
    }

    /// A signal for a workload's sidecar.
    pub fn signal(&self, workload: &str, signal: Signal) -> Result<()> {
        send(self.mesh.sidecar(workload)?, signal)
    }

    /// Kills a workload's sidecar, and waits until it is gone.
    pub fn kill(&self, workload: &str) -> Result<()> {
        let sidecar = self.mesh.sidecar(workload)?;
        send(sidecar, Signal::KILL)?;
        until("the sidecar is gone", PATIENCE, || Ok(is_gone(sidecar)))
    }

    /// Keeps `up` from starting again what ends, until the answer is dropped.
    pub fn hold_up(&self) -> Result<Held> {
        let up = self.mesh.up.as_ref().context("up runs")?;
        up.signal(Signal::STOP)?;
        Ok(Held(up.id()))
    }
}

/// `up`, stopped.
#[derive(Debug)]
pub struct Held(u32);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = send(self.0, Signal::CONT);
    }
}

/// Whether a process has ended; that of a parent that is stopped stays as a zombie.
pub fn is_gone(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    state.is_empty() || state.trim_start().starts_with('Z')
}

pub fn send(process: u32, signal: Signal) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(process)?).context("a process")?;
    Ok(kill_process(process, signal)?)
}

fn nginx(folder: &TempDir, name: &str) -> Result<Vec<String>> {
    let folder = folder.path().display().to_string();
    let program = find("nginx", "nginx-light")?.display().to_string();
    let file = format!("{folder}/{name}.conf");
    let words = [&program, "-e", "stderr", "-p", &folder, "-c", &file];
    Ok(words.map(str::to_owned).into())
}

fn write_nginx(folder: &TempDir, name: &str) -> Result<()> {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {name}-{what};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {name}.pid; error_log stderr;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n{temporary}  server {{\n    \
         listen 8080; listen [::]:8080 ipv6only=on;\n    \
         listen 9090; listen [::]:9090 ipv6only=on;\n    \
         location / {{ return 200 \"$remote_addr {ANSWER}\\n\"; }}\n  }}\n}}\n"
    );
    Ok(fs::write(folder.path().join(format!("{name}.conf")), text)?)
}

const MESH: &str = r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.exampleMORE}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: tcp, port: 90, targetPort: 9090, appProtocol: tcp}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {serviceAccount: client, ports: [{name: http, port: 7000, appProtocol: http}]}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: other-1, namespace: shop}
spec: {serviceAccount: other}
"#;

const WEB: &str = r#"
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: NAME, namespace: shop, labels: {app: web}}
spec: {serviceAccount: web, ports: [{name: http, port: 8080, appProtocol: http}, {name: tcp, port: 9090, appProtocol: tcp}]MORE}
"#;
