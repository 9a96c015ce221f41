//! Connections of the app that were meant for somewhere else, and came here: by the address that they
//! were meant for they go to a Service, to one instance, out of the mesh, or nowhere.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use outrider_api::model::UnknownDestinations;
use tokio::net::TcpStream;

use super::directory::Owner;
use super::passthrough;
use super::route::Listener;
use crate::intercept::{self, Interception};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Where an intercepted connection leads.
enum Way {
    /// Into the mesh, or to a refusal that is told in the client's own protocol.
    Listener(Listener),
    /// Out of the mesh, as it is.
    Through(SocketAddr),
}

/// Serves one connection of the app until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    interception: Rc<Interception>,
    stream: TcpStream,
    source: IpAddr,
) {
    let to = match intercept::redirected_from(&stream) {
        Ok(to) => to,
        Err(error) => {
            tracing::warn!(%error, "the kernel does not say where a connection was meant to go");
            None
        }
    };
    let way = way(&worker, &interception, to).await;
    worker
        .metrics
        .intercepted
        .with_label_values(&["outbound", way.label()])
        .inc();
    match way {
        Way::Listener(listener) => {
            super::serve(worker, stream, source, Rc::new(listener)).await;
        }
        Way::Through(to) => passthrough::serve(&worker, stream, to).await,
    }
}

async fn way(worker: &Worker, interception: &Interception, to: Option<SocketAddr>) -> Way {
    let Some(workload) = worker.workload() else {
        return Way::Listener(Listener::Closed(Refusal::NoPolicy));
    };
    let Some(to) = to.filter(|&to| !interception.forbids(&workload, to)) else {
        tracing::info!(
            ?to,
            "refused a destination that is the sidecar's own or link-local"
        );
        return Way::Listener(Listener::Closed(Refusal::ForbiddenDestination));
    };
    let port = to.port();
    match worker.directory.owner(to.ip()).await {
        Ok(Owner::Service(service)) => Way::Listener(Listener::Upstream { service, port }),
        Ok(Owner::Instance(slot)) => {
            slot.calls(port);
            let address = to.ip();
            Way::Listener(Listener::Instance { address, port })
        }
        Ok(Owner::Nobody) => match workload.mesh.unknown_destinations {
            UnknownDestinations::Allow => Way::Through(to),
            UnknownDestinations::Deny => {
                Way::Listener(Listener::Closed(Refusal::UnknownDestination))
            }
        },
        // Whether it is in the mesh is not known: what is may not go there in plaintext.
        Err(refusal) => Way::Listener(Listener::Closed(refusal)),
    }
}

impl Way {
    const fn label(&self) -> &'static str {
        match self {
            Self::Listener(Listener::Upstream { .. } | Listener::ByAuthority) => "service",
            Self::Listener(Listener::Instance { .. }) => "instance",
            Self::Listener(Listener::Closed(_)) => "refused",
            Self::Through(_) => "unknown",
        }
    }
}
