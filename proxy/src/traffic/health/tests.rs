use std::rc::Rc;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::{HealthCheck, Outliers};
use proptest::prelude::*;

use super::*;

const FAST: Duration = Duration::from_millis(5);
const SECOND: Duration = Duration::from_secs(1);

/// Some endpoints of one Service, and a clock that is moved by hand.
struct Mesh {
    outliers: Outliers,
    ejections: Rc<Ejections>,
    endpoints: Vec<EndpointHealth>,
    now: Instant,
}

impl Mesh {
    fn of(endpoints: usize, outliers: Outliers) -> Self {
        let (now, ejections) = (Instant::now(), Rc::new(Ejections::default()));
        let endpoint = |_| EndpointHealth::new(Rc::clone(&ejections), now);
        Self {
            outliers,
            endpoints: (0..endpoints).map(endpoint).collect(),
            ejections,
            now,
        }
    }

    fn begin(&mut self, endpoint: usize) -> (Ticket, Option<Transition>) {
        self.endpoints[endpoint].begin(self.now)
    }

    fn end(&mut self, endpoint: usize, ticket: Ticket, outcome: Outcome) -> Option<Transition> {
        self.endpoints[endpoint].record(&self.outliers, ticket, self.now, outcome, FAST)
    }

    fn answer(&mut self, endpoint: usize, outcome: Outcome) -> Option<Transition> {
        let (ticket, _) = self.begin(endpoint);
        self.end(endpoint, ticket, outcome)
    }

    fn answers(&mut self, endpoint: usize, outcome: Outcome, times: u32) -> Option<Transition> {
        (0..times).fold(None, |seen, _| self.answer(endpoint, outcome).or(seen))
    }

    fn admit(&self, endpoint: usize) -> Admission {
        self.endpoints[endpoint].admit(self.now)
    }

    /// How long the endpoint is left out from now on.
    fn ejected_for(&self, endpoint: usize) -> Duration {
        let mut time = Duration::ZERO;
        while self.endpoints[endpoint].admit(self.now + time) != Admission::Probe {
            time += Duration::from_millis(50);
        }
        time
    }
}

fn opened(reason: Reason) -> Option<Transition> {
    Some(Transition {
        from: Status::Closed,
        to: Status::Open,
        reason,
    })
}

#[test]
fn five_gateway_errors_in_a_row_open_it() {
    let mut mesh = Mesh::of(3, Outliers::default());
    assert_eq!(mesh.answers(0, Outcome::GatewayError, 4), None);
    assert_eq!(mesh.answer(0, Outcome::Success), None);
    assert_eq!(mesh.answers(0, Outcome::GatewayError, 4), None);
    assert_eq!(
        mesh.answer(0, Outcome::GatewayError),
        opened(Reason::ConsecutiveGatewayErrors)
    );
    assert_eq!(mesh.admit(0), Admission::No);
    assert_eq!(mesh.ejected_for(0), 5 * SECOND);
}

#[test]
fn the_apps_own_errors_count_only_where_they_are_asked_for() {
    let mut mesh = Mesh::of(3, Outliers::default());
    assert_eq!(mesh.answers(0, Outcome::AppError, 1000), None);
    mesh.outliers.consecutive_errors = 3;
    assert_eq!(
        mesh.answers(1, Outcome::AppError, 3),
        opened(Reason::ConsecutiveErrors)
    );
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough_answers() {
    let mut mesh = Mesh::of(3, Outliers::default());
    let mut seen = None;
    for _ in 0..9 {
        seen = seen.or(mesh.answer(0, Outcome::Success));
        seen = seen.or(mesh.answer(0, Outcome::GatewayError));
    }
    assert_eq!((seen, mesh.answer(0, Outcome::Success)), (None, None));
    assert_eq!(
        mesh.answer(0, Outcome::GatewayError),
        opened(Reason::FailurePercent)
    );
}

#[test]
fn what_is_older_than_the_window_is_forgotten() {
    let mut mesh = Mesh::of(3, Outliers::default());
    for _ in 0..9 {
        mesh.answer(0, Outcome::Success);
        mesh.answer(0, Outcome::GatewayError);
    }
    mesh.now += mesh.outliers.window + SECOND;
    mesh.answer(0, Outcome::Success);
    assert_eq!(mesh.answer(0, Outcome::GatewayError), None);
}

#[test]
fn slow_answers_open_it_and_a_slow_probe_does_not_close_it() {
    let outliers = Outliers {
        latency: Some(Duration::from_millis(100)),
        ..Outliers::default()
    };
    let mut mesh = Mesh::of(3, outliers);
    let slow = Duration::from_millis(101);
    let mut seen = None;
    for _ in 0..20 {
        let (ticket, _) = mesh.begin(0);
        let health = &mut mesh.endpoints[0];
        seen = seen.or(health.record(&outliers, ticket, mesh.now, Outcome::Success, slow));
    }
    assert_eq!(seen, opened(Reason::Latency));
    mesh.now += 5 * SECOND;
    let (ticket, _) = mesh.begin(0);
    let health = &mut mesh.endpoints[0];
    let again = health.record(&outliers, ticket, mesh.now, Outcome::Success, slow);
    assert_eq!(again.map(|change| change.reason), Some(Reason::ProbeFailed));
    mesh.now += 10 * SECOND;
    let closed = mesh.answer(0, Outcome::Success);
    assert_eq!(closed.map(|change| change.to), Some(Status::Closed));
}

#[test]
fn one_probe_at_a_time_closes_it_or_doubles_the_time() {
    let mut mesh = Mesh::of(3, Outliers::default());
    mesh.answers(0, Outcome::GatewayError, 5);
    let mut length = 5 * SECOND;
    for _ in 0..3 {
        mesh.now += length;
        assert_eq!(mesh.admit(0), Admission::Probe);
        let (ticket, change) = mesh.begin(0);
        let half_open = Transition {
            from: Status::Open,
            to: Status::HalfOpen,
            reason: Reason::Expired,
        };
        assert_eq!(change, Some(half_open));
        assert_eq!(mesh.admit(0), Admission::No);
        let failed = mesh.end(0, ticket, Outcome::GatewayError);
        assert_eq!(
            failed.map(|change| change.reason),
            Some(Reason::ProbeFailed)
        );
        length *= 2;
        assert_eq!(mesh.ejected_for(0), length);
    }
    mesh.now += length;
    let closed = mesh.answer(0, Outcome::AppError);
    assert_eq!(
        closed.map(|change| change.reason),
        Some(Reason::ProbeSucceeded)
    );
    assert_eq!((mesh.admit(0), mesh.ejections.out()), (Admission::Yes, 0));
    assert_eq!(mesh.endpoints[0].since(), mesh.now);
}

#[test]
fn ejection_times_have_a_cap_and_health_takes_them_back() {
    let mut mesh = Mesh::of(3, Outliers::default());
    for _ in 0..40 {
        mesh.answers(0, Outcome::GatewayError, 5);
        mesh.now += mesh.ejected_for(0);
    }
    mesh.answer(0, Outcome::GatewayError);
    assert_eq!(mesh.ejected_for(0), mesh.outliers.max_ejection);
    mesh.now += mesh.outliers.max_ejection;
    mesh.answer(0, Outcome::Success);
    mesh.now += mesh.outliers.window * 100;
    mesh.answers(0, Outcome::GatewayError, 5);
    assert_eq!(mesh.ejected_for(0), mesh.outliers.base_ejection);
}

#[test]
fn a_cancelled_probe_lets_the_next_request_be_one() {
    let mut mesh = Mesh::of(3, Outliers::default());
    mesh.answers(0, Outcome::GatewayError, 5);
    mesh.now += 5 * SECOND;
    let (ticket, _) = mesh.begin(0);
    mesh.endpoints[0].cancel(ticket);
    assert_eq!(mesh.admit(0), Admission::Probe);
}

#[test]
fn a_probe_without_an_answer_is_not_waited_for_for_ever() {
    let mut mesh = Mesh::of(3, Outliers::default());
    mesh.answers(0, Outcome::GatewayError, 5);
    mesh.now += 5 * SECOND;
    let (late, _) = mesh.begin(0);
    mesh.now += mesh.outliers.base_ejection;
    assert_eq!(mesh.admit(0), Admission::Probe);
    let (_second, _) = mesh.begin(0);
    assert_eq!(mesh.admit(0), Admission::No);
    let closed = mesh.end(0, late, Outcome::Success);
    assert_eq!(closed.map(|change| change.to), Some(Status::Closed));
}

#[test]
fn requests_that_fail_together_count_once() {
    let mut mesh = Mesh::of(3, Outliers::default());
    let tickets: Vec<Ticket> = (0..50).map(|_| mesh.begin(0).0).collect();
    for ticket in tickets {
        mesh.end(0, ticket, Outcome::GatewayError);
    }
    assert_eq!(mesh.ejected_for(0), 5 * SECOND);
    mesh.now += 5 * SECOND;
    mesh.answer(0, Outcome::Success);
    assert_eq!(mesh.admit(0), Admission::Yes);
}

#[test]
fn at_most_the_set_share_is_ejected_and_one_of_several_always_may_be() {
    let mut mesh = Mesh::of(10, Outliers::default());
    for endpoint in 0..10 {
        mesh.answers(endpoint, Outcome::GatewayError, 20);
    }
    assert_eq!(mesh.ejections.out(), 5);
    let failing = |count, max_ejected_percent| {
        let outliers = Outliers {
            max_ejected_percent,
            ..Outliers::default()
        };
        let mut mesh = Mesh::of(count, outliers);
        mesh.answers(0, Outcome::GatewayError, 5);
        mesh.admit(0)
    };
    assert_eq!(failing(2, 1), Admission::No);
    assert_eq!(failing(1, 99), Admission::Yes);
    assert_eq!(failing(1, 100), Admission::No);
}

#[test]
fn an_endpoint_that_goes_makes_room() {
    let mut mesh = Mesh::of(4, Outliers::default());
    mesh.answers(3, Outcome::GatewayError, 5);
    mesh.endpoints.pop();
    assert_eq!((mesh.ejections.out(), mesh.ejections.endpoints()), (0, 3));
}

#[test]
fn a_failed_connection_is_evidence_at_once_and_leaves_the_last_resort() {
    let mut mesh = Mesh::of(4, Outliers::default());
    for endpoint in 0..4 {
        assert_eq!(
            mesh.answer(endpoint, Outcome::ConnectFailed),
            opened(Reason::ConnectFailed)
        );
        assert_eq!(mesh.admit(endpoint), Admission::LastResort);
    }
    let mut length = Duration::from_millis(100);
    for _ in 0..8 {
        assert_eq!(mesh.ejected_for(0), length);
        mesh.now += length;
        mesh.answer(0, Outcome::ConnectFailed);
        length = (length * 2).min(5 * SECOND);
    }
    // Whoever used it as the last resort and was answered has found out.
    assert_eq!(mesh.admit(1), Admission::Probe);
    mesh.answer(1, Outcome::ConnectFailed);
    let closed = mesh.answer(1, Outcome::Success);
    assert_eq!(closed.map(|change| change.to), Some(Status::Closed));
    mesh.answer(1, Outcome::ConnectFailed);
    assert_eq!(mesh.ejected_for(1), Duration::from_millis(100));
}

#[test]
fn health_checks_are_a_second_source() {
    let check = HealthCheck {
        path: "/health".to_owned(),
        port: None,
        interval: 5 * SECOND,
        timeout: SECOND,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };
    let mut mesh = Mesh::of(3, Outliers::default());
    let (outliers, now) = (mesh.outliers, mesh.now);
    let health = &mut mesh.endpoints[0];
    let found: Vec<_> = [false, false, true, false, false, false, true, true]
        .into_iter()
        .map(|healthy| health.checked(&check, &outliers, now, healthy))
        .collect();
    let closed = Transition {
        from: Status::Open,
        to: Status::Closed,
        reason: Reason::HealthCheck,
    };
    let mut expected = vec![None; 8];
    expected[5] = opened(Reason::HealthCheck);
    expected[7] = Some(closed);
    assert_eq!(found, expected);
    // What answers show counts whatever the checks say.
    mesh.answers(0, Outcome::GatewayError, 5);
    let health = &mut mesh.endpoints[0];
    assert_eq!(health.checked(&check, &outliers, now, true), None);
    assert_eq!(mesh.admit(0), Admission::No);
}

#[test]
fn health_checks_respect_the_set_share_until_they_are_given_up() {
    let check = HealthCheck {
        path: "/wrong".to_owned(),
        port: None,
        interval: SECOND,
        timeout: SECOND,
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    };
    let mut mesh = Mesh::of(4, Outliers::default());
    let (outliers, now) = (mesh.outliers, mesh.now);
    for health in &mut mesh.endpoints {
        health.checked(&check, &outliers, now, false);
    }
    assert_eq!(mesh.ejections.out(), 2);
    for health in &mut mesh.endpoints {
        health.unchecked(now);
    }
    assert_eq!(mesh.ejections.out(), 0);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(usize),
    End(usize, Outcome),
    Cancel(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::AppError),
        Just(Outcome::GatewayError),
        Just(Outcome::GatewayError),
        Just(Outcome::ConnectFailed),
    ];
    let step = prop_oneof![
        4 => (0usize..4).prop_map(Step::Begin),
        4 => (0usize..64, outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
        1 => (0usize..64).prop_map(Step::Cancel),
        1 => (0u64..20_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    /// Whatever happens: never more are ejected than may be, transitions connect, the count of what
    /// is out is right, and an endpoint that is out is probed again after a bounded time.
    #[test]
    fn breakers_hold_their_promises(steps in steps(), percent in 1u8..=100) {
        let outliers = Outliers { max_ejected_percent: percent, ..Outliers::default() };
        let mut mesh = Mesh::of(4, outliers);
        let mut under_way: Vec<(usize, Ticket)> = Vec::new();
        let mut shown = [Status::Closed; 4];
        for step in steps {
            let (endpoint, change) = match step {
                Step::Begin(endpoint) => {
                    let (ticket, change) = mesh.begin(endpoint);
                    under_way.push((endpoint, ticket));
                    (endpoint, change)
                }
                Step::End(which, outcome) if !under_way.is_empty() => {
                    let (endpoint, ticket) = under_way.swap_remove(which % under_way.len());
                    (endpoint, mesh.end(endpoint, ticket, outcome))
                }
                Step::Cancel(which) if !under_way.is_empty() => {
                    let (endpoint, ticket) = under_way.swap_remove(which % under_way.len());
                    mesh.endpoints[endpoint].cancel(ticket);
                    (endpoint, None)
                }
                Step::Wait(milliseconds) => {
                    mesh.now += Duration::from_millis(milliseconds);
                    continue;
                }
                Step::End(..) | Step::Cancel(_) => continue,
            };
            if let Some(change) = change {
                prop_assert_eq!(change.from, shown[endpoint]);
                shown[endpoint] = change.to;
            }
            let out = mesh.endpoints.iter().filter(|health| health.status() != Status::Closed).count();
            prop_assert_eq!(out, mesh.ejections.out());
            let refused = (0..4).filter(|&index| mesh.admit(index) == Admission::No).count();
            prop_assert!(refused <= 1 || refused * 100 <= usize::from(percent) * 4);
        }
        for (health, shown) in mesh.endpoints.iter().zip(shown) {
            let later = mesh.now + outliers.max_ejection;
            prop_assert!(matches!(health.admit(later), Admission::Yes | Admission::Probe));
            prop_assert_eq!(health.status(), shown);
        }
    }
}
