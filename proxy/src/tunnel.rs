//! Bytes carried both ways between two streams, as they come.
//!
//! A direction that waits holds no buffer: bytes are read into one that the thread's directions
//! share, and only what could not be written at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::idle::Idle;
use crate::http::serve::MAX_FRAME;

thread_local! {
    /// What one read gives is one frame.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_FRAME].into_boxed_slice());
}

/// Carries bytes until both directions have ended, one has failed, or neither has moved for `idle`
/// ([`io::ErrorKind::TimedOut`]). `sent` and `received` are told how many bytes went to `upstream`
/// and came from it.
pub async fn carry<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Option<Duration>,
    mut sent: impl FnMut(u64),
    mut received: impl FnMut(u64),
) -> io::Result<()>
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut idle = idle.map(Idle::new);
    poll_fn(|cx| {
        let mut moved = false;
        let mut carried_up = |bytes| {
            moved = true;
            sent(bytes);
        };
        let up_ended = up
            .poll(cx, downstream, upstream, &mut carried_up)?
            .is_ready();
        let mut carried_down = |bytes| {
            moved = true;
            received(bytes);
        };
        let down_ended = down
            .poll(cx, upstream, downstream, &mut carried_down)?
            .is_ready();
        if up_ended && down_ended {
            return Poll::Ready(Ok(()));
        }
        let Some(idle) = &mut idle else {
            return Poll::Pending;
        };
        if moved {
            idle.progressed();
        }
        idle.poll_expired(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

#[derive(Default)]
struct Direction {
    pending: Bytes,
    unflushed: bool,
    ended: bool,
    closed: bool,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(written);
                carried(written as u64);
                self.unflushed = true;
            }
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.closed = true;
                continue;
            }
            if let Poll::Ready(result) = self.poll_move(cx, reader, writer, carried) {
                result?;
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
    }

    /// One read, and one write of what it gave.
    fn poll_move<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        carried: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let written = match Pin::new(&mut *writer).poll_write(cx, bytes) {
                Poll::Ready(result) => result?,
                Poll::Pending => 0,
            };
            if written > 0 {
                carried(written as u64);
                self.unflushed = true;
            }
            if written < bytes.len() {
                self.pending = Bytes::copy_from_slice(&bytes[written..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn carries_both_ways_and_both_ends() {
        let (mut client, mut downstream) = duplex(1000);
        let (mut upstream, mut server) = duplex(777);
        let (mut sent, mut received) = (0, 0);
        let carrying = carry(
            &mut downstream,
            &mut upstream,
            None,
            |n| sent += n,
            |n| received += n,
        );
        let client_side = async {
            client.write_all(&[1; 300_000]).await?;
            client.shutdown().await?;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let server_side = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await?;
            server.write_all(&all[..200_000]).await?;
            server.shutdown().await?;
            io::Result::Ok(())
        };
        let (carried, answer, served) = tokio::join!(carrying, client_side, server_side);
        carried.expect("carried");
        served.expect("served");
        assert_eq!(answer.expect("answered").len(), 200_000);
        assert_eq!((sent, received), (300_000, 200_000));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_nothing_moves() {
        let (mut client, mut downstream) = duplex(1000);
        let (mut upstream, _server) = duplex(1000);
        let limit = Duration::from_secs(30);
        let started = tokio::time::Instant::now();
        let carrying = carry(&mut downstream, &mut upstream, Some(limit), |_| {}, |_| {});
        let late = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            client.write_all(b"still here").await
        };
        let (carried, written) = tokio::join!(carrying, late);
        written.expect("written");
        assert_eq!(
            carried.map_err(|error| error.kind()),
            Err(io::ErrorKind::TimedOut)
        );
        assert_eq!(started.elapsed(), Duration::from_secs(50));
    }
}
