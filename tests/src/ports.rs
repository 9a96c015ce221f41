//! Free ports, below those that the kernel hands out to connections (so that none is taken between
//! the look and the bind by a client's own port).

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on which nothing listens, on any address, and that this process has not given out before.
pub fn free_port() -> Result<u16> {
    // Another run of the tests beside this one begins elsewhere.
    let offset = (std::process::id() % 211) as u16 * 94;
    for _ in 0..COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset % COUNT + turn) % COUNT;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT);
}
