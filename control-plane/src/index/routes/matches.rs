//! What a rule matches, and which of two matches comes first (the Gateway API's precedence).

use std::cmp::Reverse;

use http::HeaderName;
use outrider_api::authorization::{GrpcMatch, PathMatch as Canonical, PathMatchKind};
use outrider_api::kinds::gateway::grpcroutes::{
    GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType,
};
use outrider_api::kinds::gateway::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParams,
    HttpRouteRulesMatchesQueryParamsType,
};
use outrider_api::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use outrider_api::routing::Pattern;

use super::super::report::Report;
use super::written::{Matches, same};

/// At most this many matches in a rule, and header or query matches in a match (HTTPRoute's CRD).
const MATCHES_MAX: usize = 64;
const CONDITIONS_MAX: usize = 16;

/// Smaller comes first. Of HTTPRoutes: exact path, longest prefix, regular expression; method;
/// headers; query. Of GRPCRoutes: characters of the service, of the method; headers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path: (u8, Reverse<usize>, Reverse<usize>),
    without_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

/// A match of the rule with this index; no matches: one that takes everything.
pub(super) fn read(
    matches: &Matches,
    rule: usize,
    field: &str,
    report: &mut Report<'_>,
) -> Vec<(Precedence, RouteMatch)> {
    let at = |index: usize| format!("{field}.matches[{index}]");
    let read: Vec<_> = match matches {
        Matches::Http(matches) => {
            report.at_most(&format!("{field}.matches"), matches.len(), MATCHES_MAX);
            let matches = matches.iter().enumerate();
            matches
                .filter_map(|(index, written)| http(written, rule, &at(index), report))
                .collect()
        }
        Matches::Grpc(matches) => {
            report.at_most(&format!("{field}.matches"), matches.len(), MATCHES_MAX);
            let matches = matches.iter().enumerate();
            matches
                .filter_map(|(index, written)| grpc(written, rule, &at(index), report))
                .collect()
        }
    };
    let none_written = match matches {
        Matches::Http(matches) => matches.is_empty(),
        Matches::Grpc(matches) => matches.is_empty(),
    };
    if none_written {
        return http(&HttpRouteRulesMatches::default(), rule, field, report)
            .into_iter()
            .collect();
    }
    read
}

fn http(
    written: &HttpRouteRulesMatches,
    rule: usize,
    field: &str,
    report: &mut Report<'_>,
) -> Option<(Precedence, RouteMatch)> {
    let path = path(written.path.as_ref(), &format!("{field}.path"), report);
    let headers = headers(
        written.headers.as_deref(),
        &format!("{field}.headers"),
        report,
    );
    let query = query(
        written.query_params.as_deref(),
        &format!("{field}.queryParams"),
        report,
    );
    let path = path?;
    let precedence = Precedence {
        path: match &path {
            PathMatch::Exact(_) => (0, Reverse(0), Reverse(0)),
            PathMatch::Prefix(prefix) => (1, Reverse(prefix.len()), Reverse(0)),
            PathMatch::Regex(pattern) => (2, Reverse(pattern.as_str().len()), Reverse(0)),
        },
        without_method: written.method.is_none(),
        headers: Reverse(headers.len()),
        query: Reverse(query.len()),
    };
    let method = written.method.as_ref().and_then(same);
    Some((
        precedence,
        RouteMatch {
            path,
            method,
            headers,
            query,
            rule,
        },
    ))
}

fn path(
    written: Option<&HttpRouteRulesMatchesPath>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<PathMatch> {
    let kind = written.and_then(|path| path.r#type.as_ref());
    let value = written.and_then(|path| path.value.as_deref());
    let value = value.unwrap_or("/");
    let field = format!("{field}.value");
    let canonical = |kind, report: &mut Report<'_>| {
        let path = report.good(&field, Canonical::new(kind, value))?;
        Some(path.as_str().to_owned())
    };
    match kind {
        Some(HttpRouteRulesMatchesPathType::Exact) => {
            canonical(PathMatchKind::Exact, report).map(PathMatch::Exact)
        }
        Some(HttpRouteRulesMatchesPathType::PathPrefix) | None => {
            let prefix = canonical(PathMatchKind::Prefix, report)?;
            let prefix = prefix.strip_suffix('/').unwrap_or(&prefix);
            Some(PathMatch::Prefix(prefix.to_owned()))
        }
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            report.good(&field, value.parse()).map(PathMatch::Regex)
        }
    }
}

fn headers(
    written: Option<&[HttpRouteRulesMatchesHeaders]>,
    field: &str,
    report: &mut Report<'_>,
) -> Vec<HeaderMatch> {
    let written = written.unwrap_or_default();
    report.at_most(field, written.len(), CONDITIONS_MAX);
    let mut matches: Vec<HeaderMatch> = Vec::with_capacity(written.len());
    for (index, header) in written.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(name) = header_name(&header.name, &format!("{field}.name"), report) else {
            continue;
        };
        let before = written[..index].iter().map(|other| &*other.name);
        if is_ignored(&header.name, before, &format!("{field}.name"), report) {
            continue;
        }
        let is_regex = matches!(
            header.r#type,
            Some(HttpRouteRulesMatchesHeadersType::RegularExpression)
        );
        let value = value(is_regex, &header.value, &format!("{field}.value"), report);
        matches.extend(value.map(|value| HeaderMatch { name, value }));
    }
    matches
}

fn query(
    written: Option<&[HttpRouteRulesMatchesQueryParams]>,
    field: &str,
    report: &mut Report<'_>,
) -> Vec<QueryMatch> {
    let written = written.unwrap_or_default();
    report.at_most(field, written.len(), CONDITIONS_MAX);
    let mut matches: Vec<QueryMatch> = Vec::with_capacity(written.len());
    for (index, parameter) in written.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = parameter.name.clone();
        if name.is_empty() {
            report.error(format!("{field}.name"), "is empty, expected a name");
        }
        if matches.iter().any(|other| other.name == name) {
            twice("query parameter", &name, &format!("{field}.name"), report);
        }
        let is_regex = matches!(
            parameter.r#type,
            Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression)
        );
        let value = value(
            is_regex,
            &parameter.value,
            &format!("{field}.value"),
            report,
        );
        matches.extend(value.map(|value| QueryMatch { name, value }));
    }
    matches
}

fn value(is_regex: bool, text: &str, field: &str, report: &mut Report<'_>) -> Option<ValueMatch> {
    if is_regex {
        return report.good(field, text.parse()).map(ValueMatch::Regex);
    }
    Some(ValueMatch::Exact(text.to_owned()))
}

/// The name of a header, in lower case.
pub(super) fn header_name(name: &str, field: &str, report: &mut Report<'_>) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(name);
    let parsed = parsed.map_err(|_| format!("{name:?} is not the name of a header"));
    report.good(field, parsed)
}

/// Of names that differ in case alone the Gateway API looks at the first; a name that is twice the
/// same it does not take.
pub(super) fn is_ignored<'n>(
    name: &str,
    mut before: impl Iterator<Item = &'n str>,
    field: &str,
    report: &mut Report<'_>,
) -> bool {
    let Some(first) = before.find(|other| other.eq_ignore_ascii_case(name)) else {
        return false;
    };
    if first == name {
        twice("header", name, field, report);
    } else {
        let message = format!("is not looked at: it is the same header as {first:?} before it");
        report.warning(field, message);
    }
    true
}

pub(super) fn twice(what: &str, name: &str, field: &str, report: &mut Report<'_>) {
    report.error(
        field,
        format!("{what} {name:?} is given twice, expected it once"),
    );
}

fn grpc(
    written: &GrpcRouteRulesMatches,
    rule: usize,
    field: &str,
    report: &mut Report<'_>,
) -> Option<(Precedence, RouteMatch)> {
    let headers: Vec<HttpRouteRulesMatchesHeaders> = written
        .headers
        .iter()
        .flatten()
        .map(|header| HttpRouteRulesMatchesHeaders {
            name: header.name.clone(),
            r#type: header.r#type.as_ref().map(|kind| match kind {
                GrpcRouteRulesMatchesHeadersType::Exact => HttpRouteRulesMatchesHeadersType::Exact,
                GrpcRouteRulesMatchesHeadersType::RegularExpression => {
                    HttpRouteRulesMatchesHeadersType::RegularExpression
                }
            }),
            value: header.value.clone(),
        })
        .collect();
    let headers = self::headers(Some(&headers), &format!("{field}.headers"), report);
    let method = written.method.as_ref();
    let path = match method {
        None => PathMatch::Prefix(String::new()),
        Some(method) => grpc_path(method, &format!("{field}.method"), report)?,
    };
    let length = |name: fn(&GrpcRouteRulesMatchesMethod) -> &Option<String>| {
        let name = method.and_then(|method| name(method).as_ref());
        Reverse(name.map_or(0, String::len))
    };
    let precedence = Precedence {
        path: (0, length(|name| &name.service), length(|name| &name.method)),
        without_method: true,
        headers: Reverse(headers.len()),
        query: Reverse(0),
    };
    Some((
        precedence,
        RouteMatch {
            path,
            method: None,
            headers,
            query: Vec::new(),
            rule,
        },
    ))
}

/// Any service, or any method.
const ANY_NAME: &str = "[^/]+";

/// `/SERVICE/METHOD` is the path of a gRPC request.
fn grpc_path(
    written: &GrpcRouteRulesMatchesMethod,
    field: &str,
    report: &mut Report<'_>,
) -> Option<PathMatch> {
    let (service, method) = (written.service.as_deref(), written.method.as_deref());
    if service.is_none() && method.is_none() {
        report.error(field, "is empty, expected \"service\", \"method\" or both");
        return None;
    }
    let (service_field, method_field) = (format!("{field}.service"), format!("{field}.method"));
    if matches!(
        written.r#type,
        Some(GrpcRouteRulesMatchesMethodType::RegularExpression)
    ) {
        // Each alone must be a pattern.
        let mut pattern = |text: Option<&str>, field: String| {
            let text = text.unwrap_or(ANY_NAME);
            let pattern: Pattern = report.good(field, text.parse())?;
            Some(pattern.as_str().to_owned())
        };
        let (service, method) = (
            pattern(service, service_field),
            pattern(method, method_field),
        );
        let whole = format!("/(?:{})/(?:{})", service?, method?);
        return report.good(field, whole.parse()).map(PathMatch::Regex);
    }
    match (service, method) {
        (Some(service), method) => {
            report.good(field, GrpcMatch::new(service, method))?;
            Some(match method {
                Some(method) => PathMatch::Exact(format!("/{service}/{method}")),
                None => PathMatch::Prefix(format!("/{service}")),
            })
        }
        (None, method) => {
            // Names of methods have no character that means something in a pattern.
            let any = report.good(method_field, GrpcMatch::new("any", method))?;
            let method = any.method().unwrap_or_default();
            let pattern = format!("/{ANY_NAME}/{method}").parse();
            report.good(field, pattern).map(PathMatch::Regex)
        }
    }
}
