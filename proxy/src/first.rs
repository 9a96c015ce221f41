//! Waiting for the first bytes of a connection, until they say what is spoken.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::detect::{Detected, detect};

/// Room for the first bytes of a connection.
const ROOM: usize = 4 * 1024;
/// A client that speaks first does so at once: it connects in order to speak. One that has been silent
/// for so long is likely to wait for the server.
pub const SILENCE: Duration = Duration::from_millis(5);

/// What the client's first bytes say; they are added to `first`. Waits for the first of them for as
/// long as it takes; what has begun and says nothing within `limit` is [`Detected::Undecided`]. `None`:
/// the client has gone. May be dropped and called again.
pub async fn bytes(
    stream: &mut TcpStream,
    first: &mut BytesMut,
    limit: Duration,
) -> Option<Detected> {
    while first.is_empty() {
        if !read(stream, first).await {
            return None;
        }
    }
    let decided = async {
        loop {
            match detect(first) {
                Detected::Undecided if read(stream, first).await => {}
                // It ends without having become anything.
                Detected::Undecided => return Detected::Opaque,
                verdict => return verdict,
            }
        }
    };
    Some(
        tokio::time::timeout(limit, decided)
            .await
            .unwrap_or(Detected::Undecided),
    )
}

/// Reads more of them; whether anything came. There is room for them only once they are there.
pub async fn read(stream: &mut TcpStream, first: &mut BytesMut) -> bool {
    if first.capacity() == 0 {
        if stream.readable().await.is_err() {
            return false;
        }
        first.reserve(ROOM);
    }
    matches!(stream.read_buf(first).await, Ok(length) if length > 0)
}
