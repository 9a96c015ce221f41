//! Who is connected, and who may still call an endpoint that is being withdrawn. Owns the gauges that
//! describe a connected sidecar, so that they go with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use tokio::sync::{oneshot, watch};

use super::ledger::{Ledger, Resource};
use crate::index::WorkloadName;
use crate::metrics::{Metrics, gauge_value};
use crate::store::{Store, Withdrawn};

/// A workload may have so many streams at once: one, and those of its predecessors that nobody has
/// noticed to be dead yet.
const MAX_STREAMS: usize = 8;

/// The connected sidecars.
pub(crate) struct Fleet {
    state: Mutex<State>,
    /// Grows with each withdrawal.
    begun: watch::Sender<u64>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    /// The next stream's or withdrawal's.
    next: u64,
    /// Of each workload, in the order in which they began.
    streams: HashMap<WorkloadName, BTreeSet<u64>>,
    ids: HashSet<u64>,
    /// Whom the sidecars trust, of those streams whose sidecars have said so.
    trust: HashMap<u64, Arc<TrustBundle>>,
    /// What each stream's sidecar goes by.
    applied: HashMap<u64, HashMap<Resource, u64>>,
    withdrawals: Vec<Withdrawal>,
}

/// How far the connected sidecars are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The workloads whose sidecars go by what is published of them now.
    pub(crate) workloads: BTreeSet<WorkloadName>,
    /// Of each Service how many sidecars follow it, and how many of them go by what is published of
    /// it now.
    pub(crate) services: HashMap<ServiceName, (usize, usize)>,
}

/// An endpoint that is gone from what is published.
struct Withdrawal {
    id: u64,
    workload: WorkloadName,
    from: Arc<Withdrawn>,
    /// The streams whose sidecars may not know it yet.
    waiting: HashSet<u64>,
    done: oneshot::Sender<()>,
}

/// One connected sidecar, until it is dropped.
pub(crate) struct Member {
    fleet: Arc<Fleet>,
    workload: WorkloadName,
    id: u64,
    /// Changes with each withdrawal.
    begun: watch::Receiver<u64>,
    /// Those that wait for this sidecar.
    pending: Vec<(u64, Arc<Withdrawn>)>,
}

impl Fleet {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            begun: watch::Sender::new(0),
            metrics,
        })
    }

    /// A stream of `workload` begins; `None`: it has too many.
    pub(crate) fn join(self: &Arc<Self>, workload: &WorkloadName) -> Option<Member> {
        let mut state = self.state();
        let id = state.next_id();
        let streams = state.streams.entry(workload.clone()).or_default();
        if streams.len() >= MAX_STREAMS {
            return None;
        }
        streams.insert(id);
        state.ids.insert(id);
        self.metrics.connected_sidecars.inc();
        Some(Member {
            fleet: Arc::clone(self),
            workload: workload.clone(),
            id,
            begun: self.begun.subscribe(),
            pending: Vec::new(),
        })
    }

    /// The endpoint of `workload` has gone from what is published, as its `stream` asked: done when no
    /// connected sidecar goes by anything older. Who connects from now on is told nothing else. An
    /// error: the endpoint is back.
    pub(crate) fn withdraw(
        &self,
        workload: &WorkloadName,
        stream: u64,
        from: Withdrawn,
    ) -> oneshot::Receiver<()> {
        let mut state = self.state();
        if !state.may_withdraw(workload, stream) {
            return oneshot::channel().1;
        }
        let receiver = state.begin(workload, from);
        drop(state);
        self.begun.send_modify(|begun| *begun += 1);
        receiver
    }

    /// The same for a workload that nobody describes any more.
    pub(crate) fn bid_farewell(
        &self,
        workload: &WorkloadName,
        from: Withdrawn,
    ) -> oneshot::Receiver<()> {
        let receiver = self.state().begin(workload, from);
        self.begun.send_modify(|begun| *begun += 1);
        receiver
    }

    /// The endpoint of `workload` is back: whoever waits for its withdrawal waits in vain.
    pub(crate) fn cancel(&self, workload: &WorkloadName) {
        let withdrawals = &mut self.state().withdrawals;
        withdrawals.retain(|withdrawal| withdrawal.workload != *workload);
    }

    /// Of `bundle`, those authorities that every connected sidecar has said it trusts.
    pub(crate) fn trusted(&self, bundle: &TrustBundle) -> Option<TrustBundle> {
        let state = self.state();
        let mut common = bundle.clone();
        for id in &state.ids {
            common = common.intersection(state.trust.get(id)?)?;
        }
        Some(common)
    }

    /// Of a workload that has several streams the youngest counts: the others are its predecessors'.
    pub(crate) fn progress(&self, store: &Store) -> Progress {
        let state = self.state();
        let mut progress = Progress::default();
        for (workload, streams) in &state.streams {
            let Some(applied) = streams.last().and_then(|id| state.applied.get(id)) else {
                continue;
            };
            let own = applied.get(&Resource::Workload);
            if own.is_some_and(|version| Some(*version) >= store.workload_version(workload)) {
                progress.workloads.insert(workload.clone());
            }
            for (resource, version) in applied {
                let Resource::Destination(service) = resource else {
                    continue;
                };
                let (all, there) = progress.services.entry(service.clone()).or_default();
                *all += 1;
                if Some(*version) >= store.destination_version(service) {
                    *there += 1;
                }
            }
        }
        progress
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether no other stream of the workload has begun since, of those that there are still: a
    /// successor that has died takes no calls.
    fn may_withdraw(&self, workload: &WorkloadName, stream: u64) -> bool {
        let streams = self.streams.get(workload);
        streams.is_some_and(|streams| streams.last() == Some(&stream))
    }

    fn begin(&mut self, workload: &WorkloadName, from: Withdrawn) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let id = self.next_id();
        self.withdrawals.push(Withdrawal {
            id,
            workload: workload.clone(),
            from: Arc::new(from),
            waiting: self.ids.clone(),
            done,
        });
        self.finish();
        receiver
    }

    /// Lets go of withdrawals that nothing holds up, or that nobody waits for.
    fn finish(&mut self) {
        let finished = |withdrawal: &mut Withdrawal| {
            withdrawal.waiting.is_empty() || withdrawal.done.is_closed()
        };
        for withdrawal in self.withdrawals.extract_if(.., finished) {
            // Whoever asked may be gone.
            let _ = withdrawal.done.send(());
        }
    }
}

impl Member {
    pub(crate) fn sent(&self, version: u64) {
        self.fleet
            .metrics
            .sent_version
            .with_label_values(&self.labels())
            .set(gauge_value(version));
    }

    pub(crate) fn acknowledged(&self, version: u64) {
        self.fleet
            .metrics
            .acknowledged_version
            .with_label_values(&self.labels())
            .set(gauge_value(version));
    }

    /// The sidecar goes by this version from now on.
    pub(crate) fn applied(&self, resource: Resource, version: u64) {
        let mut state = self.fleet.state();
        let applied = state.applied.entry(self.id).or_default();
        applied.insert(resource, version);
    }

    /// The sidecar no longer follows it.
    pub(crate) fn forgot(&self, resource: &Resource) {
        if let Some(applied) = self.fleet.state().applied.get_mut(&self.id) {
            applied.remove(resource);
        }
    }

    /// The sidecar has applied a snapshot that says whom to trust.
    pub(crate) fn trusts(&self, bundle: Arc<TrustBundle>) {
        self.fleet.state().trust.insert(self.id, bundle);
    }

    /// Has `store` withdraw the workload, unless a later stream of it takes calls; whether it did. No
    /// stream begins in between, which would be withdrawn with its predecessor.
    pub(crate) fn withdraw_from(&self, store: &Store) -> bool {
        let state = self.fleet.state();
        let may = state.may_withdraw(&self.workload, self.id);
        if may {
            store.withdraw(self.workload.clone());
        }
        may
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Waits for a withdrawal. Safe to cancel.
    pub(crate) async fn withdrawal(&mut self) {
        if self.begun.changed().await.is_err() {
            // The fleet is held by this.
            std::future::pending().await
        }
    }

    /// Learns which withdrawals wait for this sidecar.
    pub(crate) fn look(&mut self) {
        let state = self.fleet.state();
        let waiting = state.withdrawals.iter();
        let waiting = waiting.filter(|withdrawal| withdrawal.waiting.contains(&self.id));
        self.pending = waiting
            .map(|withdrawal| (withdrawal.id, Arc::clone(&withdrawal.from)))
            .collect();
    }

    /// Holds up nothing that this sidecar knows now.
    pub(crate) fn settle(&mut self, ledger: &Ledger) {
        if self.pending.is_empty() {
            return;
        }
        let known = self.pending.extract_if(.., |(_, from)| knows(ledger, from));
        let known: Vec<u64> = known.map(|(id, _)| id).collect();
        if !known.is_empty() {
            let mut state = self.fleet.state();
            for withdrawal in &mut state.withdrawals {
                if known.contains(&withdrawal.id) {
                    withdrawal.waiting.remove(&self.id);
                }
            }
            state.finish();
        }
    }

    fn labels(&self) -> [&str; 2] {
        [&self.workload.namespace, &self.workload.name]
    }
}

/// Whether a sidecar goes by nothing that still has the endpoint.
fn knows(ledger: &Ledger, from: &Withdrawn) -> bool {
    let mut destinations = from.destinations.iter();
    let mut addresses = from.addresses.iter();
    destinations
        .all(|(name, version)| ledger.is_past(&Resource::Destination(name.clone()), *version))
        && addresses
            .all(|(address, version)| ledger.is_past(&Resource::Address(*address), *version))
}

impl Drop for Member {
    fn drop(&mut self) {
        let metrics = &self.fleet.metrics;
        metrics.connected_sidecars.dec();
        let mut state = self.fleet.state();
        state.ids.remove(&self.id);
        state.trust.remove(&self.id);
        state.applied.remove(&self.id);
        for withdrawal in &mut state.withdrawals {
            withdrawal.waiting.remove(&self.id);
        }
        state.finish();
        let Some(streams) = state.streams.get_mut(&self.workload) else {
            return;
        };
        streams.remove(&self.id);
        if streams.is_empty() {
            state.streams.remove(&self.workload);
            // Absent where the sidecar was sent nothing, or has acknowledged nothing.
            for gauge in [&metrics.sent_version, &metrics.acknowledged_version] {
                let _ = gauge.remove_label_values(&self.labels());
            }
        }
    }
}
