//! Where requests go: the Services that exist, and the answer of those that do not.

use outrider_api::kinds::gateway::httproutes::{
    HttpRouteRulesBackendRefs, HttpRouteRulesFiltersRequestMirrorBackendRef as Reference,
};
use outrider_api::model::{Backend, Target};
use outrider_api::names::ServiceName;

use super::super::objects::Objects;
use super::super::report::Report;
use super::filters::{self, Of};
use super::written::same;

/// At most this many backends of a rule (HTTPRoute's CRD).
const BACKENDS_MAX: usize = 16;
const WEIGHT_MAX: i32 = 1_000_000;
/// What follows from a target that is none.
const ANSWERS_500: &str = "its share of the requests answers 500";
pub(super) const NO_COPY: &str = "no copy is sent";

/// The backends of one route.
pub(super) struct Backends<'b> {
    pub(super) objects: &'b Objects,
    /// Of the route.
    pub(super) namespace: &'b str,
}

impl Backends<'_> {
    pub(super) fn read(
        &self,
        written: &[HttpRouteRulesBackendRefs],
        field: &str,
        report: &mut Report<'_>,
    ) -> Vec<Backend> {
        let field = format!("{field}.backendRefs");
        report.at_most(&field, written.len(), BACKENDS_MAX);
        let read: Vec<Backend> = written
            .iter()
            .enumerate()
            .filter_map(|(index, backend)| self.one(backend, &format!("{field}[{index}]"), report))
            .collect();
        let all_read = read.len() == written.len();
        if all_read && !read.is_empty() && read.iter().all(|backend| backend.weight == 0) {
            let message = "has only weights of 0, expected at least one that is more";
            report.error(field, message);
        }
        read
    }

    fn one(
        &self,
        written: &HttpRouteRulesBackendRefs,
        field: &str,
        report: &mut Report<'_>,
    ) -> Option<Backend> {
        let weight = written.weight.unwrap_or(1);
        if !(0..=WEIGHT_MAX).contains(&weight) {
            let message = format!("is {weight}, expected 0 to {WEIGHT_MAX}");
            report.error(format!("{field}.weight"), message);
        }
        let filters = same(&written.filters).unwrap_or_default();
        let filters: Option<Vec<_>> = filters;
        let filters = filters.unwrap_or_default();
        let filters = filters::read(&filters, Of::Backend, field, self, report);
        let reference = same(written)?;
        Some(Backend {
            weight: u32::try_from(weight).ok()?,
            target: self.target(&reference, field, ANSWERS_500, report)?,
            filters,
        })
    }

    /// What does not exist is a warning that says what follows (Gateway API: `BackendNotFound`).
    pub(super) fn target(
        &self,
        reference: &Reference,
        field: &str,
        follows: &str,
        report: &mut Report<'_>,
    ) -> Option<Target> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let namespace = reference.namespace.as_deref().unwrap_or(self.namespace);
        let service = ServiceName {
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
        };
        let mut invalid = |at: &str, reason: String| {
            let message = format!("{reason}: {follows}");
            report.warning(format!("{field}.{at}"), message);
            Some(Target::Invalid(reason))
        };
        if (group, kind) != ("", "Service") {
            let reason = format!("group {group:?}, kind {kind:?} is no Service");
            return invalid("kind", reason);
        }
        let full = format!("Service {namespace}/{}", reference.name);
        let Some(ports) = self.objects.ports_of(&service) else {
            return invalid("name", format!("there is no {full}"));
        };
        let Some(port) = reference.port else {
            let message = format!("is missing, expected a port of {full}: {}", listed(&ports));
            report.error(format!("{field}.port"), message);
            return None;
        };
        let port = filters::port(port, &format!("{field}.port"), report)?;
        if !ports.contains(&port) {
            let mut invalid = |reason: String| {
                let message = format!("{reason}, expected one of {}: {follows}", listed(&ports));
                report.warning(format!("{field}.port"), message);
                Some(Target::Invalid(reason))
            };
            return invalid(format!("{full} has no port {port}"));
        }
        Some(Target::Service { service, port })
    }
}

pub(super) fn listed(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "none, since it has no port".to_owned();
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}
