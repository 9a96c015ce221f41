//! Which replica writes: the holder of the Lease. Owns that object. [`election`] decides, this asks the
//! API. Two leaders at once do no harm: what depends on what was read says of which version of an object it
//! is, and everything else follows from the authority's Secret alone, so that both write the same.

mod election;

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::election::{Election, Held, LEASE, Lease, Step};

/// How often a Lease is looked at, give or take a fifth.
const RETRY: Duration = Duration::from_secs(2);
/// An API server that has not answered by then is asked again.
const ANSWER: Duration = Duration::from_secs(3);
/// How long giving up the Lease may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// What of the election concerns others.
pub(crate) struct Candidate {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The Lease's name.
    pub(crate) name: String,
    /// This replica's: unlike that of any other, also of its predecessor of the same name.
    pub(crate) identity: String,
    /// Whether this replica is the leader.
    pub(crate) leads: watch::Sender<bool>,
    /// The same.
    pub(crate) gauge: IntGauge,
}

impl Candidate {
    /// Stands for election until the shutdown, then gives the Lease up.
    pub(crate) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let api: Api<LeaseObject> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut election = Election::new(self.identity.clone());
        loop {
            let limit = self.remaining(&election).min(ANSWER);
            let asked = tokio::select! {
                asked = timeout(limit, round(&api, &self.name, &mut election)) => asked,
                _ = shutdown.wait_for(|now| *now) => break,
            };
            match asked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.name, "the Lease could not be had")
                }
                Err(_) => tracing::warn!(
                    lease = self.name,
                    "the API server did not answer for the Lease"
                ),
            }
            self.announce(&election);
            let rest = RETRY.mul_f64(0.8 + fastrand::f64() * 0.4);
            tokio::select! {
                () = sleep(self.remaining(&election).min(rest)) => {}
                _ = shutdown.wait_for(|now| *now) => break,
            }
            self.announce(&election);
        }
        let led = election.is_leader(Instant::now());
        election.resign();
        self.announce(&election);
        if led {
            // Whoever comes next waits for the Lease to end if this does not succeed.
            let _ = timeout(FAREWELL, release(&api, &self.name, election.identity())).await;
        }
    }

    /// How long this replica leads if nothing more succeeds; who does not lead may take its time.
    fn remaining(&self, election: &Election) -> Duration {
        let now = Instant::now();
        match election.leader_until() {
            Some(until) if until > now => until - now,
            _ => LEASE,
        }
    }

    fn announce(&self, election: &Election) {
        let leads = election.is_leader(Instant::now());
        let changed = self
            .leads
            .send_if_modified(|led| std::mem::replace(led, leads) != leads);
        self.gauge.set(i64::from(leads));
        if changed && leads {
            tracing::info!(identity = self.identity, "this replica is the leader");
        } else if changed {
            tracing::info!(
                identity = self.identity,
                "this replica is the leader no longer"
            );
        }
    }
}

async fn round(
    api: &Api<LeaseObject>,
    name: &str,
    election: &mut Election,
) -> Result<(), kube::Error> {
    let found = api.get_opt(name).await?;
    let begun = Instant::now();
    election.see(read(found.as_ref()), begun);
    election.yielded();
    let written = match election.step(begun) {
        Step::Wait => return Ok(()),
        Step::Take | Step::Renew => write(api, name, found, election.identity()).await,
    };
    match written {
        Ok(lease) => {
            election.wrote(read(Some(&lease)), begun, Instant::now());
            Ok(())
        }
        // Another was faster; the next look tells who.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes what was found, as ours. It carries its resourceVersion: if it has changed since, nothing is
/// written.
async fn write(
    api: &Api<LeaseObject>,
    name: &str,
    found: Option<LeaseObject>,
    identity: &str,
) -> Result<LeaseObject, kube::Error> {
    let now = Some(MicroTime(Timestamp::now()));
    let is_new = found.is_none();
    let mut lease = found.unwrap_or_else(|| LeaseObject {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(identity) {
        let transitions = spec.lease_transitions.unwrap_or(0);
        spec.lease_transitions = Some(if is_new {
            0
        } else {
            transitions.saturating_add(1)
        });
        spec.acquire_time.clone_from(&now);
        spec.holder_identity = Some(identity.to_owned());
    }
    spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
    spec.renew_time = now;
    if is_new {
        api.create(&PostParams::default(), &lease).await
    } else {
        api.replace(name, &PostParams::default(), &lease).await
    }
}

async fn release(api: &Api<LeaseObject>, name: &str, identity: &str) -> Result<(), kube::Error> {
    let Some(mut lease) = api.get_opt(name).await? else {
        return Ok(());
    };
    if let Some(spec) = &mut lease.spec
        && spec.holder_identity.as_deref() == Some(identity)
    {
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        api.replace(name, &PostParams::default(), &lease).await?;
    }
    Ok(())
}

fn read(lease: Option<&LeaseObject>) -> Lease {
    let Some(lease) = lease else {
        return Lease::Absent;
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.clone());
    match holder {
        Some(holder) if !holder.is_empty() => Lease::Held(Held {
            holder,
            revision: lease.metadata.resource_version.clone().unwrap_or_default(),
        }),
        _ => Lease::Free,
    }
}
