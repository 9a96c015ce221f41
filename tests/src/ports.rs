//! Free ports, below those that the kernel hands out to connections (so that none is taken between
//! the look and the bind by a client's own port).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};
use socket2::{Domain, Socket, Type};

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
        if can_be_bound(port)? {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// It only binds and does not listen: a program that another test starts in this moment holds a copy
/// of the socket until it is executed, and nobody else could listen as long as that one listens.
fn can_be_bound(port: u16) -> Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    Ok(socket.bind(&any.into()).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn a_port_with_a_listener_is_not_free() -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
        assert!(!can_be_bound(listener.local_addr()?.port())?);
        Ok(())
    }

    #[test]
    fn a_free_port_is_free_while_programs_are_started() -> Result<()> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let starter = scope.spawn(|| -> Result<()> {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status()?;
                }
                Ok(())
            });
            let listened = (0..20_000).try_for_each(|_| -> Result<()> {
                TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
                Ok(())
            });
            done.store(true, Ordering::Relaxed);
            match starter.join() {
                Ok(started) => listened.and(started),
                Err(_) => bail!("the thread that starts programs panicked"),
            }
        })
    }
}
