//! The connection that hyper reads from: bytes that were read to detect the protocol come first,
//! and nothing passes that [`Framing`] refuses.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::framing::{Framing, Stop, Violation};
use crate::refusal::Refusal;
use crate::through::writes_through;

/// How long a request's head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client may go on sending after it was refused: read, so that the answer is not lost with
/// a reset connection.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Marks the request that stands in for one that was refused, so that its answer is made where all
/// answers are. A client that sends it itself is refused as it asks to be.
const REFUSED: HeaderName = HeaderName::from_static("x-outrider-refused");
const INSTEAD_OF_BAD: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused\r\nx-outrider-refused: bad_request\r\n\r\n";
const INSTEAD_OF_LARGE: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused\r\nx-outrider-refused: header_too_large\r\n\r\n";

/// Whether this request stands in for one that was refused.
pub fn refused(headers: &HeaderMap) -> Option<Refusal> {
    let reason = headers.get(REFUSED)?;
    Some(if reason == "header_too_large" {
        Refusal::HeaderTooLarge
    } else {
        Refusal::BadRequest
    })
}

/// What the connection and its service tell each other. Shared between two tasks of one thread at
/// most, but hyper asks for `Send`.
#[derive(Debug, Default)]
pub struct Gate {
    upgrade: AtomicU8,
    broken_body: AtomicBool,
    reader: AtomicWaker,
}

const UNDECIDED: u8 = 0;
const UPGRADED: u8 = 1;
const DECLINED: u8 = 2;

impl Gate {
    /// Tells the reader what became of an upgrade that a request asked for.
    pub fn decide(&self, upgraded: bool) {
        let decision = if upgraded { UPGRADED } else { DECLINED };
        self.upgrade.store(decision, Ordering::Release);
        self.reader.wake();
    }

    /// Whether the body of the request that is being read was refused.
    pub fn is_body_broken(&self) -> bool {
        self.broken_body.load(Ordering::Acquire)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    framing: Framing,
    gate: Arc<Gate>,
    /// May go to the parser.
    passed: Bytes,
    /// Read, and held back: an unfinished head, or what came after a request for an upgrade.
    held: BytesMut,
    head_deadline: Option<Pin<Box<Sleep>>>,
    /// Set when a request was refused: how much was discarded since.
    discarded: Option<usize>,
}

impl<S> Guarded<S> {
    /// `first` are bytes already read from `stream`.
    pub fn new(stream: S, first: BytesMut) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            gate: Arc::default(),
            passed: Bytes::new(),
            held: first,
            head_deadline: None,
            discarded: None,
        }
    }

    /// Whether all that was read has passed, and a request comes next.
    pub fn is_between_requests(&self) -> bool {
        self.framing.is_in_head()
            && self.passed.is_empty()
            && self.held.is_empty()
            && self.discarded.is_none()
    }

    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Whether an upgrade is still to be decided; the waker is left with the gate if so.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.framing.is_undecided() {
            return Poll::Ready(());
        }
        self.gate.reader.register(cx.waker());
        let decision = self.gate.upgrade.swap(UNDECIDED, Ordering::AcqRel);
        if decision == UNDECIDED {
            return Poll::Pending;
        }
        self.framing.decide(decision == UPGRADED);
        Poll::Ready(())
    }

    fn poll_head_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.framing.is_in_head() {
            return Poll::Pending;
        }
        let deadline = self
            .head_deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_TIMEOUT)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the request's head took too long",
        )))
    }

    /// How many of `bytes` may pass, and why not more.
    fn advance(framing: &mut Framing, gate: &Gate, bytes: &[u8]) -> (usize, Stop) {
        let progress = framing.advance(bytes);
        if framing.is_undecided() {
            // What was decided about an earlier request says nothing about this one.
            gate.upgrade.store(UNDECIDED, Ordering::Release);
        }
        (progress.passed, progress.stop)
    }

    /// A refused head is answered through a request in its place; a refused body ends the reading.
    fn refuse(&mut self, violation: Violation) -> io::Result<()> {
        tracing::debug!(%violation, "refused the bytes of a request");
        self.held.clear();
        self.discarded = Some(0);
        if !self.framing.is_in_head() {
            self.gate.broken_body.store(true, Ordering::Release);
            return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
        }
        self.passed = Bytes::from_static(match violation {
            Violation::TooLarge => INSTEAD_OF_LARGE,
            _ => INSTEAD_OF_BAD,
        });
        Ok(())
    }
}

impl Guarded<TcpStream> {
    /// Waits for bytes, or the end, without room for them.
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// The common way: straight into the parser's buffer, and all of it may pass.
    fn poll_straight(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if read.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let (passed, _) = Self::advance(&mut self.framing, &self.gate, read);
        self.held.extend_from_slice(&read[passed..]);
        buf.set_filled(before + passed);
        Poll::Ready(Ok(passed > 0))
    }

    /// Looks at what is held back again, reading more where it is unfinished; `true`: the end.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let (passed, stop) = Self::advance(&mut self.framing, &self.gate, &self.held);
        if passed > 0 {
            self.head_deadline = None;
            self.passed = self.held.split_to(passed).freeze();
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Poll::Ready(Ok(false));
        }
        match stop {
            Stop::Violation(violation) => Poll::Ready(self.refuse(violation).map(|()| false)),
            Stop::End | Stop::Undecided => Poll::Ready(Ok(false)),
            Stop::Incomplete => {
                self.held.reserve(1024);
                match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.held) {
                    Poll::Ready(read) => Poll::Ready(read.map(|length| length == 0)),
                    Poll::Pending => self.poll_head_deadline(cx).map_ok(|()| true),
                }
            }
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>, so_far: usize) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        let mut discarded = so_far;
        while discarded < MAX_DISCARDED {
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            discarded += read.filled().len();
            self.discarded = Some(discarded);
        }
        // Not the end: that would take the answer back. hyper closes when it is written.
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                let length = this.passed.len().min(buf.remaining());
                buf.put_slice(&this.passed[..length]);
                this.passed.advance(length);
                if this.passed.is_empty() {
                    // What is left of it would be held for as long as the connection lasts.
                    this.passed = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(discarded) = this.discarded {
                return this.poll_discard(cx, discarded);
            }
            // The head has passed: hyper needs no more until the upgrade is decided.
            ready!(this.poll_decision(cx));
            let done = if this.held.is_empty() {
                ready!(this.poll_straight(cx, buf))?
            } else {
                ready!(this.poll_held(cx))?
            };
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

writes_through!(Guarded);
