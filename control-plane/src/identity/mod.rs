//! Identity.Sign: a bootstrap token and a CSR become a certificate. The token says who asks, the mesh
//! whether there is such an identity; the CSR gives a public key and nothing else. Owns the rate limit.

pub(crate) mod limit;
mod refusal;
mod shared;

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use outrider_api::proto::identity_server::{Identity, IdentityServer};
use outrider_api::proto::{SignRequest, SignResponse};
use outrider_certs::csr::VerifiedRequest;
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::token::TokenVerifier;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use self::limit::{Allowance, RateLimit};
use self::refusal::Refusal;
pub(crate) use self::shared::{Replacements, SharedAuthority};
use crate::index::Mesh;
use crate::kubernetes::tokens::{Reviewed, TokenReviewer};
use crate::metrics::Metrics;
use crate::server::Peer;
use crate::store::Store;

/// A hundred instances may start at once; then ten a second. Signing takes well under a millisecond.
const ALLOWANCE: Allowance = Allowance {
    burst: 100,
    refill: Duration::from_millis(100),
};
/// Anybody can be refused, so anybody could fill the log: so many lines of one reason are written.
const LOG_ALLOWANCE: Allowance = Allowance {
    burst: 20,
    refill: Duration::from_secs(1),
};
/// How long the mesh may lag behind the API server that has accepted a pod's token.
const KNOWN: Duration = Duration::from_secs(3);
/// A CSR is at most 16 KiB.
const MAX_MESSAGE_BYTES: usize = 20 * 1024;

/// Whose word is taken for who asks.
pub(crate) enum Tokens {
    /// Our own: bootstrap tokens.
    Signed(TokenVerifier),
    /// The cluster's: projected tokens of pods.
    Reviewed(Box<TokenReviewer>),
}

/// The gRPC service.
pub(crate) struct IdentityService {
    tokens: Tokens,
    authority: SharedAuthority,
    store: Arc<Store>,
    limit: Mutex<RateLimit<SpiffeId>>,
    log_limit: Mutex<RateLimit<&'static str>>,
    metrics: Metrics,
}

impl IdentityService {
    pub(crate) fn server(
        tokens: Tokens,
        authority: SharedAuthority,
        store: Arc<Store>,
        metrics: Metrics,
    ) -> IdentityServer<Self> {
        IdentityServer::new(Self {
            tokens,
            authority,
            store,
            limit: Mutex::new(RateLimit::new(ALLOWANCE)),
            log_limit: Mutex::new(RateLimit::new(LOG_ALLOWANCE)),
            metrics,
        })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn issue(
        &self,
        request: Request<SignRequest>,
    ) -> Result<(SpiffeId, SignResponse), Refusal> {
        let peer = request.extensions().get::<Peer>().map(Peer::address);
        let id = self.identify(bearer(request.metadata())?, peer).await?;
        let now = SystemTime::now();
        let mesh = self.store.mesh().ok_or(Refusal::NotReady)?;
        let authority = self.authority.current().ok_or(Refusal::NotReady)?;
        take(&self.limit, &id).map_err(|retry_in| Refusal::TooMany {
            id: id.clone(),
            retry_in,
        })?;
        let csr = VerifiedRequest::try_from(request.get_ref().csr_der.as_ref())?;
        let lifetime = mesh.settings().certificate_lifetime;
        let certificate = authority.issue(&csr, &id, lifetime, now)?;
        let bundle = authority.trust_bundle();
        let response = SignResponse {
            certificate_chain_der: certificate
                .chain
                .iter()
                .map(|der| der.to_vec().into())
                .collect(),
            trust_anchors_der: bundle
                .anchors()
                .iter()
                .map(|der| der.to_vec().into())
                .collect(),
        };
        Ok((id, response))
    }

    /// Who in the mesh shows `token`.
    async fn identify(&self, token: &str, peer: Option<IpAddr>) -> Result<SpiffeId, Refusal> {
        match &self.tokens {
            Tokens::Signed(verifier) => {
                let id = verifier.verify(token, SystemTime::now())?;
                let mesh = self.store.mesh().ok_or(Refusal::NotReady)?;
                if mesh.has_identity(&id) {
                    Ok(id)
                } else {
                    Err(Refusal::UnknownIdentity(id))
                }
            }
            Tokens::Reviewed(reviewer) => {
                let (Some(authority), Some(peer)) = (self.authority.current(), peer) else {
                    return Err(Refusal::NotReady);
                };
                let trust = authority.trust_bundle();
                let who = reviewer.review(token, peer, trust.trust_domain()).await?;
                self.known(who).await
            }
        }
    }

    /// Waits a little for a pod that the API server knows, and the mesh does not yet.
    async fn known(&self, who: Reviewed) -> Result<SpiffeId, Refusal> {
        let Reviewed { id, workload } = who;
        let is_known = |mesh: &Mesh| {
            let model = mesh.workload(&workload.namespace, &workload.name);
            model.is_some_and(|model| model.id == id)
        };
        let mut mesh = self.store.follow_mesh();
        let known = mesh.wait_for(|mesh| mesh.as_deref().is_some_and(is_known));
        let known = matches!(timeout(KNOWN, known).await, Ok(Ok(_)));
        if known {
            Ok(id)
        } else {
            Err(Refusal::UnknownIdentity(id))
        }
    }

    fn record(&self, refusal: &Refusal) {
        let reason = refusal.label();
        self.metrics
            .certificates_refused
            .with_label_values(&[reason])
            .inc();
        if take(&self.log_limit, &reason).is_ok() {
            tracing::warn!(reason, "a certificate was refused: {refusal}");
        }
    }
}

fn take<K: Eq + Hash + Clone>(limit: &Mutex<RateLimit<K>>, key: &K) -> Result<(), Duration> {
    limit
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(key, Instant::now())
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        match self.issue(request).await {
            Ok((id, response)) => {
                self.metrics.certificates_issued.inc();
                tracing::debug!(%id, "a certificate was issued");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                self.record(&refusal);
                Err(refusal.status())
            }
        }
    }
}

/// The token of `authorization: Bearer TOKEN` (RFC 6750 §2.1; the scheme in any case).
fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let mut values = metadata.get_all("authorization").iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Refusal::NoToken);
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or(Refusal::NoToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Refusal::NoToken);
    }
    Ok(token)
}
