//! What is known of endpoints beyond what selectors say.

use std::collections::{BTreeMap, BTreeSet};

use outrider_api::names::ServiceName;

use super::WorkloadName;
use super::memo::Shared;

/// Workloads by the Service that they are behind.
pub(crate) type Members = BTreeMap<ServiceName, BTreeSet<WorkloadName>>;

/// Who is behind a Service, and who of those takes calls. Cheap to clone, and each Service's is the same
/// until it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    /// Behind Services that select nobody.
    pub(crate) members: Shared<Members>,
    /// The endpoints of a Service that take calls; of one that is not here all do.
    pub(crate) ready: Shared<BTreeMap<ServiceName, Shared<BTreeSet<WorkloadName>>>>,
}
