//! A bound on the header blocks of an HTTP/2 connection, counted on the wire and as they are decoded.
//!
//! The HTTP/2 library drops what is beyond its limit for a list of fields: of a head it says so, of
//! trailers it does not, and a call would succeed without some of them. So heads and trailers are
//! measured where they pass ([`super::headers::is_too_large`]), and the library's limit is so far above
//! that measure that what remains of such trailers is too large as well. There has to be one: a byte
//! on the wire may stand for a field of 70 in memory, and a block that never ends is kept until it does.
//! Beyond the limit on the wire the connection ends with an error, and all that is on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::limits::Limits;
use crate::through::writes_through;

/// What a frame counts beside its payload: a block may not go on for ever in empty frames.
const FRAME_COST: usize = 256;

/// RFC 9113, sections 3.4 and 4.1.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

/// A connection on which no header block is too large.
#[derive(Debug)]
pub struct Blocks<S> {
    stream: S,
    scan: Scan,
}

#[derive(Debug, thiserror::Error)]
#[error("a header block of more than {0} bytes")]
struct TooLarge(usize);

impl<S> Blocks<S> {
    pub fn from_client(stream: S, limits: Limits) -> Self {
        let scan = Scan::after(PREFACE, limits.encoded_block);
        Self { stream, scan }
    }

    pub fn from_server(stream: S) -> Self {
        let scan = Scan::after(0, Limits::MESH.encoded_block);
        Self { stream, scan }
    }
}

/// Where in the frames the bytes are that come next.
#[derive(Debug)]
struct Scan {
    /// What is left of a payload.
    payload: usize,
    head: [u8; FRAME_HEAD],
    /// How much of `head` there is.
    read: usize,
    /// What the block holds so far.
    block: usize,
    most: usize,
}

impl Scan {
    fn after(payload: usize, most: usize) -> Self {
        Self {
            payload,
            head: [0; FRAME_HEAD],
            read: 0,
            block: 0,
            most,
        }
    }

    /// Whether all blocks are as small as they must be.
    fn passes(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let part = (FRAME_HEAD - self.read).min(bytes.len());
            self.head[self.read..self.read + part].copy_from_slice(&bytes[..part]);
            self.read += part;
            bytes = &bytes[part..];
            if self.read == FRAME_HEAD && !self.begins() {
                return false;
            }
        }
        true
    }

    /// A frame begins.
    fn begins(&mut self) -> bool {
        self.read = 0;
        let [a, b, c, kind, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS | PUSH_PROMISE => self.block = 0,
            CONTINUATION => {}
            _ => return true,
        }
        self.block += self.payload + FRAME_COST;
        self.block <= self.most
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Blocks<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(match this.scan.passes(&buf.filled()[before..]) {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                TooLarge(this.scan.most),
            )),
        })
    }
}

writes_through!(Blocks);

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).expect("a length").to_be_bytes();
        let mut frame = vec![a, b, c, kind, 4, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + length, b'x');
        frame
    }

    fn passes(frames: &[Vec<u8>], at_once: usize) -> bool {
        let mut scan = Scan::after(PREFACE, Limits::MESH.encoded_block);
        let bytes = [vec![b'P'; PREFACE], frames.concat()].concat();
        bytes.chunks(at_once).all(|part| scan.passes(part))
    }

    #[test]
    fn blocks_are_added_up_over_their_frames() {
        let full = 16 * 1024;
        let block = |continuations| {
            let mut frames = vec![frame(DATA, full), frame(HEADERS, full)];
            frames.extend(vec![frame(CONTINUATION, full); continuations]);
            frames
        };
        for at_once in [1, 7, 9, 4096, usize::MAX] {
            assert!(passes(&block(6), at_once), "{at_once}");
            assert!(!passes(&block(7), at_once), "{at_once}");
            // The next one begins anew.
            assert!(passes(&[block(5), block(5)].concat(), at_once));
        }
    }

    #[test]
    fn empty_frames_count() {
        let mut frames = vec![frame(HEADERS, 1)];
        frames.extend(vec![
            frame(CONTINUATION, 0);
            Limits::MESH.encoded_block / FRAME_COST
        ]);
        assert!(!passes(&frames, usize::MAX));
        let data = vec![frame(DATA, 0); 2 * Limits::MESH.encoded_block / FRAME_COST];
        assert!(passes(&data, usize::MAX));
    }

    #[test]
    fn what_looks_like_a_frame_in_a_payload_is_none() {
        let mut data = frame(DATA, 0xff_ffff);
        data[FRAME_HEAD..].fill(CONTINUATION);
        assert!(passes(&[data.clone(), data], 1000));
    }
}
