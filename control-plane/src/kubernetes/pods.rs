//! The pods of the mesh, as far as the control plane needs them: those that have a sidecar.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use crate::index::WorkloadName;

/// The container by which a pod is one of the mesh.
pub(crate) const SIDECAR: &str = "outrider-proxy";

/// A pod that has a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: WorkloadName,
    pub(crate) uid: String,
    pub(crate) service_account: String,
    /// Absent until it is scheduled.
    pub(crate) node: Option<String>,
    /// Absent until its sandbox is made.
    pub(crate) addresses: Vec<IpAddr>,
    /// Succeeded or Failed: no container runs, and its addresses may be another's.
    pub(crate) ended: bool,
}

/// All of them, as of now; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    table: Arc<RwLock<HashMap<WorkloadName, Arc<Pod>>>>,
    /// Grows with each change.
    changes: watch::Sender<u64>,
}

impl Pods {
    pub(crate) fn new() -> Self {
        Self {
            table: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// The pod of that name; `None`: there is none, it has no sidecar, or nobody has told yet.
    pub(crate) fn find(&self, name: &WorkloadName) -> Option<Arc<Pod>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(name).cloned()
    }

    /// Told of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
