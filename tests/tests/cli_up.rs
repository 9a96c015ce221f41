//! `outrider up` and `outrider demo`: a whole mesh from one command.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::http::{self, local};
use mesh_tests::load::Load;
use mesh_tests::manifest::{Service, Workload};
use mesh_tests::metrics::Metrics;
use mesh_tests::ports::free_port;
use mesh_tests::process::{Process, command, run};
use mesh_tests::programs::{outrider, root};
use mesh_tests::quiet;
use mesh_tests::wait::{PATIENCE, becomes, until};
use rustix::process::Signal;
use tempfile::TempDir;

/// So many requests show that calls go on.
const CALLS: u64 = 100;

/// `outrider up` on a directory, on ports of its own.
pub(crate) struct Up {
    pub(crate) process: Process,
    admin: u16,
    pub(crate) folder: TempDir,
}

pub(crate) fn up(folder: TempDir) -> Result<Up> {
    let admin = free_port()?;
    let mut start = command(&outrider()?)?;
    start
        .arg("up")
        .arg(folder.path())
        .args(["--control-plane-port", &free_port()?.to_string()])
        .args(["--control-plane-admin-port", &admin.to_string()]);
    let process = Process::start("up", folder.path(), &mut start)?.stopped_by(Signal::TERM);
    Ok(Up {
        process,
        admin,
        folder,
    })
}

#[test]
fn up_runs_what_a_directory_describes_and_drains_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let put = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    let app_port = free_port()?;
    let billing = Workload::new("billing-1")?
        .port("app", app_port, Some("http"))
        .command(&format!(
            "[python3, -u, -m, http.server, \"{app_port}\", --bind, 127.0.0.1]"
        ));
    let order = Workload::new("order-1")?;
    put(
        "billing.yaml",
        Service::new("billing")
            .port(80, app_port, Some("http"))
            .yaml(),
    )?;
    put("billing-1.yaml", billing.yaml())?;
    put("order-1.yaml", order.yaml())?;
    let mut up = up(folder)?;
    let call = || http::get(local(order.http_port), "billing", "/");
    until("the app answers through both sidecars", PATIENCE, || {
        anyhow::ensure!(up.process.running(), "it ended:\n{}", up.process.log());
        Ok(call()?.status == 200)
    })?;
    assert_eq!(http::fetch(up.admin, "/ready")?.status, 200);
    until(
        "the output of every part has a prefix of its own",
        PATIENCE,
        || {
            let log = up.process.log();
            Ok(log.contains("billing-1")
                && log.contains("order-1")
                && log.contains("control-plane"))
        },
    )?;
    up.process.wait_for_log("GET / HTTP", PATIENCE)?;
    // Interrupted before everything is up, it ends with a failure.
    up.process.wait_for_log("Ctrl-C ends it", PATIENCE)?;

    let children = children(up.process.id())?;
    assert!(
        children.len() >= 4,
        "control plane, two sidecars and an app: {children:?}"
    );
    up.process.signal(Signal::INT)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    becomes("nothing of it is left", &Vec::<u32>::new(), || {
        Ok(children
            .iter()
            .copied()
            .filter(|child| is_running(*child))
            .collect())
    })?;
    TcpListener::bind(local(app_port)).context("the app's port is free again")?;
    Ok(())
}

#[test]
fn a_workload_joins_and_leaves_without_a_failed_call() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let put = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    let billing = |name: &str| -> Result<(Workload, u16)> {
        let port = free_port()?;
        let command = format!("[python3, -u, -m, http.server, \"{port}\", --bind, 127.0.0.1]");
        let workload = Workload::new(name)?.port("app", port, Some("http"));
        Ok((workload.command(&command), port))
    };
    let (first, _) = billing("billing-1")?;
    let (second, second_port) = billing("billing-2")?;
    let order = Workload::new("order-1")?;
    let service = Service::new("billing").port(80, "app", Some("http"));
    put("billing.yaml", service.yaml())?;
    put("billing-1.yaml", first.yaml())?;
    put("order-1.yaml", order.yaml())?;
    let mut up = up(folder)?;
    up.process.wait_for_log("Ctrl-C ends it", PATIENCE)?;
    let load = Load::start(2, local(order.http_port), "billing", "/");
    load.goes_on(CALLS)?;

    let added = up.folder.path().join("billing-2.yaml");
    fs::write(&added, second.yaml())?;
    let says = |what: &str| until(what, PATIENCE, || Ok(up.process.log().contains(what)));
    says("Workload shop/billing-2 is ready; metrics at")?;
    let received = || -> Result<bool> {
        let metrics = Metrics::scrape(second.telemetry_port)?;
        let labels = [("reporter", "destination")];
        Ok(metrics.sum("istio_requests_total", &labels) > 0.0)
    };
    until("it is called", PATIENCE, received)?;
    load.goes_on(CALLS)?;

    // The first goes: from now on all calls are the second's.
    fs::remove_file(up.folder.path().join("billing-1.yaml"))?;
    says("Workload shop/billing-1 has ended")?;
    load.goes_on(CALLS)?;
    load.finish()?;
    TcpListener::bind(local(first.mesh_port)).context("the sidecar's port is free again")?;

    // One that wants a port which is taken is named, and the rest of the mesh goes on.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let late = Workload::new("late-1")?.yaml();
    let port = taken.local_addr()?.port();
    let late = late
        .lines()
        .map(|line| match line.trim_start().starts_with("meshPort:") {
            true => format!("  meshPort: {port}\n"),
            false => format!("{line}\n"),
        })
        .collect::<String>();
    fs::write(up.folder.path().join("late-1.yaml"), late)?;
    says(&format!(
        "port {port} on 127.0.0.1 is in use by another program; Workload shop/late-1 needs it"
    ))?;
    says("Workload shop/late-1 is left out until the next edit")?;

    // One that runs is not ended for what could not be started in its place, nor for a Service's port.
    let missing = second.clone().command("[no-such-program]");
    fs::write(&added, missing.yaml())?;
    says("Workload shop/billing-2 runs on as it was until the next edit")?;
    let wider = Service::new("billing").port(80, "app", Some("http"));
    let wider = wider.port(81, free_port()?, Some("http"));
    fs::write(up.folder.path().join("billing.yaml"), wider.yaml())?;
    fs::write(&added, second.yaml())?;
    fs::remove_file(up.folder.path().join("late-1.yaml"))?;
    let answer = http::get(local(order.http_port), "billing", "/")?;
    assert_eq!(answer.status, 200);
    up.process.signal(Signal::TERM)?;
    assert!(up.process.exit(PATIENCE)?.success());
    let log = up.process.log();
    assert!(!log.contains("Workload shop/billing-2 ends"), "{log}");
    TcpListener::bind(local(second_port)).context("the app's port is free again")?;
    Ok(())
}

/// Every process under this one.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{parent}/task"))?;
    for task in tasks.flatten() {
        let listed = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in listed
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            found.push(child);
            found.extend(self::children(child).unwrap_or_default());
        }
    }
    Ok(found)
}

fn is_running(process: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_port_in_use_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?;
    fs::write(folder.path().join("order-1.yaml"), order.yaml())?;
    let taken = TcpListener::bind(local(order.mesh_port))?;
    let mut up = up(folder)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(!status.success());
    let log = up.process.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in [
        order.mesh_port.to_string(),
        "order-1".into(),
        "meshPort".into(),
    ] {
        assert!(log.contains(&part), "{part} in {log}");
    }
    drop(taken);
    Ok(())
}

#[test]
fn a_bad_file_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?
        .yaml()
        .replace("serviceAccount", "serviceAcount");
    fs::write(folder.path().join("order-1.yaml"), order)?;
    let mut up = up(folder)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(!status.success());
    let log = up.process.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("order-1.yaml:5:") && log.contains("serviceAcount"),
        "{log}"
    );
    Ok(())
}

#[test]
fn an_app_that_cannot_be_started_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?.command("[no-such-program-anywhere]");
    fs::write(folder.path().join("order-1.yaml"), order.yaml())?;
    let mut up = up(folder)?;
    up.process
        .wait_for_log("no-such-program-anywhere", PATIENCE)
}

#[test]
fn the_demos_claims_hold() -> Result<()> {
    let _alone = quiet::alone();
    let mut demo = command(&outrider()?)?;
    demo.args(["demo", "--check"]).current_dir(root());
    let finished = run(&mut demo, Duration::from_secs(120))?;
    let output = finished.output();
    assert!(finished.status.success(), "{output}");
    assert!(
        finished.took < Duration::from_secs(60),
        "it took {:?}",
        finished.took
    );
    assert!(
        finished.stdout.lines().count() >= 6,
        "a line for each claim: {output}"
    );
    Ok(())
}
