//! How one authority follows another without anybody being refused, in three steps: trust the next, sign
//! with the next, forget the previous. Pure, the clock passed in.

use std::time::{Duration, SystemTime};

/// A step is looked at again after so long at the most: clocks are set, and machines sleep.
const LOOK: Duration = Duration::from_secs(60);
/// For the clocks of others, and for certificates that were being issued.
pub(super) const SLACK: Duration = Duration::from_secs(10 * 60);
/// An authority begins so long before it is made.
const DATED_BACK: Duration = Duration::from_secs(60 * 60);

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// One authority.
    Steady,
    /// The next is trusted, and signs nothing yet.
    Trusting,
    /// The next signs; certificates of the previous may live.
    Forgetting,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: SystemTime,
    pub(super) stage: Stage,
    /// Since when, if that can be read.
    pub(super) since: Option<SystemTime>,
    /// The life of the authority that signs.
    pub(super) begins: SystemTime,
    pub(super) ends: SystemTime,
    /// What somebody has asked for a rotation with.
    pub(super) asked: Option<&'a str>,
    /// What the last rotation was asked for with.
    pub(super) answered: Option<&'a str>,
    /// Whether every sidecar and every replica trusts the next one.
    pub(super) all_trust: bool,
    /// The longest that any certificate lives.
    pub(super) longest: Duration,
}

/// How long the first step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// At least: the kubelets bring the new trust bundle to pods that start.
    pub(crate) settle: Duration,
    /// At most: whoever has not taken the bundle by then is not waited for.
    pub(crate) patience: Duration,
}

impl Timing {
    /// The same for an authority that still lives for `left`: half of that at most, so that another signs
    /// before it ends.
    fn within(self, left: Duration) -> Self {
        Self {
            settle: self.settle.min(left / 2),
            patience: self.patience.min(left / 2),
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for so long.
    Wait(Duration),
    /// Write down that the stage begins now: when it did is not known, or was never.
    Date,
    /// Make the next authority, and have it trusted.
    Begin,
    /// Sign with it.
    Switch,
    /// Trust the previous no longer.
    Forget,
}

/// The next step.
pub(super) fn step(facts: &Facts<'_>, timing: Timing) -> Step {
    let is_asked = facts.asked.is_some() && facts.asked != facts.answered;
    let due = due(facts.begins, facts.ends);
    match facts.stage {
        Stage::Steady if is_asked || facts.now >= due => Step::Begin,
        Stage::Steady => wait(due, facts.now),
        // That the last one is not forgotten keeps nobody from asking again, nor the next from its end.
        Stage::Forgetting if is_asked || facts.now >= due => Step::Begin,
        Stage::Trusting | Stage::Forgetting => {
            let Some(since) = facts.since.filter(|since| *since <= facts.now) else {
                return Step::Date;
            };
            let timing = timing.within(facts.ends.duration_since(since).unwrap_or_default());
            let passed = |span| since.checked_add(span).unwrap_or(facts.now);
            match facts.stage {
                Stage::Trusting if facts.now >= passed(timing.patience) => Step::Switch,
                Stage::Trusting if facts.now < passed(timing.settle) => {
                    wait(passed(timing.settle), facts.now)
                }
                Stage::Trusting if facts.all_trust => Step::Switch,
                Stage::Trusting => Step::Wait(ASK_AGAIN),
                Stage::Steady | Stage::Forgetting => {
                    let over = passed(facts.longest.saturating_add(SLACK));
                    if facts.now >= over {
                        Step::Forget
                    } else {
                        wait(over.min(due), facts.now)
                    }
                }
            }
        }
    }
}

/// How long an authority must live at least that signs certificates of `lifetime`: the one before it is
/// forgotten before the next is due, so that there are never three. It is due after two thirds, the next
/// signs after a further sixth at the most, and is then alone after `lifetime` and the slack. The rest is
/// since authorities are dated back.
pub(super) fn least_life(lifetime: Duration) -> Duration {
    let alone = lifetime.saturating_add(SLACK);
    alone.saturating_mul(3).saturating_add(DATED_BACK)
}

/// How often everybody is asked whether they trust the next one.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// When two thirds of a life are over.
fn due(begins: SystemTime, ends: SystemTime) -> SystemTime {
    let life = ends.duration_since(begins).unwrap_or_default();
    begins.checked_add(life / 3 * 2).unwrap_or(ends)
}

fn wait(until: SystemTime, now: SystemTime) -> Step {
    let left = until.duration_since(now).unwrap_or_default();
    Step::Wait(left.clamp(Duration::from_millis(100), LOOK))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const TIMING: Timing = Timing {
        settle: Duration::from_secs(120),
        patience: Duration::from_secs(3600),
    };

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * 20_000
    }

    fn steady() -> Facts<'static> {
        Facts {
            now: start() + DAY,
            stage: Stage::Steady,
            since: None,
            begins: start(),
            ends: start() + DAY * 90,
            asked: None,
            answered: None,
            all_trust: false,
            longest: DAY,
        }
    }

    fn at(stage: Stage, passed: Duration) -> Facts<'static> {
        Facts {
            stage,
            since: Some(start() + DAY - passed),
            ..steady()
        }
    }

    #[test]
    fn a_rotation_begins_by_age_or_when_it_is_asked_for() {
        let next = |facts: Facts<'_>| step(&facts, TIMING);
        assert_eq!(next(steady()), Step::Wait(LOOK));
        let old = Facts {
            now: start() + DAY * 60,
            ..steady()
        };
        assert_eq!(next(old), Step::Begin);
        let asked = Facts {
            asked: Some("1"),
            ..steady()
        };
        assert_eq!(next(asked), Step::Begin);
        assert_eq!(
            next(Facts {
                answered: Some("1"),
                ..asked
            }),
            Step::Wait(LOOK)
        );
        assert_eq!(
            next(Facts {
                answered: Some("0"),
                ..asked
            }),
            Step::Begin
        );
        let again = Facts {
            asked: Some("2"),
            answered: Some("1"),
            ..at(Stage::Forgetting, DAY / 2)
        };
        assert_eq!(next(again), Step::Begin);
        let under_way = Facts {
            stage: Stage::Trusting,
            ..again
        };
        assert_ne!(next(under_way), Step::Begin, "one after the other");
    }

    #[test]
    fn it_switches_when_everybody_trusts_the_next_or_at_last() {
        let second = Duration::from_secs(1);
        let trusting = |passed, all_trust| {
            let facts = Facts {
                all_trust,
                ..at(Stage::Trusting, passed)
            };
            step(&facts, TIMING)
        };
        assert_eq!(trusting(TIMING.settle - second, true), Step::Wait(second));
        assert_eq!(trusting(TIMING.settle, true), Step::Switch);
        assert_eq!(trusting(TIMING.settle, false), Step::Wait(ASK_AGAIN));
        assert_eq!(
            trusting(TIMING.patience - second, false),
            Step::Wait(ASK_AGAIN)
        );
        assert_eq!(trusting(TIMING.patience, false), Step::Switch);
    }

    #[test]
    fn it_forgets_when_the_longest_certificate_has_ended() {
        let second = Duration::from_secs(1);
        let forgetting = |passed| step(&at(Stage::Forgetting, passed), TIMING);
        assert_eq!(forgetting(DAY + SLACK - second), Step::Wait(second));
        assert_eq!(forgetting(DAY + SLACK), Step::Forget);
    }

    #[test]
    fn a_stage_whose_beginning_is_not_known_begins_now() {
        for stage in [Stage::Trusting, Stage::Forgetting] {
            let unknown = Facts {
                since: None,
                ..at(stage, DAY)
            };
            assert_eq!(step(&unknown, TIMING), Step::Date);
            let to_come = Facts {
                since: Some(start() + DAY * 900),
                ..at(stage, DAY)
            };
            assert_eq!(step(&to_come, TIMING), Step::Date, "a clock was wrong");
        }
    }

    #[test]
    fn the_next_is_begun_although_the_last_is_not_forgotten_when_it_is_due() {
        let short = |passed| {
            let facts = Facts {
                ends: start() + DAY,
                now: start() + passed,
                ..at(Stage::Forgetting, DAY)
            };
            step(
                &Facts {
                    since: Some(start()),
                    ..facts
                },
                TIMING,
            )
        };
        let second = Duration::from_secs(1);
        assert_eq!(short(DAY / 3 * 2 - second), Step::Wait(second));
        assert_eq!(short(DAY / 3 * 2), Step::Begin);
    }

    #[test]
    fn it_switches_before_the_one_that_signs_has_ended() {
        let minute = Duration::from_secs(60);
        // Ten minutes were left.
        let trusting = |passed, all_trust| {
            let facts = Facts {
                ends: start() + DAY - passed + minute * 10,
                all_trust,
                ..at(Stage::Trusting, passed)
            };
            step(&facts, TIMING)
        };
        assert_eq!(trusting(minute * 4, false), Step::Wait(ASK_AGAIN));
        assert_eq!(trusting(minute * 4, true), Step::Switch);
        assert_eq!(trusting(minute * 5, false), Step::Switch);
        let ended = Facts {
            ends: start(),
            ..at(Stage::Trusting, Duration::ZERO)
        };
        assert_eq!(step(&ended, TIMING), Step::Switch);
    }

    /// A mesh whose sidecars trust the next one, or never: how many authorities were trusted at once at the
    /// most, over `lives` of them. One that has ended must sign nothing.
    fn most_at_once(life: Duration, longest: Duration, all_trust: bool, lives: u32) -> usize {
        let mut facts = Facts {
            now: start(),
            begins: start() - DATED_BACK,
            ends: start() + life,
            all_trust,
            longest,
            ..steady()
        };
        let (mut made, mut previous, mut most) = (start(), 0, 1);
        while facts.now < start() + life * lives {
            assert!(facts.now < facts.ends, "nobody can sign");
            match step(&facts, TIMING) {
                Step::Wait(rest) => facts.now += rest,
                Step::Date => facts.since = Some(facts.now),
                Step::Begin => {
                    made = facts.now;
                    (facts.stage, facts.since) = (Stage::Trusting, Some(made));
                    most = most.max(previous + 2);
                }
                Step::Switch => {
                    (facts.stage, facts.since) = (Stage::Forgetting, Some(facts.now));
                    (facts.begins, facts.ends) = (made - DATED_BACK, made + life);
                    previous += 1;
                }
                Step::Forget => (facts.stage, previous) = (Stage::Steady, 0),
            }
        }
        most
    }

    proptest! {
        /// From any beginning every rotation ends, and in order, whatever the sidecars do.
        #[test]
        fn every_rotation_ends(
            all_trust in any::<bool>(),
            since in prop::option::of(-400_i64..400),
            stage in prop_oneof![Just(Stage::Trusting), Just(Stage::Forgetting), Just(Stage::Steady)],
            lifetime in 1_u64..100,
        ) {
            let mut facts = Facts {
                stage,
                all_trust,
                longest: Duration::from_secs(lifetime * 3600),
                since: since.map(|hours| {
                    let distance = Duration::from_secs(hours.unsigned_abs() * 3600);
                    if hours < 0 { start() - distance } else { start() + distance }
                }),
                asked: Some("1"),
                answered: (stage != Stage::Steady).then_some("1"),
                ..steady()
            };
            let mut steps = Vec::new();
            for _ in 0..20_000 {
                match step(&facts, TIMING) {
                    Step::Wait(rest) => {
                        prop_assert!(!rest.is_zero() && rest <= LOOK);
                        if facts.stage == Stage::Steady {
                            break;
                        }
                        facts.now += rest;
                        continue;
                    }
                    Step::Date => facts.since = Some(facts.now),
                    Step::Begin => {
                        facts.stage = Stage::Trusting;
                        facts.since = Some(facts.now);
                        facts.answered = facts.asked;
                        steps.push(1);
                    }
                    Step::Switch => {
                        prop_assert_eq!(facts.stage, Stage::Trusting);
                        facts.stage = Stage::Forgetting;
                        facts.since = Some(facts.now);
                        facts.begins = facts.now;
                        facts.ends = facts.now + DAY * 90;
                        steps.push(2);
                    }
                    Step::Forget => {
                        let since = facts.since.unwrap();
                        prop_assert!(facts.now >= since + facts.longest);
                        facts.stage = Stage::Steady;
                        steps.push(3);
                    }
                }
            }
            prop_assert_eq!(facts.stage, Stage::Steady);
            let expected: &[i32] = match stage {
                Stage::Steady => &[1, 2, 3],
                Stage::Trusting => &[2, 3],
                Stage::Forgetting => &[3],
            };
            prop_assert_eq!(steps.as_slice(), expected);
        }

        /// However short its life is, an authority is followed by the next before it ends.
        #[test]
        fn somebody_can_always_sign(
            minutes in 15_u32..3_000,
            lifetime in 1_u32..6_000,
            all_trust in any::<bool>(),
        ) {
            let minute = Duration::from_secs(60);
            most_at_once(minute * minutes, minute * lifetime, all_trust, 4);
        }

        /// With a life that is long enough the last one is forgotten before the next is made.
        #[test]
        fn no_more_than_two_are_trusted(
            lifetime in 0_u32..6_000,
            more in 0_u32..3_000,
            all_trust in any::<bool>(),
        ) {
            let minute = Duration::from_secs(60);
            let life = least_life(minute * lifetime) + minute * more;
            prop_assert_eq!(most_at_once(life, minute * lifetime, all_trust, 4), 2);
        }
    }
}
