//! Apps that speak HTTP/2.

use h2::Reason;
use h2::server::{Builder, Connection, SendResponse};
use tokio::sync::watch;

use super::*;

type Answer = SendResponse<Bytes>;

async fn connection(allowed: u32, stream: TcpStream) -> Connection<TcpStream, Bytes> {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(allowed);
    builder.handshake(stream).await.expect("a connection")
}

/// Has `answer` answer what comes, and counts.
async fn serve(
    mut connection: Connection<TcpStream, Bytes>,
    seen: Rc<Seen>,
    answer: impl Fn(Answer),
) {
    while let Some(Ok((_, respond))) = connection.accept().await {
        seen.request();
        answer(respond);
    }
    seen.ended.set(seen.ended.get() + 1);
}

fn answer(mut respond: Answer) {
    respond
        .send_response(Response::new(()), true)
        .expect("sent");
}

/// An app that answers at once.
async fn prompt(allowed: u32) -> (AppAddress, Rc<Seen>) {
    listen(move |stream, _, seen| async move {
        serve(connection(allowed, stream).await, seen, answer).await;
    })
    .await
}

/// One that answers when it is told to.
async fn patient(allowed: u32) -> (AppAddress, Rc<Seen>, watch::Sender<bool>) {
    let (told, tell) = watch::channel(false);
    let (address, seen) = listen(move |stream, _, seen| {
        let tell = tell.clone();
        let when_told = move |respond| {
            let mut tell = tell.clone();
            spawn_local(async move {
                tell.wait_for(|told| *told).await.expect("told");
                answer(respond);
            });
        };
        async move { serve(connection(allowed, stream).await, seen, when_told).await }
    })
    .await;
    (address, seen, told)
}

/// Sends so many at once.
fn send(app: &Rc<App>, address: AppAddress, many: usize) -> Vec<JoinHandle<u16>> {
    let one = |_| {
        let app = Rc::clone(app);
        spawn_local(async move { done(app.send(address, AppVersion::Http2, get()).await).await })
    };
    (0..many).map(one).collect()
}

async fn all(sent: Vec<JoinHandle<u16>>) {
    for one in sent {
        assert_eq!(one.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn many_at_once_make_one_connection() {
    let test = async {
        let (address, seen) = prompt(250).await;
        let app = Rc::new(App::default());
        all(send(&app, address, 50)).await;
        assert_eq!((seen.requests.get(), seen.connections.get()), (50, 1));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn there_are_as_many_connections_as_streams_need() {
    let test = async {
        let (address, seen, tell) = patient(2).await;
        let app = Rc::new(App::default());
        let sent = send(&app, address, 5);
        // All of them are at the app at once, which has refused some at first.
        until(|| seen.requests.get() == 5).await;
        assert_eq!(seen.connections.get(), 3);
        // By now it is known how many it allows.
        let more = send(&app, address, 2);
        until(|| seen.requests.get() == 7).await;
        assert_eq!(seen.connections.get(), 4);
        tell.send(true).expect("told");
        all(sent).await;
        all(more).await;
        all(send(&app, address, 5)).await;
        assert_eq!(seen.connections.get(), 4);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_alone() {
    let test = async {
        let (address, seen) = listen(|stream, _, seen| async move {
            let first = Cell::new(true);
            let one = |mut respond: Answer| match first.replace(false) {
                true => respond.send_reset(Reason::INTERNAL_ERROR),
                false => answer(respond),
            };
            serve(connection(250, stream).await, seen, one).await;
        })
        .await;
        let app = App::default();
        let answered = app.send(address, AppVersion::Http2, get()).await;
        assert_eq!(answered.err(), Some(Refusal::AppReset));
        let answered = app.send(address, AppVersion::Http2, get()).await;
        assert_eq!(done(answered).await, 200);
        assert_eq!((seen.requests.get(), seen.connections.get()), (2, 1));
    };
    LocalSet::new().run_until(test).await;
}

/// Refuses all that comes on the first connections.
async fn refusing(first: usize) -> (AppAddress, Rc<Seen>) {
    listen(move |stream, number, seen| async move {
        let one = |mut respond: Answer| match number < first {
            true => respond.send_reset(Reason::REFUSED_STREAM),
            false => answer(respond),
        };
        serve(connection(250, stream).await, seen, one).await;
    })
    .await
}

#[tokio::test]
async fn what_is_refused_is_sent_once_more_on_another_connection() {
    let test = async {
        for (first, expected) in [(1, Ok(200)), (2, Err(Refusal::AppRefused))] {
            let (address, seen) = refusing(first).await;
            let answered = App::default().send(address, AppVersion::Http2, get()).await;
            let status = answered.map(|answered| answered.response.status().as_u16());
            assert_eq!(status, expected);
            assert_eq!((seen.requests.get(), seen.connections.get()), (2, 2));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn of_a_refused_request_whose_body_is_gone_it_is_said_that_it_was_refused() {
    let test = async {
        let (address, seen) = refusing(1).await;
        let app = App::default();
        let answered = app.send(address, AppVersion::Http2, post()).await;
        assert_eq!(answered.err(), Some(Refusal::AppRefused));
        assert_eq!((seen.requests.get(), seen.connections.get()), (1, 1));
    };
    LocalSet::new().run_until(test).await;
}

/// Takes a request, and says that it leaves and has not looked at it.
async fn leaves(mut stream: TcpStream) {
    const HEADERS: u8 = 1;
    stream.read_exact(&mut [0; 24]).await.expect("the preface");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&settings).await.expect("written");
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).await.expect("a frame");
        let length = usize::from(head[1]) * 256 + usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.expect("a payload");
    }
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    stream.write_all(&goaway).await.expect("written");
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test]
async fn what_meets_an_app_that_leaves_was_not_looked_at() {
    let test = async {
        for (request, expected) in [(get(), Ok(200)), (post(), Err(Refusal::AppRefused))] {
            let (address, _) = listen(|stream, number, seen| async move {
                match number {
                    0 => leaves(stream).await,
                    _ => serve(connection(250, stream).await, seen, answer).await,
                }
            })
            .await;
            let answered = App::default()
                .send(address, AppVersion::Http2, request)
                .await;
            let status = answered.map(|answered| answered.response.status().as_u16());
            assert_eq!(status, expected);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    let test = async {
        let (address, seen, tell) = patient(250).await;
        let app = Rc::new(App::default());
        let sent = send(&app, address, 1);
        until(|| seen.requests.get() == 1).await;
        let now = Instant::now();
        for seconds in 0..10 {
            app.sweep(now + Duration::from_secs(seconds));
        }
        tell.send(true).expect("told");
        all(sent).await;
        all(send(&app, address, 1)).await;
        assert_eq!((seen.connections.get(), seen.ended.get()), (1, 0));
        for seconds in 10..20 {
            app.sweep(now + Duration::from_secs(seconds));
        }
        until(|| seen.ended.get() == 1).await;
        all(send(&app, address, 1)).await;
        assert_eq!(seen.connections.get(), 2);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_one_to_another_address() {
    let test = async {
        let app = Rc::new(App {
            http2: Streams::new(2),
            ..App::default()
        });
        let mut apps = Vec::new();
        for _ in 0..3 {
            let (address, seen) = prompt(250).await;
            all(send(&app, address, 1)).await;
            apps.push(seen);
        }
        until(|| apps[0].ended.get() == 1).await;
        assert_eq!((apps[1].ended.get(), apps[2].ended.get()), (0, 0));
    };
    LocalSet::new().run_until(test).await;
}
