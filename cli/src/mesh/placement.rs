//! Which Workloads run on this machine, and where: in its own network or each in a network namespace.
//! Pure, but for asking which addresses are of this machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrider_api::{kinds, model};
use outrider_control_plane::index::Mesh;
use thiserror::Error;

use super::netns::{Id, describe};
use super::ports;
use super::workload::WorkloadPlan;

/// Where Workloads run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// All in the network of this machine.
    Machine,
    /// Each in a network namespace of its own.
    Namespaces,
    /// In either: somebody else runs them.
    Either,
}

/// Why a Workload cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misplaced {
    /// It has no address of this machine.
    #[error(
        "Workload {0} has no spec.address, so it needs a network of its own: run this as root with --netns, \
         or give it an address"
    )]
    NoAddress(String),
    /// Others would not reach it.
    #[error(
        "Workload {0} has the address {1}, at which nobody outside of its namespace reaches it: leave \
         spec.address out"
    )]
    Loopback(String, IpAddr),
}

/// Every Workload, by what becomes of it here.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) workloads: Vec<WorkloadPlan>,
    /// NAMESPACE/NAME of those of other machines.
    pub(super) elsewhere: Vec<String>,
    pub(super) misplaced: Vec<Misplaced>,
}

enum Verdict {
    Here,
    Namespace,
    Elsewhere,
    Misplaced(Misplaced),
}

impl Sorted {
    pub(super) fn of(mesh: &Mesh, id: &Id, placement: Placement) -> Self {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for name in mesh.workloads().keys() {
            *names.entry(&name.name).or_default() += 1;
        }
        let mut sorted = Self::default();
        for (name, workload) in mesh.workloads() {
            let Some(spec) = mesh.spec(&workload.namespace, &workload.name) else {
                continue;
            };
            let unique = names.get(workload.name.as_str()) == Some(&1);
            let plan = WorkloadPlan::new(workload, spec, unique);
            let own_range = describe::is_inside(mesh.settings().network.workloads, workload);
            match verdict(placement, own_range, workload, spec) {
                Verdict::Here => sorted.workloads.push(plan),
                Verdict::Namespace => {
                    let netns = id.namespace(&plan.label);
                    sorted.workloads.push(plan.placed(netns, workload, spec));
                }
                Verdict::Elsewhere => sorted.elsewhere.push(name.to_string()),
                Verdict::Misplaced(misplaced) => sorted.misplaced.push(misplaced),
            }
        }
        sorted
    }
}

fn verdict(
    placement: Placement,
    own_range: bool,
    workload: &model::Workload,
    spec: &kinds::WorkloadSpec,
) -> Verdict {
    let name = || format!("{}/{}", workload.namespace, workload.name);
    let address = workload.mesh_address.ip();
    let assigned = spec.address.is_none();
    match placement {
        Placement::Machine if assigned => Verdict::Misplaced(Misplaced::NoAddress(name())),
        Placement::Machine | Placement::Either if ports::is_local(address) => Verdict::Here,
        Placement::Namespaces if address.is_loopback() => {
            Verdict::Misplaced(Misplaced::Loopback(name(), address))
        }
        Placement::Namespaces | Placement::Either if assigned || own_range => Verdict::Namespace,
        Placement::Machine | Placement::Namespaces | Placement::Either => Verdict::Elsewhere,
    }
}
