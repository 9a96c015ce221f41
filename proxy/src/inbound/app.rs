//! Connections from the sidecar to its app, kept warm: HTTP/1 one request at a time, HTTP/2 many.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::body::RequestBody;
use crate::http::serve::{http1_client, http2_client};
use crate::http::wire::AppVersion;
use crate::refusal::Refusal;

/// Below the keep-alive times that servers have (Node 5 s, gunicorn 2 s, nginx 75 s): mostly it is
/// us who closes, so that no request meets a connection that is being closed.
const IDLE: Duration = Duration::from_millis(1500);
const MAX_IDLE: usize = 512;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Sender1 = http1::SendRequest<RequestBody>;
type Sender2 = http2::SendRequest<RequestBody>;

/// Belongs to one worker.
#[derive(Debug, Default)]
pub struct App {
    http1: Rc<Idle>,
    http2: RefCell<HashMap<SocketAddr, Sender2>>,
}

#[derive(Debug, Default)]
struct Idle {
    by_address: RefCell<HashMap<SocketAddr, Vec<(Sender1, Instant)>>>,
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
    address: SocketAddr,
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
        address: SocketAddr,
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
        address: SocketAddr,
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
        address: SocketAddr,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        loop {
            let (mut sender, reused) = match self.http1.take(address) {
                Some(sender) => (sender, true),
                None => (connect_http1(address).await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease {
                        idle: Rc::clone(&self.http1),
                        address,
                        sender: Some(sender),
                    };
                    return Ok(Answered {
                        response,
                        lease: Some(lease),
                    });
                }
                // The app had closed a warm connection: nothing was sent on it.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(reset(error.into_error())),
                },
            }
        }
    }

    async fn send_http2(
        &self,
        address: SocketAddr,
        mut request: Request<RequestBody>,
    ) -> Result<Answered, Refusal> {
        loop {
            let warm = self
                .http2
                .borrow()
                .get(&address)
                .filter(|sender| sender.is_ready())
                .cloned();
            let (mut sender, reused) = match warm {
                Some(sender) => (sender, true),
                None => {
                    let sender = connect_http2(address).await?;
                    self.http2.borrow_mut().insert(address, sender.clone());
                    (sender, false)
                }
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(Answered {
                        response,
                        lease: None,
                    });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        self.http2.borrow_mut().remove(&address);
                        request = unsent;
                    }
                    _ => return Err(reset(error.into_error())),
                },
            }
        }
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
    fn take(&self, address: SocketAddr) -> Option<Sender1> {
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

async fn connect_http1(address: SocketAddr) -> Result<Sender1, Refusal> {
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

async fn connect_http2(address: SocketAddr) -> Result<Sender2, Refusal> {
    let stream = connect(address).await?;
    let (sender, connection) = http2_client()
        .handshake(TokioIo::new(stream))
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
pub async fn connect(address: SocketAddr) -> Result<TcpStream, Refusal> {
    let unreachable = |error: std::io::Error| {
        tracing::debug!(%address, %error, "the app cannot be connected to");
        Refusal::AppUnreachable
    };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = connecting
        .await
        .map_err(|_| Refusal::AppUnreachable)?
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

fn reset(error: hyper::Error) -> Refusal {
    tracing::debug!(%error, "the app ended the exchange");
    Refusal::AppReset
}
