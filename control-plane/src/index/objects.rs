//! Objects by kind and name, each once.

use std::collections::BTreeMap;
use std::path::Path;

use outrider_api::kinds::{self, ObjectMeta};
use outrider_api::manifest::{Located, Location, Object, Problem};
use outrider_api::names::ServiceName;

use super::{WorkloadName, selection};

/// Namespace and name.
pub(super) type PolicyName = (String, String);

/// Every object, by kind and name.
#[derive(Default)]
pub(super) struct Objects<'o> {
    pub(super) config: Option<&'o Located<kinds::MeshConfig>>,
    pub(super) services: BTreeMap<ServiceName, &'o Located<kinds::Service>>,
    pub(super) workloads: BTreeMap<WorkloadName, &'o Located<kinds::Workload>>,
    pub(super) policies: BTreeMap<PolicyName, &'o Located<kinds::AuthorizationPolicy>>,
    pub(super) traffic: BTreeMap<PolicyName, &'o Located<kinds::TrafficPolicy>>,
    pub(super) limits: BTreeMap<PolicyName, &'o Located<kinds::RateLimitPolicy>>,
    /// Of all three kinds.
    pub(super) routes: Vec<&'o Object>,
    /// For a problem that no object has.
    first: Option<Location>,
}

impl<'o> Objects<'o> {
    /// What is given twice is a problem of the second.
    pub(super) fn sort(
        objects: impl IntoIterator<Item = &'o Object>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut sorted = Self::default();
        let mut seen = BTreeMap::new();
        for object in objects {
            if sorted.first.is_none() {
                sorted.first = Some(object.location(""));
            }
            let metadata = object.metadata();
            let key = (object.kind(), &metadata.namespace, &metadata.name);
            if let Some(first) = seen.insert(key, object) {
                problems.push(twice(object, first));
                continue;
            }
            sorted.add(object, problems);
        }
        sorted
    }

    fn add(&mut self, object: &'o Object, problems: &mut Vec<Problem>) {
        let metadata = object.metadata();
        let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
        match object {
            Object::Service(service) => {
                self.services
                    .insert(ServiceName { namespace, name }, service);
            }
            Object::Workload(workload) => {
                self.workloads
                    .insert(WorkloadName { namespace, name }, workload);
            }
            Object::AuthorizationPolicy(policy) => {
                self.policies.insert((namespace, name), policy);
            }
            Object::TrafficPolicy(policy) => {
                self.traffic.insert((namespace, name), policy);
            }
            Object::RateLimitPolicy(policy) => {
                self.limits.insert((namespace, name), policy);
            }
            Object::HttpRoute(_) | Object::GrpcRoute(_) | Object::TcpRoute(_) => {
                self.routes.push(object);
            }
            Object::MeshConfig(config) => match self.config {
                None => self.config = Some(config),
                Some(first) => problems.push(config.problem(
                    "metadata.name",
                    format!(
                        "is a second MeshConfig, expected at most one (the first is at {})",
                        first.location("")
                    ),
                )),
            },
            // An identity exists by being used.
            Object::ServiceAccount(_) => {}
        }
    }

    /// The workloads of a namespace, by name.
    pub(super) fn workloads_of<'n>(
        &'n self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&'n WorkloadName, &'o Located<kinds::Workload>)> {
        self.workloads
            .range(WorkloadName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(name, workload)| (name, *workload))
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
        if let Some(config) = self.config {
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
    policies: &BTreeMap<PolicyName, &'o Located<T>>,
    metadata: fn(&T) -> &ObjectMeta,
) -> Vec<&'o Located<T>> {
    let mut policies: Vec<&'o Located<T>> = policies.values().copied().collect();
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
