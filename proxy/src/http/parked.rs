//! An app's HTTP/1 connection, which holds no buffers while it is idle.
//!
//! hyper keeps two of 8 KiB for each connection, and most connections of an app wait for their next
//! request. So hyper has a connection only while there is something to do: it is taken back when
//! nothing has happened for a while ([`PARK_AFTER`]), and given to a new hyper when it is readable.
//! hyper closes a connection only if it is idle, and [`Lent`] keeps that from reaching the socket.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::{BodyError, ResponseBody};
use super::guarded::Guarded;
use super::idle::Idle;
use super::serve::http1_server;

/// How long nothing happens before the buffers go: to take a connection back and to give it away
/// again costs a few microseconds and a timer's wake-up.
const PARK_AFTER: Duration = Duration::from_secs(5);

/// Answers the requests of a connection with `handler`, until it ends or becomes something else.
/// After `drained`, the request that is under way is the last one.
///
/// # Errors
///
/// hyper's, of the connection: what cannot be parsed, or read and written.
pub async fn serve<H, F>(
    mut stream: Guarded<TcpStream>,
    drained: impl Future<Output = ()>,
    handler: H,
) -> hyper::Result<()>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
{
    let mut drained = pin!(drained);
    loop {
        // In a box, so that it is gone while the connection is parked.
        match Box::pin(busy(stream, drained.as_mut(), &handler)).await? {
            Some(idle) => stream = idle,
            None => return Ok(()),
        }
        tokio::select! {
            // What has been said is answered, also by a sidecar that ends.
            biased;
            readable = stream.readable() => if readable.is_err() { return Ok(()) },
            () = drained.as_mut() => return Ok(()),
        }
    }
}

/// The same until the connection is idle: then it is given back.
async fn busy<H, F>(
    stream: Guarded<TcpStream>,
    mut drained: Pin<&mut impl Future<Output = ()>>,
    handler: &H,
) -> hyper::Result<Option<Guarded<TcpStream>>>
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<ResponseBody>, Infallible>>,
{
    let home = Arc::new(Home::default());
    let lent = Lent {
        stream: Some(stream),
        home: Arc::clone(&home),
    };
    let service = service_fn(|request| {
        let under_way = UnderWay::new(&home);
        let answering = handler(request);
        async move {
            let answer = answering.await?;
            Ok::<_, Infallible>(answer.map(|body| Counted {
                body,
                _under_way: under_way,
            }))
        }
    });
    {
        let serving = http1_server().serve_connection(TokioIo::new(lent), service);
        let mut serving = pin!(serving.with_upgrades());
        let mut idle = Idle::new(PARK_AFTER);
        let mut is_drained = false;
        // A request that is under way is the last one.
        let mut is_last = false;
        poll_fn(|cx| {
            // First, so that what has come is under way.
            if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            is_drained = is_drained || drained.as_mut().poll(cx).is_ready();
            if is_drained && !is_last && !home.is_amid_a_head() {
                is_last = true;
                serving.as_mut().graceful_shutdown();
                if let Poll::Ready(ended) = serving.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
            }
            if is_last || !home.is_idle() {
                idle.progressed();
                return Poll::Pending;
            }
            ready!(idle.poll_expired(cx));
            home.called_back.store(true, Ordering::Relaxed);
            serving.as_mut().graceful_shutdown();
            let ended = serving.as_mut().poll(cx);
            if ended.is_pending() {
                // It is not idle to hyper, which ends it then as it is used to.
                home.called_back.store(false, Ordering::Relaxed);
                is_last = true;
            }
            ended
        })
        .await?;
    }
    Ok(home.returned())
}

/// Where a connection comes back to. Shared within one task, but hyper asks for `Send`.
#[derive(Debug, Default)]
struct Home {
    called_back: AtomicBool,
    returned: Mutex<Option<Guarded<TcpStream>>>,
    /// Bytes were written that were not flushed yet.
    unflushed: AtomicBool,
    /// The last read found nothing, where a request would begin.
    waiting: AtomicBool,
    answered: AtomicBool,
    under_way: AtomicU32,
}

impl Home {
    /// Everything that was asked is answered, and nothing more is asked.
    fn is_idle(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
            && self.under_way.load(Ordering::Relaxed) == 0
            && self.waiting.load(Ordering::Relaxed)
            && !self.unflushed.load(Ordering::Relaxed)
    }

    /// A request has begun that hyper does not know of yet, and would not answer if it were told to end.
    fn is_amid_a_head(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0 && !self.waiting.load(Ordering::Relaxed)
    }

    fn returned(&self) -> Option<Guarded<TcpStream>> {
        let mut returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        returned.take()
    }
}

/// A request, until its answer has ended.
#[derive(Debug)]
struct UnderWay(Arc<Home>);

impl UnderWay {
    fn new(home: &Arc<Home>) -> Self {
        home.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(home))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body, whose request is under way until it has ended.
#[derive(Debug)]
struct Counted {
    body: ResponseBody,
    _under_way: UnderWay,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection in the hands of hyper.
#[derive(Debug)]
struct Lent {
    /// Always there, until it is dropped.
    stream: Option<Guarded<TcpStream>>,
    home: Arc<Home>,
}

impl Lent {
    fn stream(&mut self) -> io::Result<Pin<&mut Guarded<TcpStream>>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.home.called_back.load(Ordering::Relaxed) {
            let returned = self.home.returned.lock();
            *returned.unwrap_or_else(PoisonError::into_inner) = self.stream.take();
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_read(cx, buf);
        let waiting = polled.is_pending() && this.stream()?.is_between_requests();
        this.home.waiting.store(waiting, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.home.unflushed.store(true, Ordering::Relaxed);
        this.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.home.unflushed.store(true, Ordering::Relaxed);
        this.stream()?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.stream()?.poll_flush(cx))?;
        this.home.unflushed.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.home.called_back.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        this.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "parked_tests.rs"]
mod tests;
