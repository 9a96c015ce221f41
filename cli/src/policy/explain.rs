//! `outrider explain`: what holds for calls of one caller to one Service, and who said so.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use outrider_api::manifest::{Location, Object};
use outrider_api::model::traffic::RateLimit;
use outrider_api::model::{
    Backend, Destination, Filter, HttpRoutes, RouteGroup, RouteMatch, Routes, Target,
};
use outrider_api::names::ServiceName;
use outrider_api::routing::Router;
use outrider_certs::spiffe::SpiffeId;
use outrider_control_plane::index::Mesh;
use outrider_control_plane::index::explain::{self, Setting};
use serde::Serialize;

use super::asked;
use super::question::{Question, QuestionError, identity, service_port, whom};
use super::test::{Answer, answers};
use super::words;
use crate::UNUSABLE;
use crate::args::TestArgs;
use crate::output::{self, Format, Table};

/// Everything that is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    service: String,
    port: u16,
    /// Its cluster IPs; empty where it is headless.
    addresses: Vec<IpAddr>,
    from: Option<String>,
    call: String,
    /// Empty: no Workload is behind the Service.
    authorization: Vec<Answer>,
    /// `None`: there are none, every request goes to the Service's own endpoints.
    routes: Option<RouteList>,
    settings: Vec<Setting>,
    /// Of the other Services that the routes lead to: what holds for the share that they get.
    backends: Vec<BackendList>,
    /// What each Workload behind the Service takes of the caller; those without limits are left out.
    limits: Vec<LimitList>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendList {
    service: String,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LimitList {
    workload: String,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteList {
    /// The namespace whose consumer routes these are; without it, the producer's.
    consumer: Option<String>,
    /// In order of precedence: the first that fits wins.
    matches: Vec<Route>,
    /// Index of the one that the request in question would meet; `None`: none, or nothing was asked.
    met: Option<usize>,
    /// The request in question would meet none: it is answered with 404.
    refused: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    /// For people.
    fits: String,
    rule: Option<String>,
    at: Option<Location>,
    /// What becomes of a request on its way, in this order.
    filters: Vec<String>,
    /// Empty: nothing is sent on.
    backends: Vec<String>,
    /// Instead of the Service's.
    settings: Vec<Setting>,
}

pub(crate) async fn run(args: &TestArgs) -> ExitCode {
    let Some((objects, mesh)) = asked(args.directory.as_deref(), &args.cluster).await else {
        return ExitCode::from(UNUSABLE);
    };
    match explain(args, &objects, &mesh) {
        Ok(explanation) => {
            match args.output {
                Format::Text => print(&explanation),
                Format::Json => output::json(&explanation),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::note(format_args!("outrider: {error}"));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn explain(args: &TestArgs, objects: &[Object], mesh: &Mesh) -> Result<Explanation, QuestionError> {
    let (service, asked) = whom(&args.to)?;
    let Some(destination) = mesh.destination(&service) else {
        // Of a Workload there is no policy for callers; the error lists what there is.
        return Err(QuestionError::unknown_service(&args.to, mesh));
    };
    let port = service_port(&args.to, asked, destination)?;
    let question = match Question::new(args, mesh) {
        Ok(question) => Some(question),
        Err(QuestionError::ToNobody(_)) => None,
        Err(error) => return Err(error),
    };
    let trust_domain = &mesh.settings().trust_domain;
    let from = args.from.as_deref();
    let from = from.map(|from| identity(from, trust_domain)).transpose()?;
    let namespace = from.as_ref().map(SpiffeId::namespace);
    let group = explain::routes_for(destination, port, namespace);
    Ok(Explanation {
        service: format!("{}/{}", service.namespace, service.name),
        port,
        addresses: mesh.cluster_ips(&service).to_vec(),
        from: from.as_ref().map(ToString::to_string),
        call: question.as_ref().map(Question::what).unwrap_or_default(),
        authorization: question
            .as_ref()
            .map(|question| answers(mesh, question))
            .unwrap_or_default(),
        routes: group.map(|group| route_list(objects, group, question.as_ref())),
        settings: explain::settings(objects, destination),
        backends: group
            .map(|group| backends(objects, mesh, destination, group))
            .unwrap_or_default(),
        limits: question
            .as_ref()
            .map(|question| limits(objects, mesh, question))
            .unwrap_or_default(),
    })
}

/// Each Service once, in the order of their names.
fn backends(
    objects: &[Object],
    mesh: &Mesh,
    called: &Destination,
    group: &RouteGroup,
) -> Vec<BackendList> {
    let backends: Vec<&Backend> = match &group.routes {
        Routes::Http(routes) => {
            let rules = routes.rules.iter();
            rules.flat_map(|rule| &rule.backends).collect()
        }
        Routes::Tcp(rule) => rule.backends.iter().collect(),
    };
    let services = backends
        .into_iter()
        .filter_map(|backend| match &backend.target {
            Target::Service { service, .. } => Some(service),
            Target::Invalid(_) => None,
        });
    let others: BTreeSet<&ServiceName> = services
        .filter(|service| **service != called.service)
        .collect();
    let list = |service: &ServiceName| {
        let mut settings = explain::settings(objects, mesh.destination(service)?);
        settings.retain(|setting| explain::is_of_backend(&setting.field));
        Some(BackendList {
            service: format!("{}/{}", service.namespace, service.name),
            settings,
        })
    };
    others.into_iter().filter_map(list).collect()
}

fn limits(objects: &[Object], mesh: &Mesh, question: &Question) -> Vec<LimitList> {
    let lists = question.targets.iter().filter_map(|target| {
        let workload = mesh.workload(&target.namespace, &target.workload)?;
        let call = question.call(target);
        let holds = |rate: &RateLimit| {
            let of_port = rate.ports.is_empty() || rate.ports.contains(&target.port);
            let sources = rate.sources.as_ref();
            of_port
                && sources.is_none_or(|sources| sources.iter().any(|source| source.matches(&call)))
        };
        Some(LimitList {
            workload: format!("{}/{}", target.namespace, target.workload),
            settings: explain::limits(objects, workload, holds),
        })
    });
    lists.filter(|list| !list.settings.is_empty()).collect()
}

fn route_list(objects: &[Object], group: &RouteGroup, question: Option<&Question>) -> RouteList {
    let request = question.and_then(Question::route_request);
    let asked = match (&group.routes, request) {
        (Routes::Http(routes), Some(request)) => Some(Router::new(routes).route(&request)),
        _ => None,
    };
    let matches = match &group.routes {
        Routes::Http(routes) => {
            let matches = routes.matches.iter();
            matches.map(|one| route(objects, routes, one)).collect()
        }
        Routes::Tcp(rule) => vec![Route {
            fits: "every opaque connection".to_owned(),
            rule: Some(rule.origin.to_string()),
            at: explain::rule_location(objects, &rule.origin),
            filters: Vec::new(),
            backends: match rule.backends.as_slice() {
                [] => vec!["nowhere: it is refused (there is no backendRef)".to_owned()],
                backends => backends.iter().map(words::backend).collect(),
            },
            settings: Vec::new(),
        }],
    };
    RouteList {
        consumer: group.consumer.clone(),
        matches,
        met: asked.flatten().map(|hit| hit.matched),
        refused: asked == Some(None),
    }
}

fn route(objects: &[Object], routes: &HttpRoutes, one: &RouteMatch) -> Route {
    let rule = routes.rules.get(one.rule);
    Route {
        fits: words::fits(one),
        rule: rule.map(|rule| rule.origin.to_string()),
        at: rule.and_then(|rule| explain::rule_location(objects, &rule.origin)),
        filters: rule.map_or_else(Vec::new, |rule| {
            rule.filters.iter().map(words::filter).collect()
        }),
        backends: rule.map_or_else(Vec::new, |rule| sent_to(&rule.backends, &rule.filters)),
        settings: rule.map_or_else(Vec::new, |rule| explain::rule_settings(objects, rule)),
    }
}

/// The shares, or what is answered where there is none.
fn sent_to(backends: &[Backend], filters: &[Filter]) -> Vec<String> {
    let redirects = |filter: &Filter| matches!(filter, Filter::Redirect(_));
    if backends.is_empty() && !filters.iter().any(redirects) {
        return vec!["500 (there is no backendRef)".to_owned()];
    }
    backends.iter().map(words::backend).collect()
}

fn print(explanation: &Explanation) {
    let Explanation {
        service,
        port,
        from,
        call,
        ..
    } = explanation;
    let from = from.as_deref().unwrap_or("someone without an identity");
    output::line(format_args!("{from} to {service} port {port}"));
    match explanation.addresses.as_slice() {
        [] => output::line("Addresses: none"),
        addresses => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            output::line(format_args!("Addresses: {}", addresses.join(", ")));
        }
    }
    match call.as_str() {
        "" => output::line("\nAuthorization:"),
        call => output::line(format_args!("\nAuthorization, {call}:")),
    }
    if explanation.authorization.is_empty() {
        output::line("  no Workload is selected by this Service");
    }
    for answer in &explanation.authorization {
        output::line(format_args!("  {answer}"));
    }
    print_routes(explanation.routes.as_ref());
    output::line("\nSettings:");
    print_settings(&explanation.settings);
    for BackendList { service, settings } in &explanation.backends {
        output::line(format_args!("\nSettings of {service}, for its endpoints:"));
        print_settings(settings);
    }
    for LimitList { workload, settings } in &explanation.limits {
        output::line(format_args!("\nLimits of {workload}:"));
        print_settings(settings);
    }
}

fn print_settings(settings: &[Setting]) {
    let mut table = Table::new(["FIELD", "VALUE", "FROM"]);
    for setting in settings {
        table.row(row(setting));
    }
    output::line(table);
}

fn row(setting: &Setting) -> [String; 3] {
    let Setting {
        field,
        value,
        origin,
    } = setting;
    [field.clone(), value.clone(), origin.to_string()]
}

fn print_routes(routes: Option<&RouteList>) {
    let Some(routes) = routes else {
        output::line("\nRoutes: none, requests go to the Service's own endpoints");
        return;
    };
    match &routes.consumer {
        Some(namespace) => output::line(format_args!(
            "\nRoutes, for callers of the namespace {namespace}, the first that fits:"
        )),
        None => output::line("\nRoutes, the first that fits:"),
    }
    for (index, route) in routes.matches.iter().enumerate() {
        let met = match routes.met {
            Some(met) if met == index => "   <- this request",
            _ => "",
        };
        output::line(format_args!("  {}. {}{met}", index + 1, route.fits));
        let at = route
            .at
            .as_ref()
            .map(|at| format!(" ({}:{})", at.file.display(), at.line));
        let rule = route.rule.as_deref().unwrap_or_default();
        output::line(format_args!("     {rule}{}", at.unwrap_or_default()));
        for filter in &route.filters {
            output::line(format_args!("     {filter}"));
        }
        for backend in &route.backends {
            output::line(format_args!("     to {backend}"));
        }
        for setting in &route.settings {
            output::line(format_args!("     {} {}", setting.field, setting.value));
        }
    }
    if routes.refused {
        output::line("  This request fits none: 404, no_route");
    }
}
