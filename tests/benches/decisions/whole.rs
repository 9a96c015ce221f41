//! All that is decided for a request that no policy touches, from its head to the end of its answer.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use outrider_api::model::PathMatch;
use outrider_api::model::traffic::{Algorithm, TrafficSettings};
use outrider_api::routing::{RouteRequest, Router};
use outrider_proxy::traffic::budget::RetryBudget;
use outrider_proxy::traffic::deadline::Deadline;
use outrider_proxy::traffic::faults;
use outrider_proxy::traffic::limits::Usage;
use outrider_proxy::traffic::tracestate::Member;

use crate::endpoints::{balancer, request};
use crate::routes::{COUNTS, found, headers, routes};

/// With so many routes, of which the last fits, and so many endpoints.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("everything for a request");
    for count in COUNTS {
        let exact = |n| found(PathMatch::Exact(format!("/shop/charges/{n}")));
        let router = Router::new(&routes((0..count).map(exact)));
        let target = format!("/shop/charges/{}?page=2", count - 1);
        let balancer = balancer(count, Algorithm::PeakEwma);
        let settings = TrafficSettings::default();
        let mut budget = RetryBudget::new(&settings.budget, Instant::now());
        let (usage, mut rng) = (Usage::default(), fastrand::Rng::with_seed(7));
        let mut headers = headers();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let arrived = Instant::now();
                let met = router.route(&RouteRequest {
                    method: "GET",
                    path_and_query: &target,
                    headers: &headers,
                });
                black_box((
                    met,
                    faults::draw(&settings.faults, |below| rng.usize(..below)),
                ));
                let told = Member::find(&headers);
                let time = Duration::from_secs(15);
                let deadline = Deadline::of(arrived, Some(time), None, Deadline::NONE);
                let held = usage.request(&settings.limits);
                budget.request(arrived);
                let sent = Instant::now();
                Member {
                    remaining: deadline.remaining(sent),
                    attempt: 1,
                    context: told.and_then(|member| member.context),
                }
                .put(&mut headers);
                request(&balancer, &settings.outliers, sent, &mut rng);
                drop(black_box(held));
                black_box(Instant::now())
            });
        });
    }
    group.finish();
}
