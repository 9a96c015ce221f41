//! Who there is and where, and who is behind what: all that Services and workloads mean without any
//! policy.

use std::collections::HashSet;

use outrider_api::kinds;
use outrider_api::manifest::Problem;
use outrider_api::names::ServiceName;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

use super::addresses::{self, Addresses};
use super::assemble::{self, Identities};
use super::endpoints::{Endpoints, Members};
use super::memo::Shared;
use super::objects::{Objects, Table};
use super::selection::{self, Selection};
use super::{Settings, WorkloadName, probes, sockets};

/// What it is made of.
#[derive(Clone, PartialEq)]
pub(super) struct Parts {
    services: Shared<Table<ServiceName, kinds::Service>>,
    workloads: Shared<Table<WorkloadName, kinds::Workload>>,
    members: Shared<Members>,
    trust_domain: TrustDomain,
    network: kinds::Network,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) identities: Identities,
    pub(super) addresses: Addresses,
    pub(super) selection: Selection,
    known: HashSet<SpiffeId>,
}

impl Parts {
    pub(super) fn new(objects: &Objects, settings: &Settings, endpoints: &Endpoints) -> Self {
        Self {
            services: objects.services.clone(),
            workloads: objects.workloads.clone(),
            members: endpoints.members.clone(),
            trust_domain: settings.trust_domain.clone(),
            network: settings.network,
        }
    }

    /// Of `objects` only the Services and workloads are looked at.
    pub(super) fn ground(&self, objects: &Objects, problems: &mut Vec<Problem>) -> Ground {
        let identities = assemble::identities(objects, &self.trust_domain, problems);
        let addresses = addresses::resolve(objects, &self.network, problems);
        sockets::check(objects, &addresses, problems);
        let selection = selection::select(objects, &self.members, problems);
        assemble::check_upstreams(objects, problems);
        probes::check(objects, &selection, problems);
        Ground {
            known: identities.values().cloned().collect(),
            identities,
            addresses,
            selection,
        }
    }
}

impl Ground {
    /// Whether some workload is `id`.
    pub(super) fn has_identity(&self, id: &SpiffeId) -> bool {
        self.known.contains(id)
    }
}
