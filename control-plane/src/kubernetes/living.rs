//! The pods that have addresses: each has its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Item;
use super::pods::Pod;
use super::services::PodTable;
use crate::index::WorkloadName;

/// See the module.
#[derive(Default)]
pub(super) struct Living {
    by_name: HashMap<WorkloadName, Arc<Pod>>,
    by_address: HashMap<IpAddr, Arc<Pod>>,
    by_namespace: HashMap<String, Vec<Arc<Pod>>>,
}

impl Living {
    pub(super) fn of<'i>(items: impl Iterator<Item = &'i Item>) -> Self {
        let pods = items.filter_map(|item| match item {
            Item::Pod(pod, _) if !pod.ended && !pod.addresses.is_empty() => Some(pod),
            _ => None,
        });
        let pods: Vec<&Arc<Pod>> = pods.collect();
        // An address that two pods have is that of the newer: the older is gone from it, and nobody
        // has told yet (a node that was lost).
        let mut by_address: HashMap<IpAddr, Arc<Pod>> = HashMap::with_capacity(pods.len());
        for pod in &pods {
            for address in &pod.addresses {
                let owner = by_address
                    .entry(*address)
                    .or_insert_with(|| Arc::clone(pod));
                if (&owner.created, &owner.uid) < (&pod.created, &pod.uid) {
                    *owner = Arc::clone(pod);
                }
            }
        }
        let owns = |pod: &&Arc<Pod>| {
            let mut addresses = pod.addresses.iter();
            addresses.all(|address| by_address.get(address).is_some_and(|it| it.uid == pod.uid))
        };
        let living: Vec<&Arc<Pod>> = pods.into_iter().filter(owns).collect();
        let mut by_namespace: HashMap<String, Vec<Arc<Pod>>> = HashMap::new();
        for pod in &living {
            match by_namespace.get_mut(&pod.name.namespace) {
                Some(of_namespace) => of_namespace.push(Arc::clone(pod)),
                None => {
                    let first = vec![Arc::clone(pod)];
                    by_namespace.insert(pod.name.namespace.clone(), first);
                }
            }
        }
        let by_name = living.into_iter();
        Self {
            by_name: by_name
                .map(|pod| (pod.name.clone(), Arc::clone(pod)))
                .collect(),
            by_address,
            by_namespace,
        }
    }
}

impl PodTable for Living {
    fn named(&self, name: &WorkloadName) -> Option<&Pod> {
        self.by_name.get(name).map(|pod| &**pod)
    }

    fn at(&self, address: IpAddr) -> Option<&Pod> {
        let pod = self.by_address.get(&address)?;
        self.named(&pod.name)
    }

    fn of_namespace<'t>(&'t self, namespace: &'t str) -> impl Iterator<Item = &'t Pod> {
        let pods = self.by_namespace.get(namespace);
        pods.into_iter().flatten().map(|pod| &**pod)
    }
}
