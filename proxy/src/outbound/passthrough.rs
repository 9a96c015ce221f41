//! Connections that leave the mesh: carried as they are, counted by the name that the client says.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::descriptors;
use crate::detect::{Detected, ServerName, detect};
use crate::intercept;
use crate::refusal::Refusal;
use crate::telemetry::names::Names;
use crate::tunnel;
use crate::worker::Worker;

/// The app would have waited for longer, and without a word.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for so long is given up, as Envoy does: who left it open may be
/// gone, and nothing tells.
const IDLE: Duration = Duration::from_secs(3600);
/// Connections of the app at once, for each worker, beyond which none goes out of the mesh.
const MAX_CONNECTIONS: usize = 20_000;
/// First bytes that are looked at for a name.
const MAX_OBSERVED: usize = 16 * 1024;

/// Carries a connection to where it was meant to go, until one side has ended.
pub async fn serve(worker: &Worker, stream: TcpStream, to: SocketAddr) {
    if worker.outbound.count() >= MAX_CONNECTIONS {
        worker
            .metrics
            .refused("outbound", Refusal::TooManyConnections, "");
        return intercept::reset(stream);
    }
    let _open = worker.outbound.open();
    let Some(mut upstream) = connect(worker, to).await else {
        return intercept::reset(stream);
    };
    let edge = &worker.outside;
    let handles = edge.tcp().clone();
    handles.opened.inc();
    let mut observed = Observed {
        stream,
        seen: Some(Vec::new()),
        names: &worker.names,
    };
    let carrying = tunnel::carry(
        &mut observed,
        &mut upstream,
        Some(IDLE),
        |bytes| handles.received.inc_by(bytes),
        |bytes| handles.sent.inc_by(bytes),
    );
    if let Err(error) = carrying.await {
        tracing::debug!(%to, %error, "a connection out of the mesh ended");
    }
    observed.conclude();
    handles.closed.inc();
}

async fn connect(worker: &Worker, to: SocketAddr) -> Option<TcpStream> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, descriptors::connect(to));
    let error = match connecting.await {
        Ok(Ok(stream)) => match stream.set_nodelay(true) {
            Ok(()) => return Some(stream),
            Err(error) => error,
        },
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    tracing::info!(%to, %error, "a destination outside the mesh cannot be connected to");
    let refusal = match descriptors::is_shortage(&error) {
        true => Refusal::TooManyConnections,
        false => Refusal::DestinationUnreachable,
    };
    worker.metrics.refused("outbound", refusal, "");
    None
}

/// A client whose first bytes are looked at in passing: nothing waits for them.
struct Observed<'w> {
    stream: TcpStream,
    /// `None`: enough was seen, and its name is counted.
    seen: Option<Vec<u8>>,
    names: &'w Names,
}

impl Observed<'_> {
    fn observe(&mut self, bytes: &[u8]) {
        let Some(seen) = &mut self.seen else {
            return;
        };
        seen.extend_from_slice(bytes);
        if seen.len() < MAX_OBSERVED && detect(seen) == Detected::Undecided {
            return;
        }
        self.conclude();
    }

    /// Counts the connection by its name, once.
    fn conclude(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.names.count("unknown", ServerName::of(&seen).as_ref());
        }
    }
}

impl AsyncRead for Observed<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() && self.seen.is_some() {
            self.observe(&buffer.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Observed<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
