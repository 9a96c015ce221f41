//! Endpoints that are not to be called any more, although what people wrote says that they exist.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use outrider_api::model::Destination;
use outrider_api::model::address::AddressTarget;
use outrider_api::names::ServiceName;

use crate::index::{Mesh, WorkloadName};

type Map<K, T> = BTreeMap<K, Arc<T>>;

/// A mesh without the endpoints of some workloads. What is not about them is the mesh's own.
pub(super) struct Remaining<'m> {
    pub(super) destinations: Cow<'m, Map<ServiceName, Destination>>,
    pub(super) addresses: Cow<'m, Map<IpAddr, AddressTarget>>,
}

impl<'m> Remaining<'m> {
    pub(super) fn of(mesh: &'m Mesh, withdrawn: &BTreeSet<WorkloadName>) -> Self {
        let mut remaining = Self {
            destinations: Cow::Borrowed(mesh.destinations()),
            addresses: Cow::Borrowed(mesh.addresses()),
        };
        if withdrawn.is_empty() {
            return remaining;
        }
        for (name, destination) in mesh.destinations() {
            if let Some(rest) = without(destination, withdrawn) {
                remaining
                    .destinations
                    .to_mut()
                    .insert(name.clone(), Arc::new(rest));
            }
        }
        for (address, target) in mesh.addresses() {
            // An address stays the workload's: as one of nobody it would be connected to in plaintext.
            if let AddressTarget::Instance(instance) = &**target
                && let Some(rest) = without(instance, withdrawn)
            {
                let rest = AddressTarget::Instance(Box::new(rest));
                remaining
                    .addresses
                    .to_mut()
                    .insert(*address, Arc::new(rest));
            }
        }
        remaining
    }
}

/// `None`: there is nothing to take out.
fn without(destination: &Destination, withdrawn: &BTreeSet<WorkloadName>) -> Option<Destination> {
    let is_withdrawn = |endpoint: &outrider_api::model::Endpoint| {
        let name = WorkloadName::new(&*endpoint.namespace, &*endpoint.workload);
        withdrawn.contains(&name)
    };
    if !destination.endpoints.iter().any(is_withdrawn) {
        return None;
    }
    let mut rest = destination.clone();
    rest.endpoints.retain(|endpoint| !is_withdrawn(endpoint));
    Some(rest)
}

/// The Services of which `workload` is an endpoint.
pub(super) fn services_of<'m>(
    mesh: &'m Mesh,
    workload: &'m WorkloadName,
) -> impl Iterator<Item = &'m ServiceName> {
    let model = mesh.workload(&workload.namespace, &workload.name);
    model.into_iter().flat_map(|model| &model.services)
}
