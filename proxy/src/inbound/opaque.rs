//! A CONNECT stream: an opaque connection to one of the app's ports.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Connection;
use super::app::connect as connect_app;
use super::authorize::{Allowed, authorize};
use super::limits;
use crate::http::body::ResponseBody;
use crate::http::wire;
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

async fn connect(
    connection: &Connection,
    request: &Request<Incoming>,
) -> Result<(TcpStream, Allowed), Refusal> {
    let workload = connection.worker.workload().ok_or(Refusal::NoPolicy)?;
    let port = request
        .uri()
        .authority()
        .and_then(|authority| authority.port_u16())
        .ok_or(Refusal::BadAuthority)?;
    authorize(connection, &workload, port, None)?;
    limits::admit_opaque(connection, port)?;
    let app = SocketAddr::new(workload.app_address, port);
    let stream = connect_app(app).await?;
    Ok((stream, Allowed::opaque(connection, port)))
}

async fn carry(
    connection: Rc<Connection>,
    request: Request<Incoming>,
    mut app: TcpStream,
    allowed: Allowed,
) {
    let Ok(peer) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut peer = TokioIo::new(peer);
    let handles = connection.edge.tcp().clone();
    handles.opened.inc();
    let carrying = tunnel::carry(
        &mut peer,
        &mut app,
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
