//! What a mesh on this machine consists of: every process with its arguments, environment and
//! ports. Read from the index of the directory; nothing is
//! started here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrider_api::manifest::Problem;
use outrider_api::{kinds, model};
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

use super::child::Spec;
use super::event::ChildName;
use super::ports::{self, PortUse};

/// A whole mesh.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory of YAML.
    pub directory: PathBuf,
    /// Keys, tokens and the trust bundle.
    pub state_dir: PathBuf,
    /// Where the control plane serves sidecars.
    pub control_plane: SocketAddr,
    /// Its health and metrics.
    pub control_plane_admin: SocketAddr,
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// The Workloads on this machine.
    pub workloads: Vec<WorkloadPlan>,
    /// Workloads whose address is not of this machine: nothing is started for them here.
    pub elsewhere: Vec<String>,
    /// How long a sidecar that ends lets requests finish.
    pub drain_timeout: Duration,
}

/// What is not in the YAML.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where state is kept; none: in the directory.
    pub state_dir: Option<PathBuf>,
    /// On loopback.
    pub control_plane_port: u16,
    /// On loopback.
    pub control_plane_admin_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state_dir: None,
            control_plane_port: 15012,
            control_plane_admin_port: 15014,
        }
    }
}

/// One Workload: its sidecar, and its app when it has a command.
#[derive(Debug, Clone)]
pub struct WorkloadPlan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What people call it in this mesh: the name, with the namespace where names repeat.
    pub label: String,
    /// Its identity.
    pub id: SpiffeId,
    /// What peers dial.
    pub address: IpAddr,
    /// On `address`.
    pub mesh_port: u16,
    /// On loopback.
    pub admin_port: u16,
    /// On `address`.
    pub telemetry_port: u16,
    /// Where the app listens.
    pub app_address: IpAddr,
    /// The app's ports by name, which may be empty.
    pub app_ports: Vec<(String, u16)>,
    /// The sidecar's loopback port that routes by authority.
    pub outbound_http: Option<u16>,
    /// The sidecar's loopback ports for one Service each.
    pub upstreams: Vec<UpstreamPlan>,
    /// The app's command; empty: the app is started by someone else.
    pub command: Vec<String>,
    /// The app's own environment.
    pub env: BTreeMap<String, String>,
}

/// A loopback port of a sidecar that leads to one Service.
#[derive(Debug, Clone)]
pub struct UpstreamPlan {
    /// "billing.shop"
    pub service: String,
    /// "billing"
    pub service_name: String,
    /// The Service's port.
    pub port: u16,
    /// On loopback.
    pub local_port: u16,
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A child may take so much longer than the mesh's drain timeout before it is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

impl Plan {
    /// Reads and checks a directory as the control plane would.
    pub fn read(directory: &Path, options: Options) -> Result<Self, Vec<Problem>> {
        let mesh = crate::policy::load(directory)?;
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for name in mesh.workloads().keys() {
            *names.entry(&name.name).or_default() += 1;
        }
        let all = mesh.workloads().values().filter_map(|workload| {
            let spec = mesh.spec(&workload.namespace, &workload.name)?;
            let unique = names.get(workload.name.as_str()) == Some(&1);
            Some(WorkloadPlan::new(workload, spec, unique))
        });
        let (workloads, elsewhere): (Vec<_>, Vec<_>) =
            all.partition(|workload| ports::is_local(workload.address));
        Ok(Self {
            directory: directory.to_path_buf(),
            state_dir: options
                .state_dir
                .unwrap_or_else(|| Self::default_state_dir(directory)),
            control_plane: SocketAddr::new(LOOPBACK, options.control_plane_port),
            control_plane_admin: SocketAddr::new(LOOPBACK, options.control_plane_admin_port),
            trust_domain: mesh.settings().trust_domain.clone(),
            workloads,
            elsewhere: elsewhere
                .into_iter()
                .map(|workload| format!("{}/{}", workload.namespace, workload.name))
                .collect(),
            drain_timeout: mesh.settings().drain_timeout,
        })
    }

    /// Where state is kept unless someone says otherwise: hidden, so that it is not read as YAML.
    pub fn default_state_dir(directory: &Path) -> PathBuf {
        directory.join(".outrider")
    }

    /// How long one step of the drain may take.
    pub fn drain_deadline(&self) -> Duration {
        self.drain_timeout + DRAIN_GRACE
    }

    /// Every port that the mesh binds, apps included.
    pub fn ports(&self) -> Vec<PortUse> {
        let own = |address, field: &str| PortUse {
            address,
            owner: "the control plane".to_owned(),
            field: field.to_owned(),
        };
        let mut uses = vec![
            own(self.control_plane, "--control-plane-port"),
            own(self.control_plane_admin, "--control-plane-admin-port"),
        ];
        uses.extend(self.workloads.iter().flat_map(WorkloadPlan::ports));
        uses
    }

    /// The control plane's process.
    pub fn control_plane_spec(&self, exe: &Path) -> Spec {
        let args: Vec<OsString> = vec![
            "control-plane".into(),
            "--config-dir".into(),
            self.directory.clone().into(),
            "--state-dir".into(),
            self.state_dir.clone().into(),
            "--listen".into(),
            self.control_plane.to_string().into(),
            "--admin".into(),
            self.control_plane_admin.to_string().into(),
        ];
        supervised(
            ChildName::control_plane(),
            exe,
            exe.into(),
            args,
            Vec::new(),
        )
    }

    /// A Workload's sidecar.
    pub fn sidecar_spec(&self, exe: &Path, workload: &WorkloadPlan) -> Spec {
        let args: Vec<OsString> = vec![
            "proxy".into(),
            "--control-plane".into(),
            self.control_plane.to_string().into(),
            "--trust-domain".into(),
            self.trust_domain.to_string().into(),
            "--trust-bundle".into(),
            self.trust_bundle_file().into(),
            "--token-file".into(),
            self.token_file(workload).into(),
            "--workload".into(),
            format!("{}/{}", workload.namespace, workload.name).into(),
            "--admin".into(),
            workload.admin().to_string().into(),
            "--telemetry".into(),
            workload.telemetry().to_string().into(),
        ];
        supervised(
            ChildName::sidecar(&workload.label),
            exe,
            exe.into(),
            args,
            Vec::new(),
        )
    }

    /// A Workload's app, when it has a command. `program` is where its first word was found.
    pub fn app_spec(&self, exe: &Path, program: PathBuf, workload: &WorkloadPlan) -> Option<Spec> {
        let (_, args) = workload.command.split_first()?;
        let args = args.iter().map(OsString::from).collect();
        let mut env = workload.app_env();
        env.extend(self.path_env(exe));
        env.extend(
            workload
                .env
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        Some(supervised(
            ChildName::app(&workload.label),
            exe,
            program.into(),
            args,
            env,
        ))
    }

    /// Where the trust bundle is written for the sidecars.
    pub fn trust_bundle_file(&self) -> PathBuf {
        self.state_dir.join("trust-bundle.pem")
    }

    /// Where a Workload's bootstrap token is written.
    pub fn token_file(&self, workload: &WorkloadPlan) -> PathBuf {
        self.state_dir
            .join("tokens")
            .join(format!("{}.{}.jwt", workload.namespace, workload.name))
    }

    /// The Workload that people call `label`.
    pub fn workload(&self, label: &str) -> Option<&WorkloadPlan> {
        self.workloads
            .iter()
            .find(|workload| workload.label == label)
    }

    /// This program's own folder first in PATH, so that a command finds the `outrider` beside it.
    fn path_env(&self, exe: &Path) -> Option<(OsString, OsString)> {
        let mut folders = vec![exe.parent()?.to_path_buf()];
        if let Some(path) = std::env::var_os("PATH") {
            folders.extend(std::env::split_paths(&path));
        }
        Some(("PATH".into(), std::env::join_paths(folders).ok()?))
    }
}

impl WorkloadPlan {
    fn new(workload: &model::Workload, spec: &kinds::WorkloadSpec, unique: bool) -> Self {
        let upstreams = workload
            .outbound
            .upstreams
            .iter()
            .map(|upstream| UpstreamPlan {
                service: upstream.service.to_string(),
                service_name: upstream.service.name.clone(),
                port: upstream.port,
                local_port: upstream.local_port,
            });
        Self {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            label: if unique {
                workload.name.clone()
            } else {
                format!("{}/{}", workload.namespace, workload.name)
            },
            id: workload.id.clone(),
            address: workload.mesh_address.ip(),
            mesh_port: workload.mesh_address.port(),
            admin_port: spec.admin_port,
            telemetry_port: spec.telemetry_port,
            app_address: workload.app_address,
            app_ports: workload
                .ports
                .iter()
                .map(|port| (port.name.clone(), port.port))
                .collect(),
            outbound_http: workload.outbound.http_port,
            upstreams: upstreams.collect(),
            command: spec.command.clone(),
            env: spec.env.clone(),
        }
    }

    /// The sidecar's health and metrics.
    pub fn telemetry(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.telemetry_port)
    }

    /// The sidecar's admin port.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.admin_port)
    }

    /// What other sidecars dial.
    pub fn mesh(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.mesh_port)
    }

    /// Where the app listens, when it does.
    pub fn app(&self) -> Option<SocketAddr> {
        let (_, port) = self.app_ports.first()?;
        Some(SocketAddr::new(self.app_address, *port))
    }

    fn ports(&self) -> Vec<PortUse> {
        let owner = format!("Workload {}/{}", self.namespace, self.name);
        let used = |address, field: String| PortUse {
            address,
            owner: owner.clone(),
            field,
        };
        let mut uses = vec![
            used(self.mesh(), "spec.meshPort".to_owned()),
            used(self.admin(), "spec.adminPort".to_owned()),
            used(self.telemetry(), "spec.telemetryPort".to_owned()),
        ];
        if let Some(port) = self.outbound_http {
            let address = SocketAddr::new(LOOPBACK, port);
            uses.push(used(address, "spec.outbound.httpPort".to_owned()));
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let address = SocketAddr::new(LOOPBACK, upstream.local_port);
            uses.push(used(
                address,
                format!("spec.outbound.upstreams[{index}].localPort"),
            ));
        }
        // An app that someone else runs may well listen already.
        if !self.command.is_empty() {
            for (index, (_, port)) in self.app_ports.iter().enumerate() {
                let address = SocketAddr::new(self.app_address, *port);
                uses.push(used(address, format!("spec.ports[{index}].port")));
            }
        }
        uses
    }

    /// Where to listen and what to call, for the app.
    fn app_env(&self) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = vec![(
            "OUTRIDER_WORKLOAD".into(),
            format!("{}/{}", self.namespace, self.name).into(),
        )];
        if let Some(address) = self.app() {
            env.push(("OUTRIDER_LISTEN".into(), address.to_string().into()));
        }
        for (name, port) in self.app_ports.iter().filter(|(name, _)| !name.is_empty()) {
            let address = SocketAddr::new(self.app_address, *port);
            env.push((
                variable("OUTRIDER_LISTEN_", name),
                address.to_string().into(),
            ));
        }
        if let Some(port) = self.outbound_http {
            let url = format!("http://{}", SocketAddr::new(LOOPBACK, port));
            env.push(("OUTRIDER_OUTBOUND_HTTP".into(), url.into()));
        }
        let mut named = BTreeSet::new();
        for upstream in &self.upstreams {
            let address = SocketAddr::new(LOOPBACK, upstream.local_port).to_string();
            // The first port of a Service has the short name; every port has the long one.
            if named.insert(&upstream.service_name) {
                env.push((
                    variable("OUTRIDER_UPSTREAM_", &upstream.service_name),
                    address.clone().into(),
                ));
            }
            let long = format!("{}_{}", upstream.service_name, upstream.port);
            env.push((variable("OUTRIDER_UPSTREAM_", &long), address.into()));
        }
        env
    }
}

fn variable(prefix: &str, name: &str) -> OsString {
    let name: String = name
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect();
    format!("{prefix}{name}").into()
}

/// Runs through `outrider supervised`, which ends the program when this process ends.
fn supervised(
    name: ChildName,
    exe: &Path,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
) -> Spec {
    let mut all: Vec<OsString> = vec![
        "supervised".into(),
        "--parent".into(),
        std::process::id().to_string().into(),
        "--".into(),
        program,
    ];
    all.extend(args);
    Spec {
        name,
        program: exe.to_path_buf(),
        args: all,
        env,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn order() -> WorkloadPlan {
        WorkloadPlan {
            namespace: "shop".to_owned(),
            name: "order-1".to_owned(),
            label: "order-1".to_owned(),
            id: "spiffe://shop.example/ns/shop/sa/order".parse().unwrap(),
            address: LOOPBACK,
            mesh_port: 18108,
            admin_port: 18110,
            telemetry_port: 18120,
            app_address: LOOPBACK,
            app_ports: vec![("http".to_owned(), 18100)],
            outbound_http: Some(18101),
            upstreams: vec![UpstreamPlan {
                service: "billing.shop".to_owned(),
                service_name: "billing".to_owned(),
                port: 80,
                local_port: 18102,
            }],
            command: vec!["outrider".to_owned(), "shop".to_owned(), "order".to_owned()],
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn an_app_learns_its_ports_from_the_environment() {
        let env: BTreeMap<_, _> = order()
            .app_env()
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect();
        assert_eq!(env["OUTRIDER_LISTEN"], "127.0.0.1:18100");
        assert_eq!(env["OUTRIDER_LISTEN_HTTP"], "127.0.0.1:18100");
        assert_eq!(env["OUTRIDER_OUTBOUND_HTTP"], "http://127.0.0.1:18101");
        assert_eq!(env["OUTRIDER_UPSTREAM_BILLING"], "127.0.0.1:18102");
        assert_eq!(env["OUTRIDER_UPSTREAM_BILLING_80"], "127.0.0.1:18102");
        assert_eq!(env["OUTRIDER_WORKLOAD"], "shop/order-1");
    }

    #[test]
    fn every_port_is_named_by_its_field() {
        let fields: Vec<String> = order().ports().into_iter().map(|used| used.field).collect();
        assert_eq!(
            fields,
            [
                "spec.meshPort",
                "spec.adminPort",
                "spec.telemetryPort",
                "spec.outbound.httpPort",
                "spec.outbound.upstreams[0].localPort",
                "spec.ports[0].port",
            ]
        );
    }

    #[test]
    fn ports_of_an_app_that_is_not_started_may_be_taken() {
        let mut workload = order();
        workload.command.clear();
        assert!(
            !workload
                .ports()
                .iter()
                .any(|used| used.field.starts_with("spec.ports"))
        );
    }
}
