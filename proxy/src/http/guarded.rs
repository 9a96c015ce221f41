//! The connection that hyper reads from: bytes that were read to detect the protocol come first,
//! and nothing passes that [`Framing`] refuses.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::{Framing, Violation};

/// How long a request's head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A byte that no parser accepts in a head or a chunk's size: it makes hyper answer 400 and close.
const POISON: u8 = 0;

/// What the connection and its service tell each other. Shared between two tasks of one thread at
/// most, but hyper asks for `Send`.
#[derive(Debug, Default)]
pub struct Gate {
    upgrade: AtomicU8,
    violation: AtomicU8,
    reader: AtomicWaker,
}

const UNDECIDED: u8 = 0;
const UPGRADED: u8 = 1;
const DECLINED: u8 = 2;

impl Gate {
    /// Tells the reader what became of an upgrade that a request asked for.
    pub fn decide(&self, upgraded: bool) {
        self.upgrade.store(
            if upgraded { UPGRADED } else { DECLINED },
            Ordering::Release,
        );
        self.reader.wake();
    }

    /// Whether the bytes were refused.
    pub fn is_violated(&self) -> bool {
        self.violation.load(Ordering::Acquire) != 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    framing: Framing,
    gate: Arc<Gate>,
    /// Read, not yet passed on: what came with the detection, or after a request for an upgrade.
    held: Bytes,
    head_deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// `first` are bytes already read from `stream`.
    pub fn new(stream: S, first: Bytes) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            gate: Arc::default(),
            held: first,
            head_deadline: None,
        }
    }

    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Checks the bytes that `buf` has from `before` on, and takes back those that may not pass.
    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Option<Violation> {
        match self.framing.advance(&buf.filled()[before..]) {
            Ok(taken) => {
                if self.framing.is_undecided() {
                    // What was decided about an earlier request says nothing about this one.
                    self.gate.upgrade.store(UNDECIDED, Ordering::Release);
                }
                let passed = before + taken;
                if passed < buf.filled().len() {
                    let back = Bytes::copy_from_slice(&buf.filled()[passed..]);
                    self.held = if self.held.is_empty() {
                        back
                    } else {
                        let mut joined = BytesMut::from(&back[..]);
                        joined.extend_from_slice(&self.held);
                        joined.freeze()
                    };
                    buf.set_filled(passed);
                }
                None
            }
            Err(violation) => {
                self.gate.violation.store(1, Ordering::Release);
                buf.set_filled(before);
                buf.put_slice(&[POISON]);
                Some(violation)
            }
        }
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
        if !self.framing.is_inside_head() {
            self.head_deadline = None;
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
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Its head has been passed on: hyper needs no more until the upgrade is decided.
        ready!(this.poll_decision(cx));
        let before = buf.filled().len();
        if this.held.is_empty() {
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => return this.poll_head_deadline(cx),
            }
        } else {
            let length = this.held.len().min(buf.remaining());
            buf.put_slice(&this.held[..length]);
            this.held.advance(length);
        }
        if let Some(violation) = this.inspect(buf, before) {
            tracing::debug!(%violation, "refused the bytes of a request");
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
