//! Network namespaces: each is a machine of its own, with interfaces, addresses and rules.
//!
//! A [`Lan`] is a bridge in a namespace of its own, and [`Netns`] are the hosts on it: nothing of the
//! machine that runs the tests is touched. They are gone when they are dropped, also when the test
//! panics; what a killed run left is removed by the next one.
//!
//! They need root and Debian's iproute2. Where either is missing the test fails and says so.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, geteuid, getpid, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{Finished, command, run};
use crate::programs::find;

/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";
/// What the names of ours begin with; the process that made them comes next.
const PREFIX: &str = "outrider-test";
const LIMIT: Duration = Duration::from_secs(20);

/// A namespace with loopback.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// An empty one, whose name has `label` in it.
    pub fn new(label: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        ensure!(
            geteuid().is_root(),
            "this test needs root, for network namespaces: run it with sudo, such as sudo tests/run {label}"
        );
        SWEPT.call_once(sweep);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = getpid().as_raw_nonzero();
        let name = format!("{PREFIX}-{process}-{count}-{label}");
        ip(&["netns", "add", &name]).context(
            "this test needs network namespaces, and root may not make one here: run the tests on a \
             machine of their own, or in a container that is privileged",
        )?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in this namespace.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A program in this namespace: it dies with the thread that started it.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = command(&find("ip", "iproute2")?)?;
        command.args(["netns", "exec", &self.name]).arg(program);
        Ok(command)
    }

    /// Like [`Netns::command`], as a user who has no capabilities and need not exist.
    pub fn command_as(&self, uid: u32, program: &Path) -> Result<Command> {
        let uid = uid.to_string();
        let mut command = self.command(&find("setpriv", "util-linux")?)?;
        command
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program);
        Ok(command)
    }

    /// Runs a program of Debian's to its end, and gives what it wrote.
    pub fn run(&self, program: &str, package: &str, arguments: &[&str]) -> Result<Finished> {
        run(
            self.command(&find(program, package)?)?.args(arguments),
            LIMIT,
        )
    }

    /// Runs `work` on a thread that is in this namespace: the sockets and threads that it makes stay
    /// there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within(&self.name, work)
    }

    /// Sets what `sysctl` would, such as `net/ipv6/conf/all/disable_ipv6`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.within(|| {
            // The thread's own view: /proc/sys/net is that of whoever opens it.
            let file = format!("/proc/thread-self/root/proc/sys/{name}");
            fs::write(&file, value).with_context(|| format!("write {value} to {file}"))
        })
    }
}

/// Runs `work` on a thread that is in the namespace of this name, whoever made it; so are the
/// threads that it starts.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new(FOLDER).join(name);
    let handle = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {name}"))?;
            work()
        });
        inside.join().map_err(|_| anyhow!("it panicked"))?
    })
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A process that is still in it keeps the namespace, and not its name.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// A bridge in a namespace of its own. Its hosts are numbered: `10.77.0.N` and `fd77::N`.
#[derive(Debug)]
pub struct Lan {
    namespace: Netns,
}

/// What the bridge is called in its namespace, where hosts have `eth0`.
const BRIDGE: &str = "br0";

impl Lan {
    pub fn new(label: &str) -> Result<Self> {
        let namespace = Netns::new(label)?;
        let bridge = [
            "link",
            "add",
            BRIDGE,
            "type",
            "bridge",
            "forward_delay",
            "0",
        ];
        namespace.ip(&bridge)?;
        address(&namespace, BRIDGE, 1)?;
        Ok(Self { namespace })
    }

    /// The bridge's own namespace, where everything that crosses it can be seen.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// A host of this number, 2 to 254, which has its default route over the bridge.
    pub fn host(&self, label: &str, number: u8) -> Result<Host> {
        let namespace = Netns::new(label)?;
        let port = format!("port{number}");
        self.namespace.ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace.name(),
        ])?;
        self.namespace
            .ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        address(&namespace, "eth0", number)?;
        namespace.ip(&["route", "add", "default", "via", &ipv4(1).to_string()])?;
        namespace.ip(&["-6", "route", "add", "default", "via", &ipv6(1).to_string()])?;
        Ok(Host {
            namespace,
            ipv4: ipv4(number),
            ipv6: ipv6(number),
        })
    }
}

/// A namespace on a [`Lan`].
#[derive(Debug)]
pub struct Host {
    pub namespace: Netns,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn ipv6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number))
}

/// Without duplicate address detection, which would keep the address from use for a second.
fn address(namespace: &Netns, interface: &str, number: u8) -> Result<()> {
    let (ipv4, ipv6) = (ipv4(number), ipv6(number));
    namespace.ip(&["addr", "add", &format!("{ipv4}/24"), "dev", interface])?;
    namespace.ip(&[
        "addr",
        "add",
        &format!("{ipv6}/64"),
        "dev",
        interface,
        "nodad",
    ])?;
    namespace.ip(&["link", "set", interface, "up"])?;
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<String> {
    let finished = run(command(&find("ip", "iproute2")?)?.args(arguments), LIMIT)?;
    if !finished.status.success() {
        bail!("ip {}: {}", arguments.join(" "), finished.output().trim());
    }
    Ok(finished.stdout)
}

/// Removes the namespaces of test runs that are over.
fn sweep() {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return;
    };
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let Some(name) = name.to_str() else { continue };
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1)?.parse().ok());
        let over = maker
            .and_then(Pid::from_raw)
            .is_some_and(|pid| test_kill_process(pid).is_err());
        if over {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}
