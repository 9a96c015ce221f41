//! Interception: what the kernel redirected here, and where it was meant to go. The rules are written
//! by `outrider-proxy init`; this reads what they did, and holds what may not be a destination.

use std::io;
use std::net::{IpAddr, SocketAddr};

use outrider_api::model::{Mtls, Workload};
use socket2::SockRef;
use tokio::net::TcpStream;

/// How connections to the app are handed to the sidecar. Those of the app are always redirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Mode {
    /// By a changed destination: the app sees the sidecar as its client
    #[default]
    Redirect,
    /// Unchanged: the app sees the address of its client. The sidecar needs CAP_NET_ADMIN
    Tproxy,
}

/// What a sidecar knows of the interception around it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interception {
    pub mode: Mode,
    pub outbound_port: u16,
    pub inbound_port: u16,
    /// Of telemetry and admin.
    pub own_ports: [u16; 2],
}

impl Interception {
    /// Whether the sidecar itself listens on this port of the workload: nothing of the app's is there.
    pub fn is_own(&self, workload: &Workload, port: u16) -> bool {
        [
            self.outbound_port,
            self.inbound_port,
            workload.mesh_address.port(),
        ]
        .contains(&port)
            || self.own_ports.contains(&port)
    }

    /// Whether the app may not go there by way of the sidecar: to the sidecar itself, which would go
    /// round in circles, or to addresses that mean something else to every host, such as those where
    /// clouds hand out credentials.
    pub fn forbids(&self, workload: &Workload, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        ip.is_loopback()
            || ip.is_unspecified()
            || ip.is_multicast()
            || is_link_local(ip)
            || workload.addresses.contains(&ip)
    }
}

/// Whether a port of the app takes calls without an identity: as declared, else as the workload does.
pub fn mtls(workload: &Workload, port: u16) -> Mtls {
    let declared = workload.ports.iter().find(|known| known.port == port);
    declared.map_or(workload.mtls, |port| port.mtls)
}

/// RFC 3927 and RFC 4291, section 2.5.6; and where one cloud has its metadata in IPv6.
fn is_link_local(ip: IpAddr) -> bool {
    const METADATA: std::net::Ipv6Addr =
        std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA,
    }
}

/// Where a redirected connection was meant to go (`SO_ORIGINAL_DST`); `None`: it was meant for the
/// sidecar's port itself.
///
/// # Errors
/// The kernel does not answer, other than that it redirected nothing.
pub fn redirected_from(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match original {
        Ok(original) => Ok(original.as_socket().filter(|original| *original != local)),
        // No connection of which conntrack knows that it was changed.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends a connection with a reset, as a port would that nobody listens on: the peer is not to think
/// that it was served.
pub fn reset(stream: TcpStream) {
    // Without it the connection ends in an ordinary way.
    let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_known() {
        for (ip, expected) in [
            ("169.254.169.254", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(
                is_link_local(ip.parse().expect("an address")),
                expected,
                "{ip}"
            );
        }
    }

    #[tokio::test]
    async fn what_was_not_redirected_was_meant_for_us() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("its address");
        let _client = TcpStream::connect(address).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        assert_eq!(redirected_from(&stream).expect("an answer"), None);
    }
}
