//! Filters of rules and of backends.

use http::{HeaderValue, StatusCode};
use outrider_api::kinds::gateway::httproutes::{
    HttpRouteRulesFilters, HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestHeaderModifier,
    HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersType as Type, HttpRouteRulesFiltersUrlRewrite,
};
use outrider_api::model::{Cors, Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite};
use outrider_api::names::check_subdomain;
use outrider_api::routing::is_editable;

use super::super::report::Report;
use super::backends::{Backends, NO_COPY};
use super::matches::{header_name, is_ignored, twice};
use super::written::same;

/// At most this many filters, and headers in one (HTTPRoute's CRD).
const FILTERS_MAX: usize = 16;
const HEADERS_MAX: usize = 16;
/// At most this many entries in a list of a CORS filter.
const CORS_MAX: usize = 64;
/// Seconds for which browsers keep what a preflight said, where nobody says otherwise (GEP-1767).
const CORS_MAX_AGE: u32 = 5;
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Where filters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Rule,
    Backend,
}

/// Each filter as the model has it, in the order in which they were written.
pub(super) fn read(
    filters: &[HttpRouteRulesFilters],
    of: Of,
    field: &str,
    backends: &Backends<'_>,
    report: &mut Report<'_>,
) -> Vec<Filter> {
    let field = format!("{field}.filters");
    report.at_most(&field, filters.len(), FILTERS_MAX);
    for (index, filter) in filters.iter().enumerate() {
        let is_same = |other: &HttpRouteRulesFilters| other.r#type == filter.r#type;
        if filter.r#type != Type::RequestMirror && filters[..index].iter().any(is_same) {
            let name = name(&filter.r#type);
            twice("filter", &name, &format!("{field}[{index}].type"), report);
        }
    }
    let read = filters.iter().enumerate().filter_map(|(index, filter)| {
        let field = format!("{field}[{index}]");
        one(filter, of, &field, backends, report)
    });
    read.collect()
}

fn name(kind: &Type) -> String {
    same(kind).unwrap_or_default()
}

/// The field that a type has beside it.
fn payload_of(kind: &Type) -> &'static str {
    match kind {
        Type::RequestHeaderModifier => "requestHeaderModifier",
        Type::ResponseHeaderModifier => "responseHeaderModifier",
        Type::RequestMirror => "requestMirror",
        Type::RequestRedirect => "requestRedirect",
        Type::UrlRewrite => "urlRewrite",
        Type::ExtensionRef => "extensionRef",
        Type::Cors => "cors",
        Type::ExternalAuth => "externalAuth",
    }
}

fn one(
    filter: &HttpRouteRulesFilters,
    of: Of,
    field: &str,
    backends: &Backends<'_>,
    report: &mut Report<'_>,
) -> Option<Filter> {
    let expected = payload_of(&filter.r#type);
    let given = [
        (
            "requestHeaderModifier",
            filter.request_header_modifier.is_some(),
        ),
        (
            "responseHeaderModifier",
            filter.response_header_modifier.is_some(),
        ),
        ("requestMirror", filter.request_mirror.is_some()),
        ("requestRedirect", filter.request_redirect.is_some()),
        ("urlRewrite", filter.url_rewrite.is_some()),
        ("extensionRef", filter.extension_ref.is_some()),
        ("cors", filter.cors.is_some()),
        ("externalAuth", filter.external_auth.is_some()),
    ];
    if given
        .iter()
        .any(|(payload, is)| *is != (*payload == expected))
    {
        let kind = name(&filter.r#type);
        let message = format!("expected exactly the field {expected:?} beside type {kind:?}");
        report.error(field, message);
        return None;
    }
    let is_edit = matches!(
        filter.r#type,
        Type::RequestHeaderModifier | Type::ResponseHeaderModifier
    );
    let unsupported = matches!(filter.r#type, Type::ExtensionRef | Type::ExternalAuth);
    if unsupported || (of == Of::Backend && !is_edit) {
        let place = if unsupported { "" } else { " of a backendRef" };
        let what = format!("filter {}{place} is not supported", name(&filter.r#type));
        let message = format!("{what}: what it is meant for answers 500, never without it");
        report.warning(format!("{field}.type"), message);
        return Some(Filter::Unsupported(what));
    }
    let field = format!("{field}.{expected}");
    if let Some(edit) = &filter.request_header_modifier {
        return Some(Filter::RequestHeaders(header_edit(edit, &field, report)));
    }
    if let Some(edit) = &filter.response_header_modifier {
        let edit = same(edit).unwrap_or_default();
        return Some(Filter::ResponseHeaders(header_edit(&edit, &field, report)));
    }
    if let Some(written) = &filter.request_redirect {
        return redirect(written, &field, report).map(Filter::Redirect);
    }
    if let Some(written) = &filter.url_rewrite {
        return rewrite(written, &field, report).map(Filter::Rewrite);
    }
    if let Some(written) = &filter.request_mirror {
        return mirror(written, &field, backends, report).map(Filter::Mirror);
    }
    filter
        .cors
        .as_ref()
        .and_then(|written| cors(written, &field, report))
        .map(Filter::Cors)
}

fn header_edit(
    written: &HttpRouteRulesFiltersRequestHeaderModifier,
    field: &str,
    report: &mut Report<'_>,
) -> HeaderEdit {
    let set = written.set.iter().flatten();
    let add = written.add.iter().flatten();
    let set: Vec<_> = set.map(|header| (&*header.name, &*header.value)).collect();
    let add: Vec<_> = add.map(|header| (&*header.name, &*header.value)).collect();
    let remove = written.remove.iter().flatten().enumerate();
    let remove = remove.filter_map(|(index, name)| {
        let field = format!("{field}.remove[{index}]");
        editable(name, &field, report)
    });
    HeaderEdit {
        remove: remove.collect(),
        set: headers(&set, &format!("{field}.set"), report),
        add: headers(&add, &format!("{field}.add"), report),
    }
}

fn headers(
    written: &[(&str, &str)],
    field: &str,
    report: &mut Report<'_>,
) -> Vec<(http::HeaderName, HeaderValue)> {
    report.at_most(field, written.len(), HEADERS_MAX);
    let mut read = Vec::with_capacity(written.len());
    for (index, (name, value)) in written.iter().enumerate() {
        let value = HeaderValue::try_from(*value);
        let value = value.map_err(|_| "is not the value of a header");
        let value = report.good(format!("{field}[{index}].value"), value);
        let field = format!("{field}[{index}].name");
        let before = written[..index].iter().map(|(other, _)| *other);
        if is_ignored(name, before, &field, report) {
            continue;
        }
        let name = editable(name, &field, report);
        read.extend(name.zip(value));
    }
    read
}

/// The name of a header that is an app's to edit.
fn editable(name: &str, field: &str, report: &mut Report<'_>) -> Option<http::HeaderName> {
    let name = header_name(name, field, report)?;
    if is_editable(&name) {
        return Some(name);
    }
    let message = format!(
        "header \"{name}\" is the connection's and not the app's, expected another (of the host, \
         urlRewrite.hostname)"
    );
    report.error(field, message);
    None
}

fn redirect(
    written: &HttpRouteRulesFiltersRequestRedirect,
    field: &str,
    report: &mut Report<'_>,
) -> Option<Redirect> {
    let path = match &written.path {
        None => None,
        Some(path) => Some(path_edit(&same(path)?, &format!("{field}.path"), report)?),
    };
    let code = written.status_code.unwrap_or(302);
    let code = u16::try_from(code)
        .ok()
        .filter(|code| REDIRECTS.contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    if status.is_none() {
        report.error(
            format!("{field}.statusCode"),
            format!(
                "is {}, expected 301, 302, 303, 307 or 308",
                written.status_code.unwrap_or_default()
            ),
        );
    }
    let port = match written.port {
        None => None,
        Some(port) => Some(self::port(port, &format!("{field}.port"), report)?),
    };
    Some(Redirect {
        scheme: written.scheme.as_ref().and_then(same),
        hostname: hostname(written.hostname.as_deref(), field, report),
        port,
        path,
        status: status?,
    })
}

pub(super) fn port(port: i32, field: &str, report: &mut Report<'_>) -> Option<u16> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Some(port),
        _ => {
            report.error(field, format!("{port} is not a port, expected 1 to 65535"));
            None
        }
    }
}

fn hostname(name: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<String> {
    let name = name?;
    let checked = check_subdomain(name).map_err(|error| format!("{name:?} {error}"));
    report.good(format!("{field}.hostname"), checked)?;
    Some(name.to_owned())
}

fn rewrite(
    written: &HttpRouteRulesFiltersUrlRewrite,
    field: &str,
    report: &mut Report<'_>,
) -> Option<Rewrite> {
    let path = match &written.path {
        None => None,
        Some(path) => Some(path_edit(&same(path)?, &format!("{field}.path"), report)?),
    };
    if path.is_none() && written.hostname.is_none() {
        report.error(field, "is empty, expected \"hostname\", \"path\" or both");
    }
    let hostname = hostname(written.hostname.as_deref(), field, report);
    Some(Rewrite { hostname, path })
}

/// The paths of redirects and rewrites are of one shape.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPath {
    r#type: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

fn path_edit(written: &WrittenPath, field: &str, report: &mut Report<'_>) -> Option<PathEdit> {
    let is_full = written.r#type == "ReplaceFullPath";
    let (payload, edit) = match (&written.replace_full_path, &written.replace_prefix_match) {
        (Some(path), None) if is_full => ("replaceFullPath", PathEdit::Full(path.clone())),
        (None, Some(path)) if !is_full => ("replacePrefixMatch", PathEdit::Prefix(path.clone())),
        _ => {
            let kind = &written.r#type;
            let payload = if is_full {
                "replaceFullPath"
            } else {
                "replacePrefixMatch"
            };
            let message = format!("expected exactly the field {payload:?} beside type {kind:?}");
            report.error(field, message);
            return None;
        }
    };
    report.good(format!("{field}.{payload}"), edit.check())?;
    Some(edit)
}

fn mirror(
    written: &HttpRouteRulesFiltersRequestMirror,
    field: &str,
    backends: &Backends<'_>,
    report: &mut Report<'_>,
) -> Option<Mirror> {
    let backend = same(&written.backend_ref)?;
    let backend = backends.target(&backend, &format!("{field}.backendRef"), NO_COPY, report)?;
    let (numerator, denominator, place) = match (written.percent, &written.fraction) {
        (None, None) => (100, 100, "percent"),
        (Some(percent), None) => (percent, 100, "percent"),
        (None, Some(fraction)) => {
            let denominator = fraction.denominator.unwrap_or(100);
            (fraction.numerator, denominator, "fraction")
        }
        (Some(_), Some(_)) => {
            report.error(field, "expected \"percent\" or \"fraction\", not both");
            return None;
        }
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if denominator > 0 && numerator <= denominator => {
            Some(Mirror {
                backend,
                numerator,
                denominator,
            })
        }
        _ => {
            report.error(
                format!("{field}.{place}"),
                format!("is {numerator} of {denominator}, expected a share from none to all"),
            );
            None
        }
    }
}

fn cors(written: &HttpRouteRulesFiltersCors, field: &str, report: &mut Report<'_>) -> Option<Cors> {
    let mut list = |name: &str, list: &Option<Vec<String>>, is_good: fn(&str) -> bool| {
        let list = list.clone().unwrap_or_default();
        report.at_most(&format!("{field}.{name}"), list.len(), CORS_MAX);
        for (index, entry) in list.iter().enumerate() {
            let field = format!("{field}.{name}[{index}]");
            if entry != "*" && !is_good(entry) {
                report.error(field, format!("{entry:?} is none, expected one or \"*\""));
            } else if list[..index].contains(entry) {
                twice("entry", entry, &field, report);
            }
        }
        list
    };
    let is_token = |text: &str| http::HeaderName::try_from(text).is_ok();
    let cors = Cors {
        allow_origins: list("allowOrigins", &written.allow_origins, Cors::is_origin),
        allow_methods: list("allowMethods", &written.allow_methods, is_token),
        allow_headers: list("allowHeaders", &written.allow_headers, is_token),
        expose_headers: list("exposeHeaders", &written.expose_headers, is_token),
        allow_credentials: written.allow_credentials.unwrap_or_default(),
        max_age: match written.max_age.map(u32::try_from) {
            None => CORS_MAX_AGE,
            Some(Ok(seconds)) if seconds > 0 => seconds,
            Some(_) => {
                let message = "is not a number of seconds, expected at least 1";
                report.error(format!("{field}.maxAge"), message);
                return None;
            }
        },
    };
    Some(cors)
}
