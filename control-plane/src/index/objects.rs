//! Objects by kind and name, each once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use outrider_api::kinds::{self, ObjectMeta};
use outrider_api::manifest::{Located, Location, Object, Problem};
use outrider_api::names::ServiceName;

use super::memo::{Shared, Stage};
use super::shelves::{Shelf, Shelves};
use super::{WorkloadName, selection};

/// Namespace and name.
pub(super) type PolicyName = (String, String);

pub(super) type Table<K, T> = BTreeMap<K, Located<T>>;

/// Every object, by kind and name.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) config: Option<Located<kinds::MeshConfig>>,
    pub(super) services: Shared<Table<ServiceName, kinds::Service>>,
    pub(super) workloads: Shared<Table<WorkloadName, kinds::Workload>>,
    pub(super) policies: Shared<Table<PolicyName, kinds::AuthorizationPolicy>>,
    pub(super) traffic: Shared<Table<PolicyName, kinds::TrafficPolicy>>,
    pub(super) limits: Shared<Table<PolicyName, kinds::RateLimitPolicy>>,
    /// Of all three kinds.
    pub(super) routes: Shared<Vec<Object>>,
    /// For a problem that no object has.
    first: Option<Location>,
}

/// How shelves become tables.
#[derive(Default)]
pub(super) struct Sorting {
    configs: Stage<Shelf, Option<Located<kinds::MeshConfig>>>,
    accounts: Stage<Shelf, ()>,
    services: Stage<Shelf, Table<ServiceName, kinds::Service>>,
    workloads: Stage<Shelf, Table<WorkloadName, kinds::Workload>>,
    policies: Stage<Shelf, Table<PolicyName, kinds::AuthorizationPolicy>>,
    traffic: Stage<Shelf, Table<PolicyName, kinds::TrafficPolicy>>,
    limits: Stage<Shelf, Table<PolicyName, kinds::RateLimitPolicy>>,
    routes: Stage<Shelf, Vec<Object>>,
}

impl Sorting {
    /// One that knows what this one has made of Services and workloads.
    pub(super) fn of_ground(&self) -> Self {
        Self {
            services: self.services.clone(),
            workloads: self.workloads.clone(),
            ..Self::default()
        }
    }

    /// What is given twice is a problem of the second.
    pub(super) fn sort(&mut self, shelves: &Shelves, problems: &mut Vec<Problem>) -> Objects {
        let config = once(&mut self.configs, &shelves.configs, problems, config);
        // An identity exists by being used.
        once(
            &mut self.accounts,
            &shelves.accounts,
            problems,
            |all, problems| {
                unique(all, problems);
            },
        );
        let services = once(
            &mut self.services,
            &shelves.services,
            problems,
            |all, problems| {
                table(all, problems, |(namespace, name), object| match object {
                    Object::Service(it) => Some((ServiceName { namespace, name }, it.clone())),
                    _ => None,
                })
            },
        );
        let workloads = once(
            &mut self.workloads,
            &shelves.workloads,
            problems,
            |all, problems| {
                table(all, problems, |(namespace, name), object| match object {
                    Object::Workload(it) => Some((WorkloadName { namespace, name }, it.clone())),
                    _ => None,
                })
            },
        );
        let policies = once(
            &mut self.policies,
            &shelves.policies,
            problems,
            |all, problems| {
                table(all, problems, |name, object| match object {
                    Object::AuthorizationPolicy(it) => Some((name, it.clone())),
                    _ => None,
                })
            },
        );
        let traffic = once(
            &mut self.traffic,
            &shelves.traffic,
            problems,
            |all, problems| {
                table(all, problems, |name, object| match object {
                    Object::TrafficPolicy(it) => Some((name, it.clone())),
                    _ => None,
                })
            },
        );
        let limits = once(
            &mut self.limits,
            &shelves.limits,
            problems,
            |all, problems| {
                table(all, problems, |name, object| match object {
                    Object::RateLimitPolicy(it) => Some((name, it.clone())),
                    _ => None,
                })
            },
        );
        let routes = once(
            &mut self.routes,
            &shelves.routes,
            problems,
            |all, problems| unique(all, problems).into_iter().cloned().collect(),
        );
        Objects {
            config: (*config).clone(),
            services,
            workloads,
            policies,
            traffic,
            limits,
            routes,
            first: shelves.first.clone(),
        }
    }
}

fn once<T>(
    stage: &mut Stage<Shelf, T>,
    shelf: &Shelf,
    problems: &mut Vec<Problem>,
    make: impl FnOnce(&[Object], &mut Vec<Problem>) -> T,
) -> Shared<T> {
    stage
        .of(shelf.clone(), |problems| make(shelf.objects(), problems))
        .and(problems)
}

/// Each once.
fn unique<'o>(objects: &'o [Object], problems: &mut Vec<Problem>) -> Vec<&'o Object> {
    let mut seen = BTreeMap::new();
    let mut unique = Vec::with_capacity(objects.len());
    for object in objects {
        let metadata = object.metadata();
        match seen.entry((object.kind(), &metadata.namespace, &metadata.name)) {
            Entry::Vacant(place) => {
                place.insert(object);
                unique.push(object);
            }
            Entry::Occupied(first) => problems.push(twice(object, first.get())),
        }
    }
    unique
}

/// Of one kind.
fn table<K: Ord, T>(
    objects: &[Object],
    problems: &mut Vec<Problem>,
    row: impl Fn(PolicyName, &Object) -> Option<(K, Located<T>)>,
) -> Table<K, T> {
    let rows = unique(objects, problems).into_iter().filter_map(|object| {
        let metadata = object.metadata();
        row((metadata.namespace.clone(), metadata.name.clone()), object)
    });
    rows.collect()
}

fn config(objects: &[Object], problems: &mut Vec<Problem>) -> Option<Located<kinds::MeshConfig>> {
    let mut configs = unique(objects, problems).into_iter().filter_map(|object| {
        let Object::MeshConfig(config) = object else {
            return None;
        };
        Some(config)
    });
    let first = configs.next()?;
    for config in configs {
        let message = format!(
            "is a second MeshConfig, expected at most one (the first is at {})",
            first.location("")
        );
        problems.push(config.problem("metadata.name", message));
    }
    Some(first.clone())
}

impl Objects {
    /// The workloads of a namespace, by name.
    pub(super) fn workloads_of<'n>(
        &'n self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'n WorkloadName, &'n Located<kinds::Workload>)> {
        self.workloads
            .range(WorkloadName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
    }

    /// The Services of these names that there are.
    pub(super) fn services_among(&self, names: &[ServiceName]) -> Vec<Located<kinds::Service>> {
        let found = names.iter().filter_map(|name| self.services.get(name));
        found.cloned().collect()
    }

    /// The numbers of a Service's ports; `None`: there is no such Service.
    pub(super) fn ports_of(&self, service: &ServiceName) -> Option<Vec<u16>> {
        let service = self.services.get(service)?;
        Some(
            selection::ports(service)
                .map(|(_, port)| port.port)
                .collect(),
        )
    }

    /// A problem of the MeshConfig, even if there is none.
    pub(super) fn config_problem(&self, field: &str, message: String) -> Problem {
        if let Some(config) = &self.config {
            return config.problem(field, message);
        }
        let nowhere = || Location {
            file: Path::new("").into(),
            line: 1,
            column: 1,
        };
        Problem::new(self.first.clone().unwrap_or_else(nowhere), field, message)
    }
}

/// Policies in the order in which they win (GEP-713): by creation where it is known, then by name.
pub(super) fn oldest_first<'o, T>(
    policies: &'o Table<PolicyName, T>,
    metadata: fn(&T) -> &ObjectMeta,
) -> Vec<&'o Located<T>> {
    let mut policies: Vec<&'o Located<T>> = policies.values().collect();
    policies.sort_by_key(|policy| {
        let created = metadata(policy).creation_timestamp.as_deref();
        (created.is_none(), created)
    });
    policies
}

fn twice(object: &Object, first: &Object) -> Problem {
    let metadata = object.metadata();
    object.problem(
        "metadata.name",
        format!(
            "{} {}/{} is given twice, expected it once (the first is at {})",
            object.kind(),
            metadata.namespace,
            metadata.name,
            first.location("")
        ),
    )
}
