//! Connections from the sidecar to its app, kept warm: HTTP/1 one request at a time, HTTP/2 many.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::descriptors;
use crate::http::blocks::Blocks;
use crate::http::body::{self, RequestBody};
use crate::http::headers;
use crate::http::serve::{http1_client, http2_client};
use crate::http::wire::AppVersion;
use crate::listen;
use crate::outbound::verdict::is_unprocessed;
use crate::refusal::Refusal;

/// Below the keep-alive times that servers have (Node 5 s, gunicorn 2 s, nginx 75 s): mostly it is
/// us who closes, so that no request meets a connection that is being closed.
const IDLE: Duration = Duration::from_millis(1500);
const MAX_IDLE: usize = 512;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Sender1 = http1::SendRequest<RequestBody>;
type Sender2 = http2::SendRequest<RequestBody>;

/// Where the app listens, and as whom it is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppAddress {
    pub address: SocketAddr,
    /// The client's address, where the app is to see it (`IP_TRANSPARENT`); else it sees the sidecar's.
    pub seen_as: Option<IpAddr>,
}

/// Belongs to one worker.
#[derive(Debug, Default)]
pub struct App {
    http1: Rc<Idle>,
    http2: RefCell<HashMap<AppAddress, Sender2>>,
}

#[derive(Debug, Default)]
struct Idle {
    by_address: RefCell<HashMap<AppAddress, Vec<(Sender1, Instant)>>>,
}

/// An answer, with the right to put its connection back when it has ended.
#[derive(Debug)]
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Option<Lease>,
}

/// Puts an HTTP/1 connection back when it is dropped, unless it has ended.
#[derive(Debug)]
pub struct Lease {
    idle: Rc<Idle>,
    address: AppAddress,
    sender: Option<Sender1>,
}

impl Lease {
    /// The connection cannot be used again.
    pub fn discard(mut self) {
        self.sender = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            let mut by_address = self.idle.by_address.borrow_mut();
            let idle = by_address.entry(self.address).or_default();
            if idle.len() < MAX_IDLE {
                idle.push((sender, Instant::now()));
            }
        }
    }
}

impl App {
    /// Sends a request to the app and waits for the head of its answer.
    pub async fn send(
        &self,
        address: AppAddress,
        version: AppVersion,
        request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        match version {
            AppVersion::Http1 => self.send_http1(address, request).await,
            AppVersion::Http2 => self.send_http2(address, request).await,
        }
    }

    /// Sends a request that asks for another protocol, on a connection of its own.
    pub async fn send_upgrade(
        &self,
        address: AppAddress,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Refusal> {
        connect_http1(address)
            .await?
            .send_request(request)
            .await
            .map_err(reset)
    }

    async fn send_http1(
        &self,
        address: AppAddress,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        loop {
            let warm = self.http1.take(address);
            let replay = warm.as_ref().and_then(|_| Replay::idempotent(&request));
            let reused = warm.is_some();
            let mut sender = match warm {
                Some(sender) => sender,
                // In a box: a request is as large as the largest of its ways.
                None => Box::pin(connect_http1(address)).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease {
                        idle: Rc::clone(&self.http1),
                        address,
                        sender: Some(sender),
                    };
                    return unambiguous(response, lease);
                }
                // The app was closing a warm connection (RFC 9110, section 9.2.2).
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => request = Replay::after(replay, error.into_error())?,
                },
            }
        }
    }

    async fn send_http2(
        &self,
        address: AppAddress,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        loop {
            let warm = self.http2.borrow().get(&address).cloned();
            let warm = warm.filter(|sender| sender.is_ready());
            let reused = warm.is_some();
            let replay = warm.as_ref().and_then(|_| Replay::of(&request));
            let mut sender = match warm {
                Some(sender) => sender,
                None => Box::pin(self.connect_http2(address)).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) if headers::is_too_large(response.headers()) => {
                    return Err(Refusal::AnswerTooLarge);
                }
                Ok(response) => {
                    return Ok(Answered {
                        response,
                        lease: None,
                    });
                }
                Err(mut error) => {
                    if reused {
                        self.http2.borrow_mut().remove(&address);
                    }
                    match error.take_message() {
                        Some(unsent) if reused => request = unsent,
                        _ if is_unprocessed(error.error()) => {
                            request = Replay::after(replay, error.into_error())?;
                        }
                        _ => return Err(reset(error.into_error())),
                    }
                }
            }
        }
    }

    async fn connect_http2(&self, address: AppAddress) -> Result<Sender2, Refusal> {
        let sender = connect_http2(address).await?;
        self.http2.borrow_mut().insert(address, sender.clone());
        Ok(sender)
    }

    /// Closes what has been idle for long.
    pub fn sweep(&self, now: Instant) {
        self.http1.by_address.borrow_mut().retain(|_, idle| {
            idle.retain(|(sender, since)| {
                !sender.is_closed() && now.saturating_duration_since(*since) < IDLE
            });
            !idle.is_empty()
        });
        self.http2
            .borrow_mut()
            .retain(|_, sender| sender.is_ready());
    }
}

impl Idle {
    /// The connection used last: the others may grow old and be closed.
    fn take(&self, address: AppAddress) -> Option<Sender1> {
        let mut by_address = self.by_address.borrow_mut();
        let idle = by_address.get_mut(&address)?;
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }
}

/// A request without a body, kept to be sent once more.
struct Replay(Parts);

impl Replay {
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        if !request.body().is_end_stream() {
            return None;
        }
        let mut parts = Request::new(()).into_parts().0;
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        Some(Self(parts))
    }

    /// Only what may be done twice: the app may have done it once.
    fn idempotent(request: &Request<RequestBody>) -> Option<Self> {
        Some(request)
            .filter(|request| request.method().is_idempotent())
            .and_then(Self::of)
    }

    /// The request again, if there was no byte of an answer.
    fn after(replay: Option<Self>, error: hyper::Error) -> Result<Request<RequestBody>, Refusal> {
        match replay {
            Some(Self(parts)) if !error.is_parse() => {
                tracing::debug!(%error, "sent again on a new connection");
                Ok(Request::from_parts(parts, RequestBody::Empty))
            }
            _ => Err(reset(error)),
        }
    }
}

/// An answer that two readers could end differently is none (RFC 9112, section 6.3).
fn unambiguous(response: Response<Incoming>, lease: Lease) -> Result<Answered, Refusal> {
    let headers = response.headers();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_clear = match (encodings.next(), encodings.next()) {
        (None, _) => true,
        (Some(encoding), None) => {
            encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !headers.contains_key(CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    if !is_clear {
        lease.discard();
        tracing::info!(
            "the app's answer has no clear end: Transfer-Encoding must be `chunked`, alone"
        );
        return Err(Refusal::AppReset);
    }
    Ok(Answered {
        response,
        lease: Some(lease),
    })
}

async fn connect_http1(address: AppAddress) -> Result<Sender1, Refusal> {
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

async fn connect_http2(address: AppAddress) -> Result<Sender2, Refusal> {
    let stream = connect(address).await?;
    let (sender, connection) = http2_client()
        .handshake(TokioIo::new(Blocks::from_server(stream)))
        .await
        .map_err(reset)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the app ended");
        }
    });
    Ok(sender)
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

fn reset(error: hyper::Error) -> Refusal {
    tracing::debug!(%error, "the app ended the exchange");
    if body::is_request_too_large(&error) {
        Refusal::HeaderTooLarge
    } else if error.is_parse_too_large() {
        Refusal::AnswerTooLarge
    } else {
        Refusal::AppReset
    }
}
