//! File descriptors: which of them traffic may have, and which are kept for the sidecar itself.
//!
//! Every connection is one. When clients hold them all, somebody still wants to know how the sidecar is,
//! the control plane has to be heard, and a request that came in needs a connection to go on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

/// At most so many are kept, and no more than a quarter of all.
const KEPT_MAX: u64 = 64;

/// Raises the soft limit: the one that processes are born with (1,024 mostly) is for programs that use
/// `select`.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Whether this is one of those that are kept. The lowest that is free is given out (POSIX, 2.14), so
/// when this one was, all below it were in use.
pub fn is_kept(descriptor: &impl AsRawFd) -> bool {
    let number = u64::try_from(descriptor.as_raw_fd()).unwrap_or_default();
    getrlimit(Resource::Nofile)
        .current
        .is_some_and(|limit| number >= first_kept(limit))
}

fn first_kept(limit: u64) -> u64 {
    limit - KEPT_MAX.min(limit / 4)
}

/// The socket, unless its descriptor is one of those that are kept (`EMFILE`).
pub fn for_traffic<S: AsRawFd>(socket: S) -> io::Result<S> {
    match is_kept(&socket) {
        true => Err(Errno::MFILE.into()),
        false => Ok(socket),
    }
}

/// Whether it is for want of descriptors.
pub fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}

/// Connects for one client's traffic, whose number nothing bounds.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    for_traffic(socket?)?.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_kept_and_of_few_not_all() {
        assert_eq!(first_kept(1_048_576), 1_048_512);
        assert_eq!(first_kept(1024), 960);
        assert_eq!(first_kept(64), 48);
        assert_eq!(first_kept(0), 0);
    }
}
