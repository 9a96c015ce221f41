//! With apps of a few lines, which end connections as real ones do.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::*;

#[path = "app/http2_tests.rs"]
mod http2;

/// What an app has seen.
#[derive(Debug, Default)]
struct Seen {
    connections: Cell<usize>,
    requests: Cell<usize>,
    /// Connections that have ended.
    ended: Cell<usize>,
}

impl Seen {
    fn connection(&self) -> usize {
        self.connections.replace(self.connections.get() + 1)
    }

    fn request(&self) {
        self.requests.set(self.requests.get() + 1);
    }
}

/// Listens, and has `serve` serve each connection; the first is number 0.
async fn listen<F: Future<Output = ()> + 'static>(
    serve: impl Fn(TcpStream, usize, Rc<Seen>) -> F + 'static,
) -> (AppAddress, Rc<Seen>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Rc::new(Seen::default());
    let counts = Rc::clone(&seen);
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let number = counts.connection();
            spawn_local(serve(stream, number, Rc::clone(&counts)));
        }
    });
    (at(address), seen)
}

fn at(address: SocketAddr) -> AppAddress {
    AppAddress {
        address,
        seen_as: None,
    }
}

fn request(method: Method, body: RequestBody) -> Request<RequestBody> {
    Request::builder()
        .method(method)
        .uri("http://app/")
        .body(body)
        .expect("a request")
}

fn get() -> Request<RequestBody> {
    request(Method::GET, RequestBody::Empty)
}

fn post() -> Request<RequestBody> {
    request(
        Method::POST,
        RequestBody::Whole(Bytes::from_static(b"once")),
    )
}

async fn done(answered: Result<Answered, Refusal>) -> u16 {
    let answered = answered.expect("an answer");
    let status = answered.response.status().as_u16();
    let body = answered.response.into_body().collect().await;
    body.expect("all of it");
    status
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::task::yield_now().await;
    }
}

mod http1 {
    use super::*;

    /// Reads a head, of requests without a body; `false`: the connection has ended.
    async fn head(stream: &mut TcpStream) -> bool {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => read.push(byte),
                Err(_) => return false,
            }
        }
        true
    }

    /// Answers one request on each connection, and ends it when there is another.
    async fn once(mut stream: TcpStream, _: usize, seen: Rc<Seen>) {
        while head(&mut stream).await {
            seen.request();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.expect("written");
            if head(&mut stream).await {
                seen.request();
                return;
            }
        }
    }

    #[tokio::test]
    async fn what_meets_a_closing_connection_is_sent_once_more() {
        let test = async {
            let (address, seen) = listen(once).await;
            let app = App::default();
            let mut answers = Vec::new();
            for _ in 0..3 {
                let answered = app.send(address, AppVersion::Http1, get()).await;
                answers.push(answered.expect("an answer"));
            }
            assert_eq!(seen.connections.get(), 3);
            // All of them are warm now.
            drop(answers);
            let answered = app.send(address, AppVersion::Http1, get()).await;
            assert_eq!(done(answered).await, 200);
            assert_eq!((seen.requests.get(), seen.connections.get()), (5, 4));
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn what_may_not_be_done_twice_is_not() {
        let test = async {
            let (address, seen) = listen(once).await;
            let app = App::default();
            let warm = app.send(address, AppVersion::Http1, get()).await;
            drop(warm.expect("an answer"));
            let post = request(Method::POST, RequestBody::Empty);
            let answered = app.send(address, AppVersion::Http1, post).await;
            assert_eq!(answered.err(), Some(Refusal::AppReset));
            assert_eq!((seen.requests.get(), seen.connections.get()), (2, 1));
        };
        LocalSet::new().run_until(test).await;
    }

    /// Ends the first connections before whoever made them knows that he has: it looks for them
    /// whenever this thread has nothing else to do, and not when the socket says that there are some.
    fn ends(first: usize) -> (AppAddress, Rc<Seen>) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("it does not block");
        let address = listener.local_addr().expect("an address");
        let seen = Rc::new(Seen::default());
        let counts = Rc::clone(&seen);
        spawn_local(std::future::poll_fn(move |cx| {
            while let Ok((stream, _)) = listener.accept() {
                let number = counts.connection();
                if number >= first {
                    stream.set_nonblocking(true).expect("it does not block");
                    let stream = TcpStream::from_std(stream).expect("a connection");
                    spawn_local(once(stream, number, Rc::clone(&counts)));
                }
            }
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        (at(address), seen)
    }

    /// What comes of a request that may not be done twice.
    async fn sent(first: usize) -> (Result<u16, Refusal>, usize) {
        let (address, seen) = ends(first);
        let app = App::default();
        let post = request(Method::POST, RequestBody::Empty);
        let answered = app.send(address, AppVersion::Http1, post).await;
        let status = answered.map(|answered| answered.response.status().as_u16());
        (status, seen.connections.get())
    }

    #[tokio::test]
    async fn what_was_not_sent_is_sent_once_more() {
        let test = async {
            // In tasks of their own, which take turns with the app.
            for (first, expected) in [(1, Ok(200)), (2, Err(Refusal::AppUnreachable))] {
                let sent = spawn_local(sent(first)).await;
                assert_eq!(sent.expect("no panic"), (expected, 2));
            }
        };
        LocalSet::new().run_until(test).await;
    }
}
