//! Among many matches the first that fits alone is found, and what its rule makes of the request is
//! a URI of the same host.
#![no_main]

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use outrider_api::model::{Filter, HttpRoutes};
use outrider_api::proto;
use outrider_api::routing::{RedirectedRequest, RouteHit, RouteRequest, Router};
use prost::Message;

type Input<'i> = (&'i [u8], &'i str, &'i str, Vec<(&'i [u8], &'i [u8])>);

/// The first match that fits, each asked alone.
fn first(routes: &HttpRoutes, request: &RouteRequest<'_>) -> Option<usize> {
    routes.matches.iter().position(|found| {
        let alone = HttpRoutes { matches: vec![found.clone()], rules: Vec::new() };
        Router::new(&alone).route(request).is_some()
    })
}

fn apply(filter: &Filter, path_and_query: &str, hit: RouteHit) {
    match filter {
        Filter::Redirect(redirect) => {
            let request = RedirectedRequest {
                scheme: "http",
                authority: "billing:8080",
                port: 8080,
                path_and_query,
                prefix: hit.prefix,
            };
            let Ok(location) = redirect.location(&request) else { return };
            let uri: Uri = location.to_str().expect("text").parse().expect("a URI");
            let host = redirect.hostname.as_deref().unwrap_or("billing");
            assert_eq!(uri.host(), Some(host));
        }
        Filter::Rewrite(rewrite) => {
            let Ok(target) = path_and_query.parse::<PathAndQuery>() else { return };
            let Ok((_, rewritten)) = rewrite.apply(&target, hit.prefix) else { return };
            assert_eq!(rewritten.query(), target.query());
        }
        _ => {}
    }
}

fuzz_target!(|input: Input<'_>| {
    let (wire, method, path_and_query, fields) = input;
    let Ok(wire) = proto::HttpRoutes::decode(wire) else { return };
    let Ok(routes) = HttpRoutes::try_from(wire) else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let request = RouteRequest { method, path_and_query, headers: &headers };
    let hit = Router::new(&routes).route(&request);
    assert_eq!(hit.map(|hit| hit.matched), first(&routes, &request));
    let Some(hit) = hit else { return };
    assert_eq!(hit.rule, routes.matches[hit.matched].rule);
    for filter in &routes.rules[hit.rule].filters {
        apply(filter, path_and_query, hit);
    }
});
