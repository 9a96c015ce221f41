//! What time, retries and limits cost a request: the budget and the decision, the context and its
//! member of tracestate, a token. Shown in nanoseconds; `cargo bench -p mesh-tests --bench request`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use outrider_api::model::traffic::{Fault, FaultKind, Limits, Retry, RetryBudget as Budget};
use outrider_proxy::traffic::bucket::{Bucket, Rate};
use outrider_proxy::traffic::budget::RetryBudget;
use outrider_proxy::traffic::context::Contexts;
use outrider_proxy::traffic::deadline::Deadline;
use outrider_proxy::traffic::limits::Usage;
use outrider_proxy::traffic::retry::{Facts, Failure, decide};
use outrider_proxy::traffic::tracestate::{Member, TRACESTATE};
use outrider_proxy::traffic::{faults, grpc_timeout, traceparent};

const FACTS: Facts = Facts {
    idempotent: true,
    replayable: true,
    attempts: 1,
    raced: false,
    elsewhere: true,
    waited: None,
    retried_downstream: false,
    is_retry: false,
    remaining: Some(Duration::from_secs(1)),
    streaming_started: false,
};

fn retries(criterion: &mut Criterion) {
    let mut budget = RetryBudget::new(&Budget::default(), Instant::now());
    criterion.bench_function("budget: count a request", |bencher| {
        bencher.iter(|| budget.request(black_box(Instant::now())));
    });
    let (settings, mut rng) = (Retry::default(), fastrand::Rng::with_seed(7));
    criterion.bench_function(
        "budget and decision: a request that is retried",
        |bencher| {
            bencher.iter(|| {
                let now = Instant::now();
                budget.request(now);
                let random = |below| rng.usize(..below);
                black_box(decide(
                    &settings,
                    Failure::Status(503),
                    &FACTS,
                    &mut budget,
                    now,
                    random,
                ))
            });
        },
    );
    let (limits, usage) = (Limits::default(), Usage::default());
    criterion.bench_function("limits: hold a request", |bencher| {
        bencher.iter(|| drop(black_box(usage.request(&limits))));
    });
    let fault = Fault {
        basis_points: 1,
        kind: FaultKind::Delay(Duration::from_millis(1)),
    };
    criterion.bench_function("faults: draw one", |bencher| {
        bencher.iter(|| faults::draw(black_box(&[fault]), |below| rng.usize(..below)));
    });
}

fn time(criterion: &mut Criterion) {
    let contexts = Contexts::new(Instant::now());
    criterion.bench_function("context: begin, find, end", |bencher| {
        bencher.iter(|| {
            let deadline = Deadline::after(Instant::now(), Some(Duration::from_secs(15)));
            let id = contexts.begin(deadline.instant(), 1)?;
            black_box(contexts.find(id));
            Some(contexts.end(id))
        });
    });
    let member = Member {
        remaining: Some(Duration::from_millis(14_987)),
        attempt: 1,
        context: contexts.begin(None, 1),
    };
    let mut headers = HeaderMap::new();
    member.put(&mut headers);
    criterion.bench_function("tracestate: find and put, ours alone", |bencher| {
        bencher.iter(|| {
            black_box(Member::find(&headers));
            member.put(&mut headers);
        });
    });
    let others = "outrider=t15000.a1.i7f-2,congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,dd=s:1;o:rum";
    let others = HeaderValue::from_static(others);
    criterion.bench_function("tracestate: find and put, beside three others", |bencher| {
        bencher.iter(|| {
            headers.insert(TRACESTATE, others.clone());
            black_box(Member::find(&headers));
            member.put(&mut headers);
        });
    });
    let mut rng = fastrand::Rng::with_seed(7);
    criterion.bench_function("traceparent: make", |bencher| {
        bencher.iter(|| {
            headers.remove(traceparent::TRACEPARENT);
            traceparent::ensure(&mut headers, |below| rng.usize(..below));
        });
    });
    criterion.bench_function("grpc-timeout: read and write", |bencher| {
        bencher.iter(|| grpc_timeout::parse(black_box(b"1500m")).map(grpc_timeout::format));
    });
}

fn limits(criterion: &mut Criterion) {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let (generous, bucket) = (Rate::new(1 << 30, second, 1 << 30, now), Bucket::default());
    criterion.bench_function("bucket: take", |bencher| {
        bencher.iter(|| bucket.take(&generous, black_box(Instant::now())));
    });
    let (strict, bucket) = (Rate::new(1, 3600 * second, 1, now), Bucket::default());
    criterion.bench_function("bucket: empty", |bencher| {
        bencher.iter(|| bucket.take(&strict, black_box(Instant::now())));
    });
    criterion.bench_function("for comparison: the clock", |bencher| {
        bencher.iter(Instant::now)
    });
}

criterion_group!(benches, retries, time, limits);
criterion_main!(benches);
