//! Real programs on both sides of a mesh. Each listens on a free port of loopback, keeps its files in
//! the folder it is given, and ends with its test.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Signal, geteuid};
use serde_json::Value;

use crate::http::{self, local};
use crate::pki::Identity;
use crate::ports::free_port;
use crate::process::{Finished, Process, command, command_as, run, run_with_input};
use crate::programs::{find, find_postgres, grpc_go, python, script};
use crate::wait::{PATIENCE, until};

/// How long one run of a client may take.
pub const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// A server and its port.
#[derive(Debug)]
pub struct Server {
    pub process: Process,
    pub port: u16,
}

impl Server {
    /// Waits until it takes connections.
    fn started(mut process: Process, port: u16) -> Result<Self> {
        until("the server listens", PATIENCE, || {
            anyhow::ensure!(process.running(), "it ended:\n{}", process.log());
            Ok(TcpStream::connect(local(port)).is_ok())
        })?;
        Ok(Self { process, port })
    }
}

/// curl, without a configuration or a proxy of the user's.
pub fn curl() -> Result<Command> {
    let mut curl = command(&find("curl", "curl")?)?;
    curl.args([
        "-q",
        "--noproxy",
        "*",
        "--no-progress-meter",
        "--max-time",
        "60",
    ]);
    Ok(curl)
}

/// Runs curl with these arguments; the exit status is the caller's to judge.
pub fn curl_run(arguments: &[&str]) -> Result<Finished> {
    run(curl()?.args(arguments), Duration::from_secs(70))
}

/// nginx with one server block; `listen` gets the port, `body` is its content.
pub fn nginx(folder: &Path, name: &str, options: &str, body: &str) -> Result<Server> {
    let port = free_port()?;
    let prefix = folder.join(name);
    fs::create_dir_all(prefix.join("tmp"))?;
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr info;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log access.log;\n  client_max_body_size 0;\n  \
         large_client_header_buffers 8 128k;\n  http2_max_field_size 128k;\n  \
         http2_max_header_size 256k;\n  \
         client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;\n  \
         uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;\n  \
         server {{\n    listen 127.0.0.1:{port} {options};\n    {body}\n  }}\n}}\n"
    );
    let file = prefix.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut start = command(&find("nginx", "nginx-light")?)?;
    start
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(&prefix)
        .arg("-c")
        .arg(&file);
    Server::started(Process::start(name, folder, &mut start)?, port)
}

pub fn redis(folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut start = command(&find("redis-server", "redis-server")?)?;
    start
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
        ])
        .args(["no", "--dir"])
        .arg(folder);
    Server::started(Process::start("redis", folder, &mut start)?, port)
}

pub fn nats(folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut start = command(&find("nats-server", "nats-server")?)?;
    start.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
    Server::started(Process::start("nats", folder, &mut start)?, port)
}

/// Whose database a Postgres is.
const POSTGRES: &str = "postgres";

/// A data directory for Postgres in `folder`; as root with the number of the user `postgres`, whose it
/// is, since Postgres refuses to run as root.
pub fn postgres_data(folder: &Path) -> Result<(PathBuf, Option<u32>)> {
    let data = folder.join("postgres");
    fs::create_dir(&data)?;
    let mut user = None;
    if geteuid().is_root() {
        let id = run(
            command(&find("id", "coreutils")?)?.args(["-u", POSTGRES]),
            CLIENT_LIMIT,
        )?;
        let id = id.success()?.stdout.trim().parse();
        user = Some(id.context("the number of postgres")?);
        chown(&data, user, None)?;
        // Every folder above must let it through.
        for above in data.ancestors().skip(1) {
            let mode = fs::metadata(above)?.permissions().mode();
            if mode & 0o001 == 0 {
                fs::set_permissions(above, fs::Permissions::from_mode(mode | 0o011))?;
            }
        }
    }
    let mut init = command_as(POSTGRES, POSTGRES, &find_postgres("initdb")?)?;
    init.current_dir("/")
        .arg("-D")
        .arg(&data)
        .args(["-U", POSTGRES, "-A", "trust", "--no-sync"]);
    run(&mut init, CLIENT_LIMIT)?.success()?;
    // Whoever reaches it is let in: who may is up to the mesh.
    let access = "host all all all trust\n";
    fs::write(data.join("pg_hba.conf"), access)?;
    Ok((data, user))
}

/// Postgres with a database made for this test.
pub fn postgres(folder: &Path) -> Result<Server> {
    let port = free_port()?;
    let (data, _) = postgres_data(folder)?;
    let mut start = command_as(POSTGRES, POSTGRES, &find_postgres("postgres")?)?;
    start
        .current_dir("/")
        .arg("-D")
        .arg(&data)
        .args(["-p", &port.to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "fsync=off",
    ] {
        start.args(["-c", setting]);
    }
    // Its fast shutdown: the postmaster ends its children before itself.
    let process = Process::start("postgres", folder, &mut start)?.stopped_by(Signal::INT);
    let server = Server::started(process, port)?;
    until("Postgres answers a query", PATIENCE, || {
        Ok(psql(port, "select 1")?.status.success())
    })?;
    Ok(server)
}

/// Runs one statement over loopback, unaligned and without headings.
pub fn psql(port: u16, statement: &str) -> Result<Finished> {
    let mut psql = command(&find("psql", "postgresql-client")?)?;
    psql.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-d",
        "postgres",
    ])
    .args([
        "-v",
        "ON_ERROR_STOP=1",
        "-p",
        &port.to_string(),
        "-c",
        statement,
    ])
    .env("PGCONNECT_TIMEOUT", "10");
    run(&mut psql, CLIENT_LIMIT)
}

/// A Python program of tests/peers.
pub fn python_peer(name: &str) -> Result<Command> {
    let mut peer = command(&python()?)?;
    peer.arg("-u").arg(script(name));
    Ok(peer)
}

/// A server of tests/peers that takes `--port` and prints `listening`.
pub fn python_server(folder: &Path, name: &str, arguments: &[&str]) -> Result<Server> {
    let port = free_port()?;
    let mut start = python_peer(name)?;
    start
        .arg("server")
        .args(["--port", &port.to_string()])
        .args(arguments);
    let mut process = Process::start(&format!("{name}-server"), folder, &mut start)?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(Server { process, port })
}

/// Writes HTTP/2 frames as they are told (tests/peers/h2_raw.py), over TLS if there is an identity,
/// and returns every frame that came back.
pub fn h2_raw(port: u16, identity: Option<&Identity>, steps: &Value) -> Result<Vec<Value>> {
    let mut peer = python_peer("h2_raw.py")?;
    peer.arg(port.to_string());
    if let Some(identity) = identity {
        peer.arg(&identity.certificate).arg(&identity.key);
    }
    let finished = run_with_input(&mut peer, steps.to_string().as_bytes(), CLIENT_LIMIT)?;
    let told = finished.success()?.stdout;
    told.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// The value of a field (`:status`, say) in the frames of one stream.
pub fn h2_field<'a>(frames: &'a [Value], stream: u64, name: &str) -> Option<&'a str> {
    frames
        .iter()
        .filter(|frame| frame["stream"] == stream)
        .filter_map(|frame| frame["headers"].as_array())
        .flatten()
        .find(|field| field[0] == name)
        .and_then(|field| field[1].as_str())
}

/// The languages that a gRPC peer comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Python,
    Go,
}

fn grpc_peer(language: Language) -> Result<Command> {
    match language {
        Language::Python => python_peer("grpc_peer.py"),
        Language::Go => command(&grpc_go()?),
    }
}

pub fn grpc_server(language: Language, folder: &Path) -> Result<Server> {
    grpc_server_on(language, folder, free_port()?)
}

pub fn grpc_server_on(language: Language, folder: &Path, port: u16) -> Result<Server> {
    let mut start = grpc_peer(language)?;
    start.args(["server", "--port", &port.to_string()]);
    let name = format!("grpc-{language:?}-{port}");
    let mut process = Process::start(&name, folder, &mut start)?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(Server { process, port })
}

/// A grpc-go server whose `via` calls a Service through a port of its sidecar.
pub fn grpc_hop(folder: &Path, via: u16, service: &str) -> Result<Server> {
    let port = free_port()?;
    let mut start = grpc_peer(Language::Go)?;
    start.args(["server", "--port", &port.to_string()]).args([
        "--next",
        &via.to_string(),
        "--authority",
        service,
    ]);
    let mut process = Process::start("grpc-hop", folder, &mut start)?;
    process.wait_for_log("listening", PATIENCE)?;
    Ok(Server { process, port })
}

/// From now on a grpc-go server answers unary calls like this (tests/peers/grpc-go/behave.go).
pub fn grpc_behave(server: &Server, behaviour: &str) -> Result<()> {
    let case = format!("behave:{behaviour}");
    let answers = grpc_calls(Language::Go, server.port, "app", &[&case])?;
    anyhow::ensure!(answers[0]["code"] == 0, "{answers:?}");
    Ok(())
}

/// How many unary calls a grpc-go server has seen.
pub fn grpc_seen(server: &Server) -> Result<u64> {
    let answers = grpc_calls(Language::Go, server.port, "app", &["seen"])?;
    let seen = answers[0]["messages"][0].as_str().context("a count")?;
    Ok(seen.parse()?)
}

/// Runs calls one after the other over one channel; each is `CASE` or `CASE:ARGUMENT`. The answers,
/// in the same order, as JSON: `code`, `details`, `messages`, `initial`, `trailing`.
pub fn grpc_calls(
    language: Language,
    port: u16,
    authority: &str,
    calls: &[&str],
) -> Result<Vec<Value>> {
    let mut client = grpc_peer(language)?;
    client
        .args([
            "client",
            "--port",
            &port.to_string(),
            "--authority",
            authority,
        ])
        .args(calls);
    let finished = run(&mut client, CLIENT_LIMIT)?.success()?;
    let answers: Vec<Value> = finished
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("JSON, not {line:?}")))
        .collect::<Result<_>>()?;
    anyhow::ensure!(
        answers.len() == calls.len(),
        "{} answers: {answers:?}",
        answers.len()
    );
    Ok(answers)
}

/// Prometheus, scraping these ports of loopback five times a second.
#[derive(Debug)]
pub struct Prometheus {
    server: Server,
}

impl Prometheus {
    pub fn start(folder: &Path, targets: &[u16]) -> Result<Self> {
        let port = free_port()?;
        let targets: Vec<String> = targets
            .iter()
            .map(|target| format!("\"127.0.0.1:{target}\""))
            .collect();
        let configuration = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n\
             - job_name: mesh\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration)?;
        let data: PathBuf = folder.join("prometheus-data");
        let mut start = command(&find("prometheus", "prometheus")?)?;
        start
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let server = Server::started(Process::start("prometheus", folder, &mut start)?, port)?;
        Ok(Self { server })
    }

    /// The values that an instant query answers, one for each series.
    pub fn query(&self, query: &str) -> Result<Vec<f64>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http::fetch(self.server.port, &format!("/api/v1/query?query={encoded}"))?;
        let json: Value = serde_json::from_slice(&answer.body)?;
        anyhow::ensure!(json["status"] == "success", "{json}");
        let result = json["data"]["result"].as_array().context("a vector")?;
        result
            .iter()
            .map(|series| {
                let value = series["value"][1].as_str().context("a value")?;
                Ok(value.parse()?)
            })
            .collect()
    }
}
