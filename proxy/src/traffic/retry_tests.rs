//! Each row of the table, and what holds whatever comes.

use std::collections::HashSet;

use outrider_api::model::traffic::RetryBudget as Budget;
use proptest::prelude::*;

use super::*;

const SAFE: [Failure; 3] = [
    Failure::ConnectFailed,
    Failure::Unprocessed,
    Failure::KeepAliveRace,
];
const UNSAFE: [Failure; 4] = [
    Failure::Reset,
    Failure::AttemptTimeout,
    Failure::Status(503),
    Failure::Grpc(14),
];

fn facts() -> Facts {
    Facts {
        idempotent: true,
        replayable: true,
        attempts: 1,
        raced: false,
        elsewhere: true,
        waited: None,
        retried_downstream: false,
        is_retry: false,
        remaining: None,
        streaming_started: false,
    }
}

fn asked(settings: &Retry, failure: Failure, facts: &Facts) -> Result<Planned, NoRetry> {
    let now = Instant::now();
    let mut budget = RetryBudget::new(&Budget::default(), now);
    decide(settings, failure, facts, &mut budget, now, |_| 0)
}

fn refused(settings: &Retry, failure: Failure, facts: &Facts) -> Option<NoRetry> {
    asked(settings, failure, facts).err()
}

fn all() -> impl Iterator<Item = Failure> {
    SAFE.into_iter().chain(UNSAFE)
}

#[test]
fn the_defaults_retry_once_what_is_idempotent() {
    for failure in all() {
        let planned = asked(&Retry::default(), failure, &facts()).expect("a retry");
        assert_eq!(planned.reason, RetryReason::from(failure));
        let expected = if SAFE.contains(&failure) { 0 } else { 25 };
        assert_eq!(
            planned.after,
            Duration::from_millis(expected),
            "{failure:?}"
        );
    }
}

#[test]
fn nothing_follows_an_answer_that_has_begun() {
    let begun = Facts {
        streaming_started: true,
        ..facts()
    };
    for failure in all() {
        assert_eq!(
            refused(&Retry::default(), failure, &begun),
            Some(NoRetry::AnswerStarted)
        );
    }
}

#[test]
fn what_the_policy_does_not_name_stands() {
    let none = Retry {
        codes: vec![502],
        grpc_codes: vec![8],
        on_reset: false,
        on_timeout: false,
        ..Retry::default()
    };
    for failure in UNSAFE {
        assert_eq!(refused(&none, failure, &facts()), Some(NoRetry::NotCovered));
    }
    for failure in SAFE {
        assert_eq!(refused(&none, failure, &facts()), None);
    }
}

#[test]
fn a_chain_retries_once_nearest_the_failure() {
    let rows = [
        (
            Facts {
                retried_downstream: true,
                ..facts()
            },
            NoRetry::RetriedDownstream,
        ),
        (
            Facts {
                is_retry: true,
                ..facts()
            },
            NoRetry::AlreadyARetry,
        ),
    ];
    for (facts, why) in rows {
        for failure in UNSAFE {
            assert_eq!(refused(&Retry::default(), failure, &facts), Some(why));
        }
        for failure in SAFE {
            assert_eq!(refused(&Retry::default(), failure, &facts), None);
        }
    }
}

#[test]
fn a_post_is_repeated_only_where_it_was_not_served_or_opted_in() {
    let post = Facts {
        idempotent: false,
        ..facts()
    };
    let opted_in = Retry {
        non_idempotent: true,
        ..Retry::default()
    };
    for failure in UNSAFE {
        let by_default = refused(&Retry::default(), failure, &post);
        assert_eq!(by_default, Some(NoRetry::NotIdempotent));
        assert_eq!(refused(&opted_in, failure, &post), None);
    }
    for failure in SAFE {
        assert_eq!(refused(&Retry::default(), failure, &post), None);
    }
}

#[test]
fn attempts_end() {
    let off = Retry {
        attempts: 0,
        ..Retry::default()
    };
    let second = Facts {
        attempts: 2,
        elsewhere: false,
        ..facts()
    };
    for failure in all().filter(|failure| *failure != Failure::KeepAliveRace) {
        assert_eq!(refused(&off, failure, &facts()), Some(NoRetry::Disabled));
        let over = refused(&Retry::default(), failure, &second);
        assert_eq!(over, Some(NoRetry::AttemptsExhausted));
    }
}

#[test]
fn a_keep_alive_race_is_replayed_once_for_nothing() {
    let now = Instant::now();
    let nothing = Budget {
        percent: 0,
        min_count: 0,
        ..Budget::default()
    };
    let mut budget = RetryBudget::new(&nothing, now);
    let off = Retry {
        attempts: 0,
        ..Retry::default()
    };
    let post = Facts {
        idempotent: false,
        elsewhere: false,
        ..facts()
    };
    let race = Failure::KeepAliveRace;
    let planned = decide(&off, race, &post, &mut budget, now, |_| 0).expect("a replay");
    assert_eq!(planned.after, Duration::ZERO);
    let again = Facts {
        raced: true,
        ..post
    };
    let by_default = Retry::default();
    assert_eq!(refused(&off, race, &again), Some(NoRetry::Disabled));
    assert_eq!(
        decide(&by_default, race, &again, &mut budget, now, |_| 0),
        Err(NoRetry::BudgetExhausted)
    );
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    let gone = Facts {
        replayable: false,
        ..facts()
    };
    for failure in all() {
        let expected = (failure != Failure::ConnectFailed).then_some(NoRetry::BodyNotKept);
        assert_eq!(refused(&Retry::default(), failure, &gone), expected);
    }
}

#[test]
fn no_wait_reaches_the_deadline() {
    let with = |remaining| Facts {
        remaining: Some(Duration::from_millis(remaining)),
        ..facts()
    };
    let settings = Retry::default();
    let failure = Failure::Status(503);
    let too_close = Some(NoRetry::DeadlineTooClose);
    assert_eq!(refused(&settings, failure, &with(25)), too_close);
    assert_eq!(refused(&settings, failure, &with(26)), None);
    for failure in all() {
        assert_eq!(refused(&settings, failure, &with(0)), too_close);
    }
}

#[test]
fn an_empty_budget_refuses_and_what_is_refused_costs_none() {
    let now = Instant::now();
    let one = Budget {
        percent: 0,
        min_count: 1,
        ..Budget::default()
    };
    let mut budget = RetryBudget::new(&one, now);
    let mut ask = |facts: &Facts| {
        let settings = Retry::default();
        decide(&settings, Failure::Reset, facts, &mut budget, now, |_| 0)
    };
    let late = Facts {
        remaining: Some(Duration::ZERO),
        ..facts()
    };
    assert_eq!(ask(&late), Err(NoRetry::DeadlineTooClose));
    assert!(ask(&facts()).is_ok());
    assert_eq!(ask(&facts()), Err(NoRetry::BudgetExhausted));
}

#[test]
fn a_failed_connection_waits_where_there_is_no_other_endpoint() {
    let alone = Facts {
        elsewhere: false,
        ..facts()
    };
    let planned = asked(&Retry::default(), Failure::ConnectFailed, &alone).expect("a retry");
    assert_eq!(planned.after, Duration::from_millis(25));
}

#[test]
fn waits_grow_to_their_limit() {
    let settings = Retry::default();
    let longest = |waited| backoff(&settings, waited, |below| below - 1);
    let milliseconds = Duration::from_millis;
    assert_eq!(longest(None), milliseconds(75));
    assert_eq!(longest(Some(milliseconds(75))), milliseconds(225));
    assert_eq!(longest(Some(milliseconds(225))), milliseconds(250));
}

#[test]
fn a_rule_stands_in_place_of_the_service() {
    let rule = RuleRetry {
        codes: Some(vec![500]),
        attempts: Some(3),
        backoff: Some(Duration::from_secs(1)),
    };
    let merged = with_rule(&Retry::default(), &rule);
    assert_eq!((merged.attempts, &merged.codes), (3, &vec![500]));
    assert_eq!(merged.grpc_codes, Retry::default().grpc_codes);
    // Its least wait is kept although the Service's longest is shorter.
    assert_eq!(backoff(&merged, None, |_| 0), Duration::from_secs(1));
    let service = Retry {
        codes: vec![502],
        attempts: 7,
        ..Retry::default()
    };
    let silent = RuleRetry::default();
    assert_eq!(with_rule(&service, &silent), service, "field by field");
}

#[test]
fn labels_are_unique() {
    let reasons: HashSet<_> = RetryReason::ALL.iter().map(|one| one.label()).collect();
    assert_eq!(reasons.len(), RetryReason::ALL.len());
    let stops: HashSet<_> = NoRetry::ALL.iter().map(|one| one.label()).collect();
    assert_eq!(stops.len(), NoRetry::ALL.len());
}

fn any_failure() -> impl Strategy<Value = Failure> {
    proptest::sample::select(all().collect::<Vec<_>>())
}

proptest! {
    /// A request that fails and fails: at most one attempt more than there are retries (besides the
    /// replay of one race and what never reached the Service), and none begins at or after the deadline.
    #[test]
    fn attempts_and_time_are_bounded(failures in proptest::collection::vec(any_failure(), 64), retries in 0u32..6,
                                     timeout in 0u64..2000, took in 0u64..50, elsewhere: bool, seed: u64) {
        let settings = Retry { attempts: retries, ..Retry::default() };
        let start = Instant::now();
        let deadline = start + Duration::from_millis(timeout);
        let mut budget = RetryBudget::new(&Budget { min_count: 100, ..Budget::default() }, start);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut now, mut sent, mut unreached) = (start, 0u32, 0u32);
        let mut facts = Facts { elsewhere, ..facts() };
        for failure in failures {
            sent += 1;
            now += Duration::from_millis(took);
            facts.remaining = Some(deadline.saturating_duration_since(now));
            let Ok(planned) = decide(&settings, failure, &facts, &mut budget, now, |below| rng.usize(..below))
            else { break };
            now += planned.after;
            prop_assert!(now < deadline);
            if planned.reason == RetryReason::KeepAliveRace && !facts.raced {
                facts.raced = true;
            } else if failure == Failure::ConnectFailed && elsewhere {
                // It never reached the Service.
                unreached += 1;
            } else {
                facts.attempts += 1;
                facts.waited = Some(planned.after);
            }
        }
        prop_assert!(sent <= retries + 1 + u32::from(facts.raced) + unreached);
    }

    #[test]
    fn a_wait_is_within_its_bounds(least in 0u64..500, most in 0u64..500, waited in proptest::option::of(0u64..5000),
                                   seed: u64) {
        let milliseconds = Duration::from_millis;
        let settings = Retry { backoff: milliseconds(least), max_backoff: milliseconds(most), ..Retry::default() };
        let mut rng = fastrand::Rng::with_seed(seed);
        let wait = backoff(&settings, waited.map(milliseconds), |below| rng.usize(..below));
        prop_assert!(wait >= milliseconds(least) && wait <= milliseconds(most.max(least)));
    }
}

#[test]
fn what_was_decided_nearest_the_failure_holds_for_callers() {
    let holds = |reason: &&NoRetry| reason.holds_upstream();
    let holding: Vec<&str> = NoRetry::ALL
        .iter()
        .filter(holds)
        .map(|reason| reason.label())
        .collect();
    assert_eq!(
        holding,
        [
            "retried_downstream",
            "attempts_exhausted",
            "budget_exhausted"
        ]
    );
}
