//! Standing in a network namespace for a moment. A thread is in a namespace, not a process: what has
//! to be done inside is done by a thread of its own that ends with it. A socket stays where it was
//! made.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use outrider_api::sidecar;
use rustix::process::Uid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Where `ip netns` keeps them.
pub const NAMESPACES: &str = "/run/netns";

/// Does `work` inside, and waits for it.
pub fn run<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = namespace.to_owned();
    let worker = thread::Builder::new().spawn(move || {
        enter(&namespace)?;
        work()
    })?;
    let panicked = |_| io::Error::other("what was done inside of the namespace failed");
    worker.join().map_err(panicked)?
}

/// A connection that is made inside. To loopback it is the sidecar's user who makes it: nobody else
/// reaches the admin port, and no rule is about other ports there.
pub async fn connect(namespace: &str, address: SocketAddr) -> io::Result<TcpStream> {
    let (tell, told) = oneshot::channel();
    let namespace = namespace.to_owned();
    thread::Builder::new().spawn(move || {
        let socket = enter(&namespace).and_then(|()| {
            if address.ip().is_loopback() {
                // Of this thread only, which ends.
                let user = Uid::from_raw(sidecar::UID);
                set_thread_res_uid(user, user, user)?;
            }
            match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }
        });
        let _ = tell.send(socket);
    })?;
    let socket = told.await.unwrap_or_else(|_| {
        Err(io::Error::other(
            "no socket was made inside of the namespace",
        ))
    })?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// The calling thread is inside from now on.
fn enter(namespace: &str) -> io::Result<()> {
    let path = Path::new(NAMESPACES).join(namespace);
    let file = File::open(path)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}
