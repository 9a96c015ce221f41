//! Routes: what holds for whom, in which order, and what the Gateway API answers.

use outrider_api::model::{
    Filter, HttpRoutes, PathEdit, PathMatch, RouteGroup, RouteMatch, Routes, Target, ValueMatch,
};

use super::*;

mod errors;
mod order;
mod settings;
mod warnings;

/// Two Services with two ports each, one in another namespace, and nobody behind them.
const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{name: web, port: 80}, {name: alt, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: c, namespace: other}, spec: {ports: [{port: 80}]}}
";

/// A route of `kind` with `rules`, a YAML list in one line, in line 8 of its text.
fn route(kind: &str, name: &str, namespace: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, {parent}}}]\n  rules: {rules}\n"
    )
}

fn http(name: &str, rules: &str) -> String {
    route("HTTPRoute", name, "shop", "name: a", rules)
}

fn mesh(routes: &[String]) -> Mesh {
    fold(&format!("{SERVICES}{}", routes.concat())).unwrap()
}

fn groups(mesh: &Mesh) -> &[RouteGroup] {
    &mesh.destination(&service("a")).unwrap().routes
}

fn http_routes(group: &RouteGroup) -> &HttpRoutes {
    match &group.routes {
        Routes::Http(routes) => routes,
        Routes::Tcp(_) => panic!("{group:?}"),
    }
}

/// The route names of each port and group of callers: `80: x`, `80 other: y`.
fn bound(mesh: &Mesh) -> Vec<String> {
    let groups = groups(mesh).iter().map(|group| {
        let consumer = group.consumer.as_ref();
        let consumer = consumer.map_or(String::new(), |namespace| format!(" {namespace}"));
        let names: Vec<&str> = match &group.routes {
            Routes::Http(routes) => routes.rules.iter().map(|rule| &*rule.origin.name).collect(),
            Routes::Tcp(_) => vec!["tcp"],
        };
        format!("{}{consumer}: {}", group.port, names.join(" "))
    });
    groups.collect()
}

/// Warnings without file, line and column.
fn warnings(mesh: &Mesh) -> Vec<String> {
    let warnings = mesh.warnings().iter();
    warnings
        .map(|problem| format!("{}: {}", problem.field, problem.message))
        .collect()
}

const TO_B: &str = "backendRefs: [{name: b, port: 80}]";

/// GEP-1294, "Ports".
#[test]
fn a_route_without_a_port_is_of_every_port() {
    let rules = format!("[{{{TO_B}}}]");
    let mesh = mesh(&[
        route("HTTPRoute", "all", "shop", "name: a", &rules),
        route("HTTPRoute", "alt", "shop", "name: a, port: 81", &rules),
        route(
            "HTTPRoute",
            "both",
            "shop",
            "name: a, port: 81}, {group: '', kind: Service, name: a",
            &rules,
        ),
    ]);
    assert_eq!(bound(&mesh), ["80: all both", "81: all alt both"]);
    assert_eq!(warnings(&mesh), [""; 0]);
}

#[test]
fn a_port_may_be_named() {
    let rules = format!("[{{{TO_B}}}]");
    let by_name = route(
        "HTTPRoute",
        "r",
        "shop",
        "name: a, sectionName: alt",
        &rules,
    );
    assert_eq!(bound(&mesh(&[by_name])), ["81: r"]);
    let unknown = route("HTTPRoute", "r", "shop", "name: a, sectionName: x", &rules);
    let problems = problems(&format!("{SERVICES}{unknown}"));
    assert!(
        problems[0].contains("no such port named \"x\""),
        "{problems:?}"
    );
}

#[test]
fn consumers_have_routes_of_their_own() {
    let rules = format!("[{{{TO_B}}}]");
    let theirs = "[{backendRefs: [{name: c, port: 80}]}]";
    let mesh = mesh(&[
        route("HTTPRoute", "ours", "shop", "name: a, port: 80", &rules),
        route(
            "HTTPRoute",
            "theirs",
            "other",
            "name: a, namespace: shop, port: 80",
            theirs,
        ),
    ]);
    assert_eq!(bound(&mesh), ["80: ours", "80 other: theirs"]);
    let backend = &http_routes(&groups(&mesh)[1]).rules[0].backends[0];
    let c = Target::Service {
        service: ServiceName::new("other", "c").unwrap(),
        port: 80,
    };
    assert_eq!(
        backend.target, c,
        "a backend is in the route's own namespace"
    );
    let destination = mesh.destination(&service("a")).unwrap();
    let holds = |namespace| explain::routes_for(destination, 80, namespace).unwrap();
    assert_eq!(holds(Some("other")).consumer.as_deref(), Some("other"));
    assert_eq!(holds(Some("shop")).consumer, None);
    assert_eq!(holds(None).consumer, None);
    assert!(explain::routes_for(destination, 81, None).is_none());
}

#[test]
fn of_several_kinds_one_wins() {
    let rules = format!("[{{{TO_B}}}]");
    let all = ["GRPCRoute", "HTTPRoute", "TCPRoute"];
    let three = all.map(|kind| {
        route(
            kind,
            &kind.to_lowercase(),
            "shop",
            "name: a, port: 80",
            &rules,
        )
    });
    let mesh = mesh(&three);
    assert_eq!(bound(&mesh), ["80: grpcroute"]);
    let loses = "spec.parentRefs[0]: is not looked at for port 80 of Service shop/a, which \
                 GRPCRoute shop/grpcroute has";
    assert_eq!(warnings(&mesh), [loses, loses]);
}

#[test]
fn one_tcp_route_decides() {
    let mesh = mesh(&[
        route(
            "TCPRoute",
            "y",
            "shop",
            "name: a, port: 80",
            "[{backendRefs: [{name: a, port: 81}]}]",
        ),
        route(
            "TCPRoute",
            "x",
            "shop",
            "name: a, port: 80",
            "[{backendRefs: [{name: a, port: 80, weight: 9}, {name: b, port: 80, weight: 1}]}, {backendRefs: []}]",
        ),
    ]);
    let Routes::Tcp(rule) = &groups(&mesh)[0].routes else {
        panic!("{:?}", groups(&mesh));
    };
    assert_eq!(rule.origin.to_string(), "TCPRoute shop/x rule 0");
    let weights: Vec<u32> = rule.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [9, 1]);
    let warnings = warnings(&mesh);
    assert!(
        warnings[0].contains("which TCPRoute shop/x has"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("the first decides"), "{warnings:?}");
}
