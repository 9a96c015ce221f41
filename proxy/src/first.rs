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
    match begun(stream, first).await {
        true => Some(verdict(stream, first, limit).await),
        false => None,
    }
}

/// Waits until there is something in `first`; not if the client has gone. May be dropped and called
/// again.
pub async fn begun(stream: &mut TcpStream, first: &mut BytesMut) -> bool {
    !first.is_empty() || read(stream, first).await
}

/// The rest of [`bytes`], from the first byte on.
pub async fn verdict(stream: &mut TcpStream, first: &mut BytesMut, limit: Duration) -> Detected {
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
    tokio::time::timeout(limit, decided)
        .await
        .unwrap_or(Detected::Undecided)
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// What timers round up to.
    const TICK: Duration = Duration::from_millis(1);

    /// A client, and its connection as the sidecar has it.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (accepted, _) = listener.accept().await.expect("a client");
        (client, accepted)
    }

    /// `Instant::now` is the paused clock's: nothing here waits for real.
    fn lasted(since: Instant, limit: Duration) -> bool {
        (limit..=limit + TICK).contains(&since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_is_waited_for_as_long_as_is_said_and_no_longer() {
        for limit in [50, 1, 2000].map(Duration::from_millis) {
            let (mut client, mut accepted) = connection().await;
            client.write_all(b"GE").await.expect("to write");
            accepted.readable().await.expect("bytes");
            let mut first = BytesMut::new();
            let start = Instant::now();
            let told = bytes(&mut accepted, &mut first, limit).await;
            assert_eq!(told, Some(Detected::Undecided));
            assert!(lasted(start, limit), "{:?} for {limit:?}", start.elapsed());
            assert_eq!(&first[..], b"GE", "nothing is lost, and nothing added");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_that_of_the_first_byte_whatever_comes_after_it() {
        let limit = Duration::from_millis(50);
        let (mut client, mut accepted) = connection().await;
        let mut first = BytesMut::new();
        let silence = Duration::from_secs(3600);
        let speaks = async {
            sleep(silence).await;
            let start = Instant::now();
            for byte in b"GET /a" {
                client.write_all(&[*byte]).await.expect("to write");
                sleep(Duration::from_millis(20)).await;
            }
            start
        };
        let hears = async {
            let told = bytes(&mut accepted, &mut first, limit).await;
            (told, Instant::now())
        };
        let (start, (told, end)) = tokio::join!(speaks, hears);
        assert_eq!(told, Some(Detected::Undecided));
        let took = end - start;
        assert!((limit..=limit + TICK).contains(&took), "{took:?}");
        assert_eq!(&first[..], b"GET");
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_enough_is_not_waited_for() {
        let (mut client, mut accepted) = connection().await;
        let request = b"GET / HTTP/1.1\r\n";
        client.write_all(request).await.expect("to write");
        accepted.readable().await.expect("bytes");
        let mut first = BytesMut::new();
        let start = Instant::now();
        let told = bytes(&mut accepted, &mut first, Duration::from_secs(10)).await;
        assert_eq!(told, Some(Detected::Http1));
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(client);
        let mut first = BytesMut::new();
        assert_eq!(bytes(&mut accepted, &mut first, TICK).await, None);
    }
}
