//! What an app calls that is not in the mesh, through interception: here, servers on the machine.

use std::fs;

use anyhow::{Context, Result};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::placed::Placed;
use mesh_tests::process::{Process, command, run};
use mesh_tests::programs::find;
use mesh_tests::wait::{PATIENCE, until};

/// What the bridge has, where the machine is to a workload.
const MACHINE: &str = "10.201.0.1";
const MACHINE_V6: &str = "fd4f:7574:7269:88::1";

fn mesh(label: &str, unknown: &str) -> Result<Placed> {
    Placed::start(label, &[("mesh.yaml", &yaml(unknown))])
}

fn yaml(unknown: &str) -> String {
    format!(
        r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{trustDomain: shop.example, defaultDeny: true, unknownDestinations: {unknown}}}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: client-1, namespace: shop}}
spec: {{serviceAccount: client}}
"#
    )
}

/// A server of Python's or openssl's on the machine, once it listens.
fn on_the_machine(
    mesh: &Placed,
    name: &str,
    program: (&str, &str),
    arguments: &[&str],
    port: u16,
) -> Result<Process> {
    let mut start = mesh.command(&find(program.0, program.1)?)?;
    start.args(arguments).current_dir(mesh.logs());
    let process = Process::start(name, &mesh.logs(), &mut start)?;
    let looked = [&format!("sport = :{port}")[..]];
    until("the server listens", PATIENCE, || {
        let mut ss = mesh.command(&find("ss", "iproute2")?)?;
        let listed = run(ss.args(["-Hltn"]).args(looked), CLIENT_LIMIT)?;
        Ok(!listed.success()?.stdout.is_empty())
    })?;
    Ok(process)
}

fn pages(mesh: &Placed) -> Result<Process> {
    let arguments = ["-u", "-m", "http.server", "8000", "--bind", MACHINE];
    on_the_machine(
        mesh,
        "pages",
        ("/usr/bin/python3", "python3"),
        &arguments,
        8000,
    )
}

fn counted(mesh: &Placed, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(mesh.metrics("client-1")?.sum(name, labels))
}

#[test]
fn unknown_destinations_pass_and_are_counted_by_the_name_that_the_client_says() -> Result<()> {
    let mesh = mesh("allow", "Allow")?;
    let _pages = pages(&mesh)?;
    let url = format!("http://{MACHINE}:8000/");
    let answer = mesh.curl("client-1", &[&url, "--header", "Host: Pages.example:8000"])?;
    assert_eq!(answer.status, 200, "{answer:?}");

    let (key, certificate) = (mesh.logs().join("key"), mesh.logs().join("certificate"));
    let openssl = find("openssl", "openssl")?;
    let mut made = command(&openssl)?;
    made.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ])
    .args(["-nodes", "-days", "2", "-subj", "/CN=vault.example"])
    .args(["-addext", "subjectAltName=DNS:vault.example"])
    .arg("-keyout")
    .arg(&key)
    .arg("-out")
    .arg(&certificate);
    run(&mut made, CLIENT_LIMIT)?.success()?;
    let certificate = certificate.display().to_string();
    let serving = ["s_server", "-quiet", "-www", "-accept", "8443", "-key"];
    let key = key.display().to_string();
    let serving = [&serving[..], &[&key, "-cert", &certificate]].concat();
    let _vault = on_the_machine(&mesh, "vault", ("openssl", "openssl"), &serving, 8443)?;
    let resolve = format!("vault.example:8443:{MACHINE}");
    let tls = [
        "--cacert",
        &certificate,
        "--resolve",
        &resolve,
        "https://vault.example:8443/",
    ];
    let answer = mesh.curl("client-1", &tls)?;
    assert_eq!(answer.status, 200, "{answer:?}");

    for (by, name) in [("host", "pages.example"), ("sni", "vault.example")] {
        until("the name is counted", PATIENCE, || {
            let labels = [("destination", "unknown"), ("by", by), ("name", name)];
            Ok(counted(&mesh, "outrider_named_connections_total", &labels)? == 1.0)
        })?;
    }
    let labels = [("direction", "outbound"), ("to", "unknown")];
    assert_eq!(
        counted(&mesh, "outrider_intercepted_connections_total", &labels)?,
        2.0
    );

    // Where nobody listens, the connection is reset, as it would be without the mesh.
    let refused = mesh.curl("client-1", &[&format!("http://{MACHINE}:9/")])?;
    assert!(refused.was_reset(), "{refused:?}");
    let labels = [
        ("direction", "outbound"),
        ("reason", "destination_unreachable"),
    ];
    assert_eq!(counted(&mesh, "outrider_refusals_total", &labels)?, 1.0);
    Ok(())
}

#[test]
fn a_destination_that_never_answers_is_given_up() -> Result<()> {
    let mesh = mesh("silent", "Allow")?;
    // The machine drops what is for this address, without a word.
    mesh.machine
        .ip(&["route", "add", "blackhole", "192.0.2.0/24"])?;
    mesh.machine
        .run("nft", "nftables", &["add", "table", "inet", "silent"])?
        .success()?;
    let chain = "{ type filter hook prerouting priority -300 ; }";
    mesh.machine
        .run(
            "nft",
            "nftables",
            &["add", "chain", "inet", "silent", "in", chain],
        )?
        .success()?;
    let drop = [
        "add",
        "rule",
        "inet",
        "silent",
        "in",
        "ip",
        "daddr",
        "192.0.2.0/24",
        "drop",
    ];
    mesh.machine.run("nft", "nftables", &drop)?.success()?;
    let answer = mesh.curl("client-1", &["--max-time", "20", "http://192.0.2.1/"])?;
    assert!(answer.was_reset(), "{answer:?}");
    let labels = [
        ("direction", "outbound"),
        ("reason", "destination_unreachable"),
    ];
    assert_eq!(counted(&mesh, "outrider_refusals_total", &labels)?, 1.0);
    Ok(())
}

#[test]
fn unknown_destinations_may_be_denied() -> Result<()> {
    let mesh = mesh("deny", "Deny")?;
    let _pages = pages(&mesh)?;
    let url = format!("http://{MACHINE}:8000/");
    let answer = mesh.curl("client-1", &[&url, "--header", "Host: pages.example"])?;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (
            404,
            Some("outrider; error=destination_not_found; details=\"unknown_destination\"")
        )
    );
    let labels = [
        ("destination", "refused"),
        ("by", "host"),
        ("name", "pages.example"),
    ];
    assert_eq!(
        counted(&mesh, "outrider_named_connections_total", &labels)?,
        1.0
    );
    let labels = [("direction", "outbound"), ("to", "refused")];
    assert_eq!(
        counted(&mesh, "outrider_intercepted_connections_total", &labels)?,
        1.0
    );
    Ok(())
}

#[test]
fn what_is_known_as_outside_is_denied_as_soon_as_the_mesh_says_so() -> Result<()> {
    let mesh = mesh("turn", "Allow")?;
    let arguments = ["-u", "-m", "http.server", "8000", "--bind", "::"];
    let program = ("/usr/bin/python3", "python3");
    let _pages = on_the_machine(&mesh, "pages", program, &arguments, 8000)?;
    let urls = [MACHINE, &format!("[{MACHINE_V6}]")].map(|host| format!("http://{host}:8000/"));
    for url in &urls {
        let answer = mesh.curl("client-1", &[url])?;
        assert_eq!(answer.status, 200, "{url}: {answer:?}");
    }
    fs::write(mesh.folder.path().join("mesh.yaml"), yaml("Deny"))?;
    for url in &urls {
        until("it is refused", PATIENCE, || {
            let answer = mesh.curl("client-1", &[url])?;
            let details = answer.header("proxy-status").unwrap_or_default();
            Ok(answer.status == 404 && details.contains("unknown_destination"))
        })?;
    }
    // TLS has no place for a reason: it ends.
    let resolve = format!("vault.example:8000:[{MACHINE_V6}]");
    let tls = ["--resolve", &resolve, "https://vault.example:8000/"];
    let refused = mesh.curl("client-1", &tls)?;
    assert_eq!((refused.status, refused.code), (0, Some(35)), "{refused:?}");
    let labels = [
        ("destination", "refused"),
        ("by", "sni"),
        ("name", "vault.example"),
    ];
    assert_eq!(
        counted(&mesh, "outrider_named_connections_total", &labels)?,
        1.0
    );
    Ok(())
}

#[test]
fn dns_passes_untouched() -> Result<()> {
    let mesh = mesh("dns", "Deny")?;
    let listen = format!("--listen-address={MACHINE}");
    let arguments = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--bind-interfaces",
        "--host-record=far.example,192.0.2.7",
        &listen,
    ];
    let _dns = on_the_machine(
        &mesh,
        "dnsmasq",
        ("dnsmasq", "dnsmasq-base"),
        &arguments,
        53,
    )?;
    for family in ["+notcp", "+tcp"] {
        let mut dig = mesh.inside("client-1", "dig", "dnsutils")?;
        dig.args([&format!("@{MACHINE}"), "far.example", "+short", family]);
        let answer = run(&mut dig, CLIENT_LIMIT)?.success()?;
        assert_eq!(answer.stdout, "192.0.2.7\n", "{family}");
    }
    let labels = [("direction", "outbound")];
    let intercepted = counted(&mesh, "outrider_intercepted_connections_total", &labels)?;
    assert_eq!(intercepted, 0.0, "DNS went through the sidecar");
    Ok(())
}

#[test]
fn without_the_control_plane_what_is_not_known_is_not_passed() -> Result<()> {
    let mesh = mesh("alone", "Allow")?;
    let _pages = pages(&mesh)?;
    let url = format!("http://{MACHINE}:8000/");
    assert_eq!(mesh.curl("client-1", &[&url])?.status, 200);
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let folder = mesh.folder.path().display().to_string();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_it =
            words.get(1) == Some(&&b"control-plane"[..]) && words.contains(&folder.as_bytes());
        is_it.then(|| entry.file_name().into_string().ok())?
    });
    let pid: Vec<String> = pids.collect();
    let pid = pid.first().context("the control plane runs")?;
    // Stopped, not killed: `up` would start another.
    run(
        command(&find("kill", "procps")?)?.args(["-STOP", pid]),
        CLIENT_LIMIT,
    )?
    .success()?;
    assert_eq!(
        mesh.curl("client-1", &[&url])?.status,
        200,
        "what is known stays"
    );
    let answer = mesh.curl("client-1", &["http://198.51.100.1/"])?;
    run(
        command(&find("kill", "procps")?)?.args(["-CONT", pid]),
        CLIENT_LIMIT,
    )?
    .success()?;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (
            503,
            Some("outrider; error=destination_unavailable; details=\"destination_unresolved\"")
        ),
        "{answer:?}"
    );
    Ok(())
}
