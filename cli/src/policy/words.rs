//! Routes in words, for people.

use http::{HeaderName, HeaderValue};
use outrider_api::model::{
    Backend, Filter, HeaderEdit, Mirror, PathEdit, PathMatch, Redirect, Rewrite, RouteMatch,
    Target, ValueMatch,
};

/// What a match fits.
pub(super) fn fits(one: &RouteMatch) -> String {
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

/// Where a share of the requests goes.
pub(super) fn backend(backend: &Backend) -> String {
    let weight = backend.weight;
    let filters = backend.filters.iter().map(filter);
    let filters: String = filters.map(|filter| format!(", {filter}")).collect();
    match &backend.target {
        Target::Service { .. } => format!("{} weight {weight}{filters}", target(&backend.target)),
        Target::Invalid(reason) => format!("500 weight {weight} ({reason})"),
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Service { service, port } => {
            format!("{}/{}:{port}", service.namespace, service.name)
        }
        Target::Invalid(reason) => format!("nowhere ({reason})"),
    }
}

/// What a filter does.
pub(super) fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(edit) => format!("request headers: {}", header_edit(edit)),
        Filter::ResponseHeaders(edit) => format!("response headers: {}", header_edit(edit)),
        Filter::Redirect(to) => redirect(to),
        Filter::Rewrite(Rewrite { hostname, path }) => {
            let host = hostname.as_ref().map(|host| format!(" host {host}"));
            let path = path.as_ref().map(path_edit);
            format!(
                "rewrites to{}{}",
                host.unwrap_or_default(),
                path.unwrap_or_default()
            )
        }
        Filter::Mirror(Mirror {
            backend,
            numerator,
            denominator,
        }) => format!(
            "mirrors {numerator} of {denominator} to {}",
            target(backend)
        ),
        Filter::Cors(cors) => format!("CORS for origins {}", cors.allow_origins.join(", ")),
        Filter::Unsupported(what) => format!("answers 500: {what}"),
    }
}

fn redirect(to: &Redirect) -> String {
    let scheme = to.scheme.as_ref().map(|scheme| format!(" scheme {scheme}"));
    let host = to.hostname.as_ref().map(|host| format!(" host {host}"));
    let port = to.port.map(|port| format!(" port {port}"));
    let path = to.path.as_ref().map(path_edit);
    let parts: String = [scheme, host, port, path].into_iter().flatten().collect();
    format!("redirects with {} to{parts}", to.status.as_u16())
}

fn path_edit(edit: &PathEdit) -> String {
    match edit {
        PathEdit::Full(path) => format!(" path {path}"),
        PathEdit::Prefix(prefix) => format!(" prefix {prefix:?}"),
    }
}

fn header_edit(edit: &HeaderEdit) -> String {
    let fields = |what: &str, fields: &[(HeaderName, HeaderValue)]| {
        let fields = fields.iter();
        let texts = fields.map(|(name, value)| format!("{what} {name}={value:?}"));
        texts.collect::<Vec<_>>()
    };
    let removed = edit.remove.iter().map(|name| format!("remove {name}"));
    let mut parts = fields("set", &edit.set);
    parts.extend(fields("add", &edit.add));
    parts.extend(removed);
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use outrider_api::names::ServiceName;

    use super::*;

    #[test]
    fn filters() {
        let b = Target::Service {
            service: ServiceName::new("shop", "b").unwrap(),
            port: 80,
        };
        let name = HeaderName::from_static;
        let edit = HeaderEdit {
            set: vec![(name("x-a"), HeaderValue::from_static("1"))],
            add: Vec::new(),
            remove: vec![name("x-b")],
        };
        let table = [
            (
                Filter::RequestHeaders(edit),
                "request headers: set x-a=\"1\", remove x-b",
            ),
            (
                Filter::Redirect(Redirect {
                    scheme: Some("https".to_owned()),
                    hostname: None,
                    port: Some(8443),
                    path: Some(PathEdit::Full("/new".to_owned())),
                    status: StatusCode::FOUND,
                }),
                "redirects with 302 to scheme https port 8443 path /new",
            ),
            (
                Filter::Rewrite(Rewrite {
                    hostname: Some("a.example".to_owned()),
                    path: Some(PathEdit::Prefix(String::new())),
                }),
                "rewrites to host a.example prefix \"\"",
            ),
            (
                Filter::Mirror(Mirror {
                    backend: b,
                    numerator: 1,
                    denominator: 1000,
                }),
                "mirrors 1 of 1000 to shop/b:80",
            ),
        ];
        for (given, expected) in table {
            assert_eq!(filter(&given), expected);
        }
    }
}
