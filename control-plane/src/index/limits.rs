//! How much each workload takes: its RateLimitPolicies, added up.

use std::collections::{BTreeMap, BTreeSet};

use outrider_api::kinds::RateLimitPolicy;
use outrider_api::manifest::{Cause, Located, Object, Problem};
use outrider_api::model::traffic::InboundLimits;

use super::endpoints::Endpoints;
use super::objects::{Objects, oldest_first};
use super::policies::{check_port_list, workloads};
use super::selection::{self, Selection};
use super::{Targets, WorkloadName};

/// Of each workload that has some.
pub(super) type WorkloadLimits = BTreeMap<WorkloadName, InboundLimits>;

pub(super) fn resolve(
    objects: &Objects<'_>,
    selection: &Selection<'_>,
    about: &mut Targets,
    problems: &mut Vec<Problem>,
) -> WorkloadLimits {
    let mut limits = WorkloadLimits::new();
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
        about.insert(
            (
                "RateLimitPolicy",
                metadata.namespace.clone(),
                metadata.name.clone(),
            ),
            targets.clone(),
        );
        for workload in targets {
            let sum = limits.entry(workload.clone()).or_default();
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
    }
    limits
}

/// The policies of a workload, of a mesh that is good.
pub(super) fn policies_of<'o>(
    objects: &'o [Object],
    workload: &WorkloadName,
) -> Vec<&'o Located<RateLimitPolicy>> {
    let objects = Objects::sort(objects, &mut Vec::new());
    let selection = selection::select(&objects, &Endpoints::default(), &mut Vec::new());
    let is_target = |policy: &&&'o Located<RateLimitPolicy>| {
        let namespace = &policy.metadata.namespace;
        let mut targets = policy.spec.target_refs.iter();
        targets.any(|target| {
            workloads(namespace, target, &objects, &selection)
                .is_ok_and(|found| found.contains(workload))
        })
    };
    objects.limits.values().filter(is_target).copied().collect()
}
