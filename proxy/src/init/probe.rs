//! Whether the rules do what they say: a connection of our own must arrive at the sidecar's port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, SockRef, Socket, Type};

use super::error::Error;
use super::family::Family;
use super::plan::Plan;

/// Addresses for documentation (RFC 5737, RFC 3849): nobody is there, and with the rules in force
/// no packet leaves.
const DESTINATIONS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The connection is to this machine: it is there at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of the probe of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It arrived
    Intercepted,
    /// It could not be made, for this reason
    NotProbed(String),
}

/// Connects to an address that only the rules can answer for.
pub(super) fn probe(plan: &Plan, family: Family) -> Result<Outcome, Error> {
    let destination = match destination(plan, family) {
        Ok(destination) => destination,
        Err(reason) => return Ok(Outcome::NotProbed(reason)),
    };
    if let Some(reason) = unroutable(family, destination) {
        return Ok(Outcome::NotProbed(reason));
    }
    let port = plan.sidecar.outbound_port;
    let listener = match listen(family, port) {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let reason = format!("a program listens on port {port} already");
            return Ok(Outcome::NotProbed(reason));
        }
        Err(error) => return Err(Error::ProbeSetup { port, error }),
    };
    let found = match arrival(&listener, destination) {
        Ok(found) if found == destination => return Ok(Outcome::Intercepted),
        Ok(found) => format!("it came as one to {found}"),
        Err(error) => error,
    };
    Err(Error::Probe {
        destination,
        port,
        found,
    })
}

/// One that the plan intercepts for the user that this runs as.
fn destination(plan: &Plan, family: Family) -> Result<SocketAddr, String> {
    let uid = rustix::process::geteuid().as_raw();
    if uid == plan.sidecar.uid || plan.uids.contains(&uid) {
        return Err(format!(
            "connections of UID {uid}, which this runs as, pass"
        ));
    }
    let passes = |address: &IpAddr| {
        let mut cidrs = plan.outbound.cidrs.iter();
        cidrs.any(|cidr: &IpNet| cidr.contains(address))
    };
    let mut addresses = DESTINATIONS.into_iter();
    let address = addresses.find(|address| family.has(*address) && !passes(address));
    let address = address.ok_or("every address that it could be made to is excluded")?;
    // There are fewer exclusions than ports.
    let mut ports = (80..).filter(|port| !plan.outbound.ports.contains(port));
    let port = ports.next().ok_or("every port is excluded")?;
    Ok(SocketAddr::new(address, port))
}

/// Why the kernel has no way to a destination, which it says before there is a packet.
fn unroutable(family: Family, destination: SocketAddr) -> Option<String> {
    let connected =
        UdpSocket::bind((family.unspecified(), 0)).and_then(|socket| socket.connect(destination));
    let error = connected.err()?;
    Some(format!("no route to {}: {error}", destination.ip()))
}

/// Where a redirection on the way out leads to: loopback.
fn listen(family: Family, port: u16) -> io::Result<TcpListener> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    // For a sidecar that ended a moment ago.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(family.loopback(), port).into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Connects, and says where the connection that arrived was going.
fn arrival(listener: &TcpListener, destination: SocketAddr) -> Result<SocketAddr, String> {
    let ours = TcpStream::connect_timeout(&destination, PATIENCE)
        .map_err(|error| format!("it did not arrive ({error})"))?;
    let from = ours.local_addr().map_err(|error| error.to_string())?;
    // Whoever else connects meanwhile is not the probe, and is in line before it or behind.
    loop {
        let (accepted, peer) = listener
            .accept()
            .map_err(|_| "it was answered by something else".to_owned())?;
        if peer == from {
            return original_destination(&accepted, destination);
        }
    }
}

fn original_destination(accepted: &TcpStream, expected: SocketAddr) -> Result<SocketAddr, String> {
    let socket = SockRef::from(accepted);
    let original = match expected {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    let original = original.map_err(|error| format!("it came without its destination: {error}"))?;
    original
        .as_socket()
        .ok_or_else(|| "it came without its destination".to_owned())
}
