//! From this workload's app to the sidecars of others.
//!
//! [`serve`] is the way of a connection: what it speaks is declared or detected, then HTTP goes
//! request by request through [`forward`], and everything else through [`opaque`].

pub mod answer;
pub mod attempt;
pub mod attempts;
pub mod directory;
pub mod endpoint;
pub mod filters;
pub mod forward;
pub mod hash;
pub mod health_check;
pub mod intercepted;
pub mod message;
pub mod mirror;
pub mod opaque;
pub mod passthrough;
pub mod route;
pub mod routes;
pub mod service;
pub mod time;
pub mod verdict;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::service::service_fn;
use outrider_api::model::Protocol;
use tokio::net::TcpStream;

use crate::detect::{Detected, ServerName, detect};
use crate::first;
use crate::http::guarded::Guarded;
use crate::http::limits::Limits;
use crate::http::parked;
use crate::http::serve;
use crate::refusal::Refusal;
use crate::worker::Worker;
use forward::Connection;
use route::Listener;

/// How much longer a silent client is listened to when it may not have an opaque connection.
const REFUSED_SILENCE: Duration = Duration::from_secs(1);

/// What a connection turned out to speak.
enum Spoken {
    Http1,
    Http2,
    Opaque,
    /// The tunnel to the server is open already, since one of the two kept the other waiting.
    Tunnelled(opaque::Tunnel),
    Closed,
}

/// Serves one connection of the app until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    source: IpAddr,
    listener: Rc<Listener>,
) {
    let _open = worker.outbound.open();
    // The bytes that tell what it speaks.
    let mut first = BytesMut::new();
    // What is done at first, and what only some do, is in boxes: a task is as large as the largest
    // of its ways, for as long as it lasts.
    let heard = tokio::select! {
        biased;
        spoken = Box::pin(spoken(&worker, &mut stream, &mut first, &listener, source)) => Some(spoken),
        () = worker.outbound.started() => None,
    };
    let spoken = match heard {
        Some(spoken) => spoken,
        // It has said nothing yet that could be lost.
        None if first.is_empty() => return,
        None => Box::pin(spoken(&worker, &mut stream, &mut first, &listener, source)).await,
    };
    match spoken {
        Spoken::Http1 => serve_http1(worker, stream, first, listener, source).await,
        Spoken::Http2 => {
            Box::pin(serve_http2(
                worker,
                stream,
                first.freeze(),
                listener,
                source,
            ))
            .await;
        }
        Spoken::Opaque => {
            Box::pin(opaque::serve(
                &worker,
                stream,
                first.freeze(),
                &listener,
                source,
            ))
            .await;
        }
        Spoken::Tunnelled(tunnel) => Box::pin(opaque::carry(stream, tunnel, &first)).await,
        Spoken::Closed => {}
    }
}

/// What the connection speaks: declared, or detected. May be dropped and called again.
async fn spoken(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    listener: &Listener,
    source: IpAddr,
) -> Spoken {
    match listener.protocol(worker).await {
        Protocol::Tcp => Spoken::Opaque,
        Protocol::Tls => declared_tls(worker, stream, first).await,
        Protocol::Detect => detected(worker, stream, first, listener, source).await,
        Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            declared_http(stream, first).await
        }
    }
}

async fn serve_http1(
    worker: Rc<Worker>,
    stream: TcpStream,
    first: BytesMut,
    listener: Rc<Listener>,
    source: IpAddr,
) {
    let drained = worker.outbound.started();
    let stream = Guarded::new(stream, first);
    let gate = stream.gate();
    let connection = Rc::new(Connection::new(
        Rc::clone(&worker),
        listener,
        source,
        Some(gate.clone()),
    ));
    let handler = |request| forward::handle(Rc::clone(&connection), request);
    if let Err(error) = parked::serve(stream, drained, handler).await {
        if error.is_parse() && !error.is_parse_too_large() {
            worker.metrics.refused("outbound", Refusal::BadRequest, "");
        } else if error.is_parse_too_large() {
            worker
                .metrics
                .refused("outbound", Refusal::HeaderTooLarge, "");
        }
        tracing::debug!(%error, "an app's HTTP/1 connection ended");
    }
}

async fn serve_http2(
    worker: Rc<Worker>,
    stream: TcpStream,
    first: Bytes,
    listener: Rc<Listener>,
    source: IpAddr,
) {
    let drained = worker.outbound.started();
    let connection = Rc::new(Connection::new(worker, listener, source, None));
    // In a box: tokio moves the future of a task as it begins and twice as it ends, all of it.
    let service =
        service_fn(move |request| Box::pin(forward::handle(Rc::clone(&connection), request)));
    let stream = crate::http::rewind::Rewind::new(stream, first);
    let result = serve::serve_http2(stream, Limits::MESH, service, drained).await;
    if let Err(error) = result {
        tracing::debug!(%error, "an app's HTTP/2 connection ended");
    }
}

/// HTTP is declared: only its version is to be told. Waits as long as the app does.
async fn declared_http(stream: &mut TcpStream, first: &mut BytesMut) -> Spoken {
    let mut goes_on = first::begun(stream, first).await;
    while goes_on {
        // An unfinished request line is for the HTTP/1 server to wait for, and to bound.
        match detect(first) {
            Detected::Http2 => return Spoken::Http2,
            Detected::Undecided if first.starts_with(b"PRI ") || first.len() < 4 => {}
            Detected::Http1 | Detected::Tls | Detected::Undecided | Detected::Opaque => {
                return Spoken::Http1;
            }
        }
        goes_on = first::read(stream, first).await;
    }
    Spoken::Closed
}

/// TLS of the app's own is declared: carried as it is, once it has said whom it is for.
async fn declared_tls(worker: &Worker, stream: &mut TcpStream, first: &mut BytesMut) -> Spoken {
    match client_first(worker, stream, first).await {
        Some(_) => {
            worker.names.count("mesh", ServerName::of(first).as_ref());
            Spoken::Opaque
        }
        None => Spoken::Closed,
    }
}

/// Nothing is declared: the client's first bytes decide. A client that does not speak at once may wait
/// for the server to do so, and the tunnel to the server is opened meanwhile; whoever speaks first
/// decides, and neither waits for the other.
async fn detected(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    listener: &Listener,
    source: IpAddr,
) -> Spoken {
    match tokio::time::timeout(first::SILENCE, first::begun(stream, first)).await {
        // It has begun to speak: the server would wait for it, too.
        Ok(true) => {}
        Ok(false) => return Spoken::Closed,
        Err(_) => return silent(worker, stream, first, listener, source).await,
    }
    let verdict = first::verdict(stream, first, worker.detect_timeout()).await;
    settle(worker, first, Some(verdict), listener)
}

async fn silent(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    listener: &Listener,
    source: IpAddr,
) -> Spoken {
    let opened = tokio::select! {
        opened = opaque::open(worker, listener, source) => opened,
        verdict = client_first(worker, stream, first) => {
            return settle(worker, first, verdict, listener);
        }
    };
    let mut tunnel = match opened {
        Ok(tunnel) => tunnel,
        Err(refusal) => {
            return refused(worker, stream, first, listener, refusal).await;
        }
    };
    tokio::select! {
        spoke = tunnel.server_first() => {
            if !spoke {
                return Spoken::Closed;
            }
            worker.metrics.detections.with_label_values(&["server_first"]).inc();
            Spoken::Tunnelled(tunnel)
        }
        verdict = client_first(worker, stream, first) => {
            match settle(worker, first, verdict, listener) {
                Spoken::Opaque => Spoken::Tunnelled(tunnel),
                // The app behind the tunnel sees a connection that ends without a byte.
                spoken => spoken,
            }
        }
    }
}

/// There is no opaque connection for a client that has not spoken yet. It may be about to speak HTTP,
/// and then its request gets the reason as an answer.
async fn refused(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut BytesMut,
    listener: &Listener,
    refusal: Refusal,
) -> Spoken {
    tracing::info!(%refusal, ?listener, "no opaque connection for a silent client");
    let spoke = client_first(worker, stream, first);
    match tokio::time::timeout(REFUSED_SILENCE, spoke).await {
        Ok(Some(verdict @ (Detected::Http1 | Detected::Http2))) => {
            settle(worker, first, Some(verdict), listener)
        }
        Ok(_) | Err(_) => Spoken::Closed,
    }
}

/// See [`first::bytes`].
async fn client_first(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut BytesMut,
) -> Option<Detected> {
    first::bytes(stream, first, worker.detect_timeout()).await
}

fn settle(worker: &Worker, first: &[u8], verdict: Option<Detected>, listener: &Listener) -> Spoken {
    let Some(verdict) = verdict else {
        return Spoken::Closed;
    };
    worker
        .metrics
        .detections
        .with_label_values(&[verdict.label()])
        .inc();
    match listener {
        Listener::Closed(_) => worker
            .names
            .count("refused", ServerName::of(first).as_ref()),
        _ if verdict == Detected::Tls => {
            worker.names.count("mesh", ServerName::of(first).as_ref());
        }
        _ => {}
    }
    match verdict {
        Detected::Http1 => Spoken::Http1,
        Detected::Http2 => Spoken::Http2,
        Detected::Tls | Detected::Opaque | Detected::Undecided => Spoken::Opaque,
    }
}
