//! A rule's timeouts beside those of the Services that it is for: what is good alone may not be
//! together.

use std::collections::BTreeSet;

use outrider_api::duration;
use outrider_api::manifest::{Object, Problem};
use outrider_api::model::traffic::Timeouts;
use outrider_api::model::{HttpRule, Routes, Timeout};

use super::super::explain::rule_field;
use super::super::traffic::ServiceTraffic;
use super::ServiceRoutes;

/// Warns where an attempt may take longer than the whole request, and so is never cut.
pub(in super::super) fn check(
    objects: &[Object],
    routes: &ServiceRoutes,
    traffic: &ServiceTraffic,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeSet::new();
    for (service, groups) in routes {
        let settings = traffic.of(Some(service));
        for group in groups.iter() {
            let Routes::Http(http) = &group.routes else {
                continue;
            };
            for rule in &http.rules {
                if seen.insert((service, rule.origin.to_string()))
                    && let Some(message) = too_long(rule, &settings.timeouts)
                    && let Some((object, field)) = rule_field(objects, &rule.origin)
                {
                    let name = format!("Service {}/{}", service.namespace, service.name);
                    let message = format!("{message} (for {name})");
                    let problem = object.problem(format!("{field}.timeouts"), message);
                    problems.push(problem.as_warning());
                }
            }
        }
    }
}

/// One of the two is the Service's: of a rule that says both the longer attempt is an error already.
fn too_long(rule: &HttpRule, service: &Timeouts) -> Option<String> {
    let (own, own_attempt) = (rule.timeouts.request, rule.timeouts.backend_request);
    if own.is_some() == own_attempt.is_some() {
        return None;
    }
    let request = own.map_or(service.request, Timeout::duration)?;
    let attempt = own_attempt.map_or(service.backend_request, Timeout::duration)?;
    (attempt > request).then(|| {
        let [attempt, request] = [attempt, request].map(duration::format);
        format!(
            "lets an attempt (backendRequest) take {attempt} and the whole request {request}: no \
             attempt is cut before the request is"
        )
    })
}
