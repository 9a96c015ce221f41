//! From objects to models: a pure fold. Owns what it takes several objects to know: which workloads a
//! Service selects, which policies apply to a workload, whether what one object names exists in
//! another. Nothing here is half right: a mesh is whole, or there are problems, each with its line.

mod addresses;
mod assemble;
mod endpoints;
pub mod explain;
mod instances;
mod limits;
mod objects;
mod policies;
mod probes;
mod report;
mod routes;
mod selection;
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

pub(crate) use self::endpoints::Endpoints;
use self::instances::AddressTable;
use self::objects::Objects;

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

/// A whole mesh: valid, and immutable.
#[derive(Clone, Debug)]
pub struct Mesh {
    settings: Settings,
    specs: BTreeMap<WorkloadName, kinds::WorkloadSpec>,
    workloads: BTreeMap<WorkloadName, Arc<model::Workload>>,
    destinations: BTreeMap<ServiceName, Arc<model::Destination>>,
    addresses: AddressTable,
    cluster_ips: BTreeMap<ServiceName, Vec<IpAddr>>,
    identities: BTreeSet<SpiffeId>,
    targets: Targets,
    warnings: Vec<Problem>,
}

/// The workloads that each policy is about: by kind, namespace and name.
pub(crate) type Targets = BTreeMap<(&'static str, String, String), BTreeSet<WorkloadName>>;

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
        self.specs.get(&WorkloadName::new(namespace, name))
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
        self.cluster_ips.get(name).map_or(&[], Vec::as_slice)
    }

    /// The workloads that each AuthorizationPolicy and RateLimitPolicy is about.
    pub(crate) fn targets(&self) -> &Targets {
        &self.targets
    }

    /// What does less than it says, at its line.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Whether some workload is `id`.
    pub fn has_identity(&self, id: &SpiffeId) -> bool {
        self.identities.contains(id)
    }
}

/// What there is beside the objects.
#[derive(Clone, Copy, Default)]
pub(crate) struct Beside<'b> {
    /// Whom workloads trust.
    pub(crate) trust: Option<&'b TrustBundle>,
    /// Whose identities these are, where the MeshConfig does not say it; else [`DEFAULT_TRUST_DOMAIN`].
    pub(crate) trust_domain: Option<&'b TrustDomain>,
    /// What is known of endpoints beyond what selectors say.
    pub(crate) endpoints: Option<&'b Endpoints>,
    /// What is wrong for one of these causes is only a warning: its object means what it can.
    pub(crate) tolerated: &'b [Cause],
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
    fold(objects, beside)
}

/// As [`build`], with all that there may be beside the objects.
pub(crate) fn fold<'o>(
    objects: impl IntoIterator<Item = &'o Object>,
    beside: Beside<'_>,
) -> Result<Mesh, Vec<Problem>> {
    let trust = beside.trust;
    let mut problems = Vec::new();
    let objects = Objects::sort(objects, &mut problems);
    let settings = settings(&objects, beside, &mut problems);
    let identities = assemble::identities(&objects, &settings.trust_domain, &mut problems);
    let addresses = addresses::resolve(&objects, &settings.network, &mut problems);
    sockets::check(&objects, &addresses, &mut problems);
    let none = Endpoints::default();
    let endpoints = beside.endpoints.unwrap_or(&none);
    let selection = selection::select(&objects, endpoints, &mut problems);
    assemble::check_upstreams(&objects, &mut problems);
    probes::check(&objects, &selection, &mut problems);
    let mut targets = Targets::new();
    let policies = policies::resolve(&objects, &selection, &mut targets, &mut problems);
    let routes = routes::resolve(&objects, &mut problems);
    let traffic = traffic::resolve(&objects, &mut problems);
    routes::timeouts::check(&objects.routes, &routes, &traffic, &mut problems);
    let limits = limits::resolve(&objects, &selection, &mut targets, &mut problems);
    problems.sort_by(|a, b| a.location.cmp(&b.location));
    let (warnings, errors): (Vec<_>, Vec<_>) = problems
        .into_iter()
        .partition(|problem| problem.is_warning() || beside.tolerated.contains(&problem.cause));
    if !errors.is_empty() {
        return Err(errors);
    }
    let trust = match trust {
        Some(trust) => trust.clone(),
        None => nobody(&objects, settings.trust_domain.clone())?,
    };
    let parts = assemble::Parts {
        objects: &objects,
        settings: &settings,
        identities: &identities,
        addresses: &addresses,
        selection: &selection,
        endpoints,
        policies,
        routes,
        traffic: &traffic,
        limits,
        trust,
    };
    let workloads = parts.workloads();
    let destinations = parts.destinations();
    Ok(Mesh {
        specs: objects
            .workloads
            .iter()
            .map(|(name, workload)| (name.clone(), workload.spec.clone()))
            .collect(),
        identities: identities.into_values().collect(),
        addresses: instances::table(&addresses, &workloads, &traffic),
        cluster_ips: addresses.services,
        workloads,
        destinations,
        settings,
        targets,
        warnings,
    })
}

fn settings(objects: &Objects<'_>, beside: Beside<'_>, problems: &mut Vec<Problem>) -> Settings {
    let spec = objects
        .config
        .map(|config| config.spec.clone())
        .unwrap_or_default();
    let written = spec
        .trust_domain
        .or_else(|| beside.trust_domain.cloned())
        .or_else(|| DEFAULT_TRUST_DOMAIN.parse().ok());
    let running = beside.trust.map(|trust| trust.trust_domain().clone());
    if let (Some(written), Some(running)) = (&written, &running)
        && written != running
    {
        let message = format!(
            "is {written}, but the certificate authority is that of {running}, expected the same \
             (another trust domain is another mesh, with a state directory of its own)"
        );
        problems.push(objects.config_problem("spec.trustDomain", message));
    }
    let Some(trust_domain) = running.or(written) else {
        unreachable!("the default trust domain is one");
    };
    Settings {
        trust_domain,
        default_deny: spec.default_deny,
        certificate_lifetime: spec.certificate_lifetime,
        access_log: spec.access_log,
        drain_timeout: spec.drain_timeout,
        detect_timeout: spec.detect_timeout,
        mtls: spec.mtls.into(),
        unknown_destinations: spec.unknown_destinations.into(),
        network: spec.network,
    }
}

/// A bundle of one authority that has no key: it was made for this and thrown away.
fn nobody(objects: &Objects<'_>, trust_domain: TrustDomain) -> Result<TrustBundle, Vec<Problem>> {
    TrustBundle::from_pem(trust_domain, include_bytes!("nobody.pem"))
        .map_err(|error| vec![objects.config_problem("spec.trustDomain", error.to_string())])
}
