//! Whose token it is, by the cluster itself: the API server reviews a projected ServiceAccount token, and
//! the pod that it is bound to must be there, run, be of the mesh, and be the one that calls. Owns the
//! bounds on what strangers can have the API server do; [`pod`] judges, this asks.
//!
//! Nothing is remembered here. The API server remembers its own answers for ten seconds, so the pod is read
//! anew besides.

mod pod;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use outrider_certs::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use outrider_certs::token::{AUDIENCE, TokenError, Unverified};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::Code;

use self::pod::{Bound, PodError};
use crate::identity::limit::{Allowance, RateLimit};
use crate::index::WorkloadName;
use crate::logging::one_line;

/// So many questions to the API server are under way at once; the rest waits.
const MAX_CALLS: usize = 64;
/// Whoever reaches the port can ask: one address may have so many tokens reviewed.
const ALLOWANCE: Allowance = Allowance {
    burst: 20,
    refill: Duration::from_millis(500),
};
/// An API server that has not answered by then is taken not to.
const ANSWER: Duration = Duration::from_secs(3);
/// A sidecar asks before the kubelet has said which address its pod has: so long that is waited for.
const ADDRESS: Duration = Duration::from_secs(4);
const ADDRESS_FIRST: Duration = Duration::from_millis(100);
/// So much of what the API server says about a token is told.
const MAX_REASON_BYTES: usize = 256;

/// Why a token gets nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the API server does not accept the token: {0}")]
    Rejected(String),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("{0}")]
    Identity(#[from] SpiffeIdError),
    #[error("too many tokens from {address}: expected the next one in {retry_in:?}")]
    TooMany { address: IpAddr, retry_in: Duration },
    #[error("the API server cannot be asked about the token: {0}")]
    Unavailable(String),
}

impl ReviewError {
    /// A bounded name for metrics and logs.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Token(error) => error.label(),
            Self::Rejected(_) => "token_rejected",
            Self::Pod(error) => error.label(),
            Self::Identity(_) => "token_subject",
            Self::TooMany { .. } => "rate_limited",
            Self::Unavailable(_) => "review_unavailable",
        }
    }
}

impl ReviewError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Token(_) | Self::Rejected(_) | Self::Identity(_) => Code::Unauthenticated,
            Self::Pod(PodError::NoAddress(_)) | Self::Unavailable(_) => Code::Unavailable,
            Self::Pod(_) => Code::PermissionDenied,
            Self::TooMany { .. } => Code::ResourceExhausted,
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reviewed {
    pub(crate) id: SpiffeId,
    /// Its pod.
    pub(crate) workload: WorkloadName,
}

/// Whether a call must come from an address of the pod whose token it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddresses {
    Checked,
    /// Where the network translates addresses on the way to the control plane.
    Translated,
}

/// See the module.
pub(crate) struct TokenReviewer {
    client: Client,
    addresses: PeerAddresses,
    calls: Semaphore,
    limit: Mutex<RateLimit<IpAddr>>,
}

impl TokenReviewer {
    pub(crate) fn new(client: Client, addresses: PeerAddresses) -> Self {
        Self {
            client,
            addresses,
            calls: Semaphore::new(MAX_CALLS),
            limit: Mutex::new(RateLimit::new(ALLOWANCE)),
        }
    }

    /// Whose `token` it is that comes from `peer`.
    ///
    /// # Errors
    /// [`ReviewError`]: it is nobody's of the mesh, or is another's than the caller's.
    pub(crate) async fn review(
        &self,
        token: &str,
        peer: IpAddr,
        trust_domain: &TrustDomain,
    ) -> Result<Reviewed, ReviewError> {
        let peer = peer.to_canonical();
        // What it says of itself is enough to refuse it, and keeps the rest from the API server.
        let claims = Unverified::parse(token)?;
        if !claims.is_for_us() {
            return Err(TokenError::Audience.into());
        }
        self.admit(peer)?;
        let bound = match self.ask(token).await {
            // It does not say in a way that can be relied on why not.
            Err(ReviewError::Rejected(_)) if claims.has_expired(SystemTime::now()) => {
                return Err(TokenError::Expired.into());
            }
            answer => answer?,
        };
        let workload = self.check_pod(&bound, peer).await?;
        let id = SpiffeId::workload(trust_domain, &bound.namespace, &bound.service_account)?;
        Ok(Reviewed { id, workload })
    }

    fn admit(&self, address: IpAddr) -> Result<(), ReviewError> {
        if self.addresses == PeerAddresses::Translated {
            // Then one address is many pods'.
            return Ok(());
        }
        self.limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&address, Instant::now())
            .map_err(|retry_in| ReviewError::TooMany { address, retry_in })
    }

    async fn ask(&self, token: &str) -> Result<Bound, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = self.answer(api.create(&parameters, &review)).await?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            let reason = status.error.as_deref().unwrap_or("it is nobody's");
            return Err(ReviewError::Rejected(one_line(reason, MAX_REASON_BYTES)));
        }
        Ok(Bound::of(&status)?)
    }

    /// Looks at the pod as it is now, again while it has no address yet.
    async fn check_pod(&self, bound: &Bound, peer: IpAddr) -> Result<WorkloadName, ReviewError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &bound.namespace);
        let peer = (self.addresses == PeerAddresses::Checked).then_some(peer);
        let until = Instant::now() + ADDRESS;
        let mut rest = ADDRESS_FIRST;
        loop {
            let pod = self.answer(api.get_opt(&bound.pod)).await?;
            match bound.check(pod.as_ref(), peer) {
                Err(PodError::NoAddress(_)) if Instant::now() + rest < until => {
                    sleep(rest).await;
                    rest *= 2;
                }
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(WorkloadName::new(&bound.namespace, &bound.pod)),
            }
        }
    }
}

impl TokenReviewer {
    /// Asks the API server, as one of not too many. Who waits for something else holds up nobody.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ReviewError> {
        let _one = self.calls.acquire().await.map_err(unavailable)?;
        let answer = timeout(ANSWER, call).await.map_err(unavailable)?;
        answer.map_err(unavailable)
    }
}

fn unavailable(error: impl std::fmt::Display) -> ReviewError {
    ReviewError::Unavailable(one_line(&error.to_string(), MAX_REASON_BYTES))
}
