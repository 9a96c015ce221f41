//! Who has no identity may take only so much of a sidecar.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use mesh_tests::placed::Placed;
use mesh_tests::shop::{Settings, Shop};
use mesh_tests::wait::{PATIENCE, becomes};
use rustix::process::{Resource, getrlimit, setrlimit};

/// What a worker takes of them in strict mode.
const BOUND: usize = 2_500;
/// An HTTP/2 connection that has begun, and is alive as far as its server knows for a while: what is
/// silent would be refused after 10 s.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn connect(mesh: &Placed, to: SocketAddr, count: usize, open: &mut Vec<TcpStream>) -> Result<()> {
    mesh.machine.within(|| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(to)?;
            // One that is refused may be reset already.
            let _ = stream.write_all(BEGINNING);
            open.push(stream);
        }
        Ok(())
    })
}

#[test]
fn strangers_take_no_place_of_callers() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let shop = Shop::start("strangers", Settings::default())?;
    let mesh = &shop.mesh;
    let to = SocketAddr::new(mesh.addresses("client-1", "web-1")?[0].parse()?, 8080);
    let refused = || -> Result<f64> {
        let labels = [("reason", "too_many_connections")];
        Ok(mesh
            .metrics("web-1")?
            .sum("outrider_refusals_total", &labels))
    };
    let mut open = Vec::new();
    connect(mesh, to, BOUND, &mut open)?;
    while refused()? == 0.0 {
        // A slow machine has let go of some already.
        ensure!(open.len() < 4 * BOUND, "{} were taken", open.len());
        connect(mesh, to, 100, &mut open)?;
    }
    if let Some(last) = open.last_mut() {
        last.set_read_timeout(Some(PATIENCE))?;
        let ended = last.read(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(ended, Err(ErrorKind::ConnectionReset), "refused at once");
    }
    assert_eq!(shop.call()?, 200, "callers have a place");
    drop(open);
    becomes("the next stranger is told why", &403, || {
        Ok(mesh.curl_from_outside(&[&format!("http://{to}/")])?.status)
    })
}
