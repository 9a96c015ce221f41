//! Routes, settings and limits, generated.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use outrider_api::model::traffic::{
    Algorithm, Balancing, Concurrency, Fault, FaultKind, HashOn, HealthCheck, InboundLimits,
    Limits, Locality, Outliers, RateLimit, Retry, RetryBudget, Timeouts, TrafficSettings,
    WhenAllEjected,
};
use outrider_api::model::{
    Backend, Cors, Filter, HeaderEdit, HeaderMatch, HttpRoutes, HttpRule, Mirror, PathEdit,
    PathMatch, QueryMatch, Redirect, Rewrite, RouteGroup, RouteMatch, Routes, RuleOrigin,
    RuleRetry, RuleTimeouts, Target, TcpRule, ValueMatch,
};
use outrider_api::routing::Pattern;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{label, service, source};

/// 45 years, milliseconds.
const LONGEST: u64 = 4 * 99_999 * 3_600_000;

fn time(milliseconds: RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    milliseconds.prop_map(Duration::from_millis)
}

fn some_time() -> impl Strategy<Value = Duration> {
    time(1..=LONGEST)
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "x-[a-z]{1,5}".prop_map(|name| name.parse().unwrap())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    "(/[a-z]{1,4}|\\.\\*|[a-z]\\+){0,4}".prop_map(|text| text.parse().unwrap())
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        ".{0,5}".prop_map(ValueMatch::Exact),
        pattern().prop_map(ValueMatch::Regex),
    ]
}

fn prefix() -> impl Strategy<Value = String> {
    "(/[a-z]{1,4}){0,3}"
}

/// Of a rule that is given later.
fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        "(/[a-z]{0,4}){1,3}".prop_map(PathMatch::Exact),
        prefix().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex),
    ];
    let header =
        (header_name(), value_match()).prop_map(|(name, value)| HeaderMatch { name, value });
    let query = (".{0,4}", value_match()).prop_map(|(name, value)| QueryMatch { name, value });
    let method = option::of("[A-Z]{1,8}");
    (path, method, vec(header, 0..3), vec(query, 0..3)).prop_map(
        |(path, method, headers, query)| RouteMatch {
            path,
            method,
            headers,
            query,
            rule: 0,
        },
    )
}

fn header_edit() -> impl Strategy<Value = HeaderEdit> {
    let value = vec(select(&b"ab \xff"[..]), 0..4)
        .prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    let fields = vec((header_name(), value), 0..3).boxed();
    (fields.clone(), fields, vec(header_name(), 0..3)).prop_map(|(set, add, remove)| HeaderEdit {
        set,
        add,
        remove,
    })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (service(), 1u16..).prop_map(|(service, port)| Target::Service { service, port }),
        ".{0,9}".prop_map(Target::Invalid),
    ]
}

fn path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![
        "(/[a-z]{0,4}(%20)?){1,3}".prop_map(PathEdit::Full),
        "(/[a-z]{0,4}){0,3}".prop_map(PathEdit::Prefix),
    ]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = option::of(select(&["http", "https"][..]).prop_map(str::to_owned));
    let status = select(&[301u16, 302, 303, 307, 308][..])
        .prop_map(|status| StatusCode::from_u16(status).unwrap());
    let path = option::of(path_edit());
    (
        scheme,
        option::of(label()),
        option::of(1u16..),
        path,
        status,
    )
        .prop_map(|(scheme, hostname, port, path, status)| Redirect {
            scheme,
            hostname,
            port,
            path,
            status,
        })
}

fn cors() -> impl Strategy<Value = Cors> {
    let list = |entries: &'static [&'static str]| {
        vec(select(entries), 0..3)
            .prop_map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let origins = list(&[
        "*",
        "https://*.example",
        "http://a.example:80",
        "https://[::1]:1",
    ]);
    let methods = list(&["*", "GET", "PUT"]);
    let headers = || list(&["*", "x-a", "X-B"]);
    let lists = (origins, methods, headers(), headers());
    (lists, any::<bool>(), any::<u32>()).prop_map(
        |((origins, methods, headers, exposed), allow_credentials, max_age)| Cors {
            allow_origins: origins,
            allow_methods: methods,
            allow_headers: headers,
            expose_headers: exposed,
            allow_credentials,
            max_age,
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let rewrite = (option::of(label()), option::of(path_edit()))
        .prop_map(|(hostname, path)| Rewrite { hostname, path });
    let mirror = (target(), any::<u32>(), 1u32..).prop_map(|(backend, part, whole)| Mirror {
        backend,
        numerator: part.min(whole),
        denominator: whole,
    });
    prop_oneof![
        header_filter(),
        redirect().prop_map(Filter::Redirect),
        rewrite.prop_map(Filter::Rewrite),
        mirror.prop_map(Filter::Mirror),
        cors().prop_map(Filter::Cors),
    ]
}

fn header_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![
        header_edit().prop_map(Filter::RequestHeaders),
        header_edit().prop_map(Filter::ResponseHeaders),
        ".{0,9}".prop_map(Filter::Unsupported),
    ]
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let backend = (0u32..=1_000_000, target(), vec(header_filter(), 0..2)).prop_map(
        |(weight, target, filters)| Backend {
            weight,
            target,
            filters,
        },
    );
    vec(backend, 0..3)
}

fn retry_status() -> impl Strategy<Value = u16> {
    400u16..=599
}

fn rule_origin() -> impl Strategy<Value = RuleOrigin> {
    (".{0,5}", label(), label(), ".{0,5}").prop_map(|(kind, namespace, name, rule)| RuleOrigin {
        kind,
        namespace,
        name,
        rule,
    })
}

fn http_rule() -> impl Strategy<Value = HttpRule> {
    let retry = (
        option::of(vec(retry_status(), 0..3)),
        any::<Option<u32>>(),
        option::of(time(0..=LONGEST)),
    )
        .prop_map(|(codes, attempts, backoff)| RuleRetry {
            codes,
            attempts,
            backoff,
        });
    let timeouts = request_and_attempt(0).prop_map(|(request, backend)| RuleTimeouts {
        request: request.map(Into::into),
        backend_request: backend.map(Into::into),
    });
    let filters = vec(filter(), 0..3);
    (
        rule_origin(),
        filters,
        backends(),
        timeouts,
        option::of(retry),
    )
        .prop_map(|(origin, filters, backends, timeouts, retry)| HttpRule {
            origin,
            filters,
            backends,
            timeouts,
            retry,
        })
}

/// The second not longer than the first, unless that is none.
fn request_and_attempt(least: u64) -> impl Strategy<Value = (Option<Duration>, Option<Duration>)> {
    let times = (
        option::of(time(least..=LONGEST)),
        option::of(time(least..=LONGEST)),
    );
    times.prop_map(|(request, attempt)| match (request, attempt) {
        (Some(request), Some(attempt)) if !request.is_zero() => {
            (Some(request), Some(attempt.min(request)))
        }
        other => other,
    })
}

/// Every match leads to a rule that is there, and to one that replaces a prefix only by prefix.
fn http_routes() -> impl Strategy<Value = HttpRoutes> {
    let matches = vec((route_match(), any::<prop::sample::Index>()), 0..5);
    (matches, vec(http_rule(), 1..4)).prop_map(|(matches, rules)| {
        let lead = |(found, index): (RouteMatch, prop::sample::Index)| {
            let rule = index.index(rules.len());
            let replaces = |filter: &Filter| match filter {
                Filter::Redirect(redirect) => matches!(redirect.path, Some(PathEdit::Prefix(_))),
                Filter::Rewrite(rewrite) => matches!(rewrite.path, Some(PathEdit::Prefix(_))),
                _ => false,
            };
            let path = if rules[rule].filters.iter().any(replaces) {
                PathMatch::Prefix("/a".to_owned())
            } else {
                found.path
            };
            RouteMatch {
                path,
                rule,
                ..found
            }
        };
        HttpRoutes {
            matches: matches.into_iter().map(lead).collect(),
            rules,
        }
    })
}

/// One for each port and group of callers.
pub(super) fn route_groups() -> impl Strategy<Value = Vec<RouteGroup>> {
    let routes = prop_oneof![
        3 => http_routes().prop_map(Routes::Http),
        1 => (rule_origin(), backends())
            .prop_map(|(origin, backends)| Routes::Tcp(TcpRule { origin, backends })),
    ];
    btree_map((1u16.., option::of(label())), routes, 0..3).prop_map(|groups| {
        let group = |((port, consumer), routes)| RouteGroup {
            consumer,
            port,
            routes,
        };
        groups.into_iter().map(group).collect()
    })
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let idle = || option::of(some_time());
    (request_and_attempt(1), some_time(), idle(), idle()).prop_map(
        |((request, backend_request), connect, stream_idle, tcp_idle)| Timeouts {
            request,
            backend_request,
            connect,
            stream_idle,
            tcp_idle,
        },
    )
}

fn retry() -> impl Strategy<Value = Retry> {
    let codes = (vec(retry_status(), 0..3), vec(1u8..=16, 0..3));
    let backoff = (time(0..=LONGEST), time(0..=LONGEST));
    (any::<u32>(), codes, any::<[bool; 3]>(), backoff).prop_map(
        |(attempts, (codes, grpc_codes), [on_reset, on_timeout, non_idempotent], backoff)| Retry {
            attempts,
            codes,
            grpc_codes,
            on_reset,
            on_timeout,
            non_idempotent,
            backoff: backoff.0,
            max_backoff: backoff.1,
        },
    )
}

fn budget() -> impl Strategy<Value = RetryBudget> {
    (0u8..=100, some_time(), any::<u32>(), some_time()).prop_map(
        |(percent, interval, min_count, min_interval)| RetryBudget {
            percent,
            interval,
            min_count,
            min_interval,
        },
    )
}

fn outliers() -> impl Strategy<Value = Outliers> {
    let percents = [0u8..=100, 0..=100];
    let times = [some_time(), some_time(), some_time()];
    let last = select(&[WhenAllEjected::Refuse, WhenAllEjected::UseAll][..]);
    (
        any::<[u32; 3]>(),
        percents,
        option::of(some_time()),
        times,
        last,
    )
        .prop_map(
            |(counts, percents, latency, times, when_all_ejected)| Outliers {
                consecutive_errors: counts[0],
                consecutive_gateway_errors: counts[1],
                failure_percent: percents[0],
                minimum_requests: counts[2],
                latency,
                window: times[0],
                base_ejection: times[1],
                max_ejection: times[2],
                max_ejected_percent: percents[1],
                when_all_ejected,
            },
        )
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let thresholds = (1u32.., 1u32..);
    (
        "/[a-z]{0,5}(\\?a=b)?",
        option::of(1u16..),
        some_time(),
        some_time(),
        thresholds,
    )
        .prop_map(
            |(path, port, interval, timeout, (unhealthy, healthy))| HealthCheck {
                path,
                port,
                interval,
                timeout,
                unhealthy_threshold: unhealthy,
                healthy_threshold: healthy,
            },
        )
}

fn balancing() -> impl Strategy<Value = Balancing> {
    let on = prop_oneof![
        header_name().prop_map(HashOn::Header),
        "[A-Za-z_]{1,5}".prop_map(HashOn::Cookie),
        Just(HashOn::Source),
    ];
    let algorithm = prop_oneof![
        Just(Algorithm::PeakEwma),
        Just(Algorithm::LeastRequest),
        Just(Algorithm::RoundRobin),
        Just(Algorithm::Random),
        on.prop_map(Algorithm::ConsistentHash),
    ];
    let locality = (1u8..=100).prop_map(|percent| Locality {
        min_available_percent: percent,
    });
    (algorithm, option::of(some_time()), option::of(locality)).prop_map(
        |(algorithm, slow_start, locality)| Balancing {
            algorithm,
            slow_start,
            locality,
        },
    )
}

fn fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        time(0..=LONGEST).prop_map(FaultKind::Delay),
        (200u16..=599, 1u8..=16).prop_map(|(status, grpc)| FaultKind::Abort { status, grpc }),
    ];
    (0u16..=10_000, kind).prop_map(|(basis_points, kind)| Fault { basis_points, kind })
}

pub(super) fn settings() -> impl Strategy<Value = TrafficSettings> {
    let limits = any::<[u32; 3]>().prop_map(|most| Limits {
        max_connections: most[0],
        max_pending_requests: most[1],
        max_requests: most[2],
    });
    (
        timeouts(),
        retry(),
        budget(),
        limits,
        outliers(),
        option::of(health_check()),
        balancing(),
        vec(fault(), 0..3),
    )
        .prop_map(
            |(timeouts, retry, budget, limits, outliers, health_check, balancing, faults)| {
                TrafficSettings {
                    timeouts,
                    retry,
                    budget,
                    limits,
                    outliers,
                    health_check,
                    balancing,
                    faults,
                }
            },
        )
}

pub(super) fn inbound_limits() -> impl Strategy<Value = InboundLimits> {
    let sources = option::of(vec(source(), 0..3));
    let rate = (
        (".{0,9}", ".{0,9}", sources, vec(1u16.., 0..3)),
        1u32..,
        some_time(),
        1u32..,
    )
        .prop_map(
            |((policy, name, sources, ports), requests, interval, burst)| RateLimit {
                policy,
                name,
                sources,
                ports,
                requests,
                interval,
                burst,
            },
        );
    let concurrency = (1u32.., any::<u32>(), time(0..=LONGEST)).prop_map(
        |(max_requests, max_queued, max_wait)| Concurrency {
            max_requests,
            max_queued,
            max_wait,
        },
    );
    (vec(rate, 0..3), option::of(concurrency))
        .prop_map(|(rates, concurrency)| InboundLimits { rates, concurrency })
}
