//! An authority that somebody else (cert-manager) keeps in a Secret: it is read, never written. When it is
//! replaced, every replica goes on signing with the one before until all sidecars trust the new one, and
//! goes on trusting the one before until the longest certificate has ended.
//!
//! What was trusted survives a restart in the ConfigMap of the control plane's own namespace.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
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
    /// What is to sign, and since when.
    pending: Option<(Secret, Instant)>,
    /// Since when the ones that signed before are only trusted.
    forgetting: Option<Instant>,
    /// The version that was complained about.
    bad: Option<String>,
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
        if let Some((secret, since)) = self.pending.clone() {
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
        let newest = self.pending.as_ref().map(|(secret, _)| secret);
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
        let Some(signs) = &self.signs else {
            let remembered = remembered(keeper, domain).await?;
            let own = new.trust_bundle();
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
            return Ok(());
        };
        let trust = keeper
            .authority
            .current()
            .map(|current| current.trust_bundle());
        let trust = trust.unwrap_or_else(|| new.trust_bundle());
        if trust.includes(&new.trust_bundle()) {
            // Another key or intermediate below what everybody trusts already.
            keeper.authority.replace(new.trusting(&trust)?);
            self.signs = Some(secret.clone());
            self.pending = None;
            tracing::info!(secret = keeper.name, "the authority was renewed");
        } else {
            let before = Reader {
                secret: signs,
                domain,
            }
            .given()?;
            let both = before.trusting(&trust)?.trusting(&new.trust_bundle())?;
            keeper.authority.replace(both);
            self.pending = Some((secret.clone(), Instant::now()));
            tracing::info!(secret = keeper.name, "the next authority is trusted");
        }
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
