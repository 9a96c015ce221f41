//! The fold itself: its stages, in their order, and what each is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use outrider_api::kinds;
use outrider_api::manifest::{Located, Object, Problem};
use outrider_api::model;
use outrider_api::model::address::AddressTarget;
use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;

use super::assemble::{Behind, Common, DestinationParts, WorkloadParts};
use super::ground::{self, Ground};
use super::instances::{self, AddressTable};
use super::limits::{self, Limits};
use super::memo::{Final, Made, Rows, Shared, Stage};
use super::objects::{Objects, PolicyName, Sorting, Table};
use super::policies::{self, Policies};
use super::presence::{self, Presence};
use super::routes::{self, ServiceRoutes};
use super::shelves::Shelves;
use super::traffic::{self, ServiceTraffic};
use super::{Beside, DEFAULT_TRUST_DOMAIN, Endpoints, Mesh, Settings, WorkloadName};

/// What was made of what, of the last meshes that were folded.
#[derive(Default)]
pub(crate) struct Memo {
    sorting: Sorting,
    ground: Stage<ground::Parts, Ground>,
    policies: Stage<(Shared<Ground>, PolicyTable, bool), Policies>,
    routes: Stage<(ServiceTable, Shared<Vec<Object>>), ServiceRoutes>,
    traffic: Stage<(Config, ServiceTable, TrafficTable), ServiceTraffic>,
    timeouts: Stage<Timeouts, ()>,
    limits: Stage<(Shared<Ground>, LimitTable), Limits>,
    common: Final<(Settings, TrustBundle), Common>,
    presences: Final<(Shared<Ground>, model::Mtls), Presences>,
    presence_rows: Rows<WorkloadName, presence::Parts, Presence>,
    workloads: Final<WorkloadInputs, BTreeMap<WorkloadName, Arc<model::Workload>>>,
    workload_rows: Rows<WorkloadName, WorkloadParts, model::Workload>,
    behind: Final<Shared<Presences>, BTreeMap<ServiceName, Arc<Behind>>>,
    behind_rows: Rows<ServiceName, Behind, Behind>,
    destination_rows: Rows<ServiceName, DestinationParts, model::Destination>,
    addresses: Final<(Shared<Presences>, Shared<ServiceTraffic>), AddressTable>,
    address_rows: Rows<WorkloadName, instances::Parts, AddressTarget>,
}

/// Long, and of no interest.
impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

type Config = Option<Located<kinds::MeshConfig>>;
type ServiceTable = Shared<Table<ServiceName, kinds::Service>>;
type PolicyTable = Shared<Table<PolicyName, kinds::AuthorizationPolicy>>;
type TrafficTable = Shared<Table<PolicyName, kinds::TrafficPolicy>>;
type LimitTable = Shared<Table<PolicyName, kinds::RateLimitPolicy>>;
type Timeouts = (
    Shared<Vec<Object>>,
    Shared<ServiceRoutes>,
    Shared<ServiceTraffic>,
);
type Presences = BTreeMap<WorkloadName, Arc<Presence>>;
type WorkloadInputs = (
    Shared<Presences>,
    Shared<Policies>,
    Shared<Limits>,
    Shared<Common>,
);

/// As [`build`], with all that there may be beside the objects. `memo` changes only how long it takes.
pub(crate) fn fold(
    shelves: &Shelves,
    beside: Beside<'_>,
    memo: &mut Memo,
) -> Result<Mesh, Vec<Problem>> {
    let (read, problems) = memo.read(shelves, beside);
    let (warnings, errors): (Vec<_>, Vec<_>) = problems
        .into_iter()
        .partition(|problem| problem.is_warning() || beside.tolerated.contains(&problem.cause));
    if !errors.is_empty() {
        return Err(errors);
    }
    let Read {
        objects,
        settings,
        checked,
    } = read;
    let trust = match beside.trust {
        Some(trust) => trust.clone(),
        None => nobody(&objects, settings.trust_domain.clone())?,
    };
    let presences = memo.presences(&objects, &checked, &settings);
    let endpoints = beside.endpoints.cloned().unwrap_or_default();
    Ok(Mesh {
        workloads: memo.workloads(&presences, &checked, &settings, trust),
        destinations: memo.destinations(&objects, &presences, &checked, &endpoints),
        addresses: memo.addresses(&presences, &checked),
        written: objects.workloads.clone(),
        ground: checked.ground,
        policies: checked.policies,
        limits: checked.limits,
        settings,
        warnings,
    })
}

/// All that [`fold`] finds wrong, warnings too. No mesh is made: it costs what is different from the
/// objects that `memo` saw before.
pub(crate) fn check(shelves: &Shelves, beside: Beside<'_>, memo: &mut Memo) -> Vec<Problem> {
    memo.read(shelves, beside).1
}

/// What the objects say.
struct Read {
    objects: Objects,
    settings: Settings,
    checked: Checked,
}

/// What the objects mean together, if nothing is wrong.
struct Checked {
    ground: Shared<Ground>,
    policies: Shared<Policies>,
    routes: Shared<ServiceRoutes>,
    traffic: Shared<ServiceTraffic>,
    limits: Shared<Limits>,
}

impl Memo {
    /// One that knows what this one has made of Services and workloads alone. Cheap.
    pub(crate) fn of_ground(&self) -> Self {
        Self {
            sorting: self.sorting.of_ground(),
            ground: self.ground.clone(),
            ..Self::default()
        }
    }

    /// And all that is wrong, by its place.
    fn read(&mut self, shelves: &Shelves, beside: Beside<'_>) -> (Read, Vec<Problem>) {
        let mut problems = Vec::new();
        let objects = self.sorting.sort(shelves, &mut problems);
        let settings = settings(&objects, beside, &mut problems);
        let endpoints = beside.endpoints.cloned().unwrap_or_default();
        let checked = self.check(&objects, &settings, &endpoints, &mut problems);
        problems.sort_by(|a, b| a.location.cmp(&b.location));
        let read = Read {
            objects,
            settings,
            checked,
        };
        (read, problems)
    }

    fn check(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        endpoints: &Endpoints,
        problems: &mut Vec<Problem>,
    ) -> Checked {
        let services = &objects.services;
        let parts = ground::Parts::new(objects, settings, endpoints);
        let ground = self
            .ground
            .of(parts.clone(), |problems| parts.ground(objects, problems));
        let ground = ground.and(problems);
        let of_policies = (
            ground.clone(),
            objects.policies.clone(),
            settings.default_deny,
        );
        let policies = self.policies.of(of_policies, |problems| {
            policies::resolve(objects, &ground.selection, settings.default_deny, problems)
        });
        let of_routes = (services.clone(), objects.routes.clone());
        let routes = self
            .routes
            .of(of_routes, |problems| routes::resolve(objects, problems));
        let of_traffic = (
            objects.config.clone(),
            services.clone(),
            objects.traffic.clone(),
        );
        let traffic = self
            .traffic
            .of(of_traffic, |problems| traffic::resolve(objects, problems));
        let of_limits = (ground.clone(), objects.limits.clone());
        let limits = self.limits.of(of_limits, |problems| {
            limits::resolve(objects, &ground.selection, problems)
        });
        let checked = Checked {
            policies: policies.and(problems),
            routes: routes.and(problems),
            traffic: traffic.and(problems),
            limits: limits.and(problems),
            ground,
        };
        let (routes, traffic) = (checked.routes.clone(), checked.traffic.clone());
        let of_timeouts = (objects.routes.clone(), routes.clone(), traffic.clone());
        let timeouts = self.timeouts.of(of_timeouts, |problems| {
            routes::timeouts::check(&objects.routes, &routes, &traffic, problems);
        });
        timeouts.and(problems);
        checked
    }

    fn presences(
        &mut self,
        objects: &Objects,
        checked: &Checked,
        settings: &Settings,
    ) -> Shared<Presences> {
        let (ground, rows) = (&checked.ground, &mut self.presence_rows);
        let made = self.presences.of((ground.clone(), settings.mtls), |_| {
            let parts = objects.workloads.iter().filter_map(|(name, workload)| {
                let parts = presence::Parts {
                    workload: workload.clone(),
                    id: ground.identities.get(name)?.clone(),
                    addresses: ground.addresses.of(name).to_vec(),
                    services: objects.services_among(ground.selection.services_of(name)),
                    mtls: settings.mtls,
                };
                Some((name.clone(), parts))
            });
            rows.of(parts, |name, parts| parts.presence(name))
        });
        made.value
    }

    fn workloads(
        &mut self,
        presences: &Shared<Presences>,
        checked: &Checked,
        settings: &Settings,
        trust: TrustBundle,
    ) -> Shared<BTreeMap<WorkloadName, Arc<model::Workload>>> {
        let of_common = (settings.clone(), trust.clone());
        let Made { value: common, .. } =
            self.common.of(of_common, |_| Common::new(settings, trust));
        let (policies, limits) = (&checked.policies, &checked.limits);
        let inputs = (
            presences.clone(),
            policies.clone(),
            limits.clone(),
            common.clone(),
        );
        let rows = &mut self.workload_rows;
        let made = self.workloads.of(inputs, |_| {
            let parts = presences.iter().map(|(name, presence)| {
                let parts = WorkloadParts {
                    presence: Arc::clone(presence),
                    policies: policies.of(name).clone(),
                    limits: limits.of.get(name).cloned(),
                    common: common.clone(),
                };
                (name.clone(), parts)
            });
            rows.of(parts, |name, parts| parts.model(name))
        });
        made.value
    }

    fn destinations(
        &mut self,
        objects: &Objects,
        presences: &Shared<Presences>,
        checked: &Checked,
        endpoints: &Endpoints,
    ) -> Shared<BTreeMap<ServiceName, Arc<model::Destination>>> {
        let (ground, rows) = (&checked.ground, &mut self.behind_rows);
        let behind = self.behind.of(presences.clone(), |_| {
            let parts = objects.services.keys().map(|name| {
                let workloads = ground.selection.workloads_of(name).iter();
                let behind = workloads.filter_map(|workload| presences.get(workload).cloned());
                (name.clone(), Behind(behind.collect()))
            });
            rows.of(parts, |_, behind| behind.clone())
        });
        let parts = objects.services.iter().filter_map(|(name, service)| {
            let parts = DestinationParts {
                service: service.clone(),
                behind: Arc::clone(behind.value.get(name)?),
                ready: endpoints.ready.get(name).cloned(),
                routes: checked.routes.get(name).cloned(),
                traffic: Arc::clone(checked.traffic.of(Some(name))),
            };
            Some((name.clone(), parts))
        });
        Shared::new(
            self.destination_rows
                .of(parts, |name, parts| parts.model(name)),
        )
    }

    fn addresses(
        &mut self,
        presences: &Shared<Presences>,
        checked: &Checked,
    ) -> Shared<AddressTable> {
        let (traffic, rows) = (&checked.traffic, &mut self.address_rows);
        let addresses = &checked.ground.addresses;
        let inputs = (presences.clone(), traffic.clone());
        let made = self.addresses.of(inputs, |_| {
            instances::table(addresses, presences, traffic, rows)
        });
        made.value
    }
}

fn settings(objects: &Objects, beside: Beside<'_>, problems: &mut Vec<Problem>) -> Settings {
    let config = objects.config.as_ref();
    let spec = config.map(|config| config.spec.clone()).unwrap_or_default();
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
        default_deny: spec.default_deny.unwrap_or(beside.default_deny),
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
fn nobody(objects: &Objects, trust_domain: TrustDomain) -> Result<TrustBundle, Vec<Problem>> {
    TrustBundle::from_pem(trust_domain, include_bytes!("nobody.pem"))
        .map_err(|error| vec![objects.config_problem("spec.trustDomain", error.to_string())])
}
