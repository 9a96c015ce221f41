//! An authority that somebody else (cert-manager) keeps in a Secret: it is read, never written. When it is
//! replaced, every replica goes on signing with the one before until all sidecars trust the new one, and
//! goes on trusting the one before until the longest certificate has ended.
//!
//! What was trusted survives a restart in the ConfigMap of the control plane's own namespace.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use outrider_certs::authority::CertificateAuthority;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;

use super::rotation::SLACK;
use super::secret::{Reader, SecretError};
use super::{AGAIN, Keeper, LONG, Seen, StepError};
use crate::kubernetes::bundle;

/// How often it is asked whether everybody trusts the new one.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The lifetime of certificates where none is written: before there is a mesh, too.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is held beside the [`Keeper`].
#[derive(Default)]
pub(super) struct Elsewhere {
    /// What signs.
    signs: Option<Secret>,
    pending: Option<Pending>,
    /// Since when the ones that signed before are only trusted.
    forgetting: Option<Instant>,
    /// The version that was complained about.
    bad: Option<String>,
}

/// What is to sign.
struct Pending {
    secret: Secret,
    /// Since when it is trusted.
    since: Instant,
    /// Its own.
    trust: TrustBundle,
    /// Whom everybody trusts for certain: whoever was trusted when nothing was pending.
    before: TrustBundle,
}

impl Elsewhere {
    /// Does what is due; how long until something is.
    pub(super) async fn act(
        &mut self,
        keeper: &Keeper,
        seen: &Seen,
        domain: &TrustDomain,
    ) -> Result<Duration, StepError> {
        if let Seen::There(secret) = seen {
            self.take(keeper, secret, domain).await?;
        }
        let metrics = &keeper.context.metrics.authority;
        metrics.step.set(match (&self.pending, self.forgetting) {
            (Some(_), _) => 1,
            (None, Some(_)) => 2,
            (None, None) => 0,
        });
        if let Some(pending) = &self.pending {
            let (secret, since) = (pending.secret.clone(), pending.since);
            return self.wait(keeper, domain, secret, since).await;
        }
        let Some(since) = self.forgetting else {
            return Ok(LONG);
        };
        // The lifetime as it is by now: it may not have been known before.
        let lifetime = keeper.certificate_lifetime().unwrap_or(DAY);
        let over = lifetime.saturating_add(SLACK);
        if since.elapsed() >= over {
            self.forget(keeper, domain)?;
            return Ok(LONG);
        }
        Ok(LONG.min(over - since.elapsed()))
    }

    /// Looks at the Secret as it is now.
    async fn take(
        &mut self,
        keeper: &Keeper,
        secret: &Secret,
        domain: &TrustDomain,
    ) -> Result<(), StepError> {
        let newest = self.pending.as_ref().map(|pending| &pending.secret);
        if newest
            .or(self.signs.as_ref())
            .is_some_and(|known| known.data == secret.data)
        {
            keeper.context.metrics.authority.valid.set(1);
            return Ok(());
        }
        let reader = Reader { secret, domain };
        let new = match reader.given() {
            Ok(new) => new,
            Err(error) => {
                self.complain(keeper, secret, &error);
                return Ok(());
            }
        };
        keeper.context.metrics.authority.valid.set(1);
        match self.signs.clone() {
            None => self.first(keeper, secret, new).await,
            Some(signs) => {
                let signs = Reader {
                    secret: &signs,
                    domain,
                };
                self.replaced(keeper, secret, new, signs.given()?)
            }
        }
    }

    /// The first that was read signs.
    async fn first(
        &mut self,
        keeper: &Keeper,
        secret: &Secret,
        new: CertificateAuthority,
    ) -> Result<(), StepError> {
        let own = new.trust_bundle();
        let remembered = remembered(keeper, own.trust_domain()).await?;
        if remembered
            .as_ref()
            .is_some_and(|before| !own.includes(before))
        {
            self.forgetting = Some(Instant::now());
        }
        keeper.authority.replace(match remembered {
            Some(before) => new.trusting(&before)?,
            None => new,
        });
        self.signs = Some(secret.clone());
        tracing::info!(secret = keeper.name, "the certificate authority was read");
        Ok(())
    }

    /// `new` has taken the place of `signs`, or of what was to follow it.
    fn replaced(
        &mut self,
        keeper: &Keeper,
        secret: &Secret,
        new: CertificateAuthority,
        signs: CertificateAuthority,
    ) -> Result<(), StepError> {
        let own = new.trust_bundle();
        let current = keeper.authority.current();
        let trust = current.map_or_else(|| own.clone(), |current| current.trust_bundle());
        // What is pending is in the bundle already, and trusted by nobody for certain.
        let before = match &self.pending {
            Some(pending) => pending.before.clone(),
            None => trust.clone(),
        };
        if before.includes(&own) {
            // Another key or intermediate below what everybody trusts already.
            keeper.authority.replace(new.trusting(&trust)?);
            self.signs = Some(secret.clone());
            if self.pending.take().is_some() {
                self.forgetting = Some(Instant::now());
            }
            tracing::info!(secret = keeper.name, "the authority was renewed");
            return Ok(());
        }
        if let Some(pending) = &mut self.pending
            && pending.trust.includes(&own)
        {
            // The same below the one that is pending: nobody has to be told anything more.
            pending.secret = secret.clone();
            tracing::info!(secret = keeper.name, "the next authority was renewed");
            return Ok(());
        }
        keeper
            .authority
            .replace(signs.trusting(&trust)?.trusting(&own)?);
        self.pending = Some(Pending {
            secret: secret.clone(),
            since: Instant::now(),
            trust: own,
            before,
        });
        tracing::info!(secret = keeper.name, "the next authority is trusted");
        Ok(())
    }

    /// Has the next one sign once everybody trusts it.
    async fn wait(
        &mut self,
        keeper: &Keeper,
        domain: &TrustDomain,
        secret: Secret,
        since: Instant,
    ) -> Result<Duration, StepError> {
        let waited = since.elapsed();
        if waited < keeper.timing.settle {
            return Ok(keeper.timing.settle - waited);
        }
        let next = Reader {
            secret: &secret,
            domain,
        }
        .given()?;
        let all = keeper.replicas.all_trust(&next.trust_bundle()).await;
        if !all && waited < keeper.timing.patience {
            return Ok(ASK_AGAIN);
        }
        let Some(current) = keeper.authority.current() else {
            return Ok(AGAIN);
        };
        keeper
            .authority
            .replace(next.trusting(&current.trust_bundle())?);
        tracing::info!(secret = keeper.name, all, "the next authority signs");
        self.signs = Some(secret);
        self.pending = None;
        self.forgetting = Some(Instant::now());
        Ok(Duration::ZERO)
    }

    fn forget(&mut self, keeper: &Keeper, domain: &TrustDomain) -> Result<(), StepError> {
        self.forgetting = None;
        if let Some(secret) = &self.signs {
            keeper.authority.replace(Reader { secret, domain }.given()?);
            tracing::info!(secret = keeper.name, "the previous authority is forgotten");
        }
        Ok(())
    }

    fn complain(&mut self, keeper: &Keeper, secret: &Secret, error: &SecretError) {
        keeper.context.metrics.authority.valid.set(0);
        let version = &secret.metadata.resource_version;
        if self.bad != *version {
            tracing::error!(%error, secret = keeper.name, "the Secret is no authority's");
            self.bad.clone_from(version);
        }
    }
}

/// Whom the control plane trusted before it was started.
async fn remembered(
    keeper: &Keeper,
    domain: &TrustDomain,
) -> Result<Option<TrustBundle>, StepError> {
    let api: Api<ConfigMap> =
        Api::namespaced(keeper.context.client.clone(), &keeper.context.namespace);
    let map = api.get_opt(bundle::NAME).await?;
    let text = map.and_then(|map| map.data?.remove(bundle::KEY));
    let bundle = text.map(|text| TrustBundle::from_pem(domain.clone(), text.as_bytes()));
    Ok(bundle.transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "the trust bundle of before cannot be used");
        None
    }))
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;
