//! Servers in network namespaces, of protocols that nobody declares, and their clients: none of them
//! is configured for the mesh. They are called by the names of their Services, on their usual ports.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::capture::Capture;
use mesh_tests::metrics::Metrics;
use mesh_tests::peers::{self, CLIENT_LIMIT};
use mesh_tests::placed::Placed;
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::{find, find_postgres, python, script};
use mesh_tests::wait::{PATIENCE, until};

/// A Service and the one workload behind it, which `client` may call, and nobody else.
fn server(name: &str, port: u16, uid: u32, command: &str) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: {port}}}]
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {{name: {name}-1, namespace: shop, labels: {{app: {name}}}}}
spec:
  serviceAccount: {name}
  ports: [{{port: {port}}}]
  runAsUser: {uid}
  command: {command}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: {name}}}]
  rules: [{{name: client, sources: [{{type: ServiceAccount, serviceAccount: {{name: client}}}}]}}]
"#
    )
}

const CLIENTS: &str = r#"
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: client-1, namespace: shop}
spec: {serviceAccount: client}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: other-1, namespace: shop}
spec: {serviceAccount: other}
"#;

fn start(label: &str, servers: &[String]) -> Result<Placed> {
    let servers = servers.concat();
    Placed::start(
        label,
        &[("clients.yaml", CLIENTS), ("servers.yaml", &servers)],
    )
}

/// A client's program, run in its namespace to its end.
fn client(mesh: &Placed, program: (&str, &str), arguments: &[&str]) -> Result<Finished> {
    let mut start = mesh.inside("client-1", program.0, program.1)?;
    run(
        start.args(arguments).env("PGCONNECT_TIMEOUT", "10"),
        CLIENT_LIMIT,
    )
}

fn metrics(mesh: &Placed, workload: &str) -> Result<Metrics> {
    mesh.metrics(workload)
}

fn postgres(folder: &Path) -> Result<String> {
    let (data, user) = peers::postgres_data(folder)?;
    let program = find_postgres("postgres")?;
    Ok(server(
        "db",
        5432,
        user.context("the tests run as root")?,
        &format!(
            "[{}, -D, {}, -c, 'listen_addresses=*', -c, unix_socket_directories=, -c, fsync=off]",
            program.display(),
            data.display()
        ),
    ))
}

/// A data directory of MariaDB in which anyone may do anything.
fn mariadb(folder: &Path) -> Result<String> {
    let data = folder.join("mariadb");
    let uid = 65534;
    fs::create_dir(&data)?;
    let mut install = command(&find("mariadb-install-db", "mariadb-server")?)?;
    install
        .args(["--no-defaults", "--skip-test-db", "--user=root"])
        .arg(format!("--datadir={}", data.display()));
    run(&mut install, CLIENT_LIMIT)?.success()?;
    for entry in walk(&data)? {
        chown(entry, Some(uid), Some(uid))?;
    }
    Ok(server(
        "ledger",
        3306,
        uid,
        &format!(
            "[{}, --no-defaults, --skip-grant-tables, '--bind-address=*', --port=3306, \
             --datadir={data}, --tmpdir={data}, --socket={data}/socket, --pid-file={data}/pid]",
            find("mariadbd", "mariadb-server")?.display(),
            data = data.display()
        ),
    ))
}

fn walk(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = vec![folder.to_path_buf()];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(walk(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A folder that every user may pass through.
fn open_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    for above in folder.path().ancestors() {
        let mode = fs::metadata(above)?.permissions().mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(above, fs::Permissions::from_mode(mode | 0o011))?;
        }
    }
    Ok(folder)
}

#[test]
fn postgres_serves_psql_and_pgbench_and_nobody_reads_along() -> Result<()> {
    let folder = open_folder()?;
    let mesh = start("postgres", &[postgres(folder.path())?])?;
    let capture = Capture::start(&mesh)?;
    let plaintext = Capture::at_app(&mesh, "db-1")?;
    let marker = "rows-that-nobody-else-may-read";
    let psql = |statement: &str| {
        let arguments = [
            "-X", "-A", "-t", "-h", "db", "-U", "postgres", "-c", statement,
        ];
        client(&mesh, ("psql", "postgresql-client"), &arguments)
    };
    let answer = psql(&format!("select '{marker}', 40 + 2"))?.success()?;
    assert_eq!(answer.stdout, format!("{marker}|42\n"));
    for arguments in [
        ["-i", "-q", "-s", "1", "postgres"].as_slice(),
        ["-c", "4", "-j", "2", "-t", "100", "postgres"].as_slice(),
        // A connection for each transaction.
        ["-C", "-S", "-c", "2", "-t", "25", "postgres"].as_slice(),
    ] {
        let arguments = [&["-h", "db", "-U", "postgres"], arguments].concat();
        client(&mesh, ("pgbench", "postgresql-contrib"), &arguments)?.success()?;
    }
    plaintext.has_in_the_end(marker)?;
    capture.never_has(&mesh, marker)?;

    // Who may not call sees its connection end.
    let mut other = mesh.inside("other-1", "psql", "postgresql-client")?;
    other.args(["-X", "-h", "db", "-U", "postgres", "-c", "select 1"]);
    let refused = run(&mut other, CLIENT_LIMIT)?;
    assert_eq!(refused.status.code(), Some(2), "{}", refused.output());
    let labels = [
        ("direction", "inbound"),
        ("reason", "authorization_denied"),
        ("peer", "spiffe://shop.example/ns/shop/sa/other"),
    ];
    let counted = metrics(&mesh, "db-1")?.sum("outrider_refusals_total", &labels);
    assert!(counted >= 1.0, "{counted}");
    Ok(())
}

#[test]
fn servers_that_speak_first_are_heard_at_once() -> Result<()> {
    let folder = open_folder()?;
    let nats = find("nats-server", "nats-server")?;
    let nats = format!("[{}, -a, '::', -p, '4222']", nats.display());
    let mesh = start(
        "first",
        &[mariadb(folder.path())?, server("bus", 4222, 65534, &nats)],
    )?;
    for address in mesh.addresses("client-1", "ledger")? {
        let arguments = ["--no-defaults", "-h", &address, "-N", "-e", "select 40 + 2"];
        let answer = client(&mesh, ("mariadb", "mariadb-client"), &arguments)?.success()?;
        assert_eq!(answer.stdout, "42\n", "{address}");
        // The start of the program included.
        assert!(answer.took < Duration::from_secs(1), "{:?}", answer.took);
    }
    let mut published = mesh.inside("client-1", "env", "coreutils")?;
    published
        .arg(python()?)
        .arg(script("nats_peer.py"))
        .args(["4222", "100", "bus"]);
    let received = run(&mut published, CLIENT_LIMIT)?.success()?;
    assert_eq!(received.stdout, "received 100\n");

    let seen = metrics(&mesh, "client-1")?;
    let first = seen.sum("outrider_detection_total", &[("result", "server_first")]);
    assert_eq!(first, 3.0, "two of the ledger, one of the bus");
    Ok(())
}

#[test]
fn redis_and_nginx_serve_over_both_families() -> Result<()> {
    let folder = open_folder()?;
    let configuration = folder.path().join("nginx.conf");
    fs::write(
        &configuration,
        format!(
            "daemon off; pid {f}/pid; error_log stderr; events {{}}\n\
             http {{ access_log off; server {{ listen 8080; listen [::]:8080; \
             location / {{ return 200 \"$remote_addr $http_host\\n\"; }} }} }}\n",
            f = folder.path().display()
        ),
    )?;
    let nginx = format!(
        "[{}, -e, stderr, -c, {}]",
        find("nginx", "nginx-light")?.display(),
        configuration.display()
    );
    let redis = format!(
        "[{}, --port, '6379', --bind, '* -::*', --protected-mode, no, --save, '']",
        find("redis-server", "redis-server")?.display()
    );
    let mesh = start(
        "redis",
        &[
            server("pages", 8080, 0, &nginx),
            server("cache", 6379, 65534, &redis),
        ],
    )?;
    for address in mesh.addresses("client-1", "cache")? {
        let ask = |words: &[&str]| {
            let arguments = [&["-h", address.as_str()], words].concat();
            client(&mesh, ("redis-cli", "redis-tools"), &arguments)?.success()
        };
        assert_eq!(ask(&["set", "key", &address])?.stdout, "OK\n");
        assert_eq!(ask(&["get", "key"])?.stdout, format!("{address}\n"));
    }
    let benchmark = [
        "-h", "cache", "-n", "2000", "-c", "20", "-P", "4", "-q", "-t", "get",
    ];
    client(&mesh, ("redis-benchmark", "redis-tools"), &benchmark)?.success()?;
    for family in ["-4", "-6"] {
        let answer = mesh.curl("client-1", &[family, "http://pages:8080/"])?;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.ends_with("pages:8080\n"), "{answer:?}");
    }
    // HTTP on a port that nobody declared is told by its first bytes, and policy sees requests.
    let refused = mesh.curl("other-1", &["http://pages:8080/"])?;
    assert_eq!(
        (refused.status, refused.header("proxy-status")),
        (
            403,
            Some("outrider; error=http_request_denied; details=\"authorization_denied\"")
        )
    );
    Ok(())
}

#[test]
fn tls_of_the_apps_own_passes_and_is_counted_by_its_name() -> Result<()> {
    let folder = open_folder()?;
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
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
    .args(["-nodes", "-days", "2", "-subj", "/CN=vault"])
    .args(["-addext", "subjectAltName=DNS:vault"])
    .arg("-keyout")
    .arg(&key)
    .arg("-out")
    .arg(&certificate);
    run(&mut made, CLIENT_LIMIT)?.success()?;
    let serving = format!(
        "[{}, s_server, -quiet, -www, -accept, '8443', -key, {}, -cert, {}]",
        openssl.display(),
        key.display(),
        certificate.display()
    );
    let mesh = start("tls", &[server("vault", 8443, 0, &serving)])?;
    let trusted = certificate.display().to_string();
    let answer = mesh.curl("client-1", &["--cacert", &trusted, "https://vault:8443/"])?;
    assert_eq!(answer.status, 200, "{answer:?}");
    until("the name is counted", PATIENCE, || {
        let labels = [("destination", "mesh"), ("by", "sni"), ("name", "vault")];
        let named = metrics(&mesh, "client-1")?.sum("outrider_named_connections_total", &labels);
        Ok(named == 1.0)
    })
}
