//! Reads ahead of TLS. rustls asks for 4 KiB at a time, a quarter of a record: while more than that comes,
//! it is read with one call into a buffer, which is there no longer than that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::through::writes_through;

/// Two records: what a frame between sidecars fills.
const AHEAD: usize = 32 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    /// Read, and not asked for yet.
    ahead: BytesMut,
    /// The last read gave all that was asked for: there is more, most likely.
    more: bool,
}

impl<S> Ahead<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
            more: false,
        }
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            this.give(buf);
            return Poll::Ready(Ok(()));
        }
        if !this.more {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.more = buf.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        this.more = false;
        let mut ahead = BytesMut::with_capacity(AHEAD);
        ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut ahead))?;
        this.more = ahead.len() > buf.remaining();
        this.ahead = ahead;
        this.give(buf);
        Poll::Ready(Ok(()))
    }
}

writes_through!(Ahead);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn bytes_come_as_they_were_sent() {
        let (mut peer, stream) = duplex(50_000);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let sending = async {
            for part in sent.chunks(70_001) {
                peer.write_all(part).await.expect("written");
            }
            drop(peer);
        };
        let receiving = async {
            let mut stream = Ahead::new(stream);
            let mut received = Vec::new();
            let mut part = [0; 4096];
            loop {
                match stream.read(&mut part).await.expect("read") {
                    0 => return received,
                    length => received.extend_from_slice(&part[..length]),
                }
            }
        };
        let ((), received) = tokio::join!(sending, receiving);
        assert!(received == sent);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_pauses_holds_no_buffer() {
        let (mut peer, stream) = duplex(100_000);
        let mut stream = Ahead::new(stream);
        peer.write_all(&[1; 10_000]).await.expect("written");
        let mut part = [0; 4096];
        for (length, ahead) in [(4096, 0), (4096, 1808), (1808, 0)] {
            assert_eq!(stream.read(&mut part).await.expect("read"), length);
            assert_eq!(stream.ahead.len(), ahead);
        }
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, stream.read(&mut part));
        assert!(waiting.await.is_err(), "nothing is left");
        assert_eq!(stream.ahead.capacity(), 0);
    }
}
