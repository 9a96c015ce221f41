//! The sidecar's certificate: asked for with the bootstrap token, renewed from a third of its life
//! on, published as finished [`Credentials`]. The key never leaves the process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_api::proto::SignRequest;
use outrider_api::proto::identity_client::IdentityClient;
use outrider_certs::bundle::{BundleError, TrustBundle};
use outrider_certs::key::{KeyError, PrivateKey};
use outrider_certs::svid::{self, Svid, SvidError};
use outrider_certs::tls::{self, ClientAuth, TlsError};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;

use super::anchors::AnchorFile;
use super::channel::{self, ChannelError};
use super::{Credentials, WorkloadState};
use crate::telemetry::metrics::Metrics;

/// Sleeps are cut into pieces, so that a clock that jumps is noticed.
const CLOCK_CHECK: Duration = Duration::from_secs(10);
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read the bootstrap token {path}: {source}")]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the bootstrap token is not ASCII")]
    TokenNotAscii,
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("a key for the certificate: {0}")]
    Key(#[from] KeyError),
    #[error("the control plane refused to sign: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    #[error("the control plane did not answer within {SIGN_TIMEOUT:?}")]
    TimedOut,
    #[error("the certificate that came: {0}")]
    Certificate(#[from] SvidError),
    #[error("the trust anchors that came: {0}")]
    Bundle(#[from] BundleError),
    #[error("TLS with the certificate that came: {0}")]
    Tls(#[from] TlsError),
}

/// Where identity comes from.
#[derive(Debug)]
pub struct IdentitySource {
    pub control_plane: String,
    pub token_file: PathBuf,
    /// The anchors to begin with; the control plane sends newer ones.
    pub bundle: TrustBundle,
    /// Where those were.
    pub anchors: AnchorFile,
}

/// Keeps `credentials` good for as long as the process lives.
pub async fn keep(
    source: IdentitySource,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    mut workload: watch::Receiver<WorkloadState>,
    metrics: Arc<Metrics>,
) {
    let mut attempt = 0;
    loop {
        let anchors = source.anchors.choose(&told(&source, &credentials), attempt);
        let wake = match renew(&source, &anchors, &credentials).await {
            Ok(fresh) => {
                attempt = 0;
                metrics
                    .certificate_renewals
                    .with_label_values(&["ok"])
                    .inc();
                metrics
                    .certificate_expiry
                    .set(unix_seconds(fresh.svid.not_after()));
                tracing::info!(id = %fresh.svid.id(), generation = fresh.generation, "certificate issued");
                let at = fresh.svid.renew_at(fastrand::f64());
                credentials.send_replace(Some(Arc::new(fresh)));
                at
            }
            Err(error) => {
                metrics
                    .certificate_renewals
                    .with_label_values(&["error"])
                    .inc();
                let delay = svid::retry_delay(attempt, fastrand::f64());
                attempt = attempt.saturating_add(1);
                tracing::warn!(%error, retry_in = ?delay, local_clock = ?SystemTime::now(), "no new certificate");
                SystemTime::now() + delay
            }
        };
        sleep_until(wake, &credentials, &mut workload).await;
    }
}

/// The anchors that the control plane named last, with a certificate or since.
fn told(
    source: &IdentitySource,
    credentials: &watch::Sender<Option<Arc<Credentials>>>,
) -> TrustBundle {
    let current = credentials.borrow();
    let told = current.as_ref().map(|current| &current.bundle);
    told.unwrap_or(&source.bundle).clone()
}

async fn renew(
    source: &IdentitySource,
    bundle: &TrustBundle,
    current: &watch::Sender<Option<Arc<Credentials>>>,
) -> Result<Credentials, IdentityError> {
    let token =
        std::fs::read_to_string(&source.token_file).map_err(|error| IdentityError::Token {
            path: source.token_file.clone(),
            source: error,
        })?;
    let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| IdentityError::TokenNotAscii)?;
    let key = PrivateKey::generate()?;
    let mut request = tonic::Request::new(SignRequest {
        csr_der: key.signing_request()?.into(),
    });
    request.metadata_mut().insert("authorization", bearer);
    let answer = tokio::time::timeout(SIGN_TIMEOUT, async {
        let channel = channel::connect(&source.control_plane, None, bundle).await?;
        let signed = IdentityClient::new(channel).sign(request).await;
        signed.map_err(|status| IdentityError::Refused(Box::new(status)))
    });
    let answer = answer
        .await
        .map_err(|_| IdentityError::TimedOut)??
        .into_inner();
    let svid = Svid::new(key, certificates(answer.certificate_chain_der))?;
    let bundle = TrustBundle::new(
        bundle.trust_domain().clone(),
        certificates(answer.trust_anchors_der),
    )?;
    finish(svid, bundle, generation(current) + 1)
}

fn finish(svid: Svid, bundle: TrustBundle, generation: u64) -> Result<Credentials, IdentityError> {
    let server = tls::server_config(&svid, &bundle, ClientAuth::Required, &[b"h2"])?;
    Ok(Credentials {
        svid,
        bundle,
        server,
        generation,
    })
}

fn generation(current: &watch::Sender<Option<Arc<Credentials>>>) -> u64 {
    current
        .borrow()
        .as_ref()
        .map_or(0, |credentials| credentials.generation)
}

fn certificates(der: Vec<bytes::Bytes>) -> Vec<CertificateDer<'static>> {
    der.into_iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect()
}

/// Waits by the wall clock, since that is what certificates live by. Trust anchors that come in
/// the meantime take effect at once.
async fn sleep_until(
    wake: SystemTime,
    credentials: &watch::Sender<Option<Arc<Credentials>>>,
    workload: &mut watch::Receiver<WorkloadState>,
) {
    while let Ok(left) = wake.duration_since(SystemTime::now()) {
        tokio::select! {
            () = tokio::time::sleep(left.min(CLOCK_CHECK)) => {}
            Ok(()) = workload.changed() => {
                let trust = workload.borrow_and_update().as_ref().map(|workload| workload.trust.clone());
                if let Some(trust) = trust {
                    adopt(trust, credentials);
                }
            }
        }
    }
}

fn adopt(trust: TrustBundle, credentials: &watch::Sender<Option<Arc<Credentials>>>) {
    let Some(current) = credentials.borrow().clone() else {
        return;
    };
    if current.bundle == trust {
        return;
    }
    match finish(current.svid.clone(), trust, current.generation + 1) {
        Ok(fresh) => {
            tracing::info!(generation = fresh.generation, "trust anchors replaced");
            credentials.send_replace(Some(Arc::new(fresh)));
        }
        Err(error) => {
            tracing::error!(%error, "the new trust anchors cannot be used: the old ones stay")
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use outrider_certs::authority::{CertificateAuthority, NewAuthority};
    use outrider_certs::spiffe::{SpiffeId, TrustDomain};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn authority(domain: &TrustDomain) -> CertificateAuthority {
        let made = NewAuthority::generate(domain, DAY, SystemTime::now()).expect("an authority");
        let (certificate, key) = (made.certificate.as_bytes(), made.key.as_bytes());
        let path = Path::new("made");
        CertificateAuthority::from_pem((path, certificate), (path, key), domain)
            .expect("what was made")
    }

    /// A whole rotation may go by between two renewals, and the authority of the last is gone then.
    #[test]
    fn the_control_plane_is_known_by_the_anchors_that_were_told_last() {
        let domain: TrustDomain = "shop.example".parse().expect("a name");
        let (before, after) = (authority(&domain), authority(&domain));
        let given = authority(&domain).trust_bundle();
        let source = IdentitySource {
            control_plane: "127.0.0.1:0".to_owned(),
            token_file: PathBuf::new(),
            bundle: given.clone(),
            anchors: AnchorFile {
                path: PathBuf::new(),
                trust_domain: domain.clone(),
            },
        };
        let credentials = watch::Sender::new(None);
        assert_eq!(told(&source, &credentials), given);

        let id = SpiffeId::workload(&domain, "shop", "order").expect("an ID");
        let svid = before.issue_svid(&id, DAY, SystemTime::now());
        let issued = finish(svid.expect("a certificate"), before.trust_bundle(), 1);
        credentials.send_replace(Some(Arc::new(issued.expect("credentials"))));
        assert_eq!(told(&source, &credentials), before.trust_bundle());

        let both = before.trust_bundle().union(&after.trust_bundle());
        for trust in [both.expect("two"), after.trust_bundle()] {
            adopt(trust.clone(), &credentials);
            assert_eq!(told(&source, &credentials), trust);
        }
    }
}
