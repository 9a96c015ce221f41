//! From routes to the Services that they are about: who is bound to what, and in which order rules are
//! looked at (GEP-1294).

mod backends;
mod filters;
mod matches;
mod rules;
pub(super) mod timeouts;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_api::kinds::gateway::httproutes::HttpRouteParentRefs;
use outrider_api::manifest::{Cause, Problem};
use outrider_api::model::{HttpRoutes, Protocol, RouteGroup, Routes, TcpRule};
use outrider_api::names::ServiceName;

use self::backends::listed;
use self::rules::Read;
use self::written::{Kind, Route};
use super::assemble::declared_by_service;
use super::objects::Objects;
use super::report::Report;
use super::selection;

/// At most this many parents of a route (HTTPRoute's CRD).
const PARENTS_MAX: usize = 32;

/// The routes of each Service, producer's and consumers'.
pub(super) type ServiceRoutes = BTreeMap<ServiceName, Arc<Vec<RouteGroup>>>;

/// A route with its rules read.
struct Bound<'o> {
    route: Route<'o>,
    rules: Vec<Read>,
}

/// One `parentRefs[]` of a route that means a Service.
struct Attachment {
    /// Into the list of routes.
    route: usize,
    parent: usize,
    service: ServiceName,
    /// `None`: every port.
    port: Option<u16>,
}

/// Whose calls: `None`, a producer's routes, everyone's.
type Consumer = Option<String>;

pub(super) fn resolve(objects: &Objects, problems: &mut Vec<Problem>) -> ServiceRoutes {
    let mut bound = Vec::new();
    let mut attachments = Vec::new();
    for object in objects.routes.iter() {
        let Some(route) = Route::new(object) else {
            continue;
        };
        let mut report = Report::new(object, problems);
        let index = bound.len();
        attachments.extend(attach(&route, index, objects, &mut report));
        check(&route, &mut report);
        let rules = rules::read(&route, objects, &mut report);
        bound.push(Bound { route, rules });
    }
    let mut groups: BTreeMap<(&ServiceName, u16, Consumer), Vec<&Attachment>> = BTreeMap::new();
    for attachment in &attachments {
        let service = &attachment.service;
        let namespace = &bound[attachment.route].route.object.metadata().namespace;
        let consumer = (*namespace != service.namespace).then(|| namespace.clone());
        for port in objects.ports_of(service).unwrap_or_default() {
            if attachment.port.is_none_or(|only| only == port) {
                let group = (service, port, consumer.clone());
                groups.entry(group).or_default().push(attachment);
            }
        }
    }
    let mut routes: BTreeMap<&ServiceName, Vec<RouteGroup>> = BTreeMap::new();
    for ((service, port, consumer), mut candidates) in groups {
        // They are in the order of routes; one that names the Service and its port is there once.
        candidates.dedup_by_key(|candidate| candidate.route);
        let group = RouteGroup {
            consumer,
            port,
            routes: merge(&candidates, &bound, (service, port), objects, problems),
        };
        routes.entry(service).or_default().push(group);
    }
    let routes = routes.into_iter();
    routes
        .map(|(service, groups)| (service.clone(), Arc::new(groups)))
        .collect()
}

/// What a route says that has no meaning in a mesh.
fn check(route: &Route<'_>, report: &mut Report<'_>) {
    if route.has_hostnames {
        let message = "are not looked at in a mesh: a request is routed by the Service it goes to";
        report.warning("spec.hostnames", message);
    }
    if route.parents.is_empty() {
        let message = "is missing or empty: nothing follows from this route, expected a Service";
        report.warning("spec.parentRefs", message);
    }
    if route.kind == Kind::Tcp && route.rules.len() > 1 {
        let message = "is not looked at: of a TCPRoute's rules, the first decides";
        report.warning("spec.rules[1]", message);
    }
    if route.rules.is_empty() {
        report.warning("spec.rules", "is missing or empty: everything is refused");
    }
}

fn attach(
    route: &Route<'_>,
    index: usize,
    objects: &Objects,
    report: &mut Report<'_>,
) -> Vec<Attachment> {
    report.at_most("spec.parentRefs", route.parents.len(), PARENTS_MAX);
    let mut seen = BTreeSet::new();
    let mut attachments = Vec::new();
    for (parent, written) in route.parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{parent}]");
        let Some((service, port)) = service(route, written, &field, objects, report) else {
            continue;
        };
        if !seen.insert((service.clone(), port)) {
            report.error(&field, "is given twice, expected it once");
        }
        attachments.push(Attachment {
            route: index,
            parent,
            service,
            port,
        });
    }
    attachments
}

/// The Service that a parent means, and the port if it means one.
fn service(
    route: &Route<'_>,
    parent: &HttpRouteParentRefs,
    field: &str,
    objects: &Objects,
    report: &mut Report<'_>,
) -> Option<(ServiceName, Option<u16>)> {
    let group = parent.group.as_deref();
    let group = group.unwrap_or("gateway.networking.k8s.io");
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if (group, kind) != ("", "Service") {
        let message = format!(
            "is group {group:?}, kind {kind:?}, from which nothing follows in a mesh, expected \
             group \"\" and kind Service"
        );
        report.warning(field, message);
        return None;
    }
    let own = &route.object.metadata().namespace;
    let service = ServiceName {
        namespace: parent.namespace.as_ref().unwrap_or(own).clone(),
        name: parent.name.clone(),
    };
    let name = format!("Service {}/{}", service.namespace, service.name);
    let Some(ports) = objects.ports_of(&service) else {
        let message = format!("there is no {name}, expected one that is in these files");
        report.missing(format!("{field}.name"), message);
        return None;
    };
    let by_number = match parent.port {
        None => None,
        Some(port) => {
            let port = filters::port(port, &format!("{field}.port"), report)?;
            if !ports.contains(&port) {
                let message = format!("{name} has no port {port}, expected {}", listed(&ports));
                report.missing(format!("{field}.port"), message);
                return None;
            }
            Some(port)
        }
    };
    let Some(section) = parent.section_name.as_deref() else {
        return Some((service, by_number));
    };
    let kind = objects.services.get(&service)?;
    let named = selection::ports(kind).find(|(_, port)| port.name.as_deref() == Some(section));
    let by_name = named.map(|(_, port)| port.port);
    if by_name.is_none() || by_number.is_some_and(|number| Some(number) != by_name) {
        let message = format!("{name} has no such port named {section:?}");
        report.missing(format!("{field}.sectionName"), message);
        return None;
    }
    Some((service, by_name))
}

/// The routes of one port: those of the kind that wins, or none.
fn merge(
    candidates: &[&Attachment],
    bound: &[Bound<'_>],
    (service, port): (&ServiceName, u16),
    objects: &Objects,
    problems: &mut Vec<Problem>,
) -> Routes {
    let of = |attachment: &Attachment| &bound[attachment.route];
    let mut candidates = candidates.to_vec();
    candidates.sort_by_key(|attachment| {
        let route = &of(attachment).route;
        (route.kind, route.age())
    });
    let Some(&first) = candidates.first() else {
        return Routes::Http(HttpRoutes::default());
    };
    let winner = &of(first).route;
    // Of opaque connections nothing is known that several routes could share them by.
    let wins = |attachment: &&Attachment| match winner.kind {
        Kind::Tcp => attachment.route == first.route,
        kind => of(attachment).route.kind == kind,
    };
    let (winners, losers): (Vec<_>, Vec<_>) = candidates.iter().copied().partition(wins);
    for loser in losers {
        let object = of(loser).route.object;
        let message = format!(
            "is not looked at for port {port} of Service {}/{}, which {} {} has",
            service.namespace,
            service.name,
            winner.object.kind(),
            winner.name()
        );
        let problem = object.problem(format!("spec.parentRefs[{}]", loser.parent), message);
        problems.push(problem.because(Cause::Conflicted).as_warning());
    }
    if let Some(why) = unfit(winner.kind, declared(objects, service, port)) {
        // One that names no port is meant for the others.
        for winner in winners.iter().filter(|winner| winner.port.is_some()) {
            let mut report = Report::new(of(winner).route.object, problems);
            let message = format!("has no effect on port {port}: {why}");
            report.warning(format!("spec.parentRefs[{}]", winner.parent), message);
        }
    }
    if winner.kind == Kind::Tcp {
        let rule = of(first).rules.first().map(|read| &read.rule);
        return Routes::Tcp(TcpRule {
            // It has none where nothing is written: what is said of that is that of its first.
            origin: rule.map_or_else(
                || rules::origin(winner, None, 0),
                |rule| rule.origin.clone(),
            ),
            backends: rule.map_or_else(Vec::new, |rule| rule.backends.clone()),
        });
    }
    Routes::Http(merged(winners.into_iter().map(of)))
}

fn declared(objects: &Objects, service: &ServiceName, number: u16) -> Protocol {
    let service = objects.services.get(service);
    let port = service.and_then(|service| {
        let mut ports = selection::ports(service).map(|(_, port)| port);
        ports.find(|port| port.port == number)
    });
    port.map_or(Protocol::Detect, declared_by_service)
}

/// Why routes of this kind do nothing where this is spoken.
fn unfit(kind: Kind, protocol: Protocol) -> Option<&'static str> {
    use Protocol::{Detect, Grpc, Http, Http1, Http2, Tcp, Tls};
    match (kind, protocol) {
        (Kind::Tcp, Http | Http1 | Http2 | Grpc) => {
            Some("it is declared as HTTP, of which a TCPRoute splits nothing")
        }
        (Kind::Http | Kind::Grpc, Tcp | Tls) => {
            Some("it is declared as opaque, so no request is seen there")
        }
        (_, Detect) | (Kind::Tcp, Tcp | Tls) | (Kind::Http | Kind::Grpc, _) => None,
    }
}

/// The rules of several routes, which come oldest first, with all their matches in order.
fn merged<'b>(routes: impl Iterator<Item = &'b Bound<'b>>) -> HttpRoutes {
    let mut rules = Vec::new();
    let mut matches = Vec::new();
    for Bound { rules: read, .. } in routes {
        for Read { rule, matches: own } in read {
            for (precedence, one) in own {
                let mut one = one.clone();
                one.rule = rules.len();
                matches.push((precedence.clone(), one));
            }
            rules.push(rule.clone());
        }
    }
    // Stable: what is left equal stays in the order of age, rule and match.
    matches.sort_by(|(a, _), (b, _)| a.cmp(b));
    HttpRoutes {
        matches: matches.into_iter().map(|(_, one)| one).collect(),
        rules,
    }
}
