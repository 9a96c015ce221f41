use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::logging::{self, LogFormat};

/// Keeps what a [`View`] looks at.
struct Sides {
    view: View,
    _workload: watch::Sender<WorkloadState>,
    _credentials: watch::Sender<Option<Arc<Credentials>>>,
    _last_heard: watch::Sender<Option<Instant>>,
    _terminating: watch::Sender<bool>,
    _withdrawn: watch::Sender<bool>,
}

fn sides() -> Sides {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let (_workload, workload) = watch::channel(None);
    let (_credentials, credentials) = watch::channel(None);
    let (_last_heard, last_heard) = watch::channel(None);
    let (_terminating, terminating) = watch::channel(false);
    let (_withdrawn, withdrawn) = watch::channel(false);
    let departure = Departure {
        told: watch::Sender::new(false),
        terminating,
        withdrawn,
        workload: workload.clone(),
        metrics: Arc::clone(&metrics),
        drain_timeout: None,
    };
    let view = View {
        metrics,
        workload,
        credentials,
        listening: watch::channel(true).1,
        departure,
        last_heard,
        known: Subjects::default(),
        log_level: logging::init(LogFormat::Text, "off").expect("a filter"),
    };
    Sides {
        view,
        _workload,
        _credentials,
        _last_heard,
        _terminating,
        _withdrawn,
    }
}

async fn asked(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("sent");
    client
}

async fn answered(mut client: TcpStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn who_says_nothing_gives_way_and_who_holds_leaves_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let sides = sides();
    let serving = serve(Arc::new(listener), Surface::Telemetry, sides.view.clone());
    let asking = async {
        let mut holding = Vec::new();
        for _ in 0..SLOW_MAX {
            holding.push(asked(address, HOLD_PATH).await);
        }
        let refused = answered(asked(address, HOLD_PATH).await).await;
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");

        let mut silent = Vec::new();
        for _ in 0..3 * CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.expect("connected"));
            let live = answered(asked(address, "/live").await).await;
            assert!(live.starts_with("HTTP/1.1 200"), "{live}");
        }
        let mut first = silent.swap_remove(0);
        assert_eq!(first.read(&mut [0]).await.ok(), Some(0), "it gave way");
        // Nobody says that the pod goes, so all of them are told that it stays.
        for held in holding {
            let stays = answered(held).await;
            assert!(stays.starts_with("HTTP/1.1 200"), "{stays}");
        }
    };
    tokio::select! {
        () = serving => unreachable!("it serves on"),
        () = asking => {}
    }
}
