//! What balancing and the breaker cost a request: pick, begin, record. Shown in nanoseconds for 1,
//! 100 and 10,000 endpoints; `cargo bench -p mesh-tests --bench balance`.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use outrider_api::model::traffic::{Algorithm, HashOn, Outliers};

use self::endpoints::{balancer, request};

#[path = "shared/endpoints.rs"]
mod endpoints;

fn pick_and_record(criterion: &mut Criterion) {
    let outliers = Outliers::default();
    let algorithms = [
        ("peak_ewma", Algorithm::PeakEwma),
        ("least_request", Algorithm::LeastRequest),
        ("round_robin", Algorithm::RoundRobin),
        ("random", Algorithm::Random),
        ("maglev", Algorithm::ConsistentHash(HashOn::Source)),
    ];
    for (name, algorithm) in algorithms {
        let mut group = criterion.benchmark_group(name);
        for count in [1, 100, 10_000] {
            let balancer = balancer(count, algorithm.clone());
            let mut random = fastrand::Rng::with_seed(7);
            let mut now = Instant::now();
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                bencher.iter(|| {
                    now += Duration::from_micros(20);
                    request(&balancer, &outliers, now, &mut random);
                });
            });
        }
    }
}

/// What a change of a Service's endpoints costs.
fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("maglev_table");
    for count in [1, 100, 10_000] {
        group.sample_size(10);
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| balancer(count, Algorithm::ConsistentHash(HashOn::Source)));
        });
    }
}

criterion_group!(benches, pick_and_record, build);
criterion_main!(benches);
