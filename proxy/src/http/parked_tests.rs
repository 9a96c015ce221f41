use std::cell::Cell;

use bytes::BytesMut;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const ASK: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";

/// Bytes have arrived by then.
const ARRIVES: Duration = Duration::from_millis(50);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connected"), accepted.expect("accepted").0)
}

/// Says what it was sent.
async fn echo(request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let body = request.into_body().collect().await;
    let body = body.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Response::new(ResponseBody::text(text)))
}

async fn answers(client: &mut TcpStream, count: usize) {
    let mut read = Vec::new();
    while read.windows(5).filter(|bytes| bytes == b"hello").count() < count {
        let length = client.read_buf(&mut read).await.expect("an answer");
        assert!(length > 0, "closed after {}", read.escape_ascii());
    }
    let whole = String::from_utf8_lossy(&read).into_owned();
    assert_eq!(whole.matches("HTTP/1.1 200 OK").count(), count, "{whole}");
    assert!(!whole.to_lowercase().contains("connection:"), "{whole}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_idle_connection_is_taken_back_and_goes_on() {
    let (mut client, server) = pair().await;
    tokio::time::pause();
    let mut drained = pin!(std::future::pending());
    let mut stream = Guarded::new(server, BytesMut::new());
    for _ in 0..3 {
        client.write_all(ASK).await.expect("sent");
        let (back, ()) = tokio::join!(
            busy(stream, drained.as_mut(), &echo),
            answers(&mut client, 1)
        );
        stream = back.expect("no error").expect("taken back");
        assert!(stream.is_between_requests());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn every_request_is_answered_whether_parked_or_not() {
    let (mut client, server) = pair().await;
    tokio::time::pause();
    let (told, drained) = tokio::sync::oneshot::channel::<()>();
    let asked = Cell::new(0);
    let handler = |request| {
        asked.set(asked.get() + 1);
        echo(request)
    };
    let drained = async { drained.await.unwrap_or(()) };
    let serving = serve(Guarded::new(server, BytesMut::new()), drained, handler);
    let asking = async {
        for count in [1, 2, 1, 3] {
            client.write_all(&ASK.repeat(count)).await.expect("sent");
            answers(&mut client, count).await;
            tokio::time::sleep(3 * PARK_AFTER).await;
        }
        // Parked, and told to end.
        told.send(()).expect("it listens");
        client.read(&mut [0; 1]).await
    };
    let (served, end) = tokio::join!(serving, asking);
    served.expect("no error");
    assert_eq!(end.expect("the end"), 0);
    assert_eq!(asked.get(), 7);
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_under_way_is_not_idle() {
    let (mut client, server) = pair().await;
    tokio::time::pause();
    let handler = |request| async {
        tokio::time::sleep(10 * PARK_AFTER).await;
        echo(request).await
    };
    let pending = std::future::pending();
    let serving = serve(Guarded::new(server, BytesMut::new()), pending, handler);
    let asking = async {
        client.write_all(ASK).await.expect("sent");
        answers(&mut client, 1).await;
    };
    let mut serving = pin!(serving);
    tokio::select! {
        served = serving.as_mut() => panic!("it ended: {served:?}"),
        () = asking => {}
    }
    // A head that has begun, and does not go on, is ended rather than parked.
    client.write_all(b"GET / HT").await.expect("sent");
    serving.await.expect("hyper makes no error of it");
    assert_eq!(client.read(&mut [0; 1]).await.expect("the end"), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_leaves_ends_it() {
    let (mut client, server) = pair().await;
    tokio::time::pause();
    let pending = std::future::pending();
    let serving = serve(Guarded::new(server, BytesMut::new()), pending, echo);
    let asking = async {
        client.write_all(ASK).await.expect("sent");
        answers(&mut client, 1).await;
        tokio::time::sleep(2 * PARK_AFTER).await;
        drop(client);
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.expect("no error");
}

/// What came at the same moment as the end, whole or in part, is read before anything is closed.
#[tokio::test(flavor = "current_thread")]
async fn what_was_said_before_the_end_is_answered() {
    for (split, parks) in [
        (ASK.len(), false),
        (ASK.len(), true),
        (10, false),
        (10, true),
    ] {
        let (mut client, server) = pair().await;
        tokio::time::pause();
        let (end, drained) = tokio::sync::oneshot::channel::<()>();
        let stream = Guarded::new(server, BytesMut::new());
        let mut serving = pin!(serve(stream, async { drop(drained.await) }, echo));
        let asked = async {
            client.write_all(ASK).await.expect("sent");
            answers(&mut client, 1).await;
            tokio::time::sleep(2 * PARK_AFTER).await;
        };
        tokio::select! {
            served = serving.as_mut(), if parks => panic!("it ended: {served:?}"),
            () = asked, if parks => {}
            else => {}
        }
        // A paused clock would jump to the end of the time for a head while bytes are on their way.
        tokio::time::resume();
        // Neither of the two is seen before both have happened: nothing is polled meanwhile.
        let (before, after) = ASK.split_at(split);
        client.write_all(before).await.expect("sent");
        tokio::time::sleep(ARRIVES).await;
        end.send(()).expect("it is waited for");
        let asking = async {
            tokio::time::sleep(ARRIVES).await;
            client.write_all(after).await.expect("sent");
            let mut answer = String::new();
            let read = client.read_to_string(&mut answer).await;
            read.map(|_| answer)
        };
        let (served, answer) = tokio::join!(serving, asking);
        served.expect("no error");
        let answer = answer.unwrap_or_else(|error| panic!("{split} {parks}: {error}"));
        let is_whole = answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello");
        assert!(is_whole, "{split} {parks}: {answer}");
    }
}
