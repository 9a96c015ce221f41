//! How far sidecars are with each object: those of this replica, which `/programmed` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_api::manifest::Object;
use outrider_api::model::Routes;
use outrider_api::names::ServiceName;
use serde::{Deserialize, Serialize};

use super::super::kinds::Kind;
use super::super::objects::ObjectId;
use super::super::source::View;
use crate::discovery::Fleet;
use crate::index::{Mesh, WorkloadName};
use crate::store::Store;

/// Of one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Of the object, as this replica has applied it.
    pub(crate) generation: i64,
    /// Sidecars that it concerns. Of a policy about workloads all that there are, connected or not.
    pub(crate) concerned: usize,
    /// Those of them that are connected to this replica and go by it.
    pub(crate) programmed: usize,
    /// It concerns who calls: each is known only to the replica that it is connected to.
    pub(crate) about_callers: bool,
    /// Replicas that have not read this generation: who calls by way of them is not known yet. Of the sum.
    #[serde(skip)]
    pub(crate) unread: usize,
}

/// By `Kind/namespace/name`.
pub(crate) type Counts = BTreeMap<String, Count>;

/// Counts; cheap to clone.
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) view: View,
    pub(crate) store: Arc<Store>,
    pub(crate) fleet: Arc<Fleet>,
}

/// Who is concerned by an object.
enum Concerned {
    Workloads(BTreeSet<WorkloadName>),
    /// Whoever calls these.
    Services(BTreeSet<ServiceName>),
}

impl Progress {
    /// JSON; `null` while there are no counts.
    pub(crate) fn answer(&self) -> String {
        serde_json::to_string(&self.counts()).unwrap_or_else(|_| "null".to_owned())
    }

    /// Of every object that has a status; `None`: nothing was read yet.
    pub(crate) fn counts(&self) -> Option<Counts> {
        let mesh = self.store.mesh()?;
        // What is published meanwhile is acknowledged later: never too early.
        let verdicts = self.view.verdicts.borrow().clone();
        let progress = self.fleet.progress(&self.store);
        let routed = routed(&mesh);
        let mut counts = Counts::new();
        for (id, verdict) in &verdicts.0 {
            let Some(concerned) = self.concerned(id, &mesh, &routed) else {
                continue;
            };
            let about_callers = matches!(concerned, Concerned::Services(_));
            let (concerned, programmed) = match concerned {
                Concerned::Workloads(workloads) => {
                    let there = workloads.intersection(&progress.workloads);
                    (workloads.len(), there.count())
                }
                Concerned::Services(services) => {
                    let counted = services.iter().filter_map(|one| progress.services.get(one));
                    counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
                }
            };
            let count = Count {
                generation: verdict.generation,
                concerned,
                programmed,
                about_callers,
                unread: 0,
            };
            counts.insert(id.to_string(), count);
        }
        Some(counts)
    }

    fn concerned(&self, id: &ObjectId, mesh: &Mesh, routed: &Routed) -> Option<Concerned> {
        let key = (id.namespace.clone(), id.name.clone());
        match id.kind {
            Kind::MeshConfig => {
                let all = mesh.workloads().keys().cloned();
                Some(Concerned::Workloads(all.collect()))
            }
            Kind::AuthorizationPolicy | Kind::RateLimitPolicy => {
                let targets = match id.kind {
                    Kind::AuthorizationPolicy => mesh.policy_targets(&key),
                    _ => mesh.limit_targets(&key),
                };
                Some(Concerned::Workloads(targets.cloned().unwrap_or_default()))
            }
            Kind::TrafficPolicy => Some(Concerned::Services(self.services_of(id, mesh))),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute => {
                let key = (
                    id.kind.name().to_owned(),
                    id.namespace.clone(),
                    id.name.clone(),
                );
                let services = routed.get(&key).cloned().unwrap_or_default();
                Some(Concerned::Services(services))
            }
            Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::Namespace | Kind::Node => None,
        }
    }

    fn services_of(&self, id: &ObjectId, mesh: &Mesh) -> BTreeSet<ServiceName> {
        let held = self.view.held.borrow().clone();
        let entry = held.as_ref().and_then(|held| held.entries.find(id));
        let object = entry.and_then(|entry| entry.object.as_ref());
        let Some(Object::TrafficPolicy(policy)) = object else {
            return BTreeSet::new();
        };
        let services = policy.spec.target_refs.iter().map(|target| ServiceName {
            namespace: id.namespace.clone(),
            name: target.name.clone(),
        });
        services
            .filter(|service| mesh.destination(service).is_some())
            .collect()
    }
}

/// The Services that each route is about: by kind, namespace and name.
type Routed = BTreeMap<(String, String, String), BTreeSet<ServiceName>>;

fn routed(mesh: &Mesh) -> Routed {
    let mut routed = Routed::new();
    for (service, destination) in mesh.destinations() {
        for group in &destination.routes {
            let origins: Vec<_> = match &group.routes {
                Routes::Http(http) => http.rules.iter().map(|rule| &rule.origin).collect(),
                Routes::Tcp(rule) => vec![&rule.origin],
            };
            for origin in origins {
                let key = (
                    origin.kind.clone(),
                    origin.namespace.clone(),
                    origin.name.clone(),
                );
                routed.entry(key).or_default().insert(service.clone());
            }
        }
    }
    routed
}
