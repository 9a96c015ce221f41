//! Who is connected. Owns the gauges that describe a connected sidecar, so that they go with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::index::WorkloadName;
use crate::metrics::{Metrics, gauge_value};

/// A workload may have so many streams at once: one, and those of its predecessors that nobody has
/// noticed to be dead yet.
const MAX_STREAMS: usize = 8;

/// The connected sidecars.
pub(crate) struct Fleet {
    streams: Mutex<HashMap<WorkloadName, usize>>,
    metrics: Metrics,
}

/// One connected sidecar, until it is dropped.
pub(crate) struct Member {
    fleet: Arc<Fleet>,
    workload: WorkloadName,
}

impl Fleet {
    pub(crate) fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::default(),
            metrics,
        })
    }

    /// A stream of `workload` begins; `None`: it has too many.
    pub(crate) fn join(self: &Arc<Self>, workload: &WorkloadName) -> Option<Member> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(workload.clone()).or_default();
        if *count >= MAX_STREAMS {
            return None;
        }
        *count += 1;
        self.metrics.connected_sidecars.inc();
        Some(Member {
            fleet: Arc::clone(self),
            workload: workload.clone(),
        })
    }
}

impl Member {
    pub(crate) fn acknowledged(&self, version: u64) {
        self.fleet
            .metrics
            .acknowledged_version
            .with_label_values(&self.labels())
            .set(gauge_value(version));
    }

    fn labels(&self) -> [&str; 2] {
        [&self.workload.namespace, &self.workload.name]
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let metrics = &self.fleet.metrics;
        metrics.connected_sidecars.dec();
        let mut streams = self
            .fleet
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(count) = streams.get_mut(&self.workload) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            streams.remove(&self.workload);
            // Absent where the sidecar has acknowledged nothing.
            let _ = metrics
                .acknowledged_version
                .remove_label_values(&self.labels());
        }
    }
}
