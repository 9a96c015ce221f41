//! New connections through interception, with what is spoken detected: beside a direct connection and
//! beside Envoy with a listener of original destinations. Caller and callee have network namespaces,
//! with a bridge between; neither knows of a proxy. Needs root.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::manifest::spiffe_id;
use mesh_tests::netns::{self, Host, Lan, Netns};
use mesh_tests::placed::Placed;
use mesh_tests::process::{Process, command, run};
use mesh_tests::programs::{find, sidecar};
use mesh_tests::wait::{PATIENCE, until};
use tempfile::TempDir;

use crate::backend::{BODY, counted};
use crate::load::wrk_by;
use crate::open::{Client, REQUEST};
use crate::peers;
use crate::results::{Results, Sample};
use crate::systems::System;
use crate::template::{Values, fill};

pub(crate) const WORKLOAD: &str = "intercept-new";
const PORT: u16 = 8080;
/// Connections that are opened one after the other, for the time to the first byte.
const SEQUENTIAL: usize = 300;
const AT_ONCE: u32 = 16;
/// The user that passes interception.
const SIDECAR: u32 = 2102;

/// A caller and a callee that run.
pub(crate) struct Arrangement {
    name: &'static str,
    /// The namespaces' names.
    caller: String,
    callee: String,
    address: IpAddr,
    pids: Vec<u32>,
    _running: Running,
}

#[expect(dead_code, reason = "kept until the arrangement is over")]
enum Running {
    Placed(Box<Placed>, TempDir),
    Hosts(Box<Hosts>),
}

/// Dropped in this order.
struct Hosts {
    processes: Vec<Process>,
    caller: Host,
    callee: Host,
    _lan: Lan,
    folder: TempDir,
}

pub(crate) fn arrange(system: &System) -> Result<Option<Arrangement>> {
    match system {
        System::Direct => direct().map(Some),
        System::Outrider => outrider().map(Some),
        System::Envoy => envoy().map(Some),
        _ => Ok(None),
    }
}

/// One round.
pub(crate) fn measure(
    arrangement: &Arrangement,
    time: Duration,
    results: &mut Results,
) -> Result<()> {
    let sample = sample(arrangement, time)
        .with_context(|| format!("{WORKLOAD} through {}", arrangement.name))?;
    results.add(arrangement.name, WORKLOAD, sample);
    Ok(())
}

fn sample(arrangement: &Arrangement, time: Duration) -> Result<Sample> {
    let address = SocketAddr::new(arrangement.address, PORT);
    let requests = || netns::within(&arrangement.callee, || counted(PORT));
    let cpu = || -> Result<Duration> {
        let pids = arrangement.pids.iter();
        pids.map(|pid| Process::cpu_time_of(*pid)).sum()
    };
    let (before, cpu_before) = (requests()?, cpu()?);
    let mut wrk = command(&find("ip", "iproute2")?)?;
    wrk.args(["netns", "exec", &arrangement.caller])
        .arg(find("wrk", "wrk")?);
    let load = wrk_by(&mut wrk, address, AT_ONCE, "/", true, time)?;
    let used = cpu()? - cpu_before;
    let connections = (requests()? - before).saturating_sub(1);
    ensure!(connections > 0, "nothing reached the app");
    let mut took = netns::within(&arrangement.caller, || {
        (0..SEQUENTIAL)
            .map(|_| {
                let begin = Instant::now();
                Client::open(address)?.ask(REQUEST)?;
                Ok(begin.elapsed())
            })
            .collect::<Result<Vec<_>>>()
    })?;
    took.sort_unstable();
    let mut sample = Sample::from([
        ("connections_per_second", load["requests_per_second"]),
        (
            "first_byte_p50_us",
            took[SEQUENTIAL / 2].as_secs_f64() * 1e6,
        ),
        (
            "first_byte_p99_us",
            took[SEQUENTIAL * 99 / 100].as_secs_f64() * 1e6,
        ),
    ]);
    if !arrangement.pids.is_empty() {
        let micros = used.as_secs_f64() * 1e6 / connections as f64;
        sample.insert("cpu_us_per_connection", micros);
    }
    Ok(sample)
}

/// Writes the app's configuration; what runs as another user may read it.
fn app(folder: &Path) -> Result<Values> {
    let values = Values::from([
        ("FOLDER", folder.display().to_string()),
        ("BODY", "b".repeat(BODY)),
        ("NGINX", find("nginx", "nginx-light")?.display().to_string()),
    ]);
    let text = fill("intercept-app.conf", &values, &BTreeMap::new())?;
    fs::write(folder.join("app.conf"), text)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(values)
}

fn outrider() -> Result<Arrangement> {
    let folder = tempfile::tempdir()?;
    let values = app(folder.path())?;
    let mesh = fill("intercept.yaml", &values, &BTreeMap::new())?;
    let placed = Placed::start("bench", &[("mesh.yaml", &mesh)])?;
    let address = &placed.addresses("order-1", "billing")?[0];
    Ok(Arrangement {
        name: System::OURS,
        caller: placed.netns("order-1")?,
        callee: placed.netns("billing-1")?,
        address: address.parse()?,
        pids: vec![placed.sidecar("order-1")?, placed.sidecar("billing-1")?],
        _running: Running::Placed(Box::new(placed), folder),
    })
}

/// Two hosts, with the app on one of them.
fn hosts() -> Result<Hosts> {
    let folder = tempfile::tempdir()?;
    app(folder.path())?;
    let lan = Lan::new("bench")?;
    let (caller, callee) = (lan.host("order", 2)?, lan.host("billing", 3)?);
    let mut start = callee.namespace.command(&find("nginx", "nginx-light")?)?;
    start.args(["-e", "stderr", "-p"]).arg(folder.path());
    start.arg("-c").arg(folder.path().join("app.conf"));
    let nginx = Process::start("app", folder.path(), &mut start)?;
    until("the app listens", PATIENCE, || {
        Ok(callee.namespace.within(|| counted(PORT)).is_ok())
    })?;
    Ok(Hosts {
        processes: vec![nginx],
        caller,
        callee,
        _lan: lan,
        folder,
    })
}

fn arrangement(name: &'static str, hosts: Hosts) -> Arrangement {
    Arrangement {
        name,
        caller: hosts.caller.namespace.name().to_owned(),
        callee: hosts.callee.namespace.name().to_owned(),
        address: hosts.callee.ipv4.into(),
        pids: hosts.processes.iter().skip(1).map(Process::id).collect(),
        _running: Running::Hosts(Box::new(hosts)),
    }
}

fn direct() -> Result<Arrangement> {
    Ok(arrangement("direct", hosts()?))
}

/// With the rules that our own `init` writes.
fn envoy() -> Result<Arrangement> {
    let mut hosts = hosts()?;
    let folder = hosts.folder.path().to_path_buf();
    peers::certificates(&folder)?;
    for file in fs::read_dir(&folder)?.flatten() {
        let mode = if file.path().is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
    }
    let values = Values::from([
        ("FOLDER", folder.display().to_string()),
        ("CALLEE", hosts.callee.ipv4.to_string()),
        ("ORDER", spiffe_id("order")),
        ("BILLING", spiffe_id("billing")),
    ]);
    let entry = |name: &str, alpn: &str| {
        Values::from([("NAME", name.to_owned()), ("ALPN", alpn.to_owned())])
    };
    let entries = BTreeMap::from([
        ("http", entry("http", "http/1.1")),
        ("tcp", entry("tcp", "tcp")),
    ]);
    for (side, host) in [("outbound", &hosts.caller), ("inbound", &hosts.callee)] {
        intercepted(&host.namespace)?;
        let name = format!("envoy-intercept-{side}.yaml");
        let file = folder.join(&name);
        fs::write(&file, fill(&name, &values, &entries)?)?;
        let program = peers::program(&System::Envoy)?;
        let mut start = host.namespace.command_as(SIDECAR, &program)?;
        start
            .arg("-c")
            .arg(file)
            .args(["--concurrency", "1", "--log-level", "warning"])
            .arg("--use-dynamic-base-id");
        let process = Process::start(side, &folder, &mut start)?;
        hosts.processes.push(process);
    }
    let (caller, address) = (
        &hosts.caller.namespace,
        SocketAddr::new(hosts.callee.ipv4.into(), PORT),
    );
    let answered = until("Envoy answers", PATIENCE, || {
        caller.within(|| Client::open(address)?.ask(REQUEST))?;
        Ok(true)
    });
    let logs: String = hosts.processes.iter().map(Process::log).collect();
    answered.with_context(|| logs)?;
    Ok(arrangement("envoy", hosts))
}

/// `outrider-proxy init` in a namespace.
fn intercepted(namespace: &Netns) -> Result<()> {
    let sidecar = sidecar()?;
    let mut init = command(&find("nsenter", "util-linux")?)?;
    init.arg(format!("--net=/run/netns/{}", namespace.name()))
        .arg("--")
        .arg(sidecar.get_program())
        .args(sidecar.get_args())
        .arg("init");
    run(&mut init, PATIENCE)?.success()?;
    Ok(())
}
