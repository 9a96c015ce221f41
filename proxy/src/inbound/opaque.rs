//! Opaque connections to the app's ports: CONNECT streams of peers, and what came in plaintext.

use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::authorize::{Allowed, authorize};
use super::limits;
use super::{Connection, app};
use crate::http::body::ResponseBody;
use crate::http::wire;
use crate::intercept;
use crate::refusal::Refusal;
use crate::tunnel;

/// Opens the connection to the app, if policy allows it, and carries bytes from then on.
pub async fn answer(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    match connect(connection, &request).await {
        Ok((stream, allowed)) => {
            tokio::task::spawn_local(carry(Rc::clone(connection), request, stream, allowed));
            Response::new(ResponseBody::empty())
        }
        Err(refusal) => {
            connection
                .worker
                .metrics
                .refused("inbound", refusal, connection.edge.peer());
            let mut response = refusal.response(false, Version::HTTP_2);
            wire::set_reason(response.headers_mut(), refusal);
            response
        }
    }
}

/// An opaque connection that came in plaintext, of which `first` was read already.
pub async fn plaintext(
    connection: &Rc<Connection>,
    port: u16,
    mut stream: TcpStream,
    first: &[u8],
) {
    match open(connection, port).await {
        Ok((mut app, allowed)) => {
            let received = &connection.edge.tcp().received;
            received.inc_by(first.len() as u64);
            if app.write_all(first).await.is_ok() {
                between(connection, &mut stream, &mut app, allowed).await;
            }
        }
        Err(refusal) => {
            let metrics = &connection.worker.metrics;
            metrics.refused("inbound", refusal, connection.peer.label());
            tracing::info!(peer = %connection.peer, port, %refusal, "closed a plaintext connection");
            intercept::reset(stream);
        }
    }
}

async fn connect(
    connection: &Connection,
    request: &Request<Incoming>,
) -> Result<(TcpStream, Allowed), Refusal> {
    let port = request
        .uri()
        .authority()
        .and_then(|authority| authority.port_u16())
        .ok_or(Refusal::BadAuthority)?;
    open(connection, port).await
}

/// A connection to the app, if policy allows it.
async fn open(connection: &Connection, port: u16) -> Result<(TcpStream, Allowed), Refusal> {
    let workload = connection.worker.workload().ok_or(Refusal::NoPolicy)?;
    authorize(connection, &workload, port, None)?;
    limits::admit_opaque(connection, port)?;
    let stream = app::connect(connection.app(port)).await?;
    Ok((stream, Allowed::opaque(connection, port)))
}

async fn carry(
    connection: Rc<Connection>,
    request: Request<Incoming>,
    mut app: TcpStream,
    allowed: Allowed,
) {
    if let Ok(peer) = hyper::upgrade::on(request).await {
        between(&connection, &mut TokioIo::new(peer), &mut app, allowed).await;
    }
}

/// Carries bytes until one side has ended, or policy no longer allows it.
async fn between<P>(connection: &Connection, peer: &mut P, app: &mut TcpStream, allowed: Allowed)
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let handles = connection.edge.tcp().clone();
    handles.opened.inc();
    let carrying = tunnel::carry(
        peer,
        app,
        None,
        |bytes| handles.received.inc_by(bytes),
        |bytes| handles.sent.inc_by(bytes),
    );
    tokio::select! {
        ended = carrying => {
            if let Err(error) = ended {
                tracing::debug!(%error, "an opaque connection ended");
            }
        }
        () = allowed.revoked(&connection.worker) => {}
    }
    handles.closed.inc();
}
