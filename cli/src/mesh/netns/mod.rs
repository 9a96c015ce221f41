//! The network of a mesh on one machine, where every Workload has a network namespace with addresses
//! and names of its own. Owns its bridge, namespaces and links, `/etc/netns/NAME` and
//! `/run/outrider/ID`; makes them, and removes them at the end, also those of one that was killed.
//! Knows nothing of the processes that live there.
//!
//! - `layout`: what it consists of. `hosts`: the names in it. `describe`: both, of a directory.
//! - `ip`: the program that makes it.
//! - `claim`: at most one of a mesh.
//! - `inside`: standing in a namespace for a moment.

mod claim;
pub mod describe;
pub mod hosts;
pub mod inside;
mod ip;
pub mod layout;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use outrider_api::kinds;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use thiserror::Error;

use self::claim::Claim;
pub use self::claim::ClaimError;
pub use self::ip::IpError;
use self::ip::{Ip, Route};
use self::layout::MOST;
pub use self::layout::{Id, Layout, LayoutError, Namespace};

/// How long processes that were killed are waited for.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
/// So many pairs of ranges are tried.
const NETWORKS: u8 = 50;

/// Why there is no network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// Who may not.
    #[error(
        "--netns makes network namespaces, which only root may: run it with sudo, or without --netns"
    )]
    NotRoot,
    /// A kernel without them.
    #[error("this kernel has no network namespaces (CONFIG_NET_NS): run it without --netns")]
    NoNamespaces,
    /// A mesh of IPv6 only, on a machine without.
    #[error(
        "IPv6 is off on this machine, and spec.network.workloads of the MeshConfig has no IPv4 range: add one"
    )]
    NoAddresses,
    /// What is asked for.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another one.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The program.
    #[error(transparent)]
    Ip(#[from] IpError),
    /// The range belongs to something else.
    #[error(
        "this machine routes {} by {}, which overlaps {range} of the mesh: choose another range in \
         spec.network.{field} of the MeshConfig",
        .route.to, .route.link
    )]
    Routed {
        /// Of the mesh.
        range: IpNet,
        /// Of the MeshConfig.
        field: &'static str,
        /// Of the machine.
        route: Box<Route>,
    },
    /// None of those that are tried.
    #[error(
        "this machine routes every range of addresses that the demo tries: end other meshes first"
    )]
    NoneFree,
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// In the namespace.
    #[error("in the network namespace {0}: {1}")]
    Inside(String, io::Error),
}

/// A network that is there. Removed when it is dropped.
#[derive(Debug)]
pub struct Network {
    layout: Layout,
    ip: Ip,
    /// What one that was killed had left.
    cleaned: bool,
    _claim: Claim,
}

impl Network {
    /// Makes what `layout` says, after removing what a dead one left.
    pub fn create(layout: Layout) -> Result<Self, NetworkError> {
        let ip = able()?;
        layout.check()?;
        if layout.host().is_none() {
            return Err(NetworkError::NoAddresses);
        }
        let claim = Claim::take(&layout.id)?;
        let cleaned = remove(&ip, &layout.id)?;
        check_ranges(&layout.bridge, &layout.services, &ip.routes()?)?;
        let network = Self {
            layout,
            ip,
            cleaned,
            _claim: claim,
        };
        network.make()?;
        Ok(network)
    }

    /// `ip`.
    pub fn program(&self) -> &Path {
        self.ip.program()
    }

    /// Whether there was something of a dead one.
    pub fn cleaned(&self) -> bool {
        self.cleaned
    }

    /// Makes one namespace more; nothing of it is left where that fails.
    pub fn add(&self, namespace: &Namespace) -> Result<(), NetworkError> {
        self.layout.check_one(namespace)?;
        self.make_one(namespace).inspect_err(|_| {
            let _ = self.remover(&namespace.name)();
        })
    }

    fn make_one(&self, namespace: &Namespace) -> Result<(), NetworkError> {
        let Self { layout, ip, .. } = self;
        let taken = ip.links()?;
        let number = (0..MOST).find(|number| !taken.contains(&layout.id.link(*number)));
        let number = number.ok_or(LayoutError::Many(MOST + 1))?;
        write_hosts(namespace)?;
        ip.batch(&layout.attach(number, namespace))?;
        let name = namespace.name.as_str();
        ip.batch_in(&[(name, layout.furnish(namespace))])?;
        inside::run(name, settle).map_err(|error| NetworkError::Inside(name.to_owned(), error))
    }

    /// What removes one namespace, and kills what still runs in it: it may block for a while.
    pub fn remover(
        &self,
        namespace: &str,
    ) -> impl FnOnce() -> Result<(), IpError> + Send + 'static {
        let (ip, name) = (self.ip.clone(), namespace.to_owned());
        move || {
            kill_inside(&ip, std::slice::from_ref(&name))?;
            // At once: with its namespace it would go some time later. One that was not finished has none.
            let _ = ip.batch_in(&[(name.as_str(), Layout::detach())]);
            ip.batch_regardless(&format!("netns del {name}\n"))?;
            let _ = fs::remove_dir_all(layout::etc(&name));
            Ok(())
        }
    }

    fn make(&self) -> Result<(), NetworkError> {
        let Self { layout, ip, .. } = self;
        for namespace in &layout.namespaces {
            write_hosts(namespace)?;
        }
        ip.batch(&layout.create())?;
        let each: Vec<(&str, String)> = layout
            .namespaces
            .iter()
            .map(|namespace| (namespace.name.as_str(), layout.furnish(namespace)))
            .collect();
        ip.batch_in(&each)?;
        for Namespace { name, .. } in &layout.namespaces {
            inside::run(name, settle).map_err(|error| NetworkError::Inside(name.clone(), error))?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nobody is left to tell; the next one tries again.
        let _ = remove(&self.ip, &self.layout.id);
    }
}

/// Whether this process can make namespaces at all, and with what.
pub fn able() -> Result<Ip, NetworkError> {
    if !geteuid().is_root() {
        return Err(NetworkError::NotRoot);
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Err(NetworkError::NoNamespaces);
    }
    Ok(Ip::find()?)
}

/// Whether this machine has IPv6, also for links that are made now.
pub fn has_v6() -> bool {
    ["all", "default"].into_iter().all(|which| {
        let setting = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        fs::read_to_string(setting).is_ok_and(|value| value.trim() == "0")
    })
}

/// What this machine is called.
pub fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// What the sidecars of a mesh may read.
pub fn run_dir(id: &Id) -> PathBuf {
    Claim::folder(id)
}

/// Ranges of addresses that this machine does not route: the usual ones, or others.
pub fn free_network() -> Result<kinds::Network, NetworkError> {
    let routes = able()?.routes()?;
    let free = |network: &kinds::Network| {
        let nets: Vec<IpNet> = network.workloads.nets().collect();
        let services: Vec<IpNet> = network.services.nets().collect();
        check_ranges(&nets, &services, &routes).is_ok()
    };
    let mut networks = (0..NETWORKS).map(describe::numbered);
    networks.find(free).ok_or(NetworkError::NoneFree)
}

/// As in containers: an app that is not root may listen on port 80.
fn settle() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

fn write_hosts(namespace: &Namespace) -> Result<(), NetworkError> {
    let folder = layout::etc(&namespace.name);
    let failed = |error| NetworkError::File(folder.clone(), error);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&folder)
        .map_err(failed)?;
    let file = folder.join("hosts");
    fs::write(&file, &namespace.hosts).map_err(failed)?;
    // Whatever the umask: an app that is not root reads it.
    fs::set_permissions(&file, Permissions::from_mode(0o644)).map_err(failed)
}

fn check_ranges(
    workloads: &[IpNet],
    services: &[IpNet],
    routes: &[Route],
) -> Result<(), NetworkError> {
    let workloads = workloads.iter().map(|range| (range, "workloads"));
    let services = services.iter().map(|range| (range, "services"));
    for (range, field) in workloads.chain(services) {
        let range = range.trunc();
        let overlaps = |route: &&Route| route.to.contains(&range) || range.contains(&route.to);
        if let Some(route) = routes.iter().find(overlaps) {
            return Err(NetworkError::Routed {
                range,
                field,
                route: Box::new(route.clone()),
            });
        }
    }
    Ok(())
}

/// Removes everything of a mesh, and kills what still runs in its namespaces. Whether there was
/// anything.
fn remove(ip: &Ip, id: &Id) -> Result<bool, IpError> {
    let prefix = id.prefix();
    let namespaces = named(Path::new(inside::NAMESPACES), &prefix);
    kill_inside(ip, &namespaces)?;
    let (mut links, bridge): (Vec<_>, Vec<_>) = ip
        .links()?
        .into_iter()
        .filter(|link| link.starts_with(&prefix) || *link == id.bridge())
        .partition(|link| link.starts_with(&prefix));
    links.extend(bridge);
    let mut lines: String = links
        .iter()
        .map(|link| format!("link del {link}\n"))
        .collect();
    lines.extend(namespaces.iter().map(|name| format!("netns del {name}\n")));
    let found = !lines.is_empty();
    if found {
        ip.batch_regardless(&lines)?;
    }
    let etc = layout::etc("");
    for name in named(&etc, &prefix) {
        let _ = fs::remove_dir_all(etc.join(name));
    }
    // Unless somebody else has something there.
    let _ = fs::remove_dir(etc);
    Ok(found)
}

fn kill_inside(ip: &Ip, namespaces: &[String]) -> Result<(), IpError> {
    let deadline = Instant::now() + KILL_LIMIT;
    for namespace in namespaces {
        // One that was not finished has no namespace behind its name.
        while let Ok(processes) = ip.processes(namespace) {
            if processes.is_empty() || Instant::now() > deadline {
                break;
            }
            for process in processes.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(process, Signal::KILL);
            }
            thread::sleep(POLL);
        }
    }
    Ok(())
}

/// The entries of a folder whose names begin with `prefix`.
fn named(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_the_machine_routes_elsewhere_is_refused() {
        let workloads = ["10.201.0.1/16".parse().unwrap()];
        let services = ["10.202.0.0/16".parse().unwrap()];
        let check = |routes: &[Route]| check_ranges(&workloads, &services, routes);
        let routes = |to: &str| {
            vec![Route {
                to: to.parse().unwrap(),
                link: "vpn0".to_owned(),
            }]
        };
        check(&routes("192.0.2.0/24")).unwrap();
        let error = |to| check(&routes(to)).unwrap_err().to_string();
        assert_eq!(
            error("10.0.0.0/8"),
            "this machine routes 10.0.0.0/8 by vpn0, which overlaps 10.201.0.0/16 of the mesh: choose \
             another range in spec.network.workloads of the MeshConfig"
        );
        assert!(error("10.201.7.0/24").contains("spec.network.workloads"));
        assert!(error("10.202.0.1/32").contains("spec.network.services"));
    }
}
