//! How callers treat each Service: TrafficPolicy over MeshConfig over the defaults.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use outrider_api::kinds;
use outrider_api::kinds::Traffic;
use outrider_api::manifest::{Cause, Located, Problem};
use outrider_api::model::traffic::{Algorithm, TrafficSettings};
use outrider_api::names::ServiceName;

use super::explain::leaves;
use super::objects::{Objects, oldest_first};
use super::policies::missing;

/// Of each Service, and of what is none.
#[derive(Debug)]
pub(super) struct ServiceTraffic {
    default: Arc<TrafficSettings>,
    services: BTreeMap<ServiceName, Arc<TrafficSettings>>,
}

impl ServiceTraffic {
    pub(super) fn of(&self, service: Option<&ServiceName>) -> &Arc<TrafficSettings> {
        let settings = service.and_then(|service| self.services.get(service));
        settings.unwrap_or(&self.default)
    }
}

pub(super) fn resolve(objects: &Objects, problems: &mut Vec<Problem>) -> ServiceTraffic {
    let everywhere = objects.config.as_ref().map(|config| &config.spec.traffic);
    let everywhere = everywhere.cloned().unwrap_or_default();
    let default = match everywhere.resolve() {
        Ok(settings) => settings,
        Err(wrong) => {
            let field = format!("spec.traffic.{}", wrong.field);
            problems.push(objects.config_problem(&field, wrong.message));
            TrafficSettings::default()
        }
    };
    if everywhere.health_check.port.is_some() {
        let message = "is of no Service, expected it in a TrafficPolicy".to_owned();
        problems.push(objects.config_problem("spec.traffic.healthCheck.port", message));
    }
    let default = Arc::new(default);
    let policies = by_service(objects, problems);
    let services = objects.services.keys().map(|service| {
        let settings = match policies.get(service) {
            None => Arc::clone(&default),
            Some(policy) => Arc::new(over(policy, &everywhere, service, objects, problems)),
        };
        (service.clone(), settings)
    });
    ServiceTraffic {
        services: services.collect(),
        default,
    }
}

/// The one policy of each Service that has one.
pub(super) fn by_service<'o>(
    objects: &'o Objects,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ServiceName, &'o Located<kinds::TrafficPolicy>> {
    let mut policies: BTreeMap<ServiceName, &Located<kinds::TrafficPolicy>> = BTreeMap::new();
    for policy in oldest_first(&objects.traffic, |policy| &policy.metadata) {
        let (namespace, name) = (&policy.metadata.namespace, &policy.metadata.name);
        for (index, target) in policy.spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{index}].name");
            let service = ServiceName {
                namespace: namespace.clone(),
                name: target.name.clone(),
            };
            if !objects.services.contains_key(&service) {
                let known = objects.services.keys();
                let names = known.map(|known| (&*known.namespace, &*known.name));
                let message = missing("Service", namespace, &target.name, names);
                let problem = policy.problem(field, message);
                problems.push(problem.because(Cause::TargetNotFound));
                continue;
            }
            let first = match policies.entry(service) {
                Entry::Vacant(place) => {
                    place.insert(policy);
                    continue;
                }
                Entry::Occupied(first) => &first.get().metadata.name,
            };
            let whose = if first == name {
                "this policy names it twice".to_owned()
            } else {
                format!("TrafficPolicy {namespace}/{first} is about it too")
            };
            let message = format!(
                "Service {namespace}/{} has two TrafficPolicies, expected one: {whose}",
                target.name
            );
            let problem = policy.problem(field, message);
            problems.push(problem.because(Cause::Conflicted));
        }
    }
    policies
}

fn over(
    policy: &Located<kinds::TrafficPolicy>,
    everywhere: &Traffic,
    service: &ServiceName,
    objects: &Objects,
    problems: &mut Vec<Problem>,
) -> TrafficSettings {
    let settings = match policy.spec.traffic.or(everywhere).resolve() {
        Ok(settings) => settings,
        Err(wrong) => {
            let mut written = leaves(&policy.spec.traffic).into_iter();
            let message = if written.any(|(field, _)| field == wrong.field) {
                wrong.message
            } else {
                format!("by the MeshConfig {}", wrong.message)
            };
            problems.push(policy.problem(format!("spec.{}", wrong.field), message));
            return TrafficSettings::default();
        }
    };
    warn_of_unused(policy, &settings, problems);
    let ports = objects.ports_of(service).unwrap_or_default();
    let check = settings.health_check.as_ref();
    if let Some(port) = check.and_then(|check| check.port)
        && !ports.contains(&port)
    {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let message = format!(
            "Service {}/{} has no port {port}, expected one of {}",
            service.namespace,
            service.name,
            ports.join(", ")
        );
        // The Service may get it yet; nothing is asked until then.
        let problem = policy.problem("spec.healthCheck.port", message);
        problems.push(problem.because(Cause::NoEffect));
    }
    settings
}

/// What is written and has no effect without something else that is not.
fn warn_of_unused(
    policy: &Located<kinds::TrafficPolicy>,
    settings: &TrafficSettings,
    problems: &mut Vec<Problem>,
) {
    let traffic = &policy.spec.traffic;
    let mut written = leaves(traffic).into_iter();
    let checks = written.any(|(field, _)| field.starts_with("healthCheck."));
    let mut warn = |field: &str, message: &str| {
        problems.push(policy.problem(field, message).as_warning());
    };
    if settings.health_check.is_none() && checks {
        let message = "is not looked at: without \"path\" nothing is asked";
        warn("spec.healthCheck", message);
    }
    let hashes = matches!(settings.balancing.algorithm, Algorithm::ConsistentHash(_));
    if !hashes && traffic.load_balancing.hash_on.is_some() {
        let message = "is not looked at: \"algorithm\" is not ConsistentHash";
        warn("spec.loadBalancing.hashOn", message);
    }
}
