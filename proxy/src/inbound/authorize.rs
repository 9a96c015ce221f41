//! May this peer do this? The evaluator's verdict as a refusal, with audits counted.

use std::net::IpAddr;

use http::HeaderMap;
use outrider_api::authorization::{Call, Denial, HttpCall, Verdict};
use outrider_api::model::{Mtls, Workload};

use super::Connection;
use super::peer::Peer;
use crate::intercept;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Authorizes what `connection`'s peer wants of `port`.
pub fn authorize(
    connection: &Connection,
    workload: &Workload,
    port: u16,
    http: Option<HttpCall<'_>>,
) -> Result<(), Refusal> {
    check(
        &connection.worker,
        &connection.peer,
        connection.source,
        workload,
        port,
        http,
    )
}

fn check(
    worker: &Worker,
    peer: &Peer,
    source: IpAddr,
    workload: &Workload,
    port: u16,
    http: Option<HttpCall<'_>>,
) -> Result<(), Refusal> {
    if !is_the_apps(worker, workload, port) {
        return Err(Refusal::UnknownPort);
    }
    if peer.id().is_none() && intercept::mtls(workload, port) == Mtls::Strict {
        return Err(Refusal::PlaintextRefused);
    }
    let decision = workload.authorization.authorize(&Call {
        peer: peer.id(),
        source,
        port,
        http,
    });
    if let Some(would_refuse) = &decision.audit {
        let policy = format!(
            "{}/{}",
            would_refuse.policy.namespace, would_refuse.policy.name
        );
        worker
            .metrics
            .audit
            .with_label_values(&[policy.as_str(), peer.label()])
            .inc();
        tracing::info!(%peer, port, policy, "audit: this call would be refused");
    }
    match decision.verdict {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Denied(denial) => {
            tracing::debug!(%peer, port, "refused a call");
            Err(match denial {
                Denial::Rule(_) | Denial::NoRule | Denial::DefaultDeny => {
                    Refusal::AuthorizationDenied
                }
                Denial::AmbiguousPath => Refusal::AmbiguousPath,
                Denial::AmbiguousMethod => Refusal::AmbiguousMethod,
            })
        }
    }
}

/// Whether the app may be listening on a port: a declared one, and with interception any but the
/// sidecar's own, unless the app is on loopback: then a port that nobody declared may be meant for
/// nobody but the app.
fn is_the_apps(worker: &Worker, workload: &Workload, port: u16) -> bool {
    let is_declared = workload.ports.iter().any(|known| known.port == port);
    match &worker.interception {
        Some(interception) if interception.is_own(workload, port) => false,
        Some(_) => is_declared || !workload.app_address.is_loopback(),
        None => is_declared,
    }
}

/// What a long-lived stream was allowed for, kept to ask again when policy changes.
#[derive(Debug)]
pub struct Allowed {
    peer: Peer,
    source: IpAddr,
    port: u16,
    http: Option<AllowedHttp>,
}

#[derive(Debug)]
struct AllowedHttp {
    method: String,
    path: String,
    authority: String,
    headers: HeaderMap,
}

impl Allowed {
    pub fn opaque(connection: &Connection, port: u16) -> Self {
        Self {
            peer: connection.peer.clone(),
            source: connection.source,
            port,
            http: None,
        }
    }

    pub fn http(connection: &Connection, port: u16, call: &HttpCall<'_>) -> Self {
        let http = AllowedHttp {
            method: call.method.to_owned(),
            path: call.path.to_owned(),
            authority: call.authority.to_owned(),
            headers: call.headers.clone(),
        };
        Self {
            http: Some(http),
            ..Self::opaque(connection, port)
        }
    }

    /// Resolves when policy no longer allows it.
    pub async fn revoked(&self, worker: &Worker) {
        let mut workload = worker.workload.clone();
        // Whatever came since the stream was allowed is looked at, too.
        workload.mark_changed();
        while workload.changed().await.is_ok() {
            let current = workload.borrow_and_update().clone();
            let Some(current) = current else { continue };
            let http = self.http.as_ref().map(|http| HttpCall {
                method: &http.method,
                path: &http.path,
                authority: &http.authority,
                headers: &http.headers,
            });
            if let Err(refusal) = check(worker, &self.peer, self.source, &current, self.port, http)
            {
                worker
                    .metrics
                    .refused("inbound", refusal, self.peer.label());
                tracing::info!(peer = %self.peer, port = self.port, %refusal, "ended a stream: policy changed");
                return;
            }
        }
        // The sidecar ends: so will the stream.
        std::future::pending::<()>().await;
    }
}
