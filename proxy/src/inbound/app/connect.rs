//! Connections to the app as they are made.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::reset;
use crate::descriptors;
use crate::http::blocks::Blocks;
use crate::http::body::RequestBody;
use crate::http::serve::{LocalExecutor, http1_client, http2_client};
use crate::listen;
use crate::refusal::Refusal;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub type Sender1 = http1::SendRequest<RequestBody>;
pub type Sender2 = http2::SendRequest<RequestBody>;
/// What moves an HTTP/2 connection, and knows how many streams its server allows.
pub type Driven = http2::Connection<TokioIo<Blocks<TcpStream>>, RequestBody, LocalExecutor>;

/// Where the app listens, and as whom it is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppAddress {
    pub address: SocketAddr,
    /// The client's address, where the app is to see it (`IP_TRANSPARENT`); else it sees the sidecar's.
    pub seen_as: Option<IpAddr>,
}

pub async fn http1(address: AppAddress) -> Result<Sender1, Refusal> {
    let stream = connect(address).await?;
    let (sender, connection) = http1_client()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(reset)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the app ended");
        }
    });
    Ok(sender)
}

/// It is taken to allow so many `streams`, until it has said how many.
pub async fn http2(
    address: AppAddress,
    streams: usize,
) -> Result<(Sender2, Weak<RefCell<Driven>>), Refusal> {
    let stream = connect(address).await?;
    let (sender, connection) = http2_client()
        .initial_max_send_streams(streams)
        .handshake(TokioIo::new(Blocks::from_server(stream)))
        .await
        .map_err(reset)?;
    let driven = Rc::new(RefCell::new(connection));
    let known = Rc::downgrade(&driven);
    tokio::task::spawn_local(async move {
        let ended = std::future::poll_fn(|cx| Pin::new(&mut *driven.borrow_mut()).poll(cx));
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection to the app ended");
        }
    });
    Ok((sender, known))
}

/// A connection to the app, bounded in time.
pub async fn connect(app: AppAddress) -> Result<TcpStream, Refusal> {
    let unreachable = |error: io::Error| {
        tracing::debug!(address = %app.address, %error, "the app cannot be connected to");
        match descriptors::is_shortage(&error) {
            true => Refusal::TooManyConnections,
            false => Refusal::AppUnreachable,
        }
    };
    let connecting = async {
        match app.seen_as {
            Some(client) => connect_as(client, app.address).await,
            None => descriptors::connect(app.address).await,
        }
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| Refusal::AppUnreachable)?
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// From an address that is not of this host: what comes back to it is kept here by the rules of
/// `outrider-proxy init --mode tproxy`.
async fn connect_as(client: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    let socket = descriptors::for_traffic(socket)?;
    socket.set_nonblocking(true)?;
    listen::set_transparent(&socket, address)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await
}
