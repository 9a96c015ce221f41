//! A destination whose every message is there, and what it must not say.

use outrider_api::model::Destination;
use outrider_api::model::address::Address;
use outrider_api::model::traffic::TrafficSettings;
use outrider_api::proto::{
    Address as WireAddress, Backend, Balancing, Cors, Destination as Wire, Fault, FaultAbort,
    Filter, HashOn, HeaderEdit, HeaderField, HealthCheck, HttpRoutes, HttpRule, InboundLimits,
    Locality, Mirror, PathEdit, RateLimit, Redirect, RetryCodes, Rewrite, RouteGroup, RouteHeader,
    RouteMatch, RoutePath, RouteQuery, RouteTarget, RouteValue, RuleOrigin, RuleRetry, ServiceRef,
    ServiceTarget, TcpRoutes, TrafficSettings as Settings, address, balancing, fault, filter::Kind,
    hash_on, path_edit, route_group, route_path, route_target, route_value,
};

pub(super) fn limits() -> InboundLimits {
    InboundLimits {
        rates: vec![RateLimit {
            requests: 1,
            interval_ms: 1000,
            burst: 1,
            ..Default::default()
        }],
        concurrency: None,
    }
}

fn target() -> RouteTarget {
    let service = ServiceRef {
        namespace: "shop".into(),
        name: "billing".into(),
    };
    RouteTarget {
        kind: Some(route_target::Kind::Service(ServiceTarget {
            service: Some(service),
            port: 80,
        })),
    }
}

fn replaced_prefix() -> PathEdit {
    PathEdit {
        kind: Some(path_edit::Kind::Prefix("/xyz".into())),
    }
}

fn filters() -> Vec<Filter> {
    let field = HeaderField {
        name: "x-a".into(),
        value: "1".into(),
    };
    let kinds = [
        Kind::RequestHeaders(HeaderEdit {
            set: vec![field.clone()],
            add: vec![field],
            remove: vec!["x-b".into()],
        }),
        Kind::Redirect(Redirect {
            status: 302,
            ..Default::default()
        }),
        Kind::Rewrite(Rewrite {
            path: Some(replaced_prefix()),
            ..Default::default()
        }),
        Kind::Mirror(Mirror {
            backend: Some(target()),
            numerator: 1,
            denominator: 2,
        }),
        Kind::Cors(Cors {
            allow_origins: vec!["*".into()],
            allow_methods: vec!["*".into()],
            allow_headers: vec!["*".into()],
            expose_headers: vec!["*".into()],
            ..Default::default()
        }),
    ];
    let filter = |kind| Filter { kind: Some(kind) };
    kinds.into_iter().map(filter).collect()
}

fn http() -> HttpRoutes {
    let value = RouteValue {
        kind: Some(route_value::Kind::Exact("1".into())),
    };
    let found = RouteMatch {
        path: Some(RoutePath {
            kind: Some(route_path::Kind::Prefix("/a".into())),
        }),
        headers: vec![RouteHeader {
            name: "x-a".into(),
            value: Some(value.clone()),
        }],
        query: vec![RouteQuery {
            name: "q".into(),
            value: Some(value),
        }],
        ..Default::default()
    };
    let rule = HttpRule {
        origin: Some(RuleOrigin::default()),
        filters: filters(),
        backends: vec![Backend {
            weight: 1,
            target: Some(target()),
            filters: Vec::new(),
        }],
        retry: Some(RuleRetry::default()),
        ..Default::default()
    };
    HttpRoutes {
        matches: vec![found],
        rules: vec![rule],
    }
}

fn wire() -> Wire {
    let group = |port, routes| RouteGroup {
        consumer: String::new(),
        port,
        routes: Some(routes),
    };
    let tcp = TcpRoutes {
        backends: vec![Backend {
            target: Some(target()),
            ..Default::default()
        }],
        origin: Some(RuleOrigin::default()),
    };
    let mut settings = Settings::from(&TrafficSettings::default());
    settings.health_check = Some(HealthCheck {
        path: "/".into(),
        interval_ms: 1,
        timeout_ms: 1,
        unhealthy_threshold: 1,
        healthy_threshold: 1,
        ..Default::default()
    });
    settings.faults = vec![Fault {
        kind: Some(fault::Kind::DelayMs(0)),
        ..Default::default()
    }];
    Wire {
        service: Some(ServiceRef {
            namespace: "shop".into(),
            name: "billing".into(),
        }),
        routes: vec![
            group(80, route_group::Routes::Http(http())),
            group(81, route_group::Routes::Tcp(tcp)),
        ],
        traffic: Some(settings),
        ..Default::default()
    }
}

fn http_of(wire: &mut Wire) -> &mut HttpRoutes {
    match wire.routes[0].routes.as_mut() {
        Some(route_group::Routes::Http(http)) => http,
        _ => unreachable!("the first group is of HTTP"),
    }
}

fn tcp_of(wire: &mut Wire) -> &mut TcpRoutes {
    match wire.routes[1].routes.as_mut() {
        Some(route_group::Routes::Tcp(tcp)) => tcp,
        _ => unreachable!("the second group is of TCP"),
    }
}

fn match_of(wire: &mut Wire) -> &mut RouteMatch {
    &mut http_of(wire).matches[0]
}

fn rule_of(wire: &mut Wire) -> &mut HttpRule {
    &mut http_of(wire).rules[0]
}

fn path(wire: &mut Wire, kind: route_path::Kind) {
    match_of(wire).path = Some(RoutePath { kind: Some(kind) });
}

fn value(text: &str) -> Option<RouteValue> {
    Some(RouteValue {
        kind: Some(route_value::Kind::Regex(text.into())),
    })
}

fn refused(wire: Wire, field: &str) {
    let error = Destination::try_from(wire).expect_err(field);
    assert_eq!(error.field, field, "{error}");
}

type Break<T> = fn(&mut T);

#[test]
fn wrong_routes_are_refused_whole_and_named() {
    assert!(Destination::try_from(wire()).is_ok());
    let table: [(&str, Break<Wire>); 29] = [
        ("routes", |w| w.routes[1].port = 80),
        ("routes[0].port", |w| w.routes[0].port = 0),
        ("routes[0].consumer", |w| {
            w.routes[0].consumer = "a.b".into()
        }),
        ("routes[0].routes", |w| w.routes[0].routes = None),
        ("routes[1].tcp.backends[0].target", |w| {
            tcp_of(w).backends = vec![Backend::default()]
        }),
        ("routes[1].tcp.origin", |w| tcp_of(w).origin = None),
        ("*.matches[0].rule", |w| match_of(w).rule = 1),
        ("*.matches[0].rule", |w| match_of(w).rule = u32::MAX),
        ("*.matches[0].rule", |w| http_of(w).rules.clear()),
        // Its rule replaces a prefix.
        ("*.matches[0].rule", |w| {
            path(w, route_path::Kind::Exact("/a".into()))
        }),
        ("*.matches[0].path", |w| match_of(w).path = None),
        ("*.matches[0].path.kind", |w| {
            match_of(w).path = Some(RoutePath { kind: None })
        }),
        ("*.matches[0].path.exact", |w| {
            path(w, route_path::Kind::Exact("a".into()))
        }),
        ("*.matches[0].path.prefix", |w| {
            path(w, route_path::Kind::Prefix("/a/".into()))
        }),
        ("*.matches[0].path.prefix", |w| {
            path(w, route_path::Kind::Prefix("a".into()))
        }),
        ("*.matches[0].path.regex", |w| {
            path(w, route_path::Kind::Regex("(".into()))
        }),
        ("*.matches[0].method", |w| match_of(w).method = "get".into()),
        ("*.matches[0].headers[0].name", |w| {
            match_of(w).headers[0].name = "a b".into()
        }),
        ("*.matches[0].headers[0].value", |w| {
            match_of(w).headers[0].value = None
        }),
        ("*.matches[0].headers[0].value.regex", |w| {
            match_of(w).headers[0].value = value("(a{1000}){1000}")
        }),
        ("*.matches[0].query[0].value.regex", |w| {
            match_of(w).query[0].value = value("(")
        }),
        ("*.matches[0].query[0].value.kind", |w| {
            match_of(w).query[0].value = Some(RouteValue { kind: None })
        }),
        ("*.rules[0].origin", |w| rule_of(w).origin = None),
        ("*.rules[0].request_timeout_ms", |w| {
            rule_of(w).request_timeout_ms = Some(u64::MAX)
        }),
        ("*.rules[0].backend_request_timeout_ms", |w| {
            rule_of(w).request_timeout_ms = Some(1);
            rule_of(w).backend_request_timeout_ms = Some(2);
        }),
        ("*.rules[0].retry.codes[0]", |w| {
            rule_of(w).retry.as_mut().unwrap().codes = Some(RetryCodes { codes: vec![200] })
        }),
        ("*.rules[0].backends[0].weight", |w| {
            rule_of(w).backends[0].weight = 1_000_001
        }),
        ("*.rules[0].backends[0].target.kind", |w| {
            rule_of(w).backends[0].target = Some(RouteTarget { kind: None })
        }),
        // An edit of headers may stand there; the redirect after it may not.
        ("*.rules[0].backends[0].filters[1]", |w| {
            rule_of(w).backends[0].filters = filters()
        }),
    ];
    for (field, spoil) in table {
        let mut wire = wire();
        spoil(&mut wire);
        refused(wire, &field.replace('*', "routes[0].http"));
    }
}

#[test]
fn wrong_addresses_are_refused_whole_and_named() {
    type At = address::Kind;
    let at = |address: &str, kind| WireAddress {
        address: address.into(),
        kind,
    };
    let table = [
        ("address", at("", Some(At::Unknown(Default::default())))),
        (
            "address",
            at("10.0.0.1:80", Some(At::Unknown(Default::default()))),
        ),
        ("kind", at("10.0.0.1", None)),
        (
            "service.namespace",
            at("10.0.0.1", Some(At::Service(ServiceRef::default()))),
        ),
        (
            "instance.traffic",
            at(
                "10.0.0.1",
                Some(At::Instance(Wire {
                    traffic: None,
                    ..wire()
                })),
            ),
        ),
    ];
    for (field, wire) in table {
        let error = Address::try_from(wire).expect_err(field);
        assert_eq!(error.field, field, "{error}");
    }
}

#[test]
fn wrong_filters_are_refused_whole_and_named() {
    let header = |name: &str, value: &'static str| HeaderField {
        name: name.into(),
        value: value.into(),
    };
    let edit = |set| HeaderEdit {
        set,
        ..Default::default()
    };
    let redirect = |status| Redirect {
        status,
        ..Default::default()
    };
    let cors = |origin: &str| Cors {
        allow_origins: vec!["*".into(), origin.into()],
        ..Default::default()
    };
    let mirror = |numerator, denominator| Mirror {
        backend: Some(target()),
        numerator,
        denominator,
    };
    let full = |path: &str| PathEdit {
        kind: Some(path_edit::Kind::Full(path.into())),
    };
    let table = [
        (
            "request_headers.set[0]",
            Kind::RequestHeaders(edit(vec![header("a b", "")])),
        ),
        (
            "request_headers.set[1]",
            Kind::RequestHeaders(edit(vec![header("a", "b"), header("a", "\r\n")])),
        ),
        (
            "response_headers.set[0]",
            Kind::ResponseHeaders(edit(vec![header("Transfer-Encoding", "chunked")])),
        ),
        (
            "request_headers.remove[0]",
            Kind::RequestHeaders(HeaderEdit {
                remove: vec!["Content-Length".into()],
                ..Default::default()
            }),
        ),
        ("redirect.status", Kind::Redirect(redirect(300))),
        (
            "redirect.scheme",
            Kind::Redirect(Redirect {
                scheme: "ftp".into(),
                ..redirect(302)
            }),
        ),
        (
            "redirect.hostname",
            Kind::Redirect(Redirect {
                hostname: "a/b".into(),
                ..redirect(302)
            }),
        ),
        (
            "redirect.port",
            Kind::Redirect(Redirect {
                port: 65536,
                ..redirect(302)
            }),
        ),
        (
            "rewrite.path.full",
            Kind::Rewrite(Rewrite {
                path: Some(full("/a?b")),
                ..Default::default()
            }),
        ),
        (
            "rewrite.path.kind",
            Kind::Rewrite(Rewrite {
                path: Some(PathEdit { kind: None }),
                ..Default::default()
            }),
        ),
        ("mirror.denominator", Kind::Mirror(mirror(0, 0))),
        ("mirror.numerator", Kind::Mirror(mirror(3, 2))),
        (
            "mirror.backend",
            Kind::Mirror(Mirror {
                backend: None,
                ..mirror(1, 2)
            }),
        ),
        ("cors.allow_origins[1]", Kind::Cors(cors("shop.example"))),
        ("cors.allow_origins[1]", Kind::Cors(cors("https://*.*"))),
        ("cors.allow_origins[1]", Kind::Cors(cors("https://a/b"))),
        (
            "cors.allow_methods[0]",
            Kind::Cors(Cors {
                allow_methods: vec!["a b".into()],
                ..Default::default()
            }),
        ),
        (
            "cors.expose_headers[0]",
            Kind::Cors(Cors {
                expose_headers: vec!["a,b".into()],
                ..Default::default()
            }),
        ),
    ];
    for (field, kind) in table {
        let mut wire = wire();
        rule_of(&mut wire).filters = vec![Filter { kind: Some(kind) }];
        refused(wire, &format!("routes[0].http.rules[0].filters[0].{field}"));
    }
    let mut wire = wire();
    rule_of(&mut wire).filters = vec![Filter { kind: None }];
    refused(wire, "routes[0].http.rules[0].filters[0].kind");
}

#[test]
fn wrong_settings_are_refused_whole_and_named() {
    let mut missing = wire();
    missing.traffic = None;
    refused(missing, "traffic");
    let table: [(&str, Break<Settings>); 35] = [
        ("timeouts", |s| s.timeouts = None),
        ("retry", |s| s.retry = None),
        ("budget", |s| s.budget = None),
        ("limits", |s| s.limits = None),
        ("outliers", |s| s.outliers = None),
        ("balancing", |s| s.balancing = None),
        ("timeouts.request_ms", |s| {
            s.timeouts.as_mut().unwrap().request_ms = Some(0)
        }),
        ("timeouts.backend_request_ms", |s| {
            s.timeouts.as_mut().unwrap().backend_request_ms = Some(15_001)
        }),
        ("timeouts.connect_ms", |s| {
            s.timeouts.as_mut().unwrap().connect_ms = 0
        }),
        ("timeouts.stream_idle_ms", |s| {
            s.timeouts.as_mut().unwrap().stream_idle_ms = Some(0)
        }),
        ("timeouts.tcp_idle_ms", |s| {
            s.timeouts.as_mut().unwrap().tcp_idle_ms = Some(u64::MAX)
        }),
        ("retry.codes[0]", |s| {
            s.retry.as_mut().unwrap().codes = vec![399]
        }),
        ("retry.codes[1]", |s| {
            s.retry.as_mut().unwrap().codes = vec![400, 600]
        }),
        ("retry.grpc_codes[0]", |s| {
            s.retry.as_mut().unwrap().grpc_codes = vec![0]
        }),
        ("retry.grpc_codes[0]", |s| {
            s.retry.as_mut().unwrap().grpc_codes = vec![17]
        }),
        ("retry.max_backoff_ms", |s| {
            s.retry.as_mut().unwrap().max_backoff_ms = u64::MAX
        }),
        ("budget.percent", |s| {
            s.budget.as_mut().unwrap().percent = 101
        }),
        ("budget.interval_ms", |s| {
            s.budget.as_mut().unwrap().interval_ms = 0
        }),
        ("budget.min_interval_ms", |s| {
            s.budget.as_mut().unwrap().min_interval_ms = 0
        }),
        ("outliers.failure_percent", |s| {
            s.outliers.as_mut().unwrap().failure_percent = 101
        }),
        ("outliers.window_ms", |s| {
            s.outliers.as_mut().unwrap().window_ms = 0
        }),
        ("outliers.max_ejected_percent", |s| {
            s.outliers.as_mut().unwrap().max_ejected_percent = 256
        }),
        ("outliers.when_all_ejected", |s| {
            s.outliers.as_mut().unwrap().when_all_ejected = 0
        }),
        ("health_check.path", |s| {
            s.health_check.as_mut().unwrap().path = "*".into()
        }),
        ("health_check.path", |s| {
            s.health_check.as_mut().unwrap().path = "/a b".into()
        }),
        ("health_check.port", |s| {
            s.health_check.as_mut().unwrap().port = 65536
        }),
        ("health_check.healthy_threshold", |s| {
            s.health_check.as_mut().unwrap().healthy_threshold = 0
        }),
        ("balancing.algorithm", |s| {
            s.balancing.as_mut().unwrap().algorithm = None
        }),
        ("balancing.algorithm.simple", |s| simple(s, 99)),
        ("balancing.algorithm.simple", |s| simple(s, 0)),
        ("balancing.algorithm.consistent_hash.cookie", |s| {
            let kind = Some(hash_on::Kind::Cookie("a=b".into()));
            let hash = balancing::Algorithm::ConsistentHash(HashOn { kind });
            balancing(s).algorithm = Some(hash);
        }),
        ("balancing.locality.min_available_percent", |s| {
            balancing(s).locality = Some(Locality::default())
        }),
        ("faults[0].basis_points", |s| {
            s.faults[0].basis_points = 10_001
        }),
        ("faults[0].abort.status", |s| {
            let abort = FaultAbort {
                status: 199,
                grpc: 14,
            };
            s.faults[0].kind = Some(fault::Kind::Abort(abort));
        }),
        ("faults[0].kind", |s| s.faults[0].kind = None),
    ];
    for (field, spoil) in table {
        let mut wire = wire();
        spoil(wire.traffic.as_mut().unwrap());
        refused(wire, &format!("traffic.{field}"));
    }
}

fn balancing(settings: &mut Settings) -> &mut Balancing {
    settings.balancing.as_mut().unwrap()
}

fn simple(settings: &mut Settings, number: i32) {
    balancing(settings).algorithm = Some(balancing::Algorithm::Simple(number));
}

#[test]
fn the_defaults_come_back() {
    let wire = Settings::from(&TrafficSettings::default());
    let back = TrafficSettings::try_from(wire).unwrap();
    assert_eq!(back, TrafficSettings::default());
}
