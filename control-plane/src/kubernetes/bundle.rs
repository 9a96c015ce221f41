//! The trust bundle where pods find it: a ConfigMap in every meshed namespace. The leader writes it, puts
//! right what somebody has edited, and takes it away where there is no mesh any more. Owns these ConfigMaps.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Context, MANAGER};
use crate::identity::Replacements;

/// The ConfigMaps' name, and their key.
pub(super) const NAME: &str = "outrider-trust-bundle";
pub(super) const KEY: &str = "trust-bundle.pem";
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "outrider");
/// The namespace of the control plane that wrote it: there may be several in a cluster.
const WRITTEN_BY: &str = "outrider.mesh/control-plane";
/// So many are written at once.
const MAX_WRITES: usize = 8;
/// What failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long to rest after each round of writes, so that whoever undoes them has us write once a second.
const REST: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Bundles {
    pub(crate) context: Context,
    pub(crate) authority: Replacements,
    /// The meshed namespaces.
    pub(crate) meshed: watch::Receiver<Arc<BTreeSet<String>>>,
    pub(crate) leads: watch::Receiver<bool>,
}

/// A ConfigMap of that name, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    uid: Option<String>,
    text: Option<String>,
    owner: Owner,
    /// Nothing in it can be changed any more.
    immutable: bool,
}

/// Who has written a ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Us,
    /// The control plane of another namespace.
    Another,
    Nobody,
}

/// What to do in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Write,
    /// Delete this one, of that uid, then write.
    Replace(Option<String>),
    Delete(Option<String>),
}

impl Bundles {
    /// Keeps them until the shutdown.
    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let api: Api<ConfigMap> = Api::all(self.context.client.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = pin!(watcher(api, only).default_backoff());
        let mut found = BTreeMap::new();
        let mut synced = false;
        let own = self.context.namespace.clone();
        let mut next = Instant::now();
        loop {
            let due = synced && *self.leads.borrow_and_update();
            if due && next <= Instant::now() {
                next = self.tend(&found).await;
            }
            let rest = next.saturating_duration_since(Instant::now());
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => see(event, &own, &mut found, &mut synced),
                    Err(error) => tracing::warn!(%error, "the trust bundles cannot be watched"),
                },
                Ok(()) = self.leads.changed() => {}
                Ok(()) = self.meshed.changed() => {}
                Ok(()) = self.authority.changed() => {}
                () = sleep(rest), if due && !rest.is_zero() => {}
                _ = shutdown.wait_for(|now| *now) => return,
            }
        }
    }

    /// Does all that is to be done; when the next may be.
    async fn tend(&mut self, found: &BTreeMap<String, Found>) -> Instant {
        let begun = Instant::now();
        let Some(authority) = self.authority.borrow_and_update().clone() else {
            return begun;
        };
        let mut wanted = BTreeSet::clone(&self.meshed.borrow_and_update());
        wanted.insert(self.context.namespace.clone());
        let text = authority.trust_bundle().to_pem();
        let actions = plan(&wanted, &self.context.namespace, &text, found);
        let (context, text) = (&self.context, text.as_str());
        if actions.is_empty() {
            return begun;
        }
        // All of them, whatever fails.
        let done = stream::iter(actions)
            .map(|(namespace, action)| act(context, namespace, action, text))
            .buffer_unordered(MAX_WRITES)
            .fold(true, |all, done| std::future::ready(all && done));
        begun + if done.await { REST } else { AGAIN }
    }
}

fn see(event: Event<ConfigMap>, own: &str, found: &mut BTreeMap<String, Found>, synced: &mut bool) {
    match event {
        Event::Apply(map) | Event::InitApply(map) => {
            let namespace = map.metadata.namespace.clone().unwrap_or_default();
            found.insert(namespace, Found::of(map, own));
        }
        Event::Delete(map) => {
            found.remove(map.metadata.namespace.as_deref().unwrap_or_default());
        }
        Event::Init => {
            found.clear();
            *synced = false;
        }
        Event::InitDone => *synced = true,
    }
}

/// What is to be done so that every namespace that is `wanted` has the bundle, and no other.
fn plan(
    wanted: &BTreeSet<String>,
    own: &str,
    text: &str,
    found: &BTreeMap<String, Found>,
) -> Vec<(String, Action)> {
    let there = wanted.iter().filter_map(|namespace| {
        let action = match found.get(namespace) {
            // Two control planes do not undo each other's work: a namespace is the first one's.
            Some(found) if found.owner == Owner::Another && namespace != own => return None,
            Some(found) if found.owner == Owner::Us && found.text.as_deref() == Some(text) => {
                return None;
            }
            Some(found) if found.immutable => Action::Replace(found.uid.clone()),
            Some(_) | None => Action::Write,
        };
        Some((namespace.clone(), action))
    });
    let gone = found
        .iter()
        // Somebody else's is not ours to delete.
        .filter(|(namespace, found)| found.owner == Owner::Us && !wanted.contains(*namespace))
        .map(|(namespace, found)| (namespace.clone(), Action::Delete(found.uid.clone())));
    there.chain(gone).collect()
}

async fn act(context: &Context, namespace: String, action: Action, text: &str) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
    let result = match action {
        Action::Write => write(context, &api, text).await,
        Action::Delete(uid) => delete(&api, uid).await,
        Action::Replace(uid) => match delete(&api, uid).await {
            Ok(()) => write(context, &api, text).await,
            error => error,
        },
    };
    let writes = &context.metrics.authority.bundles;
    match result {
        Ok(()) => {
            writes.with_label_values(&["ok"]).inc();
            tracing::info!(namespace, "the trust bundle was brought up to date");
            true
        }
        // The namespace is gone, or is being deleted.
        Err(kube::Error::Api(status)) if is_going(&status) => true,
        Err(error) => {
            writes.with_label_values(&["error"]).inc();
            tracing::warn!(%error, namespace, "the trust bundle could not be written");
            false
        }
    }
}

fn is_going(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut terminating = causes.filter(|cause| cause.reason == "NamespaceTerminating");
    status.code == 404 || terminating.next().is_some()
}

/// Whole, whoever else has written it: server-side apply.
async fn write(context: &Context, api: &Api<ConfigMap>, text: &str) -> Result<(), kube::Error> {
    let (label, value) = MANAGED_BY;
    let mut labels = super::labels();
    labels.insert(label.to_owned(), value.to_owned());
    labels.insert(WRITTEN_BY.to_owned(), context.namespace.clone());
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        data: Some([(KEY.to_owned(), text.to_owned())].into()),
        ..ConfigMap::default()
    };
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(NAME, &parameters, &Patch::Apply(&map)).await?;
    Ok(())
}

async fn delete(api: &Api<ConfigMap>, uid: Option<String>) -> Result<(), kube::Error> {
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(NAME, &parameters).await {
        // Another one by now, or none: the watch will tell.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        result => result.map(|_| ()),
    }
}

impl Found {
    fn of(map: ConfigMap, own: &str) -> Self {
        let labels = map.metadata.labels.unwrap_or_default();
        let has = |(label, value): (&str, &str)| labels.get(label).is_some_and(|is| is == value);
        let owner = match (has(MANAGED_BY), labels.get(WRITTEN_BY)) {
            (true, Some(writer)) if writer == own => Owner::Us,
            (true, Some(_)) => Owner::Another,
            (true, None) | (false, _) => Owner::Nobody,
        };
        Self {
            uid: map.metadata.uid,
            text: map.data.and_then(|mut data| data.remove(KEY)),
            owner,
            immutable: map.immutable == Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: Option<&str>, owner: Owner, immutable: bool) -> Found {
        Found {
            uid: Some("1".to_owned()),
            text: text.map(str::to_owned),
            owner,
            immutable,
        }
    }

    #[test]
    fn what_is_done_in_each_namespace() {
        use Owner::{Another, Nobody, Us};

        let uid = Some("1".to_owned());
        let there = |text, owner, immutable| Some(found(Some(text), owner, immutable));
        // What is there, whether it is wanted, what is done.
        let table = [
            (None, true, Some(Action::Write)),
            (None, false, None),
            (there("new", Us, false), true, None),
            (there("new", Us, true), true, None),
            (there("old", Us, false), true, Some(Action::Write)),
            (Some(found(None, Us, false)), true, Some(Action::Write)),
            (there("new", Nobody, false), true, Some(Action::Write)),
            (there("old", Another, false), true, None),
            (
                there("old", Us, true),
                true,
                Some(Action::Replace(uid.clone())),
            ),
            (there("new", Us, false), false, Some(Action::Delete(uid))),
            (there("old", Nobody, false), false, None),
            (there("old", Another, false), false, None),
        ];
        for (there, is_wanted, action) in table {
            let name = "shop".to_owned();
            let wanted = is_wanted.then(|| name.clone()).into_iter().collect();
            let maps = there
                .clone()
                .map(|found| (name.clone(), found))
                .into_iter()
                .collect();
            let actions = plan(&wanted, "outrider-system", "new", &maps);
            let expected: Vec<_> = action
                .into_iter()
                .map(|action| (name.clone(), action))
                .collect();
            assert_eq!(actions, expected, "{there:?}, wanted: {is_wanted}");
        }
        // Its own namespace is a control plane's own.
        let name = "outrider-system".to_owned();
        let maps = [(name.clone(), found(Some("old"), Another, false))].into();
        let actions = plan(&[name.clone()].into(), &name, "new", &maps);
        assert_eq!(actions, [(name, Action::Write)]);
    }
}
