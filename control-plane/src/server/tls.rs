//! The control plane's own certificate: issued by its own authority, renewed in time, and published
//! as a finished TLS configuration.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_certs::authority::{AuthorityError, CertificateAuthority};
use outrider_certs::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use outrider_certs::svid::{Svid, retry_delay};
use outrider_certs::tls::{ClientAuth, TlsError, server_config};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::identity::Replacements;
use crate::metrics::{Metrics, unix_seconds};
use crate::store::Store;

/// HTTP/2, and nothing else (RFC 9113 §3.2).
const ALPN: &[&[u8]] = &[b"h2"];
/// The clock is looked at so often: it may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(60);

/// The namespace and ServiceAccount of the control plane itself.
pub(crate) const NAMESPACE: &str = "outrider-system";
pub(crate) const SERVICE_ACCOUNT: &str = "control-plane";

/// What handshakes are made with.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) trust_domain: TrustDomain,
}

/// Why there is no certificate of our own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnCertificateError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Identity(#[from] SpiffeIdError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("there is no mesh yet")]
    NotReady,
}

/// Who the control plane is in a trust domain.
///
/// # Errors
/// The trust domain is so long that nothing fits behind it.
pub fn control_plane_id(trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::workload(trust_domain, NAMESPACE, SERVICE_ACCOUNT)
}

/// Keeps the published configuration's certificate valid.
pub(crate) struct OwnCertificate {
    /// Also says when it is replaced.
    pub(crate) authority: Replacements,
    pub(crate) store: Arc<Store>,
    pub(crate) serving: watch::Sender<Option<Serving>>,
    pub(crate) metrics: Metrics,
}

impl OwnCertificate {
    /// Publishes the first configuration; says when it is to be renewed.
    ///
    /// # Errors
    /// The authority did not issue a certificate, or it makes no configuration.
    pub(crate) fn publish(&mut self) -> Result<SystemTime, OwnCertificateError> {
        let authority = self.authority.borrow_and_update().clone();
        let (Some(authority), Some(mesh)) = (authority, self.store.mesh()) else {
            return Err(OwnCertificateError::NotReady);
        };
        let svid = issue(&authority, mesh.settings().certificate_lifetime)?;
        let bundle = authority.trust_bundle();
        let config = server_config(&svid, &bundle, ClientAuth::Optional, ALPN)?;
        self.metrics
            .own_certificate_expiry
            .set(unix_seconds(svid.not_after()));
        let metrics = &self.metrics.authority;
        metrics.expiry.set(unix_seconds(authority.not_after()));
        let anchors = i64::try_from(bundle.anchors().len()).unwrap_or(i64::MAX);
        metrics.anchors.set(anchors);
        self.serving.send_replace(Some(Serving {
            config,
            trust_domain: bundle.trust_domain().clone(),
        }));
        Ok(svid.renew_at(fastrand::f64()))
    }

    /// Renews for ever, from `renew_at` on, and whenever the authority is replaced.
    pub(crate) async fn keep(mut self, mut renew_at: SystemTime) {
        loop {
            while let Some(wait) = until(renew_at, SystemTime::now()) {
                tokio::select! {
                    () = sleep(wait) => {}
                    Ok(()) = self.authority.changed() => break,
                }
            }
            let mut attempt = 0;
            renew_at = loop {
                match self.publish() {
                    Ok(renew_at) => break renew_at,
                    Err(error) => {
                        tracing::error!(%error, "the control plane's own certificate was not renewed");
                    }
                }
                sleep(retry_delay(attempt, fastrand::f64())).await;
                attempt = attempt.saturating_add(1);
            };
            tracing::info!("the control plane's own certificate was renewed");
        }
    }
}

fn issue(
    authority: &CertificateAuthority,
    lifetime: Duration,
) -> Result<Svid, OwnCertificateError> {
    let id = control_plane_id(authority.trust_bundle().trust_domain())?;
    Ok(authority.issue_svid(&id, lifetime, SystemTime::now())?)
}

/// How long to sleep before looking at the clock again; `None`: it is time.
fn until(time: SystemTime, now: SystemTime) -> Option<Duration> {
    let left = time.duration_since(now).ok()?;
    (!left.is_zero()).then(|| left.min(LOOK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_often() {
        let now = SystemTime::now();
        assert_eq!(until(now, now), None);
        assert_eq!(until(now - LOOK, now), None);
        assert_eq!(until(now + LOOK / 2, now), Some(LOOK / 2));
        assert_eq!(until(now + LOOK * 100, now), Some(LOOK));
    }
}
