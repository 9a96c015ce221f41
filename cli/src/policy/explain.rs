//! `outrider explain`: what holds for calls of one caller to one Service, and who said so.

use std::process::ExitCode;

use outrider_api::manifest::{Location, Object};
use outrider_api::model::{
    Backend, HttpRoutes, PathMatch, RouteGroup, RouteMatch, Routes, Target, ValueMatch,
};
use outrider_certs::spiffe::SpiffeId;
use outrider_control_plane::index::Mesh;
use outrider_control_plane::index::explain::{self, Setting};
use serde::Serialize;

use super::load_objects;
use super::question::{Question, QuestionError, identity, service_port, whom};
use super::test::{Answer, answers};
use crate::UNUSABLE;
use crate::args::TestArgs;
use crate::output::{self, Format, Table};

/// Everything that is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    service: String,
    port: u16,
    from: Option<String>,
    call: String,
    /// Empty: no Workload is behind the Service.
    authorization: Vec<Answer>,
    /// `None`: there are none, every request goes to the Service's own endpoints.
    routes: Option<RouteList>,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteList {
    /// The namespace whose consumer routes these are; without it, the producer's.
    consumer: Option<String>,
    /// In order of precedence: the first that fits wins.
    matches: Vec<Route>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    /// For people.
    fits: String,
    rule: Option<String>,
    at: Option<Location>,
    backends: Vec<String>,
    /// Instead of the Service's.
    settings: Vec<Setting>,
}

pub(crate) fn run(args: &TestArgs) -> ExitCode {
    let (objects, mesh) = match load_objects(&args.directory) {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.iter().for_each(output::note);
            return ExitCode::from(UNUSABLE);
        }
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
        from: from.as_ref().map(ToString::to_string),
        call: question.as_ref().map(Question::what).unwrap_or_default(),
        authorization: question
            .as_ref()
            .map(|question| answers(mesh, question))
            .unwrap_or_default(),
        routes: group.map(|group| route_list(objects, group)),
        settings: explain::settings(objects, destination),
    })
}

fn route_list(objects: &[Object], group: &RouteGroup) -> RouteList {
    let matches = match &group.routes {
        Routes::Http(routes) => {
            let matches = routes.matches.iter();
            matches.map(|one| route(objects, routes, one)).collect()
        }
        Routes::Tcp(backends) => vec![Route {
            fits: "every opaque connection".to_owned(),
            rule: None,
            at: None,
            backends: backends.iter().map(backend).collect(),
            settings: Vec::new(),
        }],
    };
    RouteList {
        consumer: group.consumer.clone(),
        matches,
    }
}

fn route(objects: &[Object], routes: &HttpRoutes, one: &RouteMatch) -> Route {
    let rule = routes.rules.get(one.rule);
    Route {
        fits: fits(one),
        rule: rule.map(|rule| rule.origin.to_string()),
        at: rule.and_then(|rule| explain::rule_location(objects, &rule.origin)),
        backends: rule.map_or_else(Vec::new, |rule| rule.backends.iter().map(backend).collect()),
        settings: rule.map_or_else(Vec::new, |rule| explain::rule_settings(objects, rule)),
    }
}

fn fits(one: &RouteMatch) -> String {
    let method = one.method.as_deref().unwrap_or("any method");
    let path = match &one.path {
        PathMatch::Exact(path) => format!("path {path}"),
        PathMatch::Prefix(path) if path.is_empty() => "any path".to_owned(),
        PathMatch::Prefix(path) => format!("paths below {path}"),
        PathMatch::Regex(pattern) => format!("paths like {pattern}"),
    };
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("is {text:?}"),
        ValueMatch::Regex(pattern) => format!("is like {pattern}"),
    };
    let headers = one
        .headers
        .iter()
        .map(|header| format!(", header {} {}", header.name, value(&header.value)));
    let query = one
        .query
        .iter()
        .map(|query| format!(", query {} {}", query.name, value(&query.value)));
    let conditions: String = headers.chain(query).collect();
    format!("{method}, {path}{conditions}")
}

fn backend(backend: &Backend) -> String {
    let weight = backend.weight;
    match &backend.target {
        Target::Service { service, port } => {
            let (namespace, name) = (&service.namespace, &service.name);
            format!("{namespace}/{name}:{port} weight {weight}")
        }
        Target::Invalid(reason) => format!("500 weight {weight} ({reason})"),
    }
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
    output::line(format_args!("\nAuthorization, {call}:"));
    if explanation.authorization.is_empty() {
        output::line("  no Workload is selected by this Service");
    }
    for answer in &explanation.authorization {
        output::line(format_args!("  {answer}"));
    }
    print_routes(explanation.routes.as_ref());
    output::line("\nSettings:");
    let mut table = Table::new(["FIELD", "VALUE", "FROM"]);
    for setting in &explanation.settings {
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
        output::line(format_args!("  {}. {}", index + 1, route.fits));
        let at = route
            .at
            .as_ref()
            .map(|at| format!(" ({}:{})", at.file.display(), at.line));
        let rule = route.rule.as_deref().unwrap_or("TCPRoute");
        output::line(format_args!("     {rule}{}", at.unwrap_or_default()));
        for backend in &route.backends {
            output::line(format_args!("     to {backend}"));
        }
        for setting in &route.settings {
            output::line(format_args!("     {} {}", setting.field, setting.value));
        }
    }
}
