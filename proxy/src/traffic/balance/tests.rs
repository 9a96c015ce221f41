use outrider_api::model::traffic::HashOn;
use proptest::prelude::*;

use super::*;

const MS: f64 = 1e6;

#[derive(Clone, Debug)]
struct Fake {
    identity: u64,
    zone: Option<&'static str>,
    admission: Admission,
    in_flight: u32,
    latency: Latency,
    since: Instant,
}

impl Candidate for Fake {
    fn identity(&self) -> u64 {
        self.identity
    }
    fn zone(&self) -> Option<&str> {
        self.zone
    }
    fn admission(&self, _now: Instant) -> Admission {
        self.admission
    }
    fn in_flight(&self) -> u32 {
        self.in_flight
    }
    fn latency(&self, _now: Instant) -> Latency {
        self.latency
    }
    fn since(&self) -> Instant {
        self.since
    }
}

fn fakes(count: usize) -> Vec<Fake> {
    let since = Instant::now();
    let fake = |index| Fake {
        identity: hash(format!("10.0.0.{index}:15008").as_bytes()),
        zone: None,
        admission: Admission::Yes,
        in_flight: 0,
        latency: Latency {
            estimate: Some(10.0 * MS),
            silence: 0.0,
        },
        since,
    };
    (0..count).map(fake).collect()
}

fn by(algorithm: Algorithm) -> Balancing {
    Balancing {
        algorithm,
        ..Balancing::default()
    }
}

fn balancer(endpoints: Vec<Fake>, balancing: &Balancing) -> Balancer<Fake> {
    Balancer::new(endpoints, balancing, WhenAllEjected::Refuse, Some("a"))
}

fn all_algorithms() -> [Algorithm; 5] {
    [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::ConsistentHash(HashOn::Source),
    ]
}

/// How often each endpoint is picked in `picks`, each with a key of its own.
fn shares(balancer: &Balancer<Fake>, now: Instant, picks: u64, seed: u64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counts = vec![0u64; balancer.endpoints().len()];
    for key in 0..picks {
        let picked = balancer.pick(&[], Some(key), now, |below| random.usize(..below));
        counts[picked.expect("an endpoint").0] += 1;
    }
    counts
        .iter()
        .map(|&count| count as f64 / picks as f64)
        .collect()
}

#[test]
fn every_algorithm_shares_evenly_among_equals() {
    for algorithm in all_algorithms() {
        let balancer = balancer(fakes(10), &by(algorithm.clone()));
        for share in shares(&balancer, Instant::now(), 20_000, 7) {
            assert!((0.09..0.11).contains(&share), "{algorithm:?}: {share}");
        }
    }
}

#[test]
fn every_algorithm_shares_what_the_ejected_leave() {
    for algorithm in all_algorithms() {
        let mut endpoints = fakes(100);
        for endpoint in &mut endpoints[..90] {
            endpoint.admission = Admission::No;
        }
        // Round robin gives the turn of an ejected one to the next: order them as chance would.
        fastrand::Rng::with_seed(1).shuffle(&mut endpoints);
        let balancer = balancer(endpoints, &by(algorithm.clone()));
        let even = algorithm != Algorithm::RoundRobin;
        let shares = shares(&balancer, Instant::now(), 20_000, 7);
        for (share, endpoint) in shares.into_iter().zip(balancer.endpoints()) {
            match endpoint.admission {
                Admission::No => assert_eq!(share, 0.0),
                _ if even => assert!((0.08..0.12).contains(&share), "{algorithm:?}: {share}"),
                _ => assert!(share > 0.0),
            }
        }
    }
}

#[test]
fn the_better_of_two_gets_its_share_whatever_is_drawn_first() {
    let share_of_better = |algorithm, change: fn(&mut Fake)| {
        let mut endpoints = fakes(2);
        change(&mut endpoints[0]);
        let balancer = balancer(endpoints, &by(algorithm));
        shares(&balancer, Instant::now(), 20_000, 7)[1]
    };
    let is_about = |share: f64, expected: f64| {
        assert!((share - expected).abs() < 0.02, "{share}, not {expected}");
    };
    let least = share_of_better(Algorithm::LeastRequest, |worse| worse.in_flight = 3);
    assert_eq!(least, 1.0);
    let ewma = |change| share_of_better(Algorithm::PeakEwma, change);
    is_about(ewma(|worse| worse.in_flight = 3), 64.0 / 65.0);
    is_about(
        ewma(|worse| worse.latency.estimate = Some(20.0 * MS)),
        8.0 / 9.0,
    );
    is_about(
        ewma(|worse| worse.latency.estimate = Some(100.0 * MS)),
        0.999,
    );
    is_about(ewma(|worse| worse.latency.silence = 20.0 * MS), 8.0 / 9.0);
    let unknown = |worse: &mut Fake| {
        worse.latency.estimate = None;
        worse.in_flight = 1;
    };
    is_about(ewma(unknown), 8.0 / 9.0);
}

#[test]
fn an_unknown_latency_is_no_advantage_and_no_penalty() {
    let mut endpoints = fakes(10);
    endpoints[0].latency.estimate = None;
    let balancer = balancer(endpoints, &by(Algorithm::PeakEwma));
    let share = shares(&balancer, Instant::now(), 20_000, 3)[0];
    assert!((0.09..0.11).contains(&share), "{share}");
}

#[test]
fn the_share_grows_in_slow_start() {
    let now = Instant::now();
    for algorithm in all_algorithms() {
        let mut endpoints = fakes(10);
        endpoints[0].since = now;
        for endpoint in &mut endpoints[1..] {
            endpoint.since = now - Duration::from_secs(60);
        }
        let balancing = Balancing {
            slow_start: Some(Duration::from_secs(10)),
            ..by(algorithm.clone())
        };
        let balancer = balancer(endpoints, &balancing);
        for (age, expected) in [(0u64, 0.0), (3, 0.03), (5, 0.053), (10, 0.1)] {
            let at = now + Duration::from_secs(age);
            let share = shares(&balancer, at, 20_000, 5)[0];
            assert!(
                (share - expected).abs() < 0.01,
                "{algorithm:?} {age} s: {share}"
            );
        }
    }
}

#[test]
fn the_share_grows_in_slow_start_beside_one_or_two_others() {
    let now = Instant::now();
    for algorithm in [
        Algorithm::PeakEwma,
        Algorithm::LeastRequest,
        Algorithm::Random,
    ] {
        for others in [1, 2] {
            let mut endpoints = fakes(1 + others);
            endpoints[0].since = now;
            for endpoint in &mut endpoints[1..] {
                endpoint.since = now - Duration::from_secs(60);
            }
            let balancing = Balancing {
                slow_start: Some(Duration::from_secs(10)),
                ..by(algorithm.clone())
            };
            let balancer = balancer(endpoints, &balancing);
            for age in [0, 1, 3, 5, 8, 10] {
                let at = now + Duration::from_secs(age);
                let weight = age as f64 / 10.0;
                let expected = weight / (others as f64 + weight);
                let share = shares(&balancer, at, 20_000, 5)[0];
                assert!(
                    (share - expected).abs() < 0.04,
                    "{algorithm:?} {age} s beside {others}: {share}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn all_in_slow_start_share_evenly() {
    let balancing = Balancing {
        slow_start: Some(Duration::from_secs(10)),
        ..Balancing::default()
    };
    let endpoints = fakes(4);
    let now = endpoints[0].since;
    for share in shares(&balancer(endpoints, &balancing), now, 20_000, 5) {
        assert!((0.23..0.27).contains(&share), "{share}");
    }
}

#[test]
fn the_own_zone_comes_first_and_overflows_in_proportion() {
    let balancing = |algorithm| Balancing {
        locality: Some(Locality {
            min_available_percent: 70,
        }),
        ..by(algorithm)
    };
    for algorithm in all_algorithms() {
        for (ejected, expected) in [
            (0, 1.0),
            (3, 1.0),
            (5, 50.0 / 70.0),
            (8, 20.0 / 70.0),
            (10, 0.0),
        ] {
            let mut endpoints = fakes(30);
            for (index, endpoint) in endpoints.iter_mut().enumerate() {
                endpoint.zone = Some(if index < 10 { "a" } else { "b" });
                if index < ejected {
                    endpoint.admission = Admission::No;
                }
            }
            let balancer = balancer(endpoints, &balancing(algorithm.clone()));
            let shares = shares(&balancer, Instant::now(), 10_000, 9);
            let own: f64 = shares[..10].iter().sum();
            assert!(
                (own - expected).abs() < 0.02,
                "{algorithm:?} {ejected}: {own}"
            );
        }
    }
}

#[test]
fn the_only_one_of_the_own_zone_is_probed_before_others_are_asked() {
    for algorithm in all_algorithms() {
        let mut endpoints = fakes(3);
        endpoints[0].zone = Some("a");
        endpoints[0].admission = Admission::Probe;
        let balancing = Balancing {
            locality: Some(Locality::default()),
            ..by(algorithm)
        };
        let balancer = balancer(endpoints, &balancing);
        let picked = balancer.pick(&[], Some(7), Instant::now(), |below| below - 1);
        assert_eq!(picked.expect("an endpoint").0, 0);
    }
}

#[test]
fn an_unknown_zone_takes_all() {
    let mut endpoints = fakes(10);
    endpoints[0].zone = Some("a");
    let balancing = Balancing {
        locality: Some(Locality {
            min_available_percent: 70,
        }),
        ..Balancing::default()
    };
    for zone in [None, Some("elsewhere")] {
        let balancer = Balancer::new(endpoints.clone(), &balancing, WhenAllEjected::Refuse, zone);
        let share = shares(&balancer, Instant::now(), 10_000, 9)[0];
        assert!((0.08..0.12).contains(&share), "{share}");
    }
}

#[test]
fn a_key_stays_and_only_that_of_an_ejected_one_moves() {
    let now = Instant::now();
    let balancing = by(Algorithm::ConsistentHash(HashOn::Source));
    let owner = |balancer: &Balancer<Fake>, key| {
        let picked = balancer.pick(&[], Some(key), now, |below| below - 1);
        picked.expect("an endpoint").0
    };
    let before = balancer(fakes(10), &balancing);
    let mut endpoints = fakes(10);
    endpoints[3].admission = Admission::No;
    let after = balancer(endpoints, &balancing);
    for key in 0..2_000 {
        let (old, new) = (owner(&before, key), owner(&after, key));
        assert_eq!(owner(&before, key), old);
        assert!(if old == 3 { new != 3 } else { new == old });
    }
}

#[test]
fn retries_leave_probes_alone_unless_there_is_no_other() {
    let now = Instant::now();
    let mut endpoints = fakes(3);
    endpoints[1].admission = Admission::Probe;
    let balancer = balancer(endpoints, &Balancing::default());
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pick = |tried: &[usize]| {
            let picked = balancer.pick(tried, None, now, |below| random.usize(..below));
            picked.map(|(index, _)| index)
        };
        assert_eq!(pick(&[0]), Ok(2));
        assert_eq!(pick(&[0, 2]), Ok(1));
        assert_eq!(pick(&[0, 1, 2]), Err(Unpicked::NoneLeft));
    }
}

#[test]
fn where_all_are_ejected_the_policy_decides() {
    let now = Instant::now();
    let mut endpoints = fakes(3);
    for endpoint in &mut endpoints {
        endpoint.admission = Admission::No;
    }
    let with = |endpoints: &[Fake], when| {
        let balancer = Balancer::new(endpoints.to_vec(), &Balancing::default(), when, None);
        balancer.pick(&[], None, now, |_| 0).map(|(index, _)| index)
    };
    assert_eq!(
        with(&endpoints, WhenAllEjected::Refuse),
        Err(Unpicked::AllEjected)
    );
    assert!(with(&endpoints, WhenAllEjected::UseAll).is_ok());
    assert_eq!(with(&[], WhenAllEjected::UseAll), Err(Unpicked::NoneLeft));
    // One that could not be connected to is better than none, whatever the policy.
    endpoints[2].admission = Admission::LastResort;
    assert_eq!(with(&endpoints, WhenAllEjected::Refuse), Ok(2));
    assert_eq!(with(&endpoints, WhenAllEjected::UseAll), Ok(2));
}

fn endpoints() -> impl Strategy<Value = Vec<Fake>> {
    let admission = prop_oneof![
        Just(Admission::Yes),
        Just(Admission::Probe),
        Just(Admission::LastResort),
        Just(Admission::No),
    ];
    let zone = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
    let each = (admission, zone, 0u32..9, 0.0f64..1e9, 0.0f64..1e9);
    proptest::collection::vec(each, 0..12).prop_map(|drawn| {
        let mut endpoints = fakes(drawn.len());
        for (endpoint, (admission, zone, in_flight, estimate, silence)) in
            endpoints.iter_mut().zip(drawn)
        {
            endpoint.admission = admission;
            endpoint.zone = zone;
            endpoint.in_flight = in_flight;
            endpoint.latency = Latency {
                estimate: (estimate > 1e8).then_some(estimate),
                silence,
            };
        }
        endpoints
    })
}

proptest! {
    /// Never one that was tried, never one that is worse than another that is left, and none only
    /// where there is none.
    #[test]
    fn the_best_that_is_left_is_picked(endpoints in endpoints(),
                                       tried in proptest::collection::hash_set(0usize..12, 0..12),
                                       algorithm in 0usize..5, locality: bool, key: Option<u64>, seed: u64) {
        let now = endpoints.first().map_or_else(Instant::now, |endpoint| endpoint.since);
        let tried: Vec<usize> = tried.into_iter().filter(|&index| index < endpoints.len()).collect();
        let balancing = Balancing {
            locality: locality.then_some(Locality { min_available_percent: 70 }),
            slow_start: Some(Duration::from_secs(1)),
            ..by(all_algorithms()[algorithm].clone())
        };
        let rank = |index: usize| match endpoints[index].admission {
            Admission::Yes => 3,
            Admission::Probe if tried.is_empty() => 3,
            Admission::Probe => 2,
            Admission::LastResort => 1,
            Admission::No => 0,
        };
        let best = (0..endpoints.len()).filter(|index| !tried.contains(index)).map(rank).max();
        let mut random = fastrand::Rng::with_seed(seed);
        let balancer = balancer(endpoints.clone(), &balancing);
        let picked = balancer.pick(&tried, key, now, |below| random.usize(..below));
        match (picked, best) {
            (Ok((index, _)), Some(best)) => {
                prop_assert!(!tried.contains(&index));
                prop_assert_eq!(rank(index), best);
            }
            (Err(why), best) => {
                let expected = if best.is_none() { Unpicked::NoneLeft } else { Unpicked::AllEjected };
                prop_assert_eq!(why, expected);
                prop_assert_eq!(best.unwrap_or(0), 0);
            }
            (Ok(_), None) => prop_assert!(false, "picked from none"),
        }
    }
}
