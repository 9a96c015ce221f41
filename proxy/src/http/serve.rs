//! hyper's builders with our limits, in one place, so that every hop has the same ones.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::blocks::{self, Blocks};
use super::body::ResponseBody;
use super::rewind::Rewind;

/// The most that a head or trailers may hold, bytes: in both directions and both versions.
pub const MAX_HEADER_BYTES: usize = super::framing::MAX_HEAD;
/// The read buffer of an HTTP/1 connection has room for a whole head and some of a body.
const MAX_HTTP1_BUFFER: usize = super::framing::MAX_HEAD + 16 * 1024;
/// Flow control: what may be on its way to a reader that has stopped, bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Never the bottleneck: the streams of one connection belong to many clients, and some that have
/// stopped reading must not hold up the others. 1 GiB, reached only if every stream stands still.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// The longest frame between sidecars: with its own head it fills two TLS records. The usual 16 KiB
/// are one record and another of 9 bytes.
pub const MAX_FRAME: usize = 2 * 16 * 1024 - 9;
/// A peer that does not answer a ping in this time is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Streams at once on a connection; the rest waits at the caller.
const MAX_STREAMS: u32 = 4096;

/// Runs hyper's own tasks on the worker's thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves an HTTP/2 connection until it ends; once `drained`, after all requests that are under way.
pub async fn serve_http2<S>(
    stream: Rewind<TcpStream>,
    service: S,
    drained: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Future: 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let serving =
        http2_server().serve_connection(TokioIo::new(Blocks::from_client(stream)), service);
    tokio::pin!(serving);
    tokio::select! {
        result = serving.as_mut() => result,
        () = drained => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
}

/// For an app that speaks HTTP/1 to its sidecar. Header names go out in title case, as HTTP/1 apps
/// have always seen them. An idle connection may stay: the app knows best when to close it, and
/// the time for a head that has begun is bounded by [`super::guarded::Guarded`].
pub fn http1_server() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .title_case_headers(true)
        .max_buf_size(MAX_HTTP1_BUFFER)
        .max_header_size(MAX_HEADER_BYTES)
        .header_read_timeout(None)
        .auto_date_header(false);
    builder
}

/// For the streams between sidecars: upgrades are extended CONNECTs (RFC 8441).
pub fn mesh_server() -> hyper::server::conn::http2::Builder<LocalExecutor> {
    let mut builder = http2_server();
    builder
        .enable_connect_protocol()
        .max_frame_size(MAX_FRAME as u32)
        // One connection carries all the clients of a sidecar: many may leave at once.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize);
    builder
}

/// For an app that speaks HTTP/2 to its sidecar. Reads through [`Blocks`], as all that is here does.
pub fn http2_server() -> hyper::server::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(blocks::MAX_DECODED)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// From a sidecar to its app in HTTP/1.
pub fn http1_client() -> hyper::client::conn::http1::Builder {
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder
        .title_case_headers(true)
        .max_buf_size(MAX_HTTP1_BUFFER)
        .max_header_size(MAX_HEADER_BYTES);
    builder
}

/// From sidecar to sidecar.
pub fn mesh_client() -> hyper::client::conn::http2::Builder<LocalExecutor> {
    let mut builder = http2_client();
    builder.max_frame_size(MAX_FRAME as u32);
    builder
}

/// From a sidecar to an app in HTTP/2.
pub fn http2_client() -> hyper::client::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::client::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(blocks::MAX_DECODED)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}
