//! What is known of endpoints beyond what selectors say.

use std::collections::{BTreeMap, BTreeSet};

use outrider_api::names::ServiceName;

use super::WorkloadName;

type Of = BTreeMap<ServiceName, BTreeSet<WorkloadName>>;

/// Who is behind a Service, and who of those takes calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// Behind Services that select nobody.
    pub(crate) members: Of,
    /// The endpoints of a Service that take calls; of one that is not here all do.
    pub(crate) ready: Of,
}

impl Endpoints {
    pub(super) fn takes_calls(&self, service: &ServiceName, workload: &WorkloadName) -> bool {
        let ready = self.ready.get(service);
        ready.is_none_or(|ready| ready.contains(workload))
    }

    pub(super) fn members_of(&self, service: &ServiceName) -> impl Iterator<Item = &WorkloadName> {
        self.members.get(service).into_iter().flatten()
    }
}
