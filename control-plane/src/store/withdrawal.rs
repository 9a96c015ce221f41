//! Endpoints that are not to be called any more, although what people wrote says that they exist; and
//! which endpoints have gone from where, so that it can be told when nobody knows them any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use outrider_api::model::address::AddressTarget;
use outrider_api::model::{Destination, Endpoint};

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

/// Which workloads were endpoints of something and are no longer, whether they were withdrawn or
/// somebody wrote so, each with the version from which on they are not.
pub(super) struct Departures<K>(HashMap<K, HashMap<WorkloadName, u64>>);

impl<K> Default for Departures<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> Departures<K> {
    /// The endpoints of `key` are `now` from `version` on.
    pub(super) fn record(&mut self, key: &K, before: &[Endpoint], now: &[Endpoint], version: u64) {
        let now: HashSet<_> = now.iter().map(workload_of).collect();
        let mut left: HashMap<_, _> = self.0.remove(key).unwrap_or_default();
        // Who is back has not left.
        left.retain(|name, _| !now.contains(&(&*name.namespace, &*name.name)));
        for (namespace, name) in before.iter().map(workload_of) {
            if !now.contains(&(namespace, name)) {
                left.insert(WorkloadName::new(namespace, name), version);
            }
        }
        if !left.is_empty() {
            self.0.insert(key.clone(), left);
        }
    }

    /// What `workload` has left.
    pub(super) fn of(&self, workload: &WorkloadName) -> HashMap<K, u64> {
        let left = self.0.iter();
        left.filter_map(|(key, left)| Some((key.clone(), *left.get(workload)?)))
            .collect()
    }

    /// Forgets what nobody can have been told of, and whom nobody asks about.
    pub(super) fn retain(
        &mut self,
        is_known: impl Fn(&K) -> bool,
        is_asked_about: impl Fn(&WorkloadName) -> bool,
    ) {
        self.0.retain(|key, left| {
            left.retain(|workload, _| is_asked_about(workload));
            is_known(key) && !left.is_empty()
        });
    }
}

fn workload_of(endpoint: &Endpoint) -> (&str, &str) {
    (&endpoint.namespace, &endpoint.workload)
}
