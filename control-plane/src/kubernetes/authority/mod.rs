//! The certificate authority of a cluster, kept in a Secret. Every replica watches it and signs with what
//! it says; the leader makes it, rotates it, and puts it back when it is deleted. Owns that Secret.
//! [`rotation`] decides, [`secret`] reads and writes, [`replicas`] knows who trusts whom.

mod elsewhere;
pub(crate) mod replicas;
mod rotation;
mod secret;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use outrider_api::duration;
use outrider_certs::authority::{AuthorityError, NewAuthority};
use outrider_certs::spiffe::TrustDomain;
use tokio::sync::watch;
use tokio::time::sleep;

use self::elsewhere::Elsewhere;
use self::replicas::Replicas;
pub(crate) use self::rotation::Timing;
use self::rotation::{Facts, Stage, Step, least_life, step};
use self::secret::{Change, Data, Reader, SecretError};
use super::Context;
use crate::identity::SharedAuthority;
use crate::store::Store;

/// Nothing is due.
const LONG: Duration = Duration::from_secs(60);
/// What failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// A Secret that is gone is put back after so long: whoever removes the mesh removes this replica too.
const RESTORE: Duration = Duration::from_secs(10);
const SECRET_TYPE: &str = "kubernetes.io/tls";

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// What is known of the Secret.
enum Seen {
    Nothing,
    Absent(Instant),
    There(Box<Secret>),
}

/// Who writes the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Here,
    Elsewhere,
}

/// See the module.
pub(crate) struct Keeper {
    pub(crate) kept: Kept,
    pub(crate) context: Context,
    /// The Secret's name.
    pub(crate) name: String,
    pub(crate) authority: SharedAuthority,
    /// Of the mesh, once it is known.
    pub(crate) domain: watch::Receiver<Option<TrustDomain>>,
    pub(crate) store: Arc<Store>,
    pub(crate) leads: watch::Receiver<bool>,
    pub(crate) replicas: Replicas,
    /// Of an authority that is made.
    pub(crate) lifetime: Duration,
    pub(crate) timing: Timing,
}

/// What the task holds.
struct State {
    keeper: Keeper,
    api: Api<Secret>,
    seen: Seen,
    /// The last contents that were good, which sign now.
    good: Option<Data>,
    /// The version that was complained about.
    bad: Option<String>,
    elsewhere: Elsewhere,
}

impl Keeper {
    /// Keeps it until the shutdown.
    pub(crate) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let api = Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = pin!(watcher(api.clone(), only).default_backoff());
        let (mut leads, mut domain) = (self.leads.clone(), self.domain.clone());
        let mut state = State {
            keeper: self,
            api,
            seen: Seen::Nothing,
            good: None,
            bad: None,
            elsewhere: Elsewhere::default(),
        };
        loop {
            let rest = state.act().await.unwrap_or_else(|error| {
                tracing::warn!(%error, secret = state.keeper.name, "the Secret of the authority");
                AGAIN
            });
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => state.see(event),
                    Err(error) => {
                        tracing::warn!(%error, secret = state.keeper.name, "the Secret cannot be watched");
                    }
                },
                Ok(()) = leads.changed() => {}
                Ok(()) = domain.changed() => {}
                () = sleep(rest) => {}
                _ = shutdown.wait_for(|now| *now) => return,
            }
        }
    }
}

impl Keeper {
    /// `None`: there is no mesh yet.
    fn certificate_lifetime(&self) -> Option<Duration> {
        Some(self.store.mesh()?.settings().certificate_lifetime)
    }

    /// How long an authority lives that is made: as it was asked for, unless the mesh's certificates need
    /// more. Their lifetime may change at any time, and neither may then be refused: without the next
    /// authority nobody gets a certificate.
    fn life(&self, certificates: Option<Duration>) -> Duration {
        let least = certificates.map(least_life).unwrap_or_default();
        if self.lifetime < least {
            tracing::warn!(
                "--ca-lifetime {} is too short for spec.certificateLifetime {} of the MeshConfig: the next \
                 authority lives {}",
                duration::format(self.lifetime),
                duration::format(certificates.unwrap_or_default()),
                duration::format(least),
            );
        }
        self.lifetime.max(least)
    }
}

impl State {
    fn see(&mut self, event: Event<Secret>) {
        match event {
            Event::Apply(secret) | Event::InitApply(secret) => {
                self.seen = Seen::There(Box::new(secret));
            }
            Event::Delete(_) => self.seen = Seen::Absent(Instant::now()),
            // What was there before may be listed again, or be gone.
            Event::Init => self.seen = Seen::Nothing,
            Event::InitDone if matches!(self.seen, Seen::Nothing) => {
                self.seen = Seen::Absent(Instant::now());
            }
            Event::InitDone => {}
        }
    }

    /// Does what is due; how long until something is.
    async fn act(&mut self) -> Result<Duration, StepError> {
        let Some(domain) = self.keeper.domain.borrow().clone() else {
            return Ok(LONG);
        };
        if self.keeper.kept == Kept::Elsewhere {
            return self.elsewhere.act(&self.keeper, &self.seen, &domain).await;
        }
        let leads = *self.keeper.leads.borrow();
        match &self.seen {
            Seen::Nothing => Ok(LONG),
            Seen::Absent(since) if leads => {
                let since = *since;
                self.make(&domain, since).await
            }
            Seen::Absent(_) => Ok(LONG),
            Seen::There(secret) => {
                let secret = secret.clone();
                if !self.load(&secret, &domain) || !leads {
                    return Ok(LONG);
                }
                self.advance(&secret, &domain).await
            }
        }
    }

    /// Makes the Secret: the one that was there, or a first one.
    async fn make(&mut self, domain: &TrustDomain, since: Instant) -> Result<Duration, StepError> {
        let data = match &self.good {
            Some(_) if since.elapsed() < RESTORE => return Ok(RESTORE - since.elapsed()),
            Some(good) => good.clone(),
            None => secret::first(&self.generate(domain)?),
        };
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.keeper.name.clone()),
                labels: Some(super::labels()),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        match self.api.create(&PostParams::default(), &secret).await {
            Ok(secret) => {
                let restored = self.good.is_some();
                tracing::info!(
                    secret = self.keeper.name,
                    restored,
                    "the authority's Secret was made"
                );
                self.seen = Seen::There(Box::new(secret));
                Ok(Duration::ZERO)
            }
            // Another leader's; the watch will show it.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(AGAIN),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the authority of `secret` sign; whether it can.
    fn load(&mut self, secret: &Secret, domain: &TrustDomain) -> bool {
        let metrics = &self.keeper.context.metrics.authority;
        let reader = Reader { secret, domain };
        metrics.step.set(match reader.stage() {
            Stage::Steady => 0,
            Stage::Trusting => 1,
            Stage::Forgetting => 2,
        });
        if self.good.is_some() && self.good == secret.data {
            metrics.valid.set(1);
            return true;
        }
        let version = secret.metadata.resource_version.clone();
        match reader.authority() {
            Ok(authority) => {
                metrics.valid.set(1);
                tracing::info!(
                    secret = self.keeper.name,
                    anchors = authority.trust_bundle().anchors().len(),
                    "the certificate authority was read"
                );
                self.keeper.authority.replace(authority);
                self.good.clone_from(&secret.data);
                true
            }
            Err(error) => {
                metrics.valid.set(0);
                if self.bad != version {
                    tracing::error!(
                        %error,
                        secret = self.keeper.name,
                        "the Secret is no authority's: the last good one stays"
                    );
                    self.bad = version;
                }
                false
            }
        }
    }

    /// Takes the next step of a rotation, if it is due.
    async fn advance(
        &mut self,
        secret: &Secret,
        domain: &TrustDomain,
    ) -> Result<Duration, StepError> {
        let reader = Reader { secret, domain };
        let now = SystemTime::now();
        let authority = self.keeper.authority.current();
        let (Some(authority), Some(lifetime)) = (authority, self.keeper.certificate_lifetime())
        else {
            return Ok(AGAIN);
        };
        let longest = reader.longest().unwrap_or_default().max(lifetime);
        let mut facts = Facts {
            now,
            stage: reader.stage(),
            since: reader.since(),
            begins: authority.not_before(),
            ends: authority.not_after(),
            asked: reader.asked(),
            answered: reader.answered(),
            all_trust: false,
            longest,
        };
        let mut next = step(&facts, self.keeper.timing);
        if let (Step::Wait(_), Some(wanted)) = (next, reader.next()?) {
            facts.all_trust = true;
            // Everybody is asked only where the answer matters.
            if step(&facts, self.keeper.timing) == Step::Switch
                && self.keeper.replicas.all_trust(&wanted).await
            {
                next = Step::Switch;
            }
        }
        let change = match next {
            Step::Wait(_) if reader.longest() != Some(longest) => {
                return self.write(Change::lifetime(longest), secret).await;
            }
            Step::Wait(rest) => return Ok(rest),
            Step::Date => Change::dated(now),
            Step::Begin => Change::begin(&reader, &self.generate(domain)?, now)?,
            Step::Switch => Change::switch(&reader, now)?,
            Step::Forget => Change::forget(&reader, lifetime)?,
        };
        tracing::info!(secret = self.keeper.name, step = ?next, "a step of the authority's rotation");
        self.write(change, secret).await
    }

    async fn write(&mut self, change: Change, secret: &Secret) -> Result<Duration, StepError> {
        let patch = Patch::Merge(change.patch(secret));
        let name = &self.keeper.name;
        match self.api.patch(name, &PatchParams::default(), &patch).await {
            Ok(secret) => {
                self.seen = Seen::There(Box::new(secret));
                Ok(Duration::ZERO)
            }
            // Somebody else has written it, or removed it: the watch will show what.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(AGAIN),
            Err(error) => Err(error.into()),
        }
    }

    fn generate(&self, domain: &TrustDomain) -> Result<NewAuthority, AuthorityError> {
        let lifetime = self.keeper.life(self.keeper.certificate_lifetime());
        NewAuthority::generate(domain, lifetime, SystemTime::now())
    }
}
