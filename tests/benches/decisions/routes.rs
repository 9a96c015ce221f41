//! Which rule a request meets.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::model::{HeaderMatch, HttpRoutes, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use outrider_api::routing::{RouteRequest, Router};

pub(crate) const COUNTS: [usize; 3] = [1, 100, 10_000];

pub(crate) fn bench(criterion: &mut Criterion) {
    by_path(criterion);
    by_condition(criterion);
    by_pattern(criterion);
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

/// Many with the same path, which differ in a header or parameter only. The last of them fits.
fn by_condition(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route by condition");
    let shop = || found(PathMatch::Prefix("/shop".to_owned()));
    for count in COUNTS {
        let canary = |n| RouteMatch {
            headers: vec![HeaderMatch {
                name: HeaderName::from_static("x-canary"),
                value: ValueMatch::Exact(format!("{n}")),
            }],
            ..shop()
        };
        let router = Router::new(&routes((0..count).map(|n| canary(count - 1 - n + 7))));
        group.bench_function(BenchmarkId::new("header", count), |bench| {
            route(bench, &router, "/shop/charges/7", true);
        });
        let page = |n| RouteMatch {
            query: vec![QueryMatch {
                name: "page".to_owned(),
                value: ValueMatch::Exact(format!("a {n}")),
            }],
            ..shop()
        };
        let router = Router::new(&routes((0..count).map(page)));
        let target = format!("/shop/charges/7?sort=up&page=a%20{}", count - 1);
        group.bench_function(BenchmarkId::new("query", count), |bench| {
            route(bench, &router, &target, true);
        });
        group.bench_function(BenchmarkId::new("none fits", count), |bench| {
            route(bench, &router, "/shop/charges/7?sort=up&page=b", false);
        });
    }
    group.finish();
}

/// Many regular expressions that begin differently, and many that differ only further on. The last
/// of them fits.
fn by_pattern(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route by regular expression");
    for count in COUNTS {
        let last = count - 1;
        let pattern = |written: String| written.parse().ok().map(PathMatch::Regex).map(found);
        let versions = (0..count).filter_map(|n| pattern(format!("/shop/v{n}/charges/[0-9]+")));
        let router = Router::new(&routes(versions));
        let target = format!("/shop/v{last}/charges/7?page=2");
        group.bench_function(BenchmarkId::new("beginning", count), |bench| {
            route(bench, &router, &target, true);
        });
        group.bench_function(BenchmarkId::new("none fits", count), |bench| {
            route(bench, &router, "/shop/other/charges/7?page=2", false);
        });
        let ends = (0..count).filter_map(|n| pattern(format!("/shop/[a-z]+/charges/n{n}")));
        let router = Router::new(&routes(ends));
        let target = format!("/shop/big/charges/n{last}?page=2");
        group.bench_function(BenchmarkId::new("end", count), |bench| {
            route(bench, &router, &target, true);
        });
    }
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

pub(crate) fn routes(matches: impl IntoIterator<Item = RouteMatch>) -> HttpRoutes {
    HttpRoutes {
        matches: matches.into_iter().collect(),
        rules: Vec::new(),
    }
}

pub(crate) fn found(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        method: Some("GET".to_owned()),
        headers: Vec::new(),
        query: Vec::new(),
        rule: 0,
    }
}

pub(crate) fn headers() -> HeaderMap {
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
