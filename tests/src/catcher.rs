//! A server that says over HTTP where a connection was going when it came to it. It stands where a
//! sidecar would, and where the destination is.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::netns::Netns;

/// How long a request may take, and how soon the end of the test is seen.
const REQUEST: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(50);

/// Listens on ports of a namespace, IPv4 and IPv6, until it is dropped.
#[derive(Debug)]
pub struct Catcher {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Catcher {
    pub fn start(namespace: &Netns, ports: &[u16]) -> Result<Self> {
        let mut catcher = Self {
            over: Arc::default(),
            threads: Vec::new(),
        };
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for address in ports
            .iter()
            .flat_map(|port| any.map(|ip| SocketAddr::new(ip, *port)))
        {
            let listener = namespace
                .within(|| listen(address))
                .with_context(|| format!("listen on {address} of {}", namespace.name()))?;
            let Some(listener) = listener else { continue };
            let over = Arc::clone(&catcher.over);
            catcher.threads.push(thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok((connection, peer)) = listener.accept() {
                        let peer = peer.as_socket();
                        let _ = answer(connection.into(), peer);
                    }
                }
            }));
        }
        Ok(catcher)
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// `None` where the family is not there.
fn listen(address: SocketAddr) -> Result<Option<Socket>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(TICK))?;
    match socket.bind(&address.into()) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Ok(None),
        bound => bound?,
    }
    socket.listen(128)?;
    Ok(Some(socket))
}

/// The port that the connection came to, its destination, and who it is from.
fn answer(mut connection: TcpStream, peer: Option<SocketAddr>) -> Result<()> {
    connection.set_read_timeout(Some(REQUEST))?;
    let mut request = [0; 4096];
    let mut length = 0;
    while !request[..length].ends_with(b"\r\n\r\n") {
        match connection.read(&mut request[length..])? {
            0 => return Ok(()),
            read => length += read,
        }
    }
    let local = connection.local_addr()?;
    let socket = SockRef::from(&connection);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // Where nothing is tracked, nothing was redirected.
    let original = original
        .ok()
        .and_then(|address| address.as_socket())
        .unwrap_or(local);
    let peer = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
    let body = format!("{} {original} {peer}", local.port());
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(format!("{head}{body}").as_bytes())?;
    Ok(())
}
