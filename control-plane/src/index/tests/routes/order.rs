//! Which match comes first.

use super::*;

/// The paths in order of precedence, with what else is matched.
fn order(routes: &HttpRoutes) -> Vec<String> {
    let text = |one: &RouteMatch| {
        let path = match &one.path {
            PathMatch::Exact(path) => format!("={path}"),
            PathMatch::Prefix(path) => format!("{path}/*"),
            PathMatch::Regex(pattern) => format!("~{pattern}"),
        };
        let method = one.method.as_deref().unwrap_or("-");
        format!(
            "{path} {method} h{} q{}",
            one.headers.len(),
            one.query.len()
        )
    };
    routes.matches.iter().map(text).collect()
}

#[test]
fn matches_come_in_order_of_precedence() {
    let mesh = mesh(&[http(
        "r",
        "[{matches: [\
         {path: {type: RegularExpression, value: '/a'}}, \
         {path: {type: RegularExpression, value: '/a[a-z]*'}}, \
         {}, \
         {path: {value: /long/prefix/}}, \
         {path: {value: /long}, queryParams: [{name: q, value: x}]}, \
         {path: {value: /long}, headers: [{name: X-A, value: x}]}, \
         {path: {value: /long}, method: GET}, \
         {path: {type: Exact, value: /x}}\
         ], backendRefs: [{name: b, port: 80}]}]",
    )]);
    let expected = [
        "=/x - h0 q0",
        "/long/prefix/* - h0 q0",
        "/long/* GET h0 q0",
        "/long/* - h1 q0",
        "/long/* - h0 q1",
        "/* - h0 q0",
        "~/a[a-z]* - h0 q0",
        "~/a - h0 q0",
    ];
    assert_eq!(order(http_routes(&groups(&mesh)[0])), expected);
}

#[test]
fn of_equal_matches_the_oldest_route_comes_first() {
    let rules = format!("[{{name: first, {TO_B}}}, {{{TO_B}}}]");
    let at = |name: &str, created: &str| {
        let created = format!("{{name: {name}, creationTimestamp: '{created}', namespace");
        http(name, &rules).replace(&format!("{{name: {name}, namespace"), &created)
    };
    let routes = [
        http("b", &rules),
        at("z", "2026-02-01T00:00:00Z"),
        http("a", &rules),
        at("y", "2026-01-01T00:00:00Z"),
    ];
    let expected = [
        "HTTPRoute shop/y rule first",
        "HTTPRoute shop/y rule 1",
        "HTTPRoute shop/z rule first",
        "HTTPRoute shop/z rule 1",
        "HTTPRoute shop/a rule first",
        "HTTPRoute shop/a rule 1",
        "HTTPRoute shop/b rule first",
        "HTTPRoute shop/b rule 1",
    ];
    let mesh = mesh(&routes);
    let routes = http_routes(&groups(&mesh)[0]);
    let got: Vec<String> = routes
        .matches
        .iter()
        .map(|one| routes.rules[one.rule].origin.to_string())
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn grpc_methods_are_paths() {
    let mesh = mesh(&[route(
        "GRPCRoute",
        "r",
        "shop",
        "name: a, port: 80",
        "[{matches: [\
         {}, \
         {method: {method: Charge}}, \
         {method: {service: shop.B}}, \
         {method: {service: shop.B}, headers: [{name: x, value: y}]}, \
         {method: {service: shop.B, method: Charge}}, \
         {method: {type: RegularExpression, service: 'shop\\..+|x', method: Refund}}\
         ], backendRefs: [{name: b, port: 80}]}]",
    )]);
    let routes = http_routes(&groups(&mesh)[0]);
    let expected = [
        r"~/(?:shop\..+|x)/(?:Refund) - h0 q0",
        "=/shop.B/Charge - h0 q0",
        "/shop.B/* - h1 q0",
        "/shop.B/* - h0 q0",
        "~/[^/]+/Charge - h0 q0",
        "/* - h0 q0",
    ];
    assert_eq!(order(routes), expected);
    let PathMatch::Regex(pattern) = &routes.matches[0].path else {
        panic!("{routes:?}");
    };
    assert!(pattern.is_match("/shop.A/Refund") && pattern.is_match("/x/Refund"));
    assert!(!pattern.is_match("/x"));
}
