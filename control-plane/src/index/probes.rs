//! Which ports the probes of a workload ask.

use outrider_api::kinds::{self, TargetPort};
use outrider_api::manifest::{Located, Problem};
use outrider_api::model::Probe;

use super::objects::Objects;
use super::selection::{self, Selection};
use super::{WorkloadName, assemble};

/// A probe lets somebody in without an identity, so it names a port that the app is known to have.
pub(super) fn check(objects: &Objects, selection: &Selection, problems: &mut Vec<Problem>) {
    for (name, workload) in objects.workloads.iter() {
        for (index, probe) in workload.spec.probes.iter().enumerate() {
            let declares = |port: &kinds::WorkloadPort| probe.port == TargetPort::Number(port.port);
            if workload.spec.ports.iter().any(declares) {
                continue;
            }
            if let Err(message) = check_port(name, workload, &probe.port, objects, selection) {
                let field = format!("spec.probes[{index}].{}.port", probe.field());
                problems.push(workload.problem(field, message));
            }
        }
    }
}

fn check_port(
    name: &WorkloadName,
    workload: &Located<kinds::Workload>,
    port: &TargetPort,
    objects: &Objects,
    selection: &Selection,
) -> Result<(), String> {
    let Some(number) = selection::port_number(port, workload) else {
        let known = selection::named_ports(workload);
        return Err(format!("is none of this Workload's, expected {known}"));
    };
    let known = assemble::app_port_numbers(name, objects, selection);
    if known.contains(&number) {
        return Ok(());
    }
    let known: Vec<String> = known.iter().map(u16::to_string).collect();
    let expected = match known.as_slice() {
        [] => "one of \"ports\", which it does not have".to_owned(),
        known => format!("one of {}", known.join(", ")),
    };
    Err(format!(
        "{number} is none of this Workload's, expected {expected}"
    ))
}

/// Once they are known to be right.
pub(super) fn models(workload: &kinds::Workload) -> Vec<Probe> {
    let probes = workload.spec.probes.iter().filter_map(|probe| {
        let port = selection::port_number(&probe.port, workload)?;
        let kind = probe.kind.clone();
        Some(Probe { port, kind })
    });
    probes.collect()
}
