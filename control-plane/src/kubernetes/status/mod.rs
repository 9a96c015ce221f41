//! The status of policies, routes and the MeshConfig: what was made of each, and on how many sidecars
//! it is (GEP-713, Gateway API). The leader writes it, and only what has changed.

mod conditions;
mod features;
mod progress;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::conditions::Said;
use self::progress::{Count, Counts};
use super::authority::replicas::{addresses, ask};
use super::degrade::Verdict;
use super::objects::ObjectId;
use super::{Context, MANAGER, found};

pub(crate) use self::progress::Progress;

/// How often it is looked whether there is something new to say.
const TICK: Duration = Duration::from_millis(500);
/// Between two writes: 20 a second.
const BETWEEN: Duration = Duration::from_millis(50);
/// A replica that has not answered by then has no sidecar that goes by anything.
const ANSWER: Duration = Duration::from_secs(2);
/// The answer about 10,000 objects.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What was written is forgotten after so long, and looked at anew: somebody may have changed it.
const TRUSTED_TICKS: u32 = 1200;
/// How often it is looked whether there is an XMesh.
const FEATURES_TICKS: u32 = 60;

/// See the module.
pub(crate) struct StatusWriter {
    pub(crate) context: Context,
    pub(crate) progress: Progress,
    pub(crate) meshed: watch::Receiver<Arc<BTreeSet<String>>>,
    pub(crate) leads: watch::Receiver<bool>,
    /// Of everybody's admin address.
    pub(crate) port: u16,
}

/// What was last said of each object.
type Written = HashMap<ObjectId, (Verdict, Count)>;

impl StatusWriter {
    /// Until the shutdown.
    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.write_for_ever() => {}
            _ = shutdown.wait_for(|now| *now) => {}
        }
    }

    async fn write_for_ever(&mut self) {
        loop {
            if self.leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            let mut written = Written::new();
            let mut ticks = 0;
            while *self.leads.borrow() {
                self.write(&mut written).await;
                if ticks % FEATURES_TICKS == 0
                    && let Err(error) = features::publish(&self.context, &now()).await
                {
                    tracing::debug!(%error, "the features of this mesh could not be published");
                }
                sleep(TICK).await;
                ticks += 1;
                if ticks >= TRUSTED_TICKS {
                    written.clear();
                    ticks = 0;
                }
            }
        }
    }

    async fn write(&self, written: &mut Written) {
        let verdicts = self.progress.view.verdicts.borrow().clone();
        let counts = self.counts().await;
        written.retain(|id, _| verdicts.0.contains_key(id));
        let meshed = self.meshed.borrow().clone();
        for (id, verdict) in &verdicts.0 {
            let Some(count) = counts.get(&id.to_string()) else {
                continue;
            };
            let now = (verdict.clone(), *count);
            if written.get(id) == Some(&now) {
                continue;
            }
            if !*self.leads.borrow() {
                return;
            }
            match self.write_one(id, verdict, *count, &meshed).await {
                Ok(wrote) => {
                    written.insert(id.clone(), now);
                    if wrote {
                        sleep(BETWEEN).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(object = %id, %error, "a status could not be written; it is tried again");
                    sleep(BETWEEN).await;
                }
            }
        }
    }

    /// Of all replicas. Whom a policy about workloads concerns each knows; who calls a Service only the
    /// one to which the caller is connected.
    async fn counts(&self) -> Counts {
        let Some(own) = self.progress.counts() else {
            return Counts::new();
        };
        let addresses = match addresses(&self.context).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::debug!(%error, "the replicas of the control plane cannot be listed");
                Vec::new()
            }
        };
        if addresses.is_empty() {
            // Not in a pod: there is no other.
            return own;
        }
        let asked = addresses.into_iter().map(|address| async move {
            let address = SocketAddr::new(address, self.port);
            let answer = timeout(ANSWER, ask(address, "/programmed", MAX_BYTES)).await;
            let answer = answer.ok().flatten()?;
            serde_json::from_slice::<Option<Counts>>(&answer).ok()?
        });
        let all = join_all(asked).await.into_iter().flatten();
        summed(own, &all.collect::<Vec<_>>())
    }

    /// Whether there was something to write.
    async fn write_one(
        &self,
        id: &ObjectId,
        verdict: &Verdict,
        count: Count,
        meshed: &BTreeSet<String>,
    ) -> kube::Result<bool> {
        for resource in id.kind.resources() {
            let client = self.context.client.clone();
            let api = Api::<DynamicObject>::namespaced_with(client, &id.namespace, &resource);
            let Some(object) = found(api.get(&id.name).await)? else {
                continue;
            };
            let now = now();
            let said = Said {
                id,
                verdict,
                count,
                meshed,
                now: &now,
            };
            let version = object.metadata.resource_version.clone();
            let Some(status) = said.status(&object.data) else {
                return Ok(false);
            };
            if object.data["status"] == status {
                return Ok(false);
            }
            // With the version that was read: what somebody else wrote meanwhile is read first.
            let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(&patch);
            api.patch_status(&id.name, &params, &patch).await?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// RFC 3339, in whole seconds.
fn now() -> String {
    let now = Timestamp::from_second(Timestamp::now().as_second());
    now.map(|now| now.to_string()).unwrap_or_default()
}

/// Replicas that are at another generation have no sidecar that counts.
fn summed(own: Counts, all: &[Counts]) -> Counts {
    let sum = |(name, own): (String, Count)| {
        let is_same = |count: &&Count| count.generation == own.generation;
        let same = all.iter().filter_map(|counts| counts.get(&name));
        let same: Vec<&Count> = same.filter(is_same).collect();
        let programmed = same.iter().map(|count| count.programmed).sum();
        let about_callers = own.about_callers;
        let unread = match about_callers {
            true => all.len() - same.len(),
            false => 0,
        };
        let concerned = match about_callers {
            true => all
                .iter()
                .filter_map(|counts| counts.get(&name))
                .map(|count| count.concerned)
                .sum(),
            false => own.concerned,
        };
        let count = Count {
            concerned,
            programmed,
            unread,
            ..own
        };
        (name, count)
    };
    own.into_iter().map(sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(generation: i64, concerned: usize, programmed: usize, callers: bool) -> Counts {
        let count = Count {
            generation,
            concerned,
            programmed,
            about_callers: callers,
            unread: 0,
        };
        [("x".to_owned(), count)].into()
    }

    #[test]
    fn replicas_are_summed_up_where_they_are_at_the_same_generation() {
        let all = [
            counts(2, 5, 2, false),
            counts(2, 5, 1, false),
            counts(1, 5, 2, false),
            Counts::new(),
        ];
        assert_eq!(summed(all[0].clone(), &all), counts(2, 5, 3, false));
        // Callers are each known to one replica.
        let all = [counts(2, 3, 2, true), counts(2, 4, 4, true)];
        assert_eq!(summed(all[0].clone(), &all), counts(2, 7, 6, true));
        // Where it has not been read, nobody knows how many it concerns.
        let all = [counts(2, 3, 3, true), counts(1, 4, 0, true), Counts::new()];
        let sum = summed(all[0].clone(), &all)["x"];
        assert_eq!((sum.concerned, sum.programmed, sum.unread), (7, 3, 2));
    }
}
