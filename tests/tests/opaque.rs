//! Protocols that the mesh knows nothing about, also those where the server speaks first.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::http::{Connection, local};
use mesh_tests::peers::{CLIENT_LIMIT, curl_run, nats, nginx, postgres, psql, python_peer, redis};
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::ports::free_port;
use mesh_tests::process::{command, run};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{Mesh, metrics, programs, quiet};

/// What a person would not notice.
const UNNOTICED: Duration = Duration::from_millis(200);

fn tcp_mesh(port: u16, protocol: Option<&str>) -> Result<Mesh> {
    Mesh::pair(port, protocol)?
        .setting("defaultDeny", false)
        .start()
}

#[test]
fn postgres_serves_psql_and_pgbench() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let postgres = postgres(folder.path())?;
    for protocol in [Some("postgres"), None] {
        let mesh = tcp_mesh(postgres.port, protocol)?;
        let port = mesh.upstream("order-1", "billing", 80)?.port();
        let answer = psql(port, "select 'through the mesh', 40 + 2")?.success()?;
        assert_eq!(answer.stdout, "through the mesh|42\n", "{protocol:?}");
        let large = psql(
            port,
            "select sum(length(repeat('x', 1000))) from generate_series(1, 20000)",
        )?;
        assert_eq!(large.success()?.stdout, "20000000\n");

        for arguments in [
            ["-i", "-q", "-s", "1", "postgres"].as_slice(),
            ["-c", "4", "-j", "2", "-t", "100", "postgres"].as_slice(),
            // A connection for each transaction.
            ["-C", "-S", "-c", "2", "-t", "25", "postgres"].as_slice(),
        ] {
            let mut pgbench = command(&programs::find("pgbench", "postgresql-contrib")?)?;
            pgbench
                .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()])
                .args(arguments);
            let finished = run(&mut pgbench, CLIENT_LIMIT)?.success()?;
            let failed = finished
                .stdout
                .lines()
                .find(|line| line.contains("failed transactions"));
            let none = "number of failed transactions: 0 (0.000%)";
            assert!(
                failed.is_none_or(|line| line == none),
                "{}",
                finished.stdout
            );
        }
    }
    Ok(())
}

#[test]
fn redis_serves_its_command_line_and_its_benchmark() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = redis(folder.path())?;
    for protocol in [Some("redis"), None] {
        let mesh = tcp_mesh(redis.port, protocol)?;
        let port = mesh.upstream("order-1", "billing", 80)?.port();
        let client = |arguments: &[&str]| {
            let mut client = command(&programs::find("redis-cli", "redis-tools")?)?;
            client.args(["-p", &port.to_string()]).args(arguments);
            run(&mut client, CLIENT_LIMIT)?.success()
        };
        assert_eq!(
            client(&["SET", "order", "42"])?.stdout,
            "OK\n",
            "{protocol:?}"
        );
        assert_eq!(client(&["GET", "order"])?.stdout, "42\n");

        let mut benchmark = command(&programs::find("redis-benchmark", "redis-tools")?)?;
        benchmark.args([
            "-p",
            &port.to_string(),
            "-q",
            "-c",
            "16",
            "-n",
            "4000",
            "-t",
            "get,set",
        ]);
        let finished = run(&mut benchmark, CLIENT_LIMIT)?.success()?;
        assert_eq!(
            finished.stdout.matches("requests per second").count(),
            2,
            "{}",
            finished.stdout
        );

        // Its inline form is text of one line, like the first line of HTTP.
        let mut inline = Connection::open(local(port))?;
        inline.send("PING\r\n")?;
        assert_eq!(inline.exactly(7)?, b"+PONG\r\n");
        inline.send("GET order\r\n")?;
        assert_eq!(inline.exactly(8)?, b"$2\r\n42\r\n");
    }
    Ok(())
}

#[test]
fn nats_speaks_first_through_a_port_of_undeclared_protocol() -> Result<()> {
    let _alone = quiet::alone();
    let folder = tempfile::tempdir()?;
    let nats = nats(folder.path())?;
    let mesh = tcp_mesh(nats.port, None)?;
    let address = mesh.upstream("order-1", "billing", 80)?;
    // The first one learns the destination and connects the sidecars.
    for turn in 0..5 {
        let start = Instant::now();
        let mut connection = Connection::open(address)?;
        assert_eq!(connection.exactly(5)?, b"INFO ");
        let took = start.elapsed();
        assert!(took < UNNOTICED, "greeting {turn} took {took:?}");
    }
    let mut client = python_peer("nats_peer.py")?;
    client.args([&address.port().to_string(), "500"]);
    let finished = run(&mut client, CLIENT_LIMIT)?.success()?;
    assert_eq!(finished.stdout, "received 500\n");
    Ok(())
}

/// An app that says `greeting` to whoever connects, and then echoes.
fn greeter(greeting: &'static [u8]) -> Result<u16> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || -> std::io::Result<()> {
                let (mut reader, mut writer) = (stream.try_clone()?, stream);
                writer.write_all(greeting)?;
                std::io::copy(&mut reader, &mut writer)?;
                writer.shutdown(Shutdown::Write)
            });
        }
    });
    Ok(port)
}

#[test]
fn a_greeting_of_any_kind_arrives_at_once() -> Result<()> {
    let _alone = quiet::alone();
    // SMTP, MySQL's handshake, SSH, and one that looks like HTTP.
    let greetings: [&'static [u8]; 4] = [
        b"220 mail.shop.example ESMTP\r\n",
        b"\x4a\x00\x00\x00\x0a8.0.36\x00",
        b"SSH-2.0-Outrider\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ];
    for greeting in greetings {
        let mesh = tcp_mesh(greeter(greeting)?, None)?;
        let address = mesh.upstream("order-1", "billing", 80)?;
        Connection::open(address)?.exactly(greeting.len())?;
        let start = Instant::now();
        let mut connection = Connection::open(address)?;
        assert_eq!(connection.exactly(greeting.len())?, greeting);
        assert!(
            start.elapsed() < UNNOTICED,
            "{:?} for {greeting:?}",
            start.elapsed()
        );
        connection.send("EHLO shop.example\r\n")?;
        assert_eq!(connection.exactly(19)?, b"EHLO shop.example\r\n");
        connection.finish_sending()?;
        connection.closed()?;
    }
    Ok(())
}

#[test]
fn any_first_bytes_pass_unchanged() -> Result<()> {
    let mesh = tcp_mesh(greeter(b"")?, None)?;
    let address = mesh.upstream("order-1", "billing", 80)?;
    let firsts: [&[u8]; 8] = [
        b"\0",
        b"\x16\x03\x01",
        b"PRI ",
        b"GETAWAY\r\n",
        b"G",
        b"\r\n\r\n",
        b"HELO shop\r\n",
        &[0xff; 3000],
    ];
    for first in firsts {
        let mut connection = Connection::open(address)?;
        connection.send(first)?;
        assert_eq!(connection.exactly(first.len())?, first, "{first:?}");
    }
    Ok(())
}

#[test]
fn what_has_begun_and_says_nothing_more_goes_on_after_the_bound() -> Result<()> {
    let _alone = quiet::alone();
    const LONG: Duration = Duration::from_secs(2);
    for (setting, bounds) in [
        (None, Duration::from_millis(50)..LONG),
        (Some("2s"), LONG..PATIENCE),
    ] {
        let listener = TcpListener::bind(local(free_port()?))?;
        let builder = Mesh::pair(listener.local_addr()?.port(), None)?;
        let mut builder = builder.setting("defaultDeny", false);
        if let Some(setting) = setting {
            builder = builder.setting("detectTimeout", setting);
        }
        let mesh = builder.start()?;
        let address = mesh.upstream("order-1", "billing", 80)?;
        let undecided = || -> Result<f64> {
            let metrics = mesh.metrics("order-1")?;
            Ok(metrics.sum("outrider_detection_total", &[("result", "undecided")]))
        };
        assert_eq!(undecided()?, 0.0);

        // As HTTP begins, and then waits for the other side.
        let mut client = Connection::open(address)?;
        let start = Instant::now();
        client.send("GE")?;
        let (mut server, _) = listener.accept()?;
        server.set_read_timeout(Some(PATIENCE))?;
        let mut received = [0; 2];
        server.read_exact(&mut received)?;
        let took = start.elapsed();
        assert_eq!(&received, b"GE");
        assert!(bounds.contains(&took), "{took:?}, not {bounds:?}");
        becomes("one that was not decided", &1.0, undecided)?;

        // The server has its say, and what comes next is not looked at: the rest of a request, too.
        server.write_all(b"what?")?;
        assert_eq!(client.exactly(5)?, b"what?");
        let rest = "T / HTTP/1.1\r\nHost: nobody\r\n\r\n\0";
        client.send(rest)?;
        client.finish_sending()?;
        let mut received = Vec::new();
        server.read_to_end(&mut received)?;
        assert_eq!(received, rest.as_bytes());
        drop(server);
        client.closed()?;
        assert_eq!(undecided()?, 1.0);
    }
    Ok(())
}

#[test]
fn a_connection_may_be_silent_and_half_closed() -> Result<()> {
    let mesh = tcp_mesh(greeter(b"hello")?, Some("tcp"))?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    assert_eq!(connection.exactly(5)?, b"hello");
    assert!(connection.silent(Duration::from_millis(500))?);
    connection.send("after a while")?;
    assert_eq!(connection.exactly(13)?, b"after a while");
    connection.finish_sending()?;
    connection.closed()
}

#[test]
fn tls_of_the_apps_own_passes_untouched() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let leaf = Leaf::uris(&[])?.dns("billing")?;
    let authority = Authority::stranger()?;
    let identity = authority.issue(&leaf, folder.path(), "app")?;
    let site = format!(
        "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 \"$ssl_protocol\"; }}",
        identity.certificate.display(),
        identity.key.display()
    );
    let nginx = nginx(folder.path(), "nginx", "ssl", &site)?;
    let roots = folder.path().join("roots.crt");
    std::fs::write(&roots, authority.certificate())?;
    for protocol in [Some("https"), None] {
        let mesh = tcp_mesh(nginx.port, protocol)?;
        let port = mesh.upstream("order-1", "billing", 80)?.port();
        let finished = curl_run(&[
            "--cacert",
            &roots.display().to_string(),
            "--connect-to",
            &format!("billing:443:127.0.0.1:{port}"),
            "https://billing/",
        ])?
        .success()?;
        assert_eq!(finished.stdout, "TLSv1.3", "{protocol:?}");
    }
    Ok(())
}

#[test]
fn opaque_bytes_and_connections_are_counted() -> Result<()> {
    let mesh = tcp_mesh(greeter(b"hello")?, Some("tcp"))?;
    let address = mesh.upstream("order-1", "billing", 80)?;
    let mut connection = Connection::open(address)?;
    connection.send([1; 1000])?;
    connection.exactly(1005)?;
    for (name, reporter) in [("order-1", "source"), ("billing-1", "destination")] {
        let port = mesh.sidecar(name)?.workload.telemetry_port;
        let labels = [
            ("reporter", reporter),
            ("destination_service_name", "billing"),
        ];
        metrics::reaches(port, "istio_tcp_connections_opened_total", &labels, 1.0)?;
    }
    connection.finish_sending()?;
    connection.closed()?;
    for (name, reporter) in [("order-1", "source"), ("billing-1", "destination")] {
        let sidecar = mesh.sidecar(name)?;
        let port = sidecar.workload.telemetry_port;
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", "mutual_tls"),
        ];
        let closed = if reporter == "source" {
            &labels[..1]
        } else {
            &labels[..]
        };
        metrics::reaches(port, "istio_tcp_connections_closed_total", closed, 1.0)?;
        let metrics = sidecar.metrics()?;
        // Istio's: received by the destination's side, sent to the client.
        assert_eq!(
            metrics.sum("istio_tcp_received_bytes_total", &labels[..1]),
            1000.0,
            "{name}"
        );
        assert_eq!(
            metrics.sum("istio_tcp_sent_bytes_total", &labels[..1]),
            1005.0,
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn many_short_connections_leave_none_open() -> Result<()> {
    let mesh = tcp_mesh(greeter(b"")?, Some("tcp"))?;
    let address = mesh.upstream("order-1", "billing", 80)?;
    for index in 0..500_u32 {
        let mut connection = Connection::open(address)?;
        connection.send(index.to_be_bytes())?;
        assert_eq!(connection.exactly(4)?, index.to_be_bytes());
        connection.finish_sending()?;
        connection.closed()?;
    }
    for (name, reporter) in [("order-1", "source"), ("billing-1", "destination")] {
        let port = mesh.sidecar(name)?.workload.telemetry_port;
        let labels = [("reporter", reporter)];
        metrics::reaches(port, "istio_tcp_connections_closed_total", &labels, 500.0)?;
    }
    // Between the sidecars connections are kept; towards the apps none is.
    until(
        "the caller's sidecar has no connection of its app's left",
        PATIENCE,
        || {
            let metrics = mesh.metrics("order-1")?;
            Ok(metrics.sum("outrider_open_connections", &[("direction", "outbound")]) == 0.0)
        },
    )
}

#[test]
fn a_connection_to_an_app_that_is_gone_is_closed() -> Result<()> {
    let mesh = tcp_mesh(free_port()?, Some("tcp"))?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("anyone?")?;
    connection.closed()?;
    crate::common::refusals(&mesh, "billing-1", "inbound", "app_unreachable", 1.0)
}

#[test]
fn a_reset_by_the_app_ends_the_clients_connection() -> Result<()> {
    let listener = TcpListener::bind(local(free_port()?))?;
    let mesh = tcp_mesh(listener.local_addr()?.port(), Some("tcp"))?;
    let mut connection = Connection::open(mesh.upstream("order-1", "billing", 80)?)?;
    connection.send("x")?;
    let (mut app, _) = listener.accept()?;
    app.read_exact(&mut [0; 1])?;
    // Unread bytes at the close make the kernel send a reset.
    connection.send(vec![0; 100_000])?;
    until("the app has unread bytes", PATIENCE, || {
        Ok(app.peek(&mut [0; 1]).is_ok())
    })?;
    drop(app);
    becomes("the connection has ended", &true, || {
        Ok(connection.send("more").is_err() || connection.closed().is_ok())
    })
    .context("a reset must not leave the client waiting")
}
