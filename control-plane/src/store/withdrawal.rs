//! Endpoints that are not to be called any more, although what people wrote says that they exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_api::model::Destination;
use outrider_api::model::address::AddressTarget;
use outrider_api::names::ServiceName;

use crate::index::{Mesh, Shared, Tables, WorkloadName};

/// The tables of `mesh` without the endpoints of some workloads. What is not about them is the mesh's own.
pub(super) fn remaining(mesh: &Mesh, withdrawn: &BTreeSet<WorkloadName>) -> Tables {
    let mut tables = mesh.tables();
    if withdrawn.is_empty() {
        return tables;
    }
    let mut destinations = (*tables.destinations).clone();
    for destination in destinations.values_mut() {
        if let Some(rest) = without(destination, withdrawn) {
            *destination = Arc::new(rest);
        }
    }
    let mut addresses = (*tables.addresses).clone();
    for target in addresses.values_mut() {
        // An address stays the workload's: as one of nobody it would be connected to in plaintext.
        if let AddressTarget::Instance(instance) = &**target
            && let Some(rest) = without(instance, withdrawn)
        {
            *target = Arc::new(AddressTarget::Instance(Box::new(rest)));
        }
    }
    tables.destinations = Shared::new(destinations);
    tables.addresses = Shared::new(addresses);
    tables
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
