//! Which endpoint gets the next request. Pure: the clock and the randomness are arguments.
//!
//! [`Balancer::pick`] first draws: a few random endpoints, whatever their number, are enough where
//! most of them are free. Only where none of those is, all are looked at. Nothing is allocated.

mod load;
mod maglev;
mod pool;
mod turn;

#[cfg(test)]
mod tests;

pub use load::{Latency, Load};
pub use maglev::hash;

use std::cell::Cell;
use std::cmp::Ordering;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::{Algorithm, Balancing, Locality, WhenAllEjected};

use self::pool::Pool;
use self::turn::Turn;
use super::health::Admission;

/// How old the count of what is available in the caller's zone may be.
const RECOUNT: Duration = Duration::from_millis(100);

/// What the balancer looks at.
pub trait Candidate {
    /// The same for the same endpoint in every sidecar.
    fn identity(&self) -> u64;
    fn zone(&self) -> Option<&str>;
    fn admission(&self, now: Instant) -> Admission;
    /// Requests and connections in flight.
    fn in_flight(&self) -> u32;
    fn latency(&self, now: Instant) -> Latency;
    /// When it was added or last recovered.
    fn since(&self) -> Instant;
}

/// Why there is no endpoint for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpicked {
    /// There is none, or each was tried.
    NoneLeft,
    /// Those that are left are ejected, and the policy says to refuse.
    AllEjected,
}

/// The endpoints of one Service on one worker, and how they are chosen from.
#[derive(Debug)]
pub struct Balancer<E> {
    endpoints: Vec<E>,
    algorithm: Algorithm,
    slow_start: Option<Duration>,
    when_all_ejected: WhenAllEjected,
    /// All endpoints, or those of the caller's zone.
    near: Pool,
    far: Option<Far>,
}

#[derive(Debug)]
struct Far {
    pool: Pool,
    locality: Locality,
    available: Cell<Option<(Instant, usize)>>,
}

impl<E: Candidate> Balancer<E> {
    /// `zone`: the caller's, where it is known.
    #[must_use]
    pub fn new(
        endpoints: Vec<E>,
        balancing: &Balancing,
        when_all_ejected: WhenAllEjected,
        zone: Option<&str>,
    ) -> Self {
        let is_near = |endpoint: &E| zone.is_some() && endpoint.zone() == zone;
        let locality = balancing
            .locality
            .filter(|_| endpoints.iter().any(is_near) && !endpoints.iter().all(is_near));
        let hashed = matches!(balancing.algorithm, Algorithm::ConsistentHash(_));
        let near = Pool::new(&endpoints, hashed, |endpoint| {
            locality.is_none() || is_near(endpoint)
        });
        let far = locality.map(|locality| Far {
            pool: Pool::new(&endpoints, hashed, |endpoint| !is_near(endpoint)),
            locality,
            available: Cell::new(None),
        });
        Self {
            endpoints,
            algorithm: balancing.algorithm.clone(),
            slow_start: balancing.slow_start.filter(|time| !time.is_zero()),
            when_all_ejected,
            near,
            far,
        }
    }

    #[must_use]
    pub fn endpoints(&self) -> &[E] {
        &self.endpoints
    }

    /// What is hashed, where the algorithm asks for a key.
    #[must_use]
    pub fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Picks an endpoint and its position, leaving out the positions in `tried`. One that is due for
    /// a probe is chosen for a first attempt as if it were healthy; a retry goes there only where
    /// there is no other. `key`: the [`hash`] of what the policy names. `random` gives a number
    /// below its argument.
    ///
    /// # Errors
    /// Where no endpoint is left, see [`Unpicked`].
    pub fn pick(
        &self,
        tried: &[usize],
        key: Option<u64>,
        now: Instant,
        random: impl FnMut(usize) -> usize,
    ) -> Result<(usize, &E), Unpicked> {
        let mut turn = Turn {
            endpoints: &self.endpoints,
            tried,
            now,
            slow_start: self.slow_start,
            random,
        };
        let (first, second) = self.order(&mut turn);
        let picked = self
            .choose(first, key, &mut turn)
            .or_else(|| self.choose(second?, key, &mut turn))
            .or_else(|| turn.last_resort(self.when_all_ejected));
        match picked {
            Some(index) => Ok((index, &self.endpoints[index])),
            None if turn.is_exhausted() => Err(Unpicked::NoneLeft),
            None => Err(Unpicked::AllEjected),
        }
    }

    fn choose<R: FnMut(usize) -> usize>(
        &self,
        pool: &Pool,
        key: Option<u64>,
        turn: &mut Turn<'_, E, R>,
    ) -> Option<usize> {
        match (&self.algorithm, key) {
            (Algorithm::PeakEwma, _) => turn.better_of_two(pool, fastest),
            (Algorithm::LeastRequest, _) => turn.better_of_two(pool, idlest),
            (Algorithm::RoundRobin, _) => turn.next(pool),
            (Algorithm::ConsistentHash(_), Some(key)) => turn.hashed(pool, key),
            (Algorithm::Random | Algorithm::ConsistentHash(_), _) => turn.any(pool),
        }
    }

    /// The caller's zone first. While too few of it are available, other zones get the share that
    /// it lacks: with 35% available where 70% are wanted, half of the requests.
    fn order<R: FnMut(usize) -> usize>(&self, turn: &mut Turn<'_, E, R>) -> (&Pool, Option<&Pool>) {
        let Some(far) = &self.far else {
            return (&self.near, None);
        };
        let wanted = usize::from(far.locality.min_available_percent) * self.near.len();
        let available = far.near_available(turn.now, || turn.available(&self.near)) * 100;
        if available >= wanted || (turn.random)(wanted) < available {
            (&self.near, Some(&far.pool))
        } else {
            (&far.pool, Some(&self.near))
        }
    }
}

impl Far {
    fn near_available(&self, now: Instant, count: impl FnOnce() -> usize) -> usize {
        match self.available.get() {
            Some((at, available)) if now.saturating_duration_since(at) < RECOUNT => available,
            _ => {
                let available = count();
                self.available.set(Some((now, available)));
                available
            }
        }
    }
}

/// All for the one that has less in flight.
fn idlest<E: Candidate>(a: &E, b: &E, _now: Instant) -> f64 {
    match b.in_flight().cmp(&a.in_flight()) {
        Ordering::Less => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Greater => 0.0,
    }
}

/// The share of `b`, by how much sooner than `a` it will answer: latency times what is in flight and
/// the request itself. One that has never answered is taken to be as fast as the other, and so gets
/// its share and no more.
///
/// Shares go with the cube of the cost and are never quite zero. If the better one always won, a
/// caller with few requests would never learn that the other has recovered; so one that is ten times
/// as slow is asked for one request in a thousand.
fn fastest<E: Candidate>(a: &E, b: &E, now: Instant) -> f64 {
    let (of_a, of_b) = (a.latency(now), b.latency(now));
    let assumed = match (of_a.estimate, of_b.estimate) {
        (Some(a), Some(b)) => (a, b),
        (Some(known), None) | (None, Some(known)) => (known, known),
        (None, None) => (0.0, 0.0),
    };
    let cost = |estimate: f64, silence: f64, in_flight: u32| {
        estimate.max(silence).max(NOISE) * (f64::from(in_flight) + 1.0)
    };
    let of_a = cost(assumed.0, of_a.silence, a.in_flight()).powi(3);
    let of_b = cost(assumed.1, of_b.silence, b.in_flight()).powi(3);
    of_a / (of_a + of_b)
}

/// Differences below 100 µs, in nanoseconds, say nothing about an endpoint.
const NOISE: f64 = 100_000.0;
