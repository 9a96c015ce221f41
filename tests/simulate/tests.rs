//! What the documentation claims, by seed.

use std::time::Duration;

use outrider_api::model::traffic::{Timeouts, TrafficSettings};

use crate::measured::Measured;
use crate::scenario::{self, Scenario};
use crate::sidecar::Policy;
use crate::{report, world};

fn outrider() -> Policy {
    Policy::Outrider(Box::default())
}

/// Fewer callers and less time: what is claimed holds all the same, and soon.
fn short(scenario: Scenario) -> Scenario {
    Scenario {
        callers: scenario.callers / 2,
        every: scenario.every / 2,
        length: Duration::from_secs(20),
        ..scenario
    }
}

fn run(scenario: Scenario, policy: &Policy) -> Measured {
    world::run(&short(scenario), policy, 3)
}

fn p99(mut measured: Measured) -> Duration {
    measured.latencies([500, 990, 999])[1]
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let with = |seed| world::run(&short(scenario::one_slow()), &outrider(), seed);
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn health_needs_no_policy_and_loses_nothing_by_one() {
    for policy in [Policy::Nothing, outrider()] {
        let measured = run(scenario::healthy(), &policy);
        assert_eq!(measured.goodput(), 100.0);
        // What was under way at the edges makes the difference.
        assert!((measured.amplification() - 1.0).abs() < 0.001);
        assert!(p99(measured) < Duration::from_millis(100));
    }
}

#[test]
fn one_bad_endpoint_of_ten_is_hardly_noticed() {
    for (scenario, least) in [
        (scenario::one_slow(), 99.9),
        (scenario::one_erroring(), 99.9),
        (scenario::one_dead(), 99.9),
        // Without a timeout for each attempt, what it is asked is lost, now and then.
        (scenario::one_silent(), 99.8),
    ] {
        let name = scenario.name;
        let without = run(scenario.clone(), &Policy::Nothing).goodput();
        assert!(without < 92.0, "{name}: {without}%");
        let measured = run(scenario, &outrider());
        let with = measured.goodput();
        assert!(with >= least, "{name}: {with}%");
        assert!(p99(measured) < Duration::from_millis(110), "{name}");
    }
}

#[test]
fn a_timeout_for_each_attempt_saves_what_silence_takes() {
    let settings = TrafficSettings {
        timeouts: Timeouts {
            backend_request: Some(Duration::from_millis(300)),
            ..Timeouts::default()
        },
        ..TrafficSettings::default()
    };
    let measured = run(
        scenario::one_silent(),
        &Policy::Outrider(Box::new(settings)),
    );
    assert_eq!(measured.goodput(), 100.0);
}

#[test]
fn an_outage_is_over_when_it_is_over() {
    for scenario in [scenario::outage(), scenario::outage_refusing()] {
        let measured = run(scenario, &outrider());
        assert!(measured.amplification() <= 1.35);
        let recovery = measured.recovery().expect("recovers");
        assert!(recovery <= Duration::from_secs(1), "{recovery:?}");
    }
}

#[test]
fn retries_do_not_multiply_from_hop_to_hop() {
    let naive = run(scenario::storm(), &Policy::NaiveRetries(3));
    assert!(naive.amplification() > 5.0);
    let measured = run(scenario::storm(), &outrider());
    assert!(measured.amplification() <= 1.3);
    assert!(measured.recovery().expect("recovers") <= Duration::from_secs(1));
    assert!(measured.goodput() > naive.goodput());
}

#[test]
fn the_report_is_well_formed() {
    let scenario = short(scenario::outage());
    let measured = [(); 3].map(|()| world::run(&scenario, &outrider(), 1));
    let mut results = vec![(scenario, measured)];
    let table = report::table(&mut results);
    assert_eq!(table.lines().count(), 5);
    let columns = |line: &str| line.matches('|').count();
    assert!(table.lines().all(|line| columns(line) == 9));
    let plot = report::plot(&results);
    assert_eq!(plot.matches("<polyline").count(), 3);
    assert_eq!(plot.matches("<g ").count(), plot.matches("</g>").count());
    assert!(report::document(&table, 1, 5).contains(&table));
}
