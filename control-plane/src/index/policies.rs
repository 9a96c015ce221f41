//! Which policies apply to which workload. A policy that applies to nothing is a problem: it would
//! protect nothing, and nobody would notice.

use std::collections::{BTreeSet, HashMap};

use outrider_api::authorization::PolicySet;
use outrider_api::kinds::TargetRef;
use outrider_api::manifest::{Cause, Located, Problem};
use outrider_api::names::ServiceName;

use super::assemble::app_port_numbers;
use super::objects::Objects;
use super::selection::{Selection, has_labels};
use super::{Targets, WorkloadName};

/// Policies, by whom they are about.
#[derive(Debug)]
pub(super) struct Policies {
    /// Of workloads that have some, in the order of their names; few are different.
    sets: HashMap<WorkloadName, PolicySet>,
    /// Of the others.
    none: PolicySet,
    pub(super) targets: Targets,
}

impl Policies {
    pub(super) fn of(&self, workload: &WorkloadName) -> &PolicySet {
        self.sets.get(workload).unwrap_or(&self.none)
    }
}

/// Resolves the targets of every policy. `default_deny`: see [`PolicySet::new`].
pub(super) fn resolve(
    objects: &Objects,
    selection: &Selection,
    default_deny: bool,
    problems: &mut Vec<Problem>,
) -> Policies {
    let mut about = Targets::new();
    let mut compiled = Vec::with_capacity(objects.policies.len());
    let mut of_workloads: HashMap<WorkloadName, Vec<usize>> = HashMap::new();
    for (name, policy) in objects.policies.iter() {
        let mut targets = BTreeSet::new();
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            match workloads(&policy.metadata.namespace, target, objects, selection) {
                Ok(found) => targets.extend(found),
                Err(wrong) => problems.push(wrong.of(policy, index)),
            }
        }
        let rules = policy.spec.rules.iter().enumerate();
        let ports = rules.filter_map(|(index, rule)| {
            let field = format!("spec.rules[{index}].networkAttributes.ports");
            Some((field, rule.network_attributes.as_ref()?.ports.as_slice()))
        });
        check_port_list(policy, ports, &targets, objects, selection, problems);
        for workload in &targets {
            match of_workloads.get_mut(workload) {
                Some(policies) => policies.push(compiled.len()),
                None => {
                    of_workloads.insert(workload.clone(), vec![compiled.len()]);
                }
            }
        }
        compiled.push(policy.to_policy());
        about.insert(name.clone(), targets);
    }
    let mut known: HashMap<Vec<usize>, PolicySet> = HashMap::new();
    let sets = of_workloads.into_iter().map(|(workload, policies)| {
        let set = known.entry(policies).or_insert_with_key(|policies| {
            let policies = policies.iter().map(|index| compiled[*index].clone());
            PolicySet::new(default_deny, policies.collect())
        });
        (workload, set.clone())
    });
    Policies {
        sets: sets.collect(),
        none: PolicySet::new(default_deny, Vec::new()),
        targets: about,
    }
}

/// What is wrong with a target.
pub(super) struct Wrong {
    field: &'static str,
    cause: Cause,
    message: String,
}

impl Wrong {
    /// Of `policy`'s target `index`.
    pub(super) fn of<T>(self, policy: &Located<T>, index: usize) -> Problem {
        let field = format!("spec.targetRefs[{index}].{}", self.field);
        policy.problem(field, self.message).because(self.cause)
    }

    fn missing(message: String) -> Self {
        Self {
            field: "name",
            cause: Cause::TargetNotFound,
            message,
        }
    }

    fn nobody(field: &'static str, message: String) -> Self {
        Self {
            field,
            cause: Cause::NoEffect,
            message,
        }
    }
}

/// The workloads that a target means, or the field that is wrong.
pub(super) fn workloads(
    namespace: &str,
    target: &TargetRef,
    objects: &Objects,
    selection: &Selection,
) -> Result<Vec<WorkloadName>, Wrong> {
    match target {
        TargetRef::Service { name } => {
            let service = ServiceName {
                namespace: namespace.to_owned(),
                name: name.clone(),
            };
            let known = objects.services.keys();
            if !objects.services.contains_key(&service) {
                let names = known.map(|known| (&*known.namespace, &*known.name));
                return Err(Wrong::missing(missing("Service", namespace, name, names)));
            }
            // A Service without a selector may have endpoints of other namespaces, which are not its policies' to
            // protect or to open.
            let found = selection.workloads_of(&service).iter();
            let found: Vec<_> = found
                .filter(|it| it.namespace == namespace)
                .cloned()
                .collect();
            if found.is_empty() {
                let message = format!(
                    "Service {namespace}/{name} selects no Workload of its namespace, so this policy \
                     would protect nothing, expected a selector that does"
                );
                return Err(Wrong::nobody("name", message));
            }
            Ok(found)
        }
        TargetRef::Workload { name } => {
            let workload = WorkloadName::new(namespace, name);
            if !objects.workloads.contains_key(&workload) {
                let known = objects.workloads.keys();
                let names = known.map(|known| (&*known.namespace, &*known.name));
                return Err(Wrong::missing(missing("Workload", namespace, name, names)));
            }
            Ok(vec![workload])
        }
        TargetRef::Pods { match_labels } => {
            let found: Vec<WorkloadName> = objects
                .workloads_of(namespace)
                .filter(|(_, workload)| has_labels(workload, match_labels))
                .map(|(name, _)| name.clone())
                .collect();
            if found.is_empty() {
                let message = format!(
                    "selects no Workload of the namespace {namespace}, so this policy would \
                     protect nothing, expected labels that at least one has"
                );
                return Err(Wrong::nobody("selector", message));
            }
            Ok(found)
        }
    }
}

/// Says where else there is one of that name: targets are in the policy's own namespace.
pub(super) fn missing<'n>(
    kind: &str,
    namespace: &str,
    name: &str,
    known: impl Iterator<Item = (&'n str, &'n str)>,
) -> String {
    let mut here = Vec::new();
    let mut elsewhere = None;
    for (other_namespace, other) in known {
        if other_namespace == namespace && here.len() < 10 {
            here.push(other);
        } else if other == name {
            elsewhere = Some(other_namespace);
        }
    }
    let expected = match (elsewhere, here.as_slice()) {
        (Some(other), _) => format!(
            "expected one in the policy's own namespace (there is one in {other}: the policy \
             belongs there)"
        ),
        (None, []) => format!("expected one of that namespace, which has no {kind}"),
        (None, here) => format!(
            "expected one of that namespace, such as {}",
            here.join(", ")
        ),
    };
    format!("there is no {kind} {namespace}/{name}, {expected}")
}

/// A rule about a port that no target has would never match: a DENY that denies nothing, a limit that
/// limits nobody. Each list of ports comes with its field.
pub(super) fn check_port_list<'p, T>(
    policy: &Located<T>,
    lists: impl Iterator<Item = (String, &'p [u16])>,
    targets: &BTreeSet<WorkloadName>,
    objects: &Objects,
    selection: &Selection,
    problems: &mut Vec<Problem>,
) {
    let lists: Vec<(String, &[u16])> = lists.filter(|(_, ports)| !ports.is_empty()).collect();
    if lists.is_empty() {
        return;
    }
    let mut known = BTreeSet::new();
    for target in targets {
        let ports = app_port_numbers(target, objects, selection);
        if ports.is_empty() {
            // It declares none: whatever reaches its sidecar may be meant.
            return;
        }
        known.extend(ports);
    }
    if known.is_empty() {
        return;
    }
    for (field, ports) in lists {
        for (index, port) in ports.iter().enumerate() {
            if !known.contains(port) {
                let expected: Vec<String> = known.iter().map(u16::to_string).collect();
                let problem = policy.problem(
                    format!("{field}[{index}]"),
                    format!(
                        "no workload that this policy is about has the port {port}, expected the \
                         app's port (not the Service's): one of {}",
                        expected.join(", ")
                    ),
                );
                problems.push(problem.because(Cause::NoEffect));
            }
        }
    }
}
