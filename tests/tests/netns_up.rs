//! `outrider up --netns` and `outrider demo --netns`: from start to end, and what is left when they
//! were killed.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::load::Load;
use mesh_tests::netns::Netns;
use mesh_tests::placed::Placed;
use mesh_tests::process::{command_as, run};
use mesh_tests::programs::{outrider, root};
use mesh_tests::shop::is_gone;
use mesh_tests::wait::{PATIENCE, becomes, holds, until};
use mesh_tests::{Process, quiet};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns_calls::{WEB, WORKLOADS};

const FILES: [(&str, &str); 2] = [("web.yaml", WEB), ("workloads.yaml", WORKLOADS)];
/// So many requests show that calls go on.
const CALLS: u64 = 100;
/// curl's exit status when a connection is refused.
const REFUSED: Option<i32> = Some(7);

fn call(mesh: &Placed) -> Result<(Option<i32>, u16)> {
    let answer = mesh.curl("client-1", &["http://web/"])?;
    Ok((answer.code, answer.status))
}

fn kill(process: u32) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(process)?).context("a process")?;
    Ok(kill_process(process, Signal::KILL)?)
}

#[test]
fn nothing_is_left_at_the_end() -> Result<()> {
    let mut mesh = Placed::start("end", &FILES)?;
    assert_eq!(call(&mesh)?, (Some(0), 200));
    let id = mesh.id()?;
    // Three namespaces and as many folders of names, a bridge with three links, and the mesh's own.
    assert_eq!(mesh.left(&id)?.len(), 3 + 3 + 4 + 1);
    let sidecar = mesh.sidecar("client-1")?;
    mesh.process()?.signal(Signal::INT)?;
    let status = mesh.process()?.exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    assert_eq!(mesh.left(&id)?, Vec::<String>::new());
    assert!(
        !fs::exists(format!("/proc/{sidecar}"))?,
        "the sidecar is gone"
    );
    Ok(())
}

#[test]
fn a_mesh_that_was_killed_is_cleaned_up_by_the_next() -> Result<()> {
    let mut mesh = Placed::start("crash", &FILES)?;
    let id = mesh.id()?;
    mesh.process()?.kill()?;
    ensure!(!mesh.left(&id)?.is_empty(), "nobody was there to clean up");
    mesh.again()?;
    assert_eq!(mesh.id()?, id, "the names are those of the directory");
    assert_eq!(call(&mesh)?, (Some(0), 200));
    assert_eq!(mesh.left(&id)?.len(), 3 + 3 + 4 + 1);
    mesh.process()?.signal(Signal::TERM)?;
    assert!(mesh.process()?.exit(PATIENCE)?.success());
    assert_eq!(mesh.left(&id)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_second_mesh_of_a_directory_says_so() -> Result<()> {
    let mesh = Placed::start("twice", &FILES)?;
    let first = mesh.up.as_ref().context("up runs")?.id();
    let folder = mesh.folder.path().display().to_string();
    let second = mesh.outrider(&["up", &folder, "--netns"])?;
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(
        second.stderr,
        format!(
            "outrider: this mesh runs already, as process {first}: end that one first, or use another --state-dir\n"
        )
    );
    assert_eq!(
        call(&mesh)?,
        (Some(0), 200),
        "the first one is none the worse"
    );
    // Another directory, with the same addresses.
    let other = tempfile::tempdir()?;
    fs::write(
        other.path().join("mesh.yaml"),
        format!("{WEB}---{WORKLOADS}"),
    )?;
    let other = other.path().display().to_string();
    let second = mesh.outrider(&["up", &other, "--netns"])?;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second
            .stderr
            .contains("10.201.0.0/16 of the mesh: choose another range in spec.network.workloads"),
        "{}",
        second.stderr
    );
    Ok(())
}

#[test]
fn traffic_stops_while_a_sidecar_is_dead() -> Result<()> {
    let mesh = Placed::start("dead", &FILES)?;
    assert_eq!(call(&mesh)?, (Some(0), 200));
    let instance = mesh.addresses("client-1", "web-1")?[0].clone();
    let direct = format!("http://{instance}:8080/");
    // Whoever would start them again is held.
    let up = mesh.up.as_ref().context("up runs")?;
    up.signal(Signal::STOP)?;
    kill(mesh.sidecar("client-1")?)?;
    until("outbound connections are refused", PATIENCE, || {
        Ok(call(&mesh)?.0 == REFUSED)
    })?;
    for url in ["http://web/", "http://web-1:8080/", direct.as_str()] {
        let answer = mesh.curl("client-1", &[url])?;
        assert_eq!(answer.code, REFUSED, "{url}: {answer:?}");
    }
    kill(mesh.sidecar("web-1")?)?;
    holds("nobody reaches the app", Duration::from_millis(300), || {
        let answer = mesh.curl_from_outside(&[&direct])?;
        Ok(answer.code == REFUSED || answer.status == 403)
    })?;
    assert_eq!(mesh.curl_from_outside(&[&direct])?.code, REFUSED);
    up.signal(Signal::CONT)?;
    becomes("both are started again", &(Some(0), 200), || call(&mesh))
}

#[test]
fn a_workload_joins_and_leaves_while_the_mesh_runs() -> Result<()> {
    let mesh = Placed::start("joins", &FILES)?;
    let id = mesh.id()?;
    let left = || -> Result<usize> { Ok(mesh.left(&id)?.len()) };
    let before = left()?;
    let up = mesh.up.as_ref().context("up runs")?;
    let says = |line: &str| until(line, PATIENCE, || Ok(up.log().contains(line)));
    let web = mesh.addresses("client-1", "web")?[0].clone();
    let web: SocketAddr = format!("{web}:80").parse()?;
    let load = mesh.within("client-1", || Ok(Load::start(2, web, "web", "/")))?;
    load.goes_on(CALLS)?;

    let second = WORKLOADS.split("---").next().context("web-1")?;
    let second = second.replace("web-1", "web-2");
    let file = mesh.folder.path().join("web-2.yaml");
    fs::write(&file, second)?;
    says("Workload shop/web-2 is ready in the namespace")?;
    // A namespace, its folder of names, and its link.
    assert_eq!(left()?, before + 3);
    let received = || -> Result<bool> {
        let labels = [("reporter", "destination")];
        let metrics = mesh.metrics("web-2")?;
        Ok(metrics.sum("istio_requests_total", &labels) > 0.0)
    };
    until("it is called", PATIENCE, received)?;
    let answer = mesh.curl("client-1", &["http://web-2:8080/"])?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let plain = format!("http://{}:8080/", mesh.addresses("client-1", "web-2")?[0]);
    let refused = mesh.curl_from_outside(&[&plain])?;
    assert_eq!(refused.status, 403, "its connections are intercepted");
    load.goes_on(CALLS)?;

    let sidecar = mesh.sidecar("web-2")?;
    fs::remove_file(&file)?;
    says("Workload shop/web-2 has ended")?;
    assert!(is_gone(sidecar));
    assert_eq!(left()?, before);
    load.goes_on(CALLS)?;
    load.finish()?;

    // Described otherwise, it is another process with the same name and address.
    let sidecar = mesh.sidecar("web-1")?;
    let moved = WORKLOADS.replace("--directory, /etc/netns", "--directory, /etc");
    fs::write(mesh.folder.path().join("workloads.yaml"), moved)?;
    says("Workload shop/web-1 is ready in the namespace")?;
    assert!(is_gone(sidecar));
    let answer = mesh.curl("client-1", &["http://web/"])?;
    assert!(answer.body.contains("netns/"), "{answer:?}");
    assert_eq!(left()?, before);

    // Nothing of it can be had: one line says so, and the mesh goes on.
    let elsewhere = WORKLOADS.split("---").nth(1).context("client-1")?;
    let elsewhere = elsewhere.replace("client-1", "late-1").replace(
        "{serviceAccount: client, runAsUser: 1000}",
        "{serviceAccount: client, command: [no-such-program-anywhere]}",
    );
    fs::write(&file, elsewhere)?;
    says("Workload shop/late-1: spec.command[0]: no program \"no-such-program-anywhere\" in PATH")?;
    assert_eq!(left()?, before);
    assert_eq!(call(&mesh)?, (Some(0), 200));
    Ok(())
}

#[test]
fn the_table_is_there_for_programs() -> Result<()> {
    let mesh = Placed::prepare("json", &FILES)?;
    let out = mesh.logs().join("out.json");
    let mut start = mesh.command(&outrider()?)?;
    start.arg("up").arg(mesh.folder.path());
    start.args(["--netns", "--output", "json"]);
    // Process gives both outputs to one file: what is read here is the first one alone.
    let script = "exec \"$@\" >\"$OUT\"";
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(start.get_program());
    shell.args(start.get_args()).env("OUT", &out);
    let mut up = Process::start("up", &mesh.logs(), &mut shell)?.stopped_by(Signal::TERM);
    up.wait_for_log("Ctrl-C ends it", PATIENCE)?;
    let told: Value = serde_json::from_str(&fs::read_to_string(&out)?)?;
    assert_eq!(told["controlPlane"], "10.201.0.1:15012");
    let workloads = told["workloads"].as_array().context("workloads")?;
    assert_eq!(workloads.len(), 3);
    let web = workloads
        .iter()
        .find(|workload| workload["workload"] == "shop/web-1")
        .context("web-1")?;
    let netns = web["netns"].as_str().context("netns")?;
    assert!(
        netns.starts_with("outr-") && netns.ends_with("-web-1"),
        "{netns}"
    );
    assert_eq!(web["addresses"].as_array().context("addresses")?.len(), 2);
    assert!(fs::exists(format!("/run/netns/{netns}"))?);
    Ok(())
}

#[test]
fn what_cannot_be_run_says_what_to_do() -> Result<()> {
    let mesh = Placed::prepare("no", &FILES)?;
    let folder = mesh.folder.path().display().to_string();
    let fails = |arguments: &[&str], expected: &str| -> Result<()> {
        let finished = mesh.outrider(arguments)?;
        assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
        ensure!(finished.stderr.contains(expected), "{}", finished.stderr);
        Ok(())
    };
    fails(
        &["up", &folder],
        "Workload shop/client-1 has no spec.address, so it needs a network of its own: run this as root with --netns",
    )?;
    fails(
        &["exec", &folder, "client-1", "--", "true"],
        "no mesh runs from",
    )?;
    // A link of the machine that leads into the range.
    mesh.machine
        .ip(&["link", "add", "vpn0", "type", "bridge"])?;
    mesh.machine.ip(&["link", "set", "vpn0", "up"])?;
    mesh.machine
        .ip(&["route", "add", "10.201.7.0/24", "dev", "vpn0"])?;
    fails(
        &["up", &folder, "--netns"],
        "this machine routes 10.201.7.0/24 by vpn0, which overlaps 10.201.0.0/16 of the mesh",
    )?;
    mesh.machine.ip(&["link", "del", "vpn0"])?;
    let loopback = WORKLOADS.replace(
        "{serviceAccount: other}",
        "{serviceAccount: other, address: 127.0.0.1}",
    );
    fs::write(mesh.folder.path().join("workloads.yaml"), loopback)?;
    fails(
        &["up", &folder, "--netns"],
        "Workload shop/other-1 has the address 127.0.0.1, at which nobody outside of its namespace reaches it: \
         leave spec.address out",
    )
}

#[test]
fn only_root_makes_namespaces() -> Result<()> {
    let _root = Netns::new("root")?;
    let mut up = command_as("65534", "65534", &outrider()?)?;
    up.args(["up", "/somewhere", "--netns"]);
    let finished = run(&mut up, PATIENCE)?;
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert_eq!(
        finished.stderr,
        "outrider: --netns makes network namespaces, which only root may: run it with sudo, or without --netns\n"
    );
    Ok(())
}

#[test]
fn a_machine_without_ipv6_has_a_mesh_of_ipv4() -> Result<()> {
    let mut mesh = Placed::prepare("four", &FILES)?;
    for which in ["all", "default"] {
        let setting = format!("net/ipv6/conf/{which}/disable_ipv6");
        mesh.machine.sysctl(&setting, "1")?;
    }
    mesh.again()?;
    assert_eq!(call(&mesh)?, (Some(0), 200));
    assert_eq!(mesh.addresses("client-1", "web")?.len(), 1);
    let answer = mesh.curl("client-1", &["http://web-1:8080/"])?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ok(())
}

#[test]
fn the_demos_claims_hold_in_namespaces() -> Result<()> {
    let _alone = quiet::alone();
    let machine = Placed::prepare("demo", &[])?;
    let mut demo = machine.command(&outrider()?)?;
    demo.args(["demo", "--netns", "--check"])
        .current_dir(root());
    let finished = run(&mut demo, Duration::from_secs(120))?;
    let output = finished.output();
    assert!(finished.status.success(), "{output}");
    assert!(
        finished.took < Duration::from_secs(60),
        "it took {:?}",
        finished.took
    );
    Ok(())
}
