//! Listening sockets, and accepting from them for as long as the sidecar lives.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::descriptors;
use crate::handover::{Inherited, Named};

const BACKLOG: i32 = 4096;
/// A client that is gone without a word is found after five minutes in which nothing came, and has a
/// minute to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(300);
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMES: u32 = 6;
/// After an error of the listener itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two lines that say the same.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}): {error}")]
pub struct ListenError {
    pub address: SocketAddr,
    pub purpose: &'static str,
    pub error: io::Error,
}

/// What is special about a listening socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Each worker binds the same address (`SO_REUSEPORT`); without it, a port that another process
    /// has is an error.
    pub shared: bool,
    /// Connections to other addresses arrive here, too (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Not those of IPv4, where the address is IPv6's unspecified one.
    pub only_v6: bool,
}

impl Options {
    pub fn shared(shared: bool) -> Self {
        Self {
            shared,
            ..Self::default()
        }
    }
}

/// Binds and listens, or takes the socket that the sidecar before left for this address.
pub fn bind(
    address: SocketAddr,
    purpose: &'static str,
    options: Options,
    inherited: &Inherited,
) -> Result<TcpListener, ListenError> {
    let listener = match inherited.take(address) {
        Some(listener) => TcpListener::from_std(listener),
        None => try_bind(address, options),
    };
    let kept = listener.and_then(|listener| {
        // The kernel gives it to every connection that it accepts.
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE_AGAIN)
            .with_retries(KEEP_ALIVE_TIMES);
        SockRef::from(&listener).set_tcp_keepalive(&keep_alive)?;
        Ok(listener)
    });
    kept.map_err(|error| ListenError {
        address,
        purpose,
        error,
    })
}

fn try_bind(address: SocketAddr, options: Options) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if options.shared {
        socket.set_reuse_port(true)?;
    }
    if options.only_v6 && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.transparent {
        set_transparent(&socket, address)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Lets a socket have an address that is not of this host. Needs CAP_NET_ADMIN.
pub fn set_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

/// A copy of a listening socket, to be handed over; `None`: there are too many open files.
pub fn copy(address: SocketAddr, listener: &TcpListener) -> Option<Named> {
    let socket = listener.as_fd().try_clone_to_owned().ok()?;
    Some(Named { address, socket })
}

/// Hands every connection of traffic to `serve`, and to `shed` what would have one of the file
/// descriptors that are kept for the sidecar itself.
pub async fn accept_traffic(
    listener: impl Deref<Target = TcpListener>,
    mut serve: impl FnMut(TcpStream, SocketAddr),
    mut shed: impl FnMut(TcpStream),
) {
    let mut now_and_then = NowAndThen::default();
    let serve_or_shed = |stream: TcpStream, peer| {
        if !descriptors::is_kept(&stream) {
            return serve(stream, peer);
        }
        shed(stream);
        now_and_then.say(|| tracing::warn!("out of file descriptors: new connections are reset"));
    };
    accept_each(listener, serve_or_shed).await;
}

/// Hands every connection to `serve`. An error of one connection, or of the moment, ends nothing.
pub async fn accept_each(
    listener: impl Deref<Target = TcpListener>,
    mut serve: impl FnMut(TcpStream, SocketAddr),
) {
    let mut now_and_then = NowAndThen::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it small answers would wait for acknowledgements.
                if stream.set_nodelay(true).is_ok() {
                    serve(stream, peer);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                now_and_then
                    .say(|| tracing::warn!(%error, "cannot accept connections for the moment"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says again and again what lasts, but not each time.
#[derive(Default)]
struct NowAndThen {
    said: Option<Instant>,
}

impl NowAndThen {
    fn say(&mut self, say: impl FnOnce()) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            say();
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// One direction's connections: how many there are, and the word that they shall end.
#[derive(Clone, Debug)]
pub struct Drain {
    state: Rc<watch::Sender<DrainState>>,
}

#[derive(Debug, Default)]
struct DrainState {
    draining: bool,
    open: usize,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            state: Rc::new(watch::Sender::new(DrainState::default())),
        }
    }
}

/// A connection that a drain waits for, until it is dropped.
#[derive(Debug)]
pub struct Open(Drain);

impl Drain {
    pub fn open(&self) -> Open {
        self.state.send_if_modified(|state| {
            state.open += 1;
            false
        });
        Open(self.clone())
    }

    pub fn count(&self) -> usize {
        self.state.borrow().open
    }

    pub fn is_draining(&self) -> bool {
        self.state.borrow().draining
    }

    /// Resolves when the connections shall end.
    pub fn started(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.subscribe();
        async move {
            // The sender lives as long as the worker: an error means that it is gone, too.
            let _ = state.wait_for(|state| state.draining).await;
        }
    }

    /// Tells the connections to end, and resolves when they have.
    pub async fn finish(&self) {
        self.state.send_modify(|state| state.draining = true);
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.open == 0)
            .await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state.send_if_modified(|state| {
            state.open -= 1;
            state.draining && state.open == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_drain_waits_for_what_is_open() {
        let drain = Drain::default();
        let open = drain.open();
        let started = drain.started();
        let finished = drain.finish();
        tokio::pin!(finished);
        assert!(futures_util::FutureExt::now_or_never(finished.as_mut()).is_none());
        started.await;
        assert!(drain.is_draining());
        drop(open);
        finished.await;
        assert_eq!(drain.count(), 0);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_without_a_word_is_found() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(any, "mesh", Options::default(), &Inherited::default());
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, accepted) = (client.expect("connected"), accepted.expect("accepted").0);
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().expect("an option"));
        assert_eq!(socket.tcp_keepalive_time().expect("one"), KEEP_ALIVE);
        assert_eq!(
            socket.tcp_keepalive_interval().expect("one"),
            KEEP_ALIVE_AGAIN
        );
        assert_eq!(
            socket.tcp_keepalive_retries().expect("one"),
            KEEP_ALIVE_TIMES
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_it() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = |address| bind(address, "mesh", Options::default(), &Inherited::default());
        let first = listen(any).expect("a free port");
        let address = first.local_addr().expect("its address");
        let error = listen(address).expect_err("in use");
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()));
    }
}
