//! What is simulated.

use std::time::Duration;

use crate::server::{Capacity, Mode, Trouble};

/// Users ask through `callers` sidecars, each on average once in `every`; what they ask for goes
/// through all tiers.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub callers: usize,
    pub every: Duration,
    /// Servers of each tier.
    pub tiers: Vec<usize>,
    pub capacity: Capacity,
    pub troubles: Vec<Trouble>,
    /// What is asked for before does not count.
    pub warm_up: Duration,
    pub length: Duration,
}

impl Scenario {
    /// Whether its trouble does.
    pub(crate) fn ends(&self) -> bool {
        let mut troubles = self.troubles.iter();
        !self.troubles.is_empty() && troubles.all(|trouble| trouble.until < self.length)
    }
}

const WARM_UP: Duration = Duration::from_secs(5);
const FOREVER: Duration = Duration::MAX;

/// 20 callers with 50 requests a second each, for ten servers that could bear twice as many.
fn ten(name: &'static str, trouble: Option<(usize, Mode, Duration)>) -> Scenario {
    let trouble = trouble.map(|(servers, mode, until)| Trouble {
        tier: 0,
        servers,
        mode,
        from: WARM_UP,
        until,
    });
    Scenario {
        name,
        callers: 20,
        every: Duration::from_millis(20),
        tiers: vec![10],
        capacity: Capacity::default(),
        troubles: trouble.into_iter().collect(),
        warm_up: WARM_UP,
        length: Duration::from_secs(35),
    }
}

pub(crate) fn healthy() -> Scenario {
    ten("all healthy", None)
}

pub(crate) fn one_slow() -> Scenario {
    ten(
        "one of ten 10× slower",
        Some((1, Mode::Slower(10.0), FOREVER)),
    )
}

pub(crate) fn one_erroring() -> Scenario {
    ten("one of ten answers 503", Some((1, Mode::Errors, FOREVER)))
}

pub(crate) fn one_dead() -> Scenario {
    ten(
        "one of ten refuses connections",
        Some((1, Mode::Refuses, FOREVER)),
    )
}

pub(crate) fn one_silent() -> Scenario {
    ten("one of ten never answers", Some((1, Mode::Silent, FOREVER)))
}

pub(crate) fn outage() -> Scenario {
    ten(
        "all answer 503 for 10 s",
        Some((10, Mode::Errors, Duration::from_secs(15))),
    )
}

pub(crate) fn outage_refusing() -> Scenario {
    ten(
        "all refuse connections for 10 s",
        Some((10, Mode::Refuses, Duration::from_secs(15))),
    )
}

/// A calls B, B calls C, C calls D, and D answers 503 for ten seconds.
pub(crate) fn storm() -> Scenario {
    let trouble = Trouble {
        tier: 2,
        servers: 5,
        mode: Mode::Errors,
        from: WARM_UP,
        until: Duration::from_secs(15),
    };
    Scenario {
        name: "A→B→C→D, D answers 503 for 10 s",
        callers: 10,
        every: Duration::from_millis(20),
        tiers: vec![5, 5, 5],
        capacity: Capacity::default(),
        troubles: vec![trouble],
        warm_up: WARM_UP,
        length: Duration::from_secs(35),
    }
}

pub(crate) fn all() -> Vec<Scenario> {
    vec![
        healthy(),
        one_slow(),
        one_erroring(),
        one_dead(),
        one_silent(),
        outage(),
        outage_refusing(),
        storm(),
    ]
}
