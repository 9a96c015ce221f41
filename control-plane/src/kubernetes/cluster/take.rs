//! What of a cluster is of the mesh: only what may have changed since it was last taken is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_api::names::ServiceName;

use super::{Changed, Cluster, Item, Taken};
use crate::index::{Members, Shared, WorkloadName, ZONE};
use crate::kubernetes::kinds::Kind;
use crate::kubernetes::living::Living;
use crate::kubernetes::objects::{Entry, ObjectId};
use crate::kubernetes::pods::{self, Pod};
use crate::kubernetes::ported::Ported;
use crate::kubernetes::services::{Behind, PodTable, Service};

impl Cluster {
    /// What is of the mesh now.
    pub(in crate::kubernetes) fn take(&mut self) -> Taken {
        let Changed { kinds, services } = std::mem::take(&mut self.changed);
        let any = |of: &[Kind]| of.iter().any(|kind| kinds.contains(kind));
        if any(&[Kind::Pod, Kind::Node]) {
            self.living = Living::of(self.of_kind(Kind::Pod).map(|(_, item)| item));
            let pods = self.take_pods();
            self.taken.entries.set(Kind::Pod, pods);
        }
        if any(&[Kind::Pod, Kind::Service, Kind::Namespace]) {
            self.take_services(None);
            self.taken.meshed = Shared::new(self.meshed());
        } else if !services.is_empty() {
            self.take_services(Some(&services));
        }
        for kind in kinds {
            if kind.resources().is_empty() {
                continue;
            }
            let entries = self.of_kind(kind).filter_map(|(_, item)| match item {
                Item::Object(entry) => Some(Arc::clone(entry)),
                _ => None,
            });
            let entries = entries.collect();
            self.taken.entries.set(kind, entries);
        }
        self.taken.clone()
    }

    fn take_pods(&mut self) -> Vec<Arc<Entry>> {
        let mut zoned = std::mem::take(&mut self.zoned);
        zoned.retain(|name| self.living.named(name).is_some());
        let mut entries = Vec::new();
        for (_, item) in self.of_kind(Kind::Pod) {
            let Item::Pod(pod, entry) = item else {
                continue;
            };
            if self.living.named(&pod.name).is_none() {
                continue;
            }
            entries.push(match self.zone_of_node(pod) {
                Some(zone) => zoned.of(pod.name.clone(), entry, zone.clone(), |entry, zone| {
                    pods::with_zone(entry, zone)
                }),
                None => Arc::clone(entry),
            });
        }
        self.zoned = zoned;
        entries
    }

    /// Kubernetes says of a node, not of its pods, where it is (before 1.35).
    fn zone_of_node(&self, pod: &Pod) -> Option<&String> {
        if pod.labels.contains_key(ZONE) {
            return None;
        }
        let id = ObjectId {
            kind: Kind::Node,
            namespace: String::new(),
            name: pod.node.clone()?,
        };
        match self.items.get(&id) {
            Some(Item::Node(zone)) => zone.as_ref(),
            _ => None,
        }
    }

    /// Who is behind these Services, or all: and so, which are of the mesh.
    fn take_services(&mut self, only: Option<&BTreeSet<ServiceName>>) {
        let mut backing = Backing {
            members: (*self.taken.endpoints.members).clone(),
            ready: (*self.taken.endpoints.ready).clone(),
            ported: std::mem::take(&mut self.ported),
        };
        if only.is_none() {
            backing.retain(|name| self.items.contains_key(&service_id(name)));
        }
        let mut of_mesh = Vec::new();
        for (_, item) in self.of_kind(Kind::Service) {
            let Item::Service(service) = item else {
                continue;
            };
            if only.is_none_or(|only| only.contains(&service.name)) {
                backing.tell(service, self.behind(service));
            }
            of_mesh.extend(backing.entry(service).map(Arc::clone));
        }
        self.ported = backing.ported;
        self.taken.set_services(of_mesh);
        if *self.taken.endpoints.members != backing.members {
            self.taken.endpoints.members = Shared::new(backing.members);
        }
        self.taken.endpoints.ready = Shared::new(backing.ready);
    }

    fn behind(&self, service: &Service) -> Option<Behind> {
        let ids = self.slices.get(&service.name).into_iter().flatten();
        let slices = ids.filter_map(|id| match self.items.get(id) {
            Some(Item::Slice(slice)) => Some(slice),
            _ => None,
        });
        let namespace = self.namespace(&service.name.namespace);
        let is_meshed = namespace.is_some_and(|namespace| namespace.is_meshed);
        service.behind(slices, &self.living, is_meshed)
    }

    /// Those that are meshed, and those that have a pod with a sidecar.
    fn meshed(&self) -> BTreeSet<String> {
        let of_namespaces = self
            .of_kind(Kind::Namespace)
            .filter_map(|(id, item)| match item {
                Item::Namespace(namespace) if namespace.is_meshed => Some(&id.name),
                _ => None,
            });
        let mut meshed: BTreeSet<String> = of_namespaces.cloned().collect();
        for (id, _) in self.of_kind(Kind::Pod) {
            if !meshed.contains(&id.namespace) {
                meshed.insert(id.namespace.clone());
            }
        }
        meshed
    }
}

impl Taken {
    fn set_services(&mut self, services: Vec<Arc<Entry>>) {
        let known = self.entries.of(Kind::Service);
        let mut pairs = known.iter().zip(&services);
        let same = known.len() == services.len() && pairs.all(|(a, b)| Arc::ptr_eq(a, b));
        if !same {
            self.entries.set(Kind::Service, services);
        }
    }
}

/// Who is behind each Service of the mesh, while some of it is worked out anew.
struct Backing {
    members: Members,
    ready: BTreeMap<ServiceName, Shared<BTreeSet<WorkloadName>>>,
    ported: Ported,
}

impl Backing {
    /// Who is behind a Service now; `None`: it is not of the mesh.
    fn tell(&mut self, service: &Service, behind: Option<Behind>) {
        let name = &service.name;
        self.ported.tell(service, behind.as_ref());
        let Some(behind) = behind else {
            self.members.remove(name);
            self.ready.remove(name);
            return;
        };
        if service.selector.is_empty() {
            self.members.insert(name.clone(), behind.all);
        } else {
            self.members.remove(name);
        }
        let known = self.ready.get(name);
        if known.is_none_or(|known| **known != behind.ready) {
            self.ready.insert(name.clone(), Shared::new(behind.ready));
        }
    }

    /// The Service as it is of the mesh, if it is.
    fn entry<'s>(&'s self, service: &'s Service) -> Option<&'s Arc<Entry>> {
        let of_mesh = self.ready.contains_key(&service.name);
        of_mesh.then(|| self.ported.entry(service))
    }

    fn retain(&mut self, is_left: impl Fn(&ServiceName) -> bool) {
        self.members.retain(|name, _| is_left(name));
        self.ready.retain(|name, _| is_left(name));
        self.ported.retain(is_left);
    }
}

fn service_id(name: &ServiceName) -> ObjectId {
    ObjectId {
        kind: Kind::Service,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}
