//! Routes: what holds for whom, in which order, and what the Gateway API answers.

use outrider_api::model::{
    Filter, HttpRoutes, PathEdit, PathMatch, RouteGroup, RouteMatch, Routes, Target, ValueMatch,
};

use super::*;

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

#[test]
fn filters_of_every_kind() {
    let mesh = mesh(&[http(
        "r",
        "[{matches: [{path: {value: /v1}}], filters: [\
         {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: X-A, value: b}], remove: [X-B]}}, \
         {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-C, value: c}]}}, \
         {type: URLRewrite, urlRewrite: {hostname: b.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}}, \
         {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, fraction: {numerator: 1, denominator: 1000}}}, \
         {type: CORS, cors: {allowOrigins: ['https://*.shop.example'], allowMethods: [GET], allowCredentials: true}}], \
         backendRefs: [{name: b, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-d]}}]}], \
         timeouts: {request: 2s, backendRequest: 0s}, retry: {codes: [500], attempts: 2, backoff: 100ms}}]",
    )]);
    assert_eq!(warnings(&mesh), [""; 0]);
    let destination = &**mesh.destination(&service("a")).unwrap();
    let wire = outrider_api::proto::Destination::from(destination);
    let read: outrider_api::model::Destination = wire.try_into().unwrap();
    assert_eq!(&read, destination, "a sidecar takes it as it is");
    let rule = &http_routes(&groups(&mesh)[0]).rules[0];
    let [
        Filter::RequestHeaders(request),
        Filter::ResponseHeaders(response),
        Filter::Rewrite(rewrite),
        Filter::Mirror(mirror),
        Filter::Cors(cors),
    ] = rule.filters.as_slice()
    else {
        panic!("{rule:?}");
    };
    assert_eq!(request.set[0].0, "x-a");
    assert_eq!((request.add.len(), request.remove.len()), (1, 1));
    assert_eq!(response.set[0].1, "c");
    assert_eq!(rewrite.path, Some(PathEdit::Prefix(String::new())));
    assert_eq!((mirror.numerator, mirror.denominator), (1, 1000));
    assert_eq!((cors.max_age, cors.allow_credentials), (5, true));
    assert_eq!(rule.backends[0].filters.len(), 1);
    assert_eq!(
        rule.timeouts.request.unwrap().duration(),
        Some(Duration::from_secs(2))
    );
    assert_eq!(rule.timeouts.backend_request.unwrap().duration(), None);
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!(
        (retry.codes.as_deref(), retry.attempts),
        (Some(&[500][..]), Some(2))
    );
}

#[test]
fn what_the_gateway_api_answers_is_a_warning() {
    let table = [
        (
            "[{backendRefs: [{name: x, port: 80}]}]",
            "spec.rules[0].backendRefs[0].name: there is no Service shop/x: its share of the \
             requests answers 500",
        ),
        (
            "[{backendRefs: [{name: b, port: 81}]}]",
            "spec.rules[0].backendRefs[0].port: Service shop/b has no port 81, expected one of 80: \
             its share of the requests answers 500",
        ),
        (
            "[{backendRefs: [{group: x.example, kind: Bucket, name: b}]}]",
            "spec.rules[0].backendRefs[0].kind: group \"x.example\", kind \"Bucket\" is no Service",
        ),
        (
            "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: x, port: 80}}}], backendRefs: [{name: b, port: 80}]}]",
            "spec.rules[0].filters[0].requestMirror.backendRef.name: there is no Service shop/x: no copy is",
        ),
        (
            "[{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: k, name: n}}], backendRefs: [{name: b, port: 80}]}]",
            "spec.rules[0].filters[0].type: filter ExtensionRef is not supported",
        ),
        (
            "[{backendRefs: [{name: b, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: x}}]}]}]",
            "spec.rules[0].backendRefs[0].filters[0].type: filter URLRewrite of a backendRef is not",
        ),
        (
            "[{sessionPersistence: {sessionName: x}, backendRefs: [{name: b, port: 80}]}]",
            "spec.rules[0].sessionPersistence: is not supported",
        ),
        (
            "[{}]",
            "spec.rules[0].backendRefs: is missing or empty: what it matches answers 500",
        ),
        ("[]", "spec.rules: is missing or empty"),
    ];
    for (rules, expected) in table {
        let mesh = mesh(&[http("r", rules)]);
        let warnings = warnings(&mesh);
        assert_eq!(warnings.len(), 1, "{rules}: {warnings:?}");
        assert!(warnings[0].starts_with(expected), "{rules}: {warnings:?}");
    }
    let missing = mesh(&[http("r", "[{backendRefs: [{name: x, port: 80}]}]")]);
    let backend = &http_routes(&groups(&missing)[0]).rules[0].backends[0];
    let reason = "there is no Service shop/x".to_owned();
    assert_eq!(backend.target, Target::Invalid(reason));
    let hosts = http("r", "[{backendRefs: [{name: b, port: 80}]}]")
        .replace("spec:\n", "spec:\n  hostnames: [a.example]\n");
    assert!(warnings(&mesh(&[hosts]))[0].starts_with("spec.hostnames: are not looked at"));
    let gateway =
        http("r", "[{backendRefs: [{name: b, port: 80}]}]").replace("kind: Service, ", "");
    assert!(warnings(&mesh(&[gateway]))[0].contains("from which nothing follows"));
}

/// HTTPHeaderMatch and HTTPHeader, of the Gateway API.
#[test]
fn of_equivalent_headers_the_first_counts() {
    let headers = "[{name: X-A, value: '1'}, {name: x-a, value: '2'}]";
    let mesh = mesh(&[http(
        "r",
        &format!(
            "[{{matches: [{{headers: {headers}}}], {TO_B}, filters: \
             [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: {headers}}}}}]}}]"
        ),
    )]);
    let routes = http_routes(&groups(&mesh)[0]);
    let [header] = routes.matches[0].headers.as_slice() else {
        panic!("{routes:?}");
    };
    assert_eq!(header.value, ValueMatch::Exact("1".to_owned()));
    let Filter::RequestHeaders(edit) = &routes.rules[0].filters[0] else {
        panic!("{routes:?}");
    };
    assert_eq!(edit.set.len(), 1);
    assert_eq!(edit.set[0].1, "1");
    let why = "is not looked at: it is the same header as \"X-A\" before it";
    let warnings = warnings(&mesh);
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings.iter().all(|warning| warning.ends_with(why)),
        "{warnings:?}"
    );
}

#[test]
fn a_route_that_has_no_effect_on_a_port_is_a_warning() {
    let rules = format!("[{{{TO_B}}}]");
    let of = |kind: &str, parent: &str, declared: &str| {
        let named = SERVICES.replace("{name: alt,", &format!("{{name: {declared},"));
        let route = route(kind, "r", "shop", parent, &rules);
        warnings(&fold(&format!("{named}{route}")).unwrap())
    };
    let opaque = "spec.parentRefs[0]: has no effect on port 81: it is declared as opaque, so no \
                  request is seen there";
    let http = "spec.parentRefs[0]: has no effect on port 81: it is declared as HTTP, of which a \
                TCPRoute splits nothing";
    assert_eq!(of("HTTPRoute", "name: a, port: 81", "tcp"), [opaque]);
    assert_eq!(of("GRPCRoute", "name: a, port: 81", "tls"), [opaque]);
    assert_eq!(of("TCPRoute", "name: a, port: 81", "grpc"), [http]);
    for kind in ["HTTPRoute", "TCPRoute"] {
        assert_eq!(of(kind, "name: a, port: 81", "alt"), [""; 0]);
        assert_eq!(of(kind, "name: a", "tcp"), [""; 0]);
    }
}

#[test]
fn an_attempt_longer_than_its_request_is_a_warning_across_layers() {
    let policy = |timeouts: &str| {
        format!(
            "---\napiVersion: outrider.mesh/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{group: '', kind: \
             Service, name: a}}], timeouts: {{{timeouts}}}}}\n"
        )
    };
    let of = |rule: &str, service: &str| {
        let route = http("r", &format!("[{{timeouts: {{{rule}}}, {TO_B}}}]"));
        warnings(&mesh(&[route, policy(service)]))
    };
    let expected = |attempt: &str, request: &str| {
        format!(
            "spec.rules[0].timeouts: lets an attempt (backendRequest) take {attempt} and the whole \
             request {request}: no attempt is cut before the request is (for Service shop/a)"
        )
    };
    assert_eq!(of("backendRequest: 20s", ""), [expected("20s", "15s")]);
    assert_eq!(
        of("request: 1s", "backendRequest: 2s"),
        [expected("2s", "1s")]
    );
    assert_eq!(of("backendRequest: 20s", "request: 0s"), [""; 0]);
    assert_eq!(
        of("request: 1s, backendRequest: 1s", "backendRequest: 2s"),
        [""; 0]
    );
    assert_eq!(
        of("request: 1s, backendRequest: 0s", "backendRequest: 2s"),
        [""; 0]
    );
}

#[test]
fn parents_that_do_not_exist_are_errors() {
    let rules = format!("[{{{TO_B}}}]");
    let table = [
        (
            "name: x",
            "spec.parentRefs[0].name: there is no Service shop/x",
        ),
        (
            "name: a, port: 82",
            "spec.parentRefs[0].port: Service shop/a has no port 82, expected 80, 81",
        ),
        (
            "name: a, port: 0",
            "spec.parentRefs[0].port: 0 is not a port",
        ),
        (
            "name: a}, {group: '', kind: Service, name: a",
            "spec.parentRefs[1]: is given twice",
        ),
    ];
    for (parent, expected) in table {
        let problems = problems(&format!(
            "{SERVICES}{}",
            route("HTTPRoute", "r", "shop", parent, &rules)
        ));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}

/// The one error of an HTTPRoute with a rule that is good but for `rule`.
#[track_caller]
fn assert_error(rule: &str, expected: &str) {
    let text = format!("{SERVICES}{}", http("r", &format!("[{{{rule}}}]")));
    let problems = problems(&text);
    let at = format!("mesh.yaml:{}:", line(&text, "  rules: "));
    assert!(problems[0].starts_with(&at), "{problems:?}");
    let full = format!(": spec.rules[0]{expected}");
    assert!(
        problems[0].contains(&full),
        "\n   got: {problems:?}\nexpect: {full}"
    );
}

#[test]
fn rules_that_are_wrong() {
    let huge = "a".repeat(2000);
    let regex = |text: &str| {
        format!("matches: [{{path: {{type: RegularExpression, value: '{text}'}}}}], {TO_B}")
    };
    let path = ".matches[0].path.value: ";
    assert_error(
        &regex(&huge),
        &format!("{path}is a pattern of 2000 bytes, expected at most 1024"),
    );
    assert_error(
        &regex("(a{1000}){1000}"),
        &format!("{path}is a pattern that takes more than"),
    );
    assert_error(&regex("/a("), &format!("{path}is no regular expression"));
    let table = [
        (
            "matches: [{path: {value: a}}]",
            ".matches[0].path.value: path \"a\" does not begin with",
        ),
        (
            "matches: [{path: {type: Exact, value: /a//b}}]",
            ".matches[0].path.value: path \"/a//b\" has an empty",
        ),
        (
            "matches: [{path: {type: Exact, value: '/a?b'}}]",
            ".matches[0].path.value: \"/a?b\" contains a query",
        ),
        (
            "matches: [{headers: [{name: 'a b', value: c}]}]",
            ".matches[0].headers[0].name: \"a b\" is not the name of a header",
        ),
        (
            "matches: [{headers: [{name: A, value: b}, {name: A, value: c}]}]",
            ".matches[0].headers[1].name: header \"A\" is given twice",
        ),
        (
            "matches: [{queryParams: [{name: a, type: RegularExpression, value: '('}]}]",
            ".matches[0].queryParams[0].value: is no regular",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: -1}]",
            ".backendRefs[0].weight: is -1, expected 0 to 1000000",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: 1000001}]",
            ".backendRefs[0].weight: is 1000001",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: 0}]",
            ".backendRefs: has only weights of 0",
        ),
        (
            "backendRefs: [{name: b}]",
            ".backendRefs[0].port: is missing, expected a port of Service shop/b: 80",
        ),
        (
            "timeouts: {request: -1s}",
            ".timeouts.request: \"-1s\" is not a duration",
        ),
        (
            "timeouts: {request: 25h}",
            ".timeouts.request: is 25h, expected at most 24h",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            ".timeouts.backendRequest: is 2s, longer than request, which is 1s",
        ),
        (
            "retry: {codes: [200]}",
            ".retry.codes[0]: is 200, expected 400 to 599",
        ),
        (
            "retry: {codes: [500, 500]}",
            ".retry.codes[1]: code \"500\" is given twice",
        ),
        (
            "retry: {attempts: -1}",
            ".retry.attempts: is -1, expected 0 to 10",
        ),
        (
            "retry: {backoff: 2h}",
            ".retry.backoff: is 2h, expected at most 1m",
        ),
    ];
    for (rule, expected) in table {
        assert_error(rule, expected);
    }
    let many = format!(
        "[{}]",
        ["{backendRefs: [{name: b, port: 80}]}"; 17].join(", ")
    );
    let problems = problems(&format!("{SERVICES}{}", http("r", &many)));
    assert!(
        problems[0].ends_with("spec.rules: has 17 entries, expected at most 16"),
        "{problems:?}"
    );
}

#[test]
fn filters_that_are_wrong() {
    let redirect = |payload: &str| {
        format!("filters: [{{type: RequestRedirect, requestRedirect: {{{payload}}}}}]")
    };
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}";
    let exact = "matches: [{path: {type: Exact, value: /a}}]";
    let table = [
        (redirect("statusCode: 304"), ".filters[0].requestRedirect.statusCode: is 304, expected 301"),
        (redirect("port: 70000"), ".filters[0].requestRedirect.port: 70000 is not a port"),
        (redirect("hostname: 'a_b'"), ".filters[0].requestRedirect.hostname: \"a_b\" contains"),
        (redirect("path: {type: ReplaceFullPath, replaceFullPath: x}"), ".filters[0].requestRedirect.path.replaceFullPath: \"x\" is not a path"),
        (redirect("path: {type: ReplaceFullPath, replacePrefixMatch: /x}"), ".filters[0].requestRedirect.path: expected exactly the field \"replaceFullPath\""),
        (format!("{exact}, {}", redirect(prefix)), ".filters: has ReplacePrefixMatch, expected exactly one match"),
        (format!("{}, {TO_B}", redirect("scheme: https")), ".filters: has RequestRedirect, which answers itself"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: b}}]".to_owned(),
            ".filters: has RequestRedirect and URLRewrite",
        ),
        ("filters: [{type: URLRewrite}]".to_owned(), ".filters[0]: expected exactly the field \"urlRewrite\" beside type \"URLRewrite\""),
        ("filters: [{type: URLRewrite, urlRewrite: {}}]".to_owned(), ".filters[0].urlRewrite: is empty"),
        ("filters: [{type: URLRewrite, requestRedirect: {}}]".to_owned(), ".filters[0]: expected exactly"),
        (
            "filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]".to_owned(),
            ".filters[1].type: filter \"CORS\" is given twice",
        ),
        ("filters: [{type: CORS, cors: {allowOrigins: [shop.example]}}]".to_owned(), ".filters[0].cors.allowOrigins[0]: \"shop.example\" is none"),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, percent: 101}}]".to_owned(),
            ".filters[0].requestMirror.percent: is 101 of 100",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Host]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.remove[0]: header \"host\" is the connection's",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a:', value: b}]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.set[0].name: \"a:\" is not the name of a header",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"x\\ny\"}]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.set[0].value: is not the value of a header",
        ),
    ];
    for (rule, expected) in table {
        assert_error(&rule, expected);
    }
}

#[test]
fn what_a_rule_s_retry_leaves_out_is_the_service_s() {
    let mesh = mesh(&[http("r", &format!("[{{retry: {{attempts: 3}}, {TO_B}}}]"))]);
    let retry = http_routes(&groups(&mesh)[0]).rules[0].retry.as_ref();
    let retry = retry.unwrap();
    assert_eq!((&retry.codes, retry.attempts), (&None, Some(3)));
}

#[test]
fn a_rule_s_settings_have_their_place() {
    let text = format!(
        "{SERVICES}{}",
        http("r", &format!("[{{timeouts: {{request: 2s}}, {TO_B}}}]"))
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let rule = &http_routes(&groups(&mesh)[0]).rules[0];
    let settings = explain::rule_settings(&objects, rule);
    let place = line(&text, "  rules: ");
    let texts: Vec<String> = settings
        .iter()
        .map(|setting| format!("{} {} {}", setting.field, setting.value, setting.origin))
        .collect();
    let expected = format!("timeouts.request 2s HTTPRoute shop/r rule 0 (mesh.yaml:{place})");
    assert_eq!(texts, [expected]);
}
