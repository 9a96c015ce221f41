//! hyper's builders with our limits, in one place, so that every hop has the same ones.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::blocks::Blocks;
use super::body::ResponseBody;
use super::limits::Limits;
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
    limits: Limits,
    service: S,
    drained: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: HttpService<Incoming, ResBody = ResponseBody>,
    S::Future: 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stream = TokioIo::new(Blocks::from_client(stream, limits));
    let serving = http2_server(limits).serve_connection(stream, service);
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
    let mut builder = http2_server(Limits::MESH);
    builder
        .enable_connect_protocol()
        .max_frame_size(MAX_FRAME as u32)
        // One connection carries all the clients of a sidecar: many may leave at once.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize);
    builder
}

/// For an app that speaks HTTP/2 to its sidecar. Reads through [`Blocks`], as all that is here does.
pub fn http2_server(limits: Limits) -> hyper::server::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(limits.decoded_block)
        .max_local_error_reset_streams(limits.late_frames)
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
    builder
        .max_frame_size(MAX_FRAME as u32)
        // It will say the same.
        .initial_max_send_streams(MAX_STREAMS as usize);
    builder
}

/// From a sidecar to an app in HTTP/2. How many streams that one allows, its connections know.
pub fn http2_client() -> hyper::client::conn::http2::Builder<LocalExecutor> {
    let mut builder = hyper::client::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(Limits::MESH.decoded_block)
        // Streams that were given up are known for a second: what comes late for them is passed over.
        .max_concurrent_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(Limits::MESH.late_frames)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use http::Response;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::LocalSet;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const FRAME: usize = 16 * 1024;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// Entries of HPACK's static table: GET of / over http, and a field without a value that is 46 bytes
    /// as HTTP/2 counts, and 72 in memory.
    const GET: &[u8] = &[0x82, 0x86, 0x84];
    const FIELD: u8 = 0x8f;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a length");
        let head = [&length.to_be_bytes()[1..], &[kind, flags]].concat();
        [&head, &stream.to_be_bytes()[..], payload].concat()
    }

    fn request(fields: usize) -> Vec<u8> {
        let block = [GET, &vec![FIELD; fields]].concat();
        let mut parts = block.chunks(FRAME).peekable();
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let (mut kind, mut flags) = (HEADERS, END_STREAM);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                flags |= END_HEADERS;
            }
            bytes.extend(frame(kind, flags, 1, part));
            (kind, flags) = (CONTINUATION, 0);
        }
        bytes
    }

    async fn answered(client: &mut DuplexStream) {
        let mut head = [0; 9];
        loop {
            client.read_exact(&mut head).await.expect("a frame");
            let [a, b, c, kind, ..] = head;
            if kind == HEADERS {
                return;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            client.read_exact(&mut payload).await.expect("its payload");
        }
    }

    /// Whether a request with so many fields gets as far as to be looked at.
    async fn is_looked_at(limits: Limits, fields: usize) -> bool {
        let (mut client, server) = duplex(1024 * 1024);
        let looked_at = Cell::new(false);
        let service = service_fn(|_| {
            looked_at.set(true);
            async { Ok::<_, Infallible>(Response::new(ResponseBody::empty())) }
        });
        let stream = TokioIo::new(Blocks::from_client(server, limits));
        let serving = http2_server(limits).serve_connection(stream, service);
        let asking = async {
            client.write_all(&request(fields)).await.expect("room");
            answered(&mut client).await;
        };
        let both = async {
            tokio::select! {
                ended = serving => panic!("the connection has ended: {ended:?}"),
                () = asking => {}
            }
        };
        LocalSet::new().run_until(both).await;
        looked_at.get()
    }

    #[tokio::test]
    async fn of_fields_that_are_small_on_the_wire_and_large_in_memory_no_more_are_kept() {
        for limits in [Limits::MESH, Limits::STRANGERS, Limits::PROBES] {
            let most = limits.decoded_block as usize / 46;
            assert!(is_looked_at(limits, most - 10).await, "{limits:?}");
            assert!(!is_looked_at(limits, most + 10).await, "{limits:?}");
            assert!(!is_looked_at(limits, 2 * most).await, "{limits:?}");
        }
    }
}
