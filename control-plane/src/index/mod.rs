//! From objects to models: a pure fold. Owns what it takes several objects to know: which workloads a
//! Service selects, which policies apply to a workload, whether what one object names exists in
//! another. Nothing here is half right: a mesh is whole, or there are problems, each with its line.
//! What is made of the same as before is not made again ([`memo`]).

mod addresses;
mod assemble;
mod endpoints;
pub mod explain;
mod fold;
mod ground;
mod instances;
mod limits;
mod memo;
mod objects;
mod policies;
mod presence;
mod probes;
mod report;
mod routes;
mod selection;
mod shelves;
mod sockets;
#[cfg(test)]
mod tests;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use outrider_api::kinds;
use outrider_api::manifest::{Cause, Object, Problem};
use outrider_api::model;
use outrider_api::model::address::AddressTarget;
use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::{SpiffeId, TrustDomain};

pub(crate) use self::endpoints::{Endpoints, Members};
pub(crate) use self::fold::{Memo, check, fold};
use self::ground::Ground;
use self::instances::AddressTable;
use self::limits::Limits;
pub(crate) use self::memo::Shared;
use self::objects::{PolicyName, Table};
use self::policies::Policies;
pub(crate) use self::presence::ZONE;
pub(crate) use self::shelves::{Shelf, Shelves};

/// The trust domain of a mesh that names none; that of Kubernetes' own names.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// A workload of the mesh. Displays as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName {
    /// A DNS label.
    pub namespace: String,
    /// A DNS subdomain.
    pub name: String,
}

impl WorkloadName {
    /// The name as it is; nothing is checked, since a name is only ever looked up.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whose identities these are.
    pub trust_domain: TrustDomain,
    /// What becomes of a call to a workload that no ALLOW policy selects.
    pub default_deny: bool,
    /// How long certificates are valid.
    pub certificate_lifetime: Duration,
    /// Whether sidecars log every call.
    pub access_log: bool,
    /// How long a sidecar that ends lets requests finish.
    pub drain_timeout: Duration,
    /// How long the first bytes of a connection of undeclared protocol are waited for.
    pub detect_timeout: Duration,
    /// What becomes of plaintext that comes to an app, where its Workload says nothing.
    pub mtls: model::Mtls,
    /// What becomes of a connection of an app to what is not of the mesh.
    pub unknown_destinations: model::UnknownDestinations,
    /// Where addresses that are not written come from.
    pub network: kinds::Network,
}

/// A whole mesh: valid, and immutable. Cheap to clone; what has not changed is that of the mesh before.
#[derive(Clone, Debug)]
pub struct Mesh {
    settings: Settings,
    written: Shared<Table<WorkloadName, kinds::Workload>>,
    ground: Shared<Ground>,
    policies: Shared<Policies>,
    limits: Shared<Limits>,
    workloads: Shared<BTreeMap<WorkloadName, Arc<model::Workload>>>,
    destinations: Shared<BTreeMap<ServiceName, Arc<model::Destination>>>,
    addresses: Shared<AddressTable>,
    warnings: Vec<Problem>,
}

/// The workloads that each policy is about.
type Targets = BTreeMap<PolicyName, BTreeSet<WorkloadName>>;

impl Mesh {
    /// What holds for all of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every workload, by name.
    pub fn workloads(&self) -> &BTreeMap<WorkloadName, Arc<model::Workload>> {
        &self.workloads
    }

    /// One workload, as its sidecar sees it.
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Arc<model::Workload>> {
        self.workloads.get(&WorkloadName::new(namespace, name))
    }

    /// What was written of one workload: its command, and the ports of its sidecar.
    pub fn spec(&self, namespace: &str, name: &str) -> Option<&kinds::WorkloadSpec> {
        let written = self.written.get(&WorkloadName::new(namespace, name));
        written.map(|workload| &workload.spec)
    }

    /// Every Service, by name.
    pub fn destinations(&self) -> &BTreeMap<ServiceName, Arc<model::Destination>> {
        &self.destinations
    }

    /// One Service, as its callers see it.
    pub fn destination(&self, name: &ServiceName) -> Option<&Arc<model::Destination>> {
        self.destinations.get(name)
    }

    /// What is at each address that is one workload's or one Service's; at any other there is nothing
    /// of this mesh.
    pub fn addresses(&self) -> &BTreeMap<IpAddr, Arc<AddressTarget>> {
        &self.addresses
    }

    /// The addresses of a Service; none where it is headless.
    pub fn cluster_ips(&self, name: &ServiceName) -> &[IpAddr] {
        let services = &self.ground.addresses.services;
        services.get(name).map_or(&[], Vec::as_slice)
    }

    /// All of [`Self::workloads`], [`Self::destinations`] and [`Self::addresses`].
    pub(crate) fn tables(&self) -> Tables {
        Tables {
            workloads: self.workloads.clone(),
            destinations: self.destinations.clone(),
            addresses: self.addresses.clone(),
        }
    }

    /// The workloads that an AuthorizationPolicy is about.
    pub(crate) fn policy_targets(&self, policy: &PolicyName) -> Option<&BTreeSet<WorkloadName>> {
        self.policies.targets.get(policy)
    }

    /// The workloads that a RateLimitPolicy is about.
    pub(crate) fn limit_targets(&self, policy: &PolicyName) -> Option<&BTreeSet<WorkloadName>> {
        self.limits.targets.get(policy)
    }

    /// What does less than it says, at its line.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Whether some workload is `id`.
    pub fn has_identity(&self, id: &SpiffeId) -> bool {
        self.ground.has_identity(id)
    }
}

/// What there is beside the objects.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beside<'b> {
    /// Whom workloads trust.
    pub(crate) trust: Option<&'b TrustBundle>,
    /// Whose identities these are, where the MeshConfig does not say it; else [`DEFAULT_TRUST_DOMAIN`].
    pub(crate) trust_domain: Option<&'b TrustDomain>,
    /// Whether a call is denied that no policy is about, where the MeshConfig does not say it.
    pub(crate) default_deny: bool,
    /// What is known of endpoints beyond what selectors say.
    pub(crate) endpoints: Option<&'b Endpoints>,
    /// What is wrong for one of these causes is only a warning: its object means what it can.
    pub(crate) tolerated: &'b [Cause],
}

/// All that sidecars may be told, by what they ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) workloads: Shared<BTreeMap<WorkloadName, Arc<model::Workload>>>,
    pub(crate) destinations: Shared<BTreeMap<ServiceName, Arc<model::Destination>>>,
    pub(crate) addresses: Shared<AddressTable>,
}

/// Folds `objects` into a mesh whose workloads trust `trust`.
///
/// Without `trust` (nobody asked an authority: a check, a dry run) the mesh is the same, but for its
/// workloads trusting nobody: an authority of which there is no key.
///
/// # Errors
/// Everything that is wrong, at its line; warnings are left out.
pub fn build(objects: &[Object], trust: Option<&TrustBundle>) -> Result<Mesh, Vec<Problem>> {
    let beside = Beside {
        trust,
        ..Beside::default()
    };
    let shelves = objects.iter().cloned().collect();
    fold(&shelves, beside, &mut Memo::default())
}
