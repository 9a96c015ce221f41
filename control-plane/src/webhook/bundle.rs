//! `caBundle` in both webhook configurations: by what the API server knows the webhooks' certificate.
//! The leader keeps it right, also when the authority is rotated or somebody edits it. Nothing else of
//! the configurations is touched.

use std::fmt::Debug;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::identity::Replacements;
use crate::kubernetes::MANAGER;

/// The configuration of `/inject`.
pub const MUTATING: &str = "outrider-injector";
/// The configuration of `/validate`.
pub const VALIDATING: &str = "outrider-validator";
/// What somebody edits is repaired within this time.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps the bundle where the API server looks for it.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) authority: Replacements,
    /// Whether this replica is the one that writes.
    pub(super) leader: watch::Receiver<bool>,
}

impl Keeper {
    /// Looks now and then, and at once when something is different here.
    pub(super) async fn keep(mut self) {
        let mutating = Configuration::<MutatingWebhookConfiguration>::new(&self.client, MUTATING);
        let validating =
            Configuration::<ValidatingWebhookConfiguration>::new(&self.client, VALIDATING);
        loop {
            let authority = self.authority.borrow_and_update().clone();
            let leads = *self.leader.borrow_and_update();
            if let (Some(authority), true) = (authority, leads) {
                let bundle = STANDARD.encode(authority.trust_bundle().to_pem());
                mutating.repair(&bundle).await;
                validating.repair(&bundle).await;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                Ok(()) = self.authority.changed() => {}
                Ok(()) = self.leader.changed() => {}
            }
        }
    }
}

struct Configuration<K> {
    api: Api<K>,
    name: &'static str,
}

impl<K> Configuration<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + serde::Serialize,
{
    fn new(client: &Client, name: &'static str) -> Self {
        let api = Api::all(client.clone());
        Self { api, name }
    }

    /// What cannot be done now is tried again at the next look.
    async fn repair(&self, bundle: &str) {
        match self.try_repair(bundle).await {
            Ok(0) => {}
            Ok(webhooks) => {
                tracing::info!(
                    configuration = self.name,
                    webhooks,
                    "the trust bundle was written"
                );
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::debug!(configuration = self.name, "there is no such configuration");
            }
            Err(error) => {
                tracing::warn!(configuration = self.name, %error, "the trust bundle was not written");
            }
        }
    }

    /// How many webhooks had another bundle.
    async fn try_repair(&self, bundle: &str) -> Result<usize, kube::Error> {
        let now = self.api.get(self.name).await?;
        let now = serde_json::to_value(&now).map_err(kube::Error::SerdeError)?;
        let wrong = wrong(&now, bundle);
        if wrong.is_empty() {
            return Ok(0);
        }
        let patch = patch(&wrong, bundle);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.api
            .patch(self.name, &params, &Patch::Strategic(patch))
            .await?;
        Ok(wrong.len())
    }
}

/// The webhooks that do not have `bundle`.
fn wrong<'c>(configuration: &'c Value, bundle: &str) -> Vec<&'c str> {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array);
    let webhooks = webhooks.into_iter().flatten();
    let differs =
        |webhook: &&Value| webhook.pointer("/clientConfig/caBundle") != Some(&json!(bundle));
    webhooks
        .filter(differs)
        .filter_map(|webhook| webhook.get("name")?.as_str())
        .collect()
}

/// Webhooks are merged by name: all else of them stays.
fn patch(webhooks: &[&str], bundle: &str) -> Value {
    let one = |name: &&str| json!({"name": name, "clientConfig": {"caBundle": bundle}});
    json!({"webhooks": webhooks.iter().map(one).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_are_wrong_are_written() {
        let webhook = |name: &str, config: Value| json!({"name": name, "clientConfig": config});
        let configuration = json!({"webhooks": [
            webhook("a", json!({"caBundle": "Ym9keQ=="})),
            webhook("b", json!({"caBundle": "b3RoZXI=", "url": "https://a/"})),
            webhook("c", json!({"service": {"name": "s"}})),
        ]});
        let wrong = wrong(&configuration, "Ym9keQ==");
        assert_eq!(wrong, ["b", "c"]);
        let expected = json!({"webhooks": [
            {"name": "b", "clientConfig": {"caBundle": "Ym9keQ=="}},
            {"name": "c", "clientConfig": {"caBundle": "Ym9keQ=="}},
        ]});
        assert_eq!(patch(&wrong, "Ym9keQ=="), expected);
    }

    #[test]
    fn without_webhooks_there_is_nothing_to_write() {
        for configuration in [
            json!({}),
            json!({"webhooks": null}),
            json!({"webhooks": []}),
        ] {
            assert!(wrong(&configuration, "x").is_empty());
        }
    }
}
