//! How much each workload takes: its RateLimitPolicies, added up.

use std::collections::{BTreeSet, HashMap};

use outrider_api::kinds::RateLimitPolicy;
use outrider_api::manifest::{Cause, Located, Object, Problem};
use outrider_api::model::traffic::InboundLimits;

use super::endpoints::Members;
use super::objects::{Objects, Sorting, oldest_first};
use super::policies::{check_port_list, workloads};
use super::selection::{self, Selection};
use super::shelves::Shelves;
use super::{Targets, WorkloadName};

/// Limits, by whom they are about.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Of each workload that has some.
    pub(super) of: HashMap<WorkloadName, InboundLimits>,
    pub(super) targets: Targets,
}

pub(super) fn resolve(
    objects: &Objects,
    selection: &Selection,
    problems: &mut Vec<Problem>,
) -> Limits {
    let mut limits = Limits::default();
    for policy in oldest_first(&objects.limits, |policy| &policy.metadata) {
        if policy.spec.limits.is_empty() && policy.spec.concurrency.is_none() {
            let message = "limits nothing, expected \"limits\", \"concurrency\" or both";
            problems.push(policy.problem("spec", message));
        }
        let mut targets = BTreeSet::new();
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            match workloads(&policy.metadata.namespace, target, objects, selection) {
                Ok(found) => targets.extend(found),
                Err(wrong) => problems.push(wrong.of(policy, index)),
            }
        }
        let ports = policy.spec.limits.iter().enumerate().map(|(index, limit)| {
            let field = format!("spec.limits[{index}].ports");
            (field, limit.ports.as_slice())
        });
        check_port_list(policy, ports, &targets, objects, selection, problems);
        let metadata = &policy.metadata;
        for workload in &targets {
            let sum = limits.of.entry(workload.clone()).or_default();
            sum.rates.extend(policy.rates());
            let Some(concurrency) = policy.concurrency() else {
                continue;
            };
            if sum.concurrency.is_none() {
                sum.concurrency = Some(concurrency);
            } else {
                let message = format!(
                    "another RateLimitPolicy bounds the concurrency of Workload {workload}, \
                     expected one"
                );
                let problem = policy.problem("spec.concurrency", message);
                problems.push(problem.because(Cause::Conflicted));
            }
        }
        let name = (metadata.namespace.clone(), metadata.name.clone());
        limits.targets.insert(name, targets);
    }
    limits
}

/// The policies of a workload, of a mesh that is good.
pub(super) fn policies_of(
    objects: &[Object],
    workload: &WorkloadName,
) -> Vec<Located<RateLimitPolicy>> {
    let shelves: Shelves = objects.iter().cloned().collect();
    let objects = Sorting::default().sort(&shelves, &mut Vec::new());
    let selection = selection::select(&objects, &Members::default(), &mut Vec::new());
    let is_target = |policy: &&Located<RateLimitPolicy>| {
        let namespace = &policy.metadata.namespace;
        let mut targets = policy.spec.target_refs.iter();
        targets.any(|target| {
            workloads(namespace, target, &objects, &selection)
                .is_ok_and(|found| found.contains(workload))
        })
    };
    let all = objects.limits.values().filter(is_target);
    all.cloned().collect()
}
