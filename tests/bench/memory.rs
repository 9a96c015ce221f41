//! What a sidecar holds: at rest, for connections that are open and say nothing, and after they have
//! gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::peers::nginx;
use mesh_tests::pki::{Authority, Leaf};
use mesh_tests::process::Footprint;
use mesh_tests::tls::Tls;
use mesh_tests::wait::{PATIENCE, eventually};
use mesh_tests::{Mesh, Workload, http};

use crate::told;

/// Connections that are open at once. (nginx takes 1,024.)
const IDLE: u64 = 1000;
/// Connections that come and go, and how many of them at once.
const GONE: u64 = 5000;
const AT_ONCE: u64 = 250;
/// Sidecars let go of what is idle after a few seconds: memory is at rest when it has been for this long.
const REST: Duration = Duration::from_secs(7);
/// The difference between two looks that is none, bytes.
const SAME: u64 = 64 * 1024;

/// Start to ready.
pub(crate) fn start() -> Result<()> {
    const STARTS: usize = 9;
    let mut mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .workload(Workload::new("started-1")?)
        .prepare()?;
    mesh.start_control_plane()?;
    let mut starts = Vec::new();
    let token = mesh.token("started")?;
    for _ in 0..STARTS {
        let start = Instant::now();
        mesh.start_sidecar_with("started-1", &token)?;
        let port = mesh.sidecar("started-1")?.workload.telemetry_port;
        while !http::fetch(port, "/ready").is_ok_and(|ready| ready.status == 200) {
            ensure!(start.elapsed() < PATIENCE, "not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        starts.push(start.elapsed());
        mesh.process("started-1")?.kill()?;
    }
    starts.sort_unstable();
    let median = starts[STARTS / 2].as_secs_f64() * 1000.0;
    told("start to ready (median)", format!("{median:.0} ms"));
    Ok(())
}

/// At rest, and with idle connections of other sidecars.
pub(crate) fn peers() -> Result<()> {
    let mut mesh = crate::pair(8080, Some("http"))?;
    let before = at_rest(&mut mesh, "billing-1")?;
    tell("at rest", before);
    let authority = Authority::of_mesh(&mesh.state_dir())?;
    let order = authority.issue(&Leaf::of("order")?, mesh.folder(), "order")?;
    let address = mesh.mesh_port("billing-1")?;
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut connection = Tls::connect(address, Some(&order))?;
        connection.accepted()?;
        idle.push(connection);
    }
    let after = at_rest(&mut mesh, "billing-1")?;
    tell("with 1,000 idle mTLS connections", after);
    each("an idle mTLS connection", before, after);
    drop(idle);
    told(
        "RSS of the control plane",
        mebibytes(mesh.control_plane()?.resident()?),
    );
    Ok(())
}

/// With idle connections of the app: each has had one answer.
pub(crate) fn apps() -> Result<()> {
    for (name, protocol) in [("HTTP", "http"), ("opaque", "tcp")] {
        let folder = tempfile::tempdir()?;
        let site = "keepalive_timeout 1h; location / { return 200 answer; }";
        let nginx = nginx(folder.path(), "nginx", "", site)?;
        let mut mesh = crate::pair(nginx.port, Some(protocol))?;
        let address = mesh.upstream("order-1", "billing", 80)?;
        drop(answered(address)?);
        let before = both(&mut mesh)?;
        let idle = (0..IDLE)
            .map(|_| answered(address))
            .collect::<Result<Vec<_>>>()?;
        let after = both(&mut mesh)?;
        for (side, (before, after)) in ["caller", "callee"]
            .iter()
            .zip(before.into_iter().zip(after))
        {
            each(
                &format!("an idle {name} connection, {side}'s side"),
                before,
                after,
            );
        }
        drop(idle);
    }
    Ok(())
}

/// After many connections have come and gone: twice, since the first ones make what stays.
pub(crate) fn gone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nginx = nginx(
        folder.path(),
        "nginx",
        "",
        "location / { return 200 answer; }",
    )?;
    for (name, protocol) in [("HTTP", "http"), ("opaque", "tcp")] {
        let mut mesh = crate::pair(nginx.port, Some(protocol))?;
        let address = mesh.upstream("order-1", "billing", 80)?;
        drop(answered(address)?);
        let before = both(&mut mesh)?;
        for _ in 0..GONE / AT_ONCE {
            (0..AT_ONCE)
                .map(|_| answered(address))
                .collect::<Result<Vec<_>>>()?;
        }
        let after = both(&mut mesh)?;
        for (side, (before, after)) in ["caller", "callee"]
            .iter()
            .zip(before.into_iter().zip(after))
        {
            told(
                &format!("RSS after 5,000 {name} connections, {side}'s side"),
                format!(
                    "{} ({:+.0} %)",
                    mebibytes(after.resident),
                    100.0 * (after.resident as f64 / before.resident as f64 - 1.0)
                ),
            );
        }
    }
    Ok(())
}

/// A connection that has had an answer, and stays.
fn answered(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: billing\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut read = [0; 1024];
    while !answer.ends_with(b"\r\n\r\nanswer") {
        let length = stream.read(&mut read)?;
        ensure!(length > 0, "closed after {:?}", answer.escape_ascii());
        answer.extend_from_slice(&read[..length]);
    }
    Ok(stream)
}

fn both(mesh: &mut Mesh) -> Result<[Footprint; 2]> {
    Ok([at_rest(mesh, "order-1")?, at_rest(mesh, "billing-1")?])
}

/// What it holds once that has not changed for a while.
fn at_rest(mesh: &mut Mesh, name: &str) -> Result<Footprint> {
    let process = mesh.process(name)?;
    let mut last = (process.footprint()?, Instant::now());
    eventually("memory is at rest", Duration::from_secs(60), || {
        let now = process.footprint()?;
        if now.resident.abs_diff(last.0.resident) > SAME {
            last = (now, Instant::now());
        }
        Ok((last.1.elapsed() >= REST).then_some(now))
    })
}

fn tell(when: &str, footprint: Footprint) {
    told(&format!("RSS {when}"), mebibytes(footprint.resident));
    told("  of it anonymous", mebibytes(footprint.anonymous));
    told("  of it pages of files", mebibytes(footprint.of_files()));
}

fn each(what: &str, before: Footprint, after: Footprint) {
    let more = after.resident.saturating_sub(before.resident);
    let kibibytes = more as f64 / 1024.0 / IDLE as f64;
    told(what, format!("{kibibytes:.1} KiB"));
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
