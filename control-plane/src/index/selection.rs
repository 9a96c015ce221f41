//! Which workloads a Service selects, and which of their ports are behind its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use outrider_api::kinds::{self, TargetPort, Transport};
use outrider_api::manifest::{Cause, Located, Problem};
use outrider_api::names::ServiceName;

use super::WorkloadName;
use super::endpoints::Members;
use super::objects::Objects;

/// Both ways, in the order of names.
#[derive(Debug, Default)]
pub(super) struct Selection {
    workloads: HashMap<ServiceName, Vec<WorkloadName>>,
    services: HashMap<WorkloadName, Vec<ServiceName>>,
}

impl Selection {
    pub(super) fn workloads_of(&self, service: &ServiceName) -> &[WorkloadName] {
        self.workloads.get(service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn services_of(&self, workload: &WorkloadName) -> &[ServiceName] {
        self.services.get(workload).map_or(&[], Vec::as_slice)
    }
}

/// Selects, and checks the ports of every Service against the workloads that it selects.
pub(super) fn select(
    objects: &Objects,
    members: &Members,
    problems: &mut Vec<Problem>,
) -> Selection {
    let mut selection = Selection::default();
    let labelled = Labelled::new(objects);
    for (name, service) in objects.services.iter() {
        check_ports(service, problems);
        let selector = &service.spec.selector;
        let mut selected = Vec::new();
        // A Service without a selector selects nothing: its endpoints are somebody else's to say.
        let chosen = match selector.is_empty() {
            false => labelled.candidates(&name.namespace, selector),
            true => {
                let members = members.get(name).into_iter().flatten();
                members.filter_map(|member| labelled.find(member)).collect()
            }
        };
        let has_all =
            |(_, workload): &(_, &Located<kinds::Workload>)| has_labels(workload, selector);
        for (workload_name, workload) in chosen.into_iter().filter(has_all) {
            selected.push(workload_name.clone());
            check_targets(service, workload_name, workload, problems);
            // Whoever names an address of another namespace calls it, and has no say there.
            if workload_name.namespace != name.namespace {
                continue;
            }
            match selection.services.get_mut(workload_name) {
                Some(services) => services.push(name.clone()),
                None => {
                    let first = vec![name.clone()];
                    selection.services.insert(workload_name.clone(), first);
                }
            }
        }
        selection.workloads.insert(name.clone(), selected);
    }
    selection
}

type Candidates<'o> = Vec<(&'o WorkloadName, &'o Located<kinds::Workload>)>;

/// Workloads by one of their labels, so that a Service does not look at all of its namespace.
struct Labelled<'o> {
    objects: &'o Objects,
    /// By namespace, label and value; in the order of names.
    by_label: HashMap<(&'o str, &'o str, &'o str), Candidates<'o>>,
}

impl<'o> Labelled<'o> {
    fn new(objects: &'o Objects) -> Self {
        let mut by_label: HashMap<_, Candidates<'o>> = HashMap::new();
        for (name, workload) in objects.workloads.iter() {
            for (label, value) in &workload.metadata.labels {
                let key = (&*name.namespace, label.as_str(), value.as_str());
                by_label.entry(key).or_default().push((name, workload));
            }
        }
        Self { objects, by_label }
    }

    /// Those that have the rarest of these labels: among them are all that have every one.
    fn candidates(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Candidates<'o> {
        let lists = selector.iter().map(|(label, value)| {
            let key = (namespace, label.as_str(), value.as_str());
            self.by_label.get(&key)
        });
        let rarest = lists.min_by_key(|list| list.map_or(0, Vec::len));
        rarest.flatten().cloned().unwrap_or_default()
    }

    fn find(
        &self,
        name: &WorkloadName,
    ) -> Option<(&'o WorkloadName, &'o Located<kinds::Workload>)> {
        self.objects.workloads.get_key_value(name)
    }
}

/// Whether a workload has all of these labels.
pub(super) fn has_labels(workload: &kinds::Workload, selector: &BTreeMap<String, String>) -> bool {
    let labels = &workload.metadata.labels;
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// The ports that a mesh carries, with their places in the list.
pub(super) fn ports(
    service: &kinds::Service,
) -> impl Iterator<Item = (usize, &kinds::ServicePort)> {
    service
        .spec
        .ports
        .iter()
        .enumerate()
        .filter(|(_, port)| port.transport == Transport::Tcp)
}

/// The app's port behind a port of a Service; `None`: the workload has no port of that name.
pub(super) fn target_port(port: &kinds::ServicePort, workload: &kinds::Workload) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(target) => port_number(target, workload),
    }
}

/// A port of the app; `None`: the workload has no port of that name.
pub(super) fn port_number(port: &TargetPort, workload: &kinds::Workload) -> Option<u16> {
    match port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload
            .spec
            .ports
            .iter()
            .find(|known| known.name.as_ref() == Some(name))
            .map(|known| known.port),
    }
}

fn check_ports(service: &Located<kinds::Service>, problems: &mut Vec<Problem>) {
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (index, port) in ports(service) {
        if !numbers.insert(port.port) {
            problems.push(service.problem(
                format!("spec.ports[{index}].port"),
                format!("port {} is given twice, expected it once", port.port),
            ));
        }
        if let Some(name) = &port.name
            && !names.insert(name)
        {
            problems.push(service.problem(
                format!("spec.ports[{index}].name"),
                format!("the name {name:?} is given twice, expected it once"),
            ));
        }
    }
}

fn check_targets(
    service: &Located<kinds::Service>,
    name: &WorkloadName,
    workload: &kinds::Workload,
    problems: &mut Vec<Problem>,
) {
    for (index, port) in ports(service) {
        if let (Some(TargetPort::Name(target)), None) =
            (&port.target_port, target_port(port, workload))
        {
            let problem = service.problem(
                format!("spec.ports[{index}].targetPort"),
                format!(
                    "Workload {name}, which this Service selects, has no port named {target:?}, \
                     expected {}",
                    named_ports(workload)
                ),
            );
            problems.push(problem.because(Cause::NoEffect));
        }
    }
}

pub(super) fn named_ports(workload: &kinds::Workload) -> String {
    let names: Vec<&str> = workload
        .spec
        .ports
        .iter()
        .filter_map(|port| port.name.as_deref())
        .collect();
    if names.is_empty() {
        return "a number, since it names none of its ports".to_owned();
    }
    format!("a number or one of {}", names.join(", "))
}
