//! The certificate of the webhooks: issued by the mesh's own authority for the names by which the API
//! server calls, renewed in time and whenever the authority is another, and taken by the next
//! connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_certs::authority::{CertificateAuthority, ServerCertificateError};
use outrider_certs::svid::retry_delay;
use outrider_certs::tls::{TlsError, named_server_config};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::identity::Replacements;
use crate::metrics::{WebhookMetrics, unix_seconds};

/// The API server speaks either.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// The clock is looked at so often: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(60);
/// As those of workloads, where nobody says otherwise.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error(transparent)]
    Issue(#[from] ServerCertificateError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Keeps the published configuration's certificate valid.
pub(super) struct Keeper {
    pub(super) authority: Replacements,
    pub(super) names: Vec<ServerName<'static>>,
    pub(super) serving: watch::Sender<Option<Arc<ServerConfig>>>,
    pub(super) metrics: WebhookMetrics,
    /// What time it is.
    pub(super) clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Keeper {
    /// Publishes the first as soon as there is an authority, and renews for as long as there is one.
    pub(super) async fn keep(mut self) {
        let mut attempt = 0;
        loop {
            let authority = self.authority.borrow_and_update().clone();
            let Some(authority) = authority else {
                if self.authority.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.publish(&authority, (self.clock)()) {
                Ok(renew_at) => {
                    attempt = 0;
                    tracing::info!("the webhooks have a new certificate");
                    self.due(renew_at).await;
                }
                Err(error) => {
                    tracing::error!(%error, "the webhooks' certificate was not renewed");
                    tokio::select! {
                        () = sleep(retry_delay(attempt, fastrand::f64())) => {}
                        // Another authority may be what is needed. Where none will come, it is time only.
                        Ok(()) = self.authority.changed() => {}
                    }
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    }

    fn publish(
        &self,
        authority: &CertificateAuthority,
        now: SystemTime,
    ) -> Result<SystemTime, CertificateError> {
        let certificate = authority.issue_server(&self.names, LIFETIME, now)?;
        let config = named_server_config(&certificate, ALPN)?;
        self.metrics
            .certificate_expiry
            .set(unix_seconds(certificate.not_after()));
        self.serving.send_replace(Some(config));
        Ok(certificate.renew_at(fastrand::f64()))
    }

    /// Returns at `renew_at`, or when there is another authority.
    async fn due(&mut self, renew_at: SystemTime) {
        while let Ok(left) = renew_at.duration_since((self.clock)()) {
            tokio::select! {
                () = sleep(left.min(LOOK)) => {}
                changed = self.authority.changed() => match changed {
                    Ok(()) => return,
                    // No other will come: the last one is used until the end.
                    Err(_) => sleep(left.min(LOOK)).await,
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
