//! The bench: what a pair of sidecars costs. It prints figures, and judges none.
#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

mod memory;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::Mesh;
use mesh_tests::http::local;
use mesh_tests::peers::{Server, nginx};
use mesh_tests::process::{Finished, command, keep_output_to_files, run};
use mesh_tests::programs::find;
use mesh_tests::wait::PATIENCE;
use rustix::process::{Resource, getrlimit, setrlimit};

const PAIR: [&str; 2] = ["order-1", "billing-1"];
/// Requests of each load that goes as fast as it can.
const REQUESTS: u32 = 60_000;
/// How long one load may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Connections of each load.
const CONNECTIONS: &str = "64";
/// Requests per second at which latency is measured.
const RATE: u32 = 1000;
/// 1 KiB, as a small JSON answer.
const BODY: usize = 1024;

fn main() -> Result<()> {
    keep_output_to_files();
    raise_file_limit();
    println!("{:<52} {:>16}", "measured", "value");
    memory::start()?;
    memory::peers()?;
    memory::apps()?;
    memory::gone()?;
    if std::env::args().any(|argument| argument == "--memory") {
        return Ok(());
    }
    for (name, protocol, options) in [
        ("HTTP/1.1", "http", ""),
        ("HTTP/2", "kubernetes.io/h2c", "http2"),
    ] {
        let folder = tempfile::tempdir()?;
        let site = format!(
            "keepalive_requests 100000000; location /status {{ stub_status; }} location / {{ return 200 \"{}\"; }}",
            "b".repeat(BODY)
        );
        let nginx = nginx(folder.path(), "nginx", options, &site)?;
        let mut mesh = pair(nginx.port, Some(protocol))?;
        throughput(&mut mesh, &nginx, name, options)?;
        latency(&mesh, name, options, folder.path())?;
    }
    Ok(())
}

/// A thousand connections, and as many of the load generators and nginx, which inherit it.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is forbidden, opening files will say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn pair(port: u16, protocol: Option<&str>) -> Result<Mesh> {
    Mesh::pair(port, protocol)?
        .setting("defaultDeny", false)
        .start()
}

fn told(what: &str, value: impl std::fmt::Display) {
    println!("{what:<52} {value:>16}");
}

/// CPU time that both sidecars have used.
fn cpu(mesh: &mut Mesh) -> Result<Duration> {
    PAIR.into_iter()
        .map(|name| mesh.process(name)?.cpu_time())
        .sum()
}

/// Requests that the app has counted, this one not among them.
fn counted(nginx: &Server, options: &str) -> Result<u64> {
    let url = format!("http://{}/status", local(nginx.port));
    let mut curl = mesh_tests::peers::curl()?;
    if !options.is_empty() {
        curl.arg("--http2-prior-knowledge");
    }
    let status = run(curl.args(["-f", &url]), PATIENCE)?.success()?.stdout;
    let line = status.lines().nth(2).context("the line of totals")?;
    let requests = line.split_whitespace().last().context("requests")?;
    Ok(requests.parse::<u64>()?.saturating_sub(1))
}

fn h2load(options: &str, arguments: &[&str], mesh: &Mesh) -> Result<Finished> {
    let mut load = command(&find("h2load", "nghttp2-client")?)?;
    if options.is_empty() {
        load.arg("--h1");
    }
    // The port of its own for billing: h2load will not send another Host.
    load.args(arguments).arg(format!(
        "http://{}/",
        mesh.upstream("order-1", "billing", 80)?
    ));
    let finished = run(&mut load, LIMIT)?.success()?;
    ensure!(
        finished.stdout.contains(" 0 failed, 0 errored"),
        "{}",
        finished.stdout
    );
    Ok(finished)
}

/// As fast as it goes: requests per second, and CPU per request of the pair.
fn throughput(mesh: &mut Mesh, nginx: &Server, name: &str, options: &str) -> Result<()> {
    let total = REQUESTS.to_string();
    let streams = if options.is_empty() { "1" } else { "8" };
    let arguments = ["-n", total.as_str(), "-c", CONNECTIONS, "-m", streams];
    let (before, cpu_before) = (counted(nginx, options)?, cpu(mesh)?);
    let start = Instant::now();
    h2load(options, &arguments, mesh)?;
    let took = start.elapsed();
    let requests = counted(nginx, options)? - before;
    let used = cpu(mesh)? - cpu_before;
    ensure!(requests > 0, "no request reached the app");
    let micros = used.as_micros() as f64 / requests as f64;
    told(
        &format!("{name}: CPU per request of the pair"),
        format!("{micros:.1} µs"),
    );
    let rate = requests as f64 / took.as_secs_f64();
    told(
        &format!("{name}: {CONNECTIONS} connections, {streams} streams each"),
        format!("{rate:.0}/s"),
    );
    Ok(())
}

/// At a fixed rate: what half and 99 of 100 requests take.
fn latency(mesh: &Mesh, name: &str, options: &str, folder: &Path) -> Result<()> {
    const CLIENTS: u32 = 20;
    const SECONDS: u32 = 6;
    let log = folder.join(format!("latency-{}", options.len()));
    let (clients, each) = (CLIENTS.to_string(), (RATE / CLIENTS).to_string());
    let total = (RATE * SECONDS).to_string();
    let file = format!("--log-file={}", log.display());
    let arguments = [
        "-n", &total, "-c", &clients, "-m", "1", "--rps", &each, &file,
    ];
    h2load(options, &arguments, mesh)?;
    // Start, status and duration in microseconds, with tabs between.
    let mut micros: Vec<u64> = fs::read_to_string(&log)?
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse().ok())
        .collect();
    micros.sort_unstable();
    ensure!(!micros.is_empty(), "no request was logged");
    for (part, index) in [("p50", micros.len() / 2), ("p99", micros.len() * 99 / 100)] {
        told(
            &format!("{name}: {part} at {RATE}/s"),
            format!("{:.2} ms", micros[index] as f64 / 1000.0),
        );
    }
    Ok(())
}
