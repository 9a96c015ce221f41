//! Which rule a request meets.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::model::{HeaderMatch, HttpRoutes, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use outrider_api::routing::{RouteRequest, Router};

const COUNTS: [usize; 3] = [1, 100, 10_000];

pub(crate) fn bench(criterion: &mut Criterion) {
    by_path(criterion);
    by_condition(criterion);
    without_routes(criterion);
}

/// The last of many, and none of them.
fn by_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route by path");
    for count in COUNTS {
        let last = count - 1;
        let exact = |n| found(PathMatch::Exact(format!("/shop/charges/{n}")));
        let router = Router::new(&routes((0..count).map(exact)));
        let target = format!("/shop/charges/{last}?page=2");
        group.bench_function(BenchmarkId::new("exact", count), |bench| {
            route(bench, &router, &target, true);
        });
        let prefix = |n| found(PathMatch::Prefix(format!("/shop/v{n}")));
        let router = Router::new(&routes((0..count).map(prefix)));
        let target = format!("/shop/v{last}/charges/7?page=2");
        group.bench_function(BenchmarkId::new("prefix", count), |bench| {
            route(bench, &router, &target, true);
        });
        group.bench_function(BenchmarkId::new("none fits", count), |bench| {
            route(bench, &router, "/shop/other/charges/7?page=2", false);
        });
    }
    group.finish();
}

/// A path with a condition, and many with the same path, which are looked at one by one.
fn by_condition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route by condition");
    let header = |name: &'static str, value: String| HeaderMatch {
        name: HeaderName::from_static(name),
        value: ValueMatch::Exact(value),
    };
    for count in COUNTS {
        let canary = |n| RouteMatch {
            headers: vec![header("x-canary", format!("{n}"))],
            ..found(PathMatch::Prefix("/shop".to_owned()))
        };
        let last = (0..count).map(|n| canary(count - 1 - n + 7));
        let router = Router::new(&routes(last));
        group.bench_function(BenchmarkId::new("header, one path", count), |bench| {
            route(bench, &router, "/shop/charges/7", true);
        });
    }
    let query = RouteMatch {
        query: vec![QueryMatch {
            name: "page".to_owned(),
            value: ValueMatch::Exact("a b".to_owned()),
        }],
        ..found(PathMatch::Prefix("/shop".to_owned()))
    };
    let router = Router::new(&routes([query]));
    group.bench_function("query", |bench| {
        route(bench, &router, "/shop/charges/7?sort=up&page=a%20b", true);
    });
    let pattern = |n| format!("/shop/v{n}/charges/[0-9]+").parse();
    let patterns = (0..100).filter_map(|n| pattern(n).ok());
    let router = Router::new(&routes(patterns.map(PathMatch::Regex).map(found)));
    group.bench_function("regular expressions/100", |bench| {
        route(bench, &router, "/shop/v99/charges/7", true);
    });
    group.finish();
}

/// What most Services have.
fn without_routes(criterion: &mut Criterion) {
    let router = Router::new(&HttpRoutes::default());
    criterion.bench_function("route without routes", |bench| {
        route(bench, &router, "/shop/charges/7?page=2", false);
    });
}

fn route(bench: &mut criterion::Bencher<'_>, router: &Router, target: &str, fits: bool) {
    let headers = headers();
    let request = RouteRequest {
        method: "GET",
        path_and_query: target,
        headers: &headers,
    };
    assert_eq!(router.route(&request).is_some(), fits, "{target}");
    bench.iter(|| black_box(router).route(black_box(&request)));
}

fn routes(matches: impl IntoIterator<Item = RouteMatch>) -> HttpRoutes {
    HttpRoutes {
        matches: matches.into_iter().collect(),
        rules: Vec::new(),
    }
}

fn found(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        method: Some("GET".to_owned()),
        headers: Vec::new(),
        query: Vec::new(),
        rule: 0,
    }
}

fn headers() -> HeaderMap {
    let fields = [
        ("accept", "*/*"),
        ("accept-encoding", "gzip"),
        ("content-type", "application/json"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("user-agent", "shop/1.0"),
        ("x-canary", "7"),
        ("x-request-id", "c0ffee"),
    ];
    let fields = fields.map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    HeaderMap::from_iter(fields)
}
