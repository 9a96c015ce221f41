//! What goes wrong around a sidecar in a network namespace: each fault has its result.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::Process;
use mesh_tests::capture::Capture;
use mesh_tests::placed::Placed;
use mesh_tests::process::{command, run};
use mesh_tests::programs::find;
use mesh_tests::shop::{ANSWER, Settings, Shop, send};
use mesh_tests::wait::{PATIENCE, becomes, until};
use rustix::process::Signal;

/// curl's exit status when a connection is refused.
const REFUSED: Option<i32> = Some(7);

/// A user's python in a workload.
fn python(mesh: &Placed, workload: &str, user: &str, script: &str) -> Result<Process> {
    let mut start = mesh.inside(workload, "setpriv", "util-linux")?;
    start
        .args(["--reuid", user, "--regid", user, "--clear-groups"])
        .args(["--pdeathsig", "KILL", "--"])
        .args([find("/usr/bin/python3", "python3")?.display().to_string()])
        .args(["-u", "-c", script]);
    Process::start("python", &mesh.logs(), &mut start)
}

fn refusals(mesh: &Placed, workload: &str, direction: &str, reason: &str) -> Result<f64> {
    let labels = [("direction", direction), ("reason", reason)];
    Ok(mesh
        .metrics(workload)?
        .sum("outrider_refusals_total", &labels))
}

#[test]
fn a_host_that_drops_packets_is_given_up_in_time() -> Result<()> {
    let settings = Settings {
        mesh: ", traffic: {timeouts: {connect: 400ms}, retry: {attempts: 0}}",
        ..Settings::default()
    };
    let shop = Shop::start("drops", settings)?;
    let mesh = &shop.mesh;
    for rule in [
        "add table inet drops",
        "add chain inet drops in { type filter hook prerouting priority -400 ; }",
        "add rule inet drops in tcp dport 15008 drop",
    ] {
        let mut nft = mesh.inside("web-1", "nft", "nftables")?;
        run(nft.arg(rule), PATIENCE)?.success()?;
    }
    let start = Instant::now();
    let answer = mesh.curl("client-1", &["http://web/"])?;
    let took = start.elapsed();
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (
            503,
            Some(
                "outrider; error=connection_refused; details=\"connect_failed\"; not_retried=\"disabled\""
            )
        ),
        "{answer:?}"
    );
    let expected = Duration::from_millis(400)..Duration::from_secs(3);
    assert!(expected.contains(&took), "{took:?}");
    assert_eq!(
        refusals(mesh, "client-1", "outbound", "connect_failed")?,
        1.0
    );
    let mut nft = mesh.inside("web-1", "nft", "nftables")?;
    run(nft.arg("delete table inet drops"), PATIENCE)?.success()?;
    becomes("it is called again", &200, || shop.call())
}

#[test]
fn nothing_leaks_while_a_sidecar_dies() -> Result<()> {
    const ASKED: &str = "a-question-that-nobody-else-may-read";
    let shop = Shop::start("leak", Settings::default())?;
    let mesh = &shop.mesh;
    let capture = Capture::start(mesh)?;
    let mut urls = vec![
        format!("http://web/{ASKED}"),
        format!("http://web:90/{ASKED}"),
    ];
    for address in mesh.addresses("client-1", "web-1")? {
        let at = if address.contains(':') {
            format!("[{address}]")
        } else {
            address
        };
        urls.push(format!("http://{at}:8080/{ASKED}"));
    }
    let all = || -> Result<Vec<(Option<i32>, u16)>> {
        let calls = urls.iter().map(|url| mesh.curl("client-1", &[url]));
        calls
            .map(|answer| answer.map(|answer| (answer.code, answer.status)))
            .collect()
    };
    assert_eq!(all()?, vec![(Some(0), 200); urls.len()]);
    // A connection that is open when it dies.
    let script = format!(
        "import socket, time\n\
         opened = socket.create_connection(('web', 90))\n\
         ask = b'GET /{ASKED} HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n'\n\
         opened.sendall(ask)\n\
         print(opened.recv(4096) and 'answered')\n\
         try:\n    \
             while True:\n        opened.sendall(ask); opened.recv(4096) or 1 / 0\n\
         except (OSError, ZeroDivisionError):\n    print('ended')\n"
    );
    for workload in ["client-1", "web-1"] {
        let mut open = python(mesh, "client-1", "1000", &script)?;
        open.wait_for_log("answered", PATIENCE)?;
        let held = shop.hold_up()?;
        shop.signal(workload, Signal::KILL)?;
        open.wait_for_log("ended", PATIENCE)?;
        fs::remove_file(open.log_file())?;
        if workload == "client-1" {
            becomes("all is refused", &vec![(REFUSED, 0); urls.len()], all)?;
        } else {
            for (code, status) in all()? {
                assert!(status == 503 || code != Some(0), "{code:?} {status}");
            }
            // Nobody else gets an answer of the app's, either.
            for address in mesh.addresses("client-1", "web-1")? {
                let at = if address.contains(':') {
                    format!("[{address}]")
                } else {
                    address
                };
                let answer = mesh.curl_from_outside(&[&format!("http://{at}:8080/")])?;
                assert_eq!(answer.code, REFUSED, "{answer:?}");
            }
        }
        drop(held);
        becomes("it is back", &vec![(Some(0), 200); urls.len()], all)?;
    }
    capture.has_none_of(mesh, &[ASKED, ANSWER])
}

#[test]
fn without_ipv6_in_its_namespace_a_sidecar_runs_on_ipv4() -> Result<()> {
    let shop = Shop::start("no-ipv6", Settings::default())?;
    let mesh = &shop.mesh;
    for workload in ["client-1", "web-1"] {
        for which in ["all", "default", "lo"] {
            let mut set = mesh.inside(workload, "sysctl", "procps")?;
            let setting = format!("net.ipv6.conf.{which}.disable_ipv6=1");
            run(set.args(["-w", &setting]), PATIENCE)?.success()?;
        }
        shop.kill(workload)?;
    }
    becomes("calls go on", &200, || shop.call())?;
    let answer = mesh.curl("client-1", &["-6", "http://web/"])?;
    assert_ne!(answer.code, Some(0), "{answer:?}");
    Ok(())
}

#[test]
fn a_program_with_the_sidecars_user_is_told_of() -> Result<()> {
    let shop = Shop::start("stranger", Settings::default())?;
    let mesh = &shop.mesh;
    let metric = "outrider_foreign_sockets";
    assert_eq!(mesh.metrics("client-1")?.value(metric)?, 0.0);
    let script = "import socket, time\n\
                  held = socket.create_server(('127.0.0.1', 7001))\n\
                  print('listens')\ntime.sleep(60)\n";
    let mut stranger = python(mesh, "client-1", "2102", script)?;
    stranger.wait_for_log("listens", PATIENCE)?;
    // A new sidecar looks at once.
    shop.kill("client-1")?;
    becomes("the socket is counted", &1.0, || {
        mesh.metrics("client-1")?.value(metric)
    })?;
    let up = mesh.up.as_ref().context("up runs")?;
    let log = up.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("another program runs as this sidecar's user"))
        .collect();
    ensure!(
        matches!(warnings[..], [line] if line.contains("client-1") && line.contains("port=7001")),
        "{warnings:#?}"
    );
    Ok(())
}

#[test]
fn an_app_is_not_started_as_the_sidecars_user() -> Result<()> {
    let yaml = "apiVersion: outrider.mesh/v1alpha1\nkind: Workload\n\
                metadata: {name: client-1, namespace: shop}\n\
                spec: {serviceAccount: client, runAsUser: 2102}\n";
    let mesh = Placed::prepare("user", &[("mesh.yaml", yaml)])?;
    let folder = mesh.folder.path().display().to_string();
    for words in [
        &["up", &folder, "--netns"][..],
        &["policy", "check", &folder],
    ] {
        let refused = mesh.outrider(words)?;
        assert_eq!(refused.status.code(), Some(1), "{}", refused.output());
        ensure!(
            refused
                .output()
                .contains("spec.runAsUser: is 2102, the sidecar's own"),
            "{}",
            refused.output()
        );
    }
    Ok(())
}

#[test]
fn a_sidecar_without_policy_lets_nothing_through() -> Result<()> {
    let shop = Shop::start(
        "no-policy",
        Settings {
            web: ", mtls: Permissive",
            ..Settings::default()
        },
    )?;
    let mesh = &shop.mesh;
    let instance = mesh.addresses("client-1", "web-1")?[0].clone();
    let direct = format!("http://{instance}:8080/");
    assert_eq!(mesh.curl_from_outside(&[&direct])?.status, 200);
    let _held = shop.hold_up()?;
    let control_plane = control_plane(mesh)?;
    send(control_plane, Signal::KILL)?;
    let mut sidecars = Vec::new();
    for workload in ["client-1", "web-1"] {
        let line = mesh.sidecar_line(workload)?;
        shop.kill(workload)?;
        let mut start = mesh.another_sidecar(workload, &line, &[])?;
        let mut sidecar = Process::start(workload, &mesh.logs(), &mut start)?;
        sidecar.wait_for_log("control plane", PATIENCE)?;
        sidecars.push(sidecar);
    }
    for url in ["http://web/", "http://192.0.2.1/", "http://web-1:8080/"] {
        let answer = mesh.curl("client-1", &[url])?;
        assert_eq!(
            (answer.code, answer.status),
            (REFUSED, 0),
            "{url}: {answer:?}"
        );
    }
    let answer = mesh.curl_from_outside(&[&direct])?;
    assert_eq!((answer.code, answer.status), (REFUSED, 0), "{answer:?}");
    Ok(())
}

/// The process of the control plane.
fn control_plane(mesh: &Placed) -> Result<u32> {
    let folder = mesh.folder.path().display().to_string();
    let found = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_it =
            words.get(1) == Some(&&b"control-plane"[..]) && words.contains(&folder.as_bytes());
        is_it.then(|| entry.file_name().to_str()?.parse().ok())?
    });
    found.context("the control plane runs")
}

#[test]
fn without_file_descriptors_a_sidecar_sheds_and_still_answers_for_itself() -> Result<()> {
    let shop = sheds("files-of-caller", "client-1", "outbound")?;
    let told = shop
        .log()?
        .matches("out of file descriptors: new connections are reset")
        .count();
    ensure!((1..10).contains(&told), "told {told} times");
    Ok(())
}

#[test]
fn without_file_descriptors_for_its_app_a_sidecar_is_not_to_blame() -> Result<()> {
    sheds("files-of-callee", "web-1", "inbound")?;
    Ok(())
}

/// Has `workload` without file descriptors, of which 200 connections from client-1 to web-1 need more.
fn sheds(name: &str, workload: &str, direction: &str) -> Result<Shop> {
    let shop = Shop::start(name, Settings::default())?;
    let mesh = &shop.mesh;
    assert_eq!(shop.call()?, 200);
    let sidecar = mesh.sidecar(workload)?;
    // As its own user, who may take something away from it.
    let mut limit = command(&find("setpriv", "util-linux")?)?;
    limit
        .args(["--reuid=2102", "--regid=2102", "--clear-groups", "--"])
        .arg(find("prlimit", "util-linux")?)
        .args(["--pid", &sidecar.to_string(), "--nofile=64:64"]);
    run(&mut limit, PATIENCE)?.success()?;
    let script = "import socket, time\n\
                  held = [socket.create_connection(('web', 90)) for _ in range(200)]\n\
                  [each.settimeout(5) for each in held]\n\
                  reset = 0\n\
                  for each in held:\n    \
                      try:\n        reset += each.recv(1) == b''\n    \
                      except ConnectionResetError:\n        reset += 1\n    \
                      except TimeoutError:\n        break\n\
                  print('held')\ntime.sleep(60)\n";
    let mut holds = python(mesh, "client-1", "1000", script)?;
    until("connections are shed", PATIENCE, || {
        // Its own ports answer nevertheless.
        let metrics = mesh.metrics(workload)?;
        let labels = [("direction", direction), ("reason", "too_many_connections")];
        Ok(metrics.sum("outrider_refusals_total", &labels) > 100.0)
    })?;
    holds.kill()?;
    becomes("it serves again", &200, || shop.call())?;
    assert_eq!(mesh.sidecar(workload)?, sidecar, "it lived");
    let blamed = shop.log()?.contains("an endpoint's breaker");
    ensure!(!blamed, "what a sidecar lacks is no fault of an endpoint");
    Ok(shop)
}
