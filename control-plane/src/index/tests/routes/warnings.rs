//! What the Gateway API answers at run time, and what has no effect.

use super::*;

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
