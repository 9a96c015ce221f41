//! Users, their sidecars, and the tiers of servers behind them: one run of a scenario.

use std::time::{Duration, Instant};

use outrider_proxy::traffic::deadline::Deadline;
use outrider_proxy::traffic::health::Outcome;
use outrider_proxy::traffic::retry::Failure;

use crate::measured::Measured;
use crate::queue::{Answer, Event, Queue};
use crate::scenario::Scenario;
use crate::server::{Server, Taken, exponential};
use crate::sidecar::{Attempt, Policy, Sidecar, Tries};

/// From one sidecar to another, one way: at least, and on top of that on average.
const WIRE: (Duration, Duration) = (Duration::from_micros(200), Duration::from_micros(100));
/// A user waits no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `scenario` once. The same seed gives the same result.
pub(crate) fn run(scenario: &Scenario, policy: &Policy, seed: u64) -> Measured {
    let mut world = World::new(scenario, policy, seed);
    for sidecar in 0..scenario.callers {
        world.plan_user(sidecar);
    }
    while let Some(event) = world.queue.next(scenario.length + PATIENCE) {
        world.happen(event);
    }
    world.measured
}

struct World<'s> {
    scenario: &'s Scenario,
    queue: Queue,
    random: fastrand::Rng,
    /// Apart, so that each policy meets the same users.
    users: fastrand::Rng,
    sidecars: Vec<Sidecar>,
    servers: Vec<Server>,
    /// The first server of each tier.
    tiers: Vec<usize>,
    calls: Vec<Call>,
    measured: Measured,
}

/// A request at one hop, with all of its attempts.
struct Call {
    sidecar: usize,
    origin: Origin,
    began: Duration,
    deadline: Deadline,
    attempts: u32,
    tried: Vec<usize>,
    waited: Option<Duration>,
    /// It is made for somebody's retry.
    is_retry: bool,
    current: Option<Attempt>,
    done: bool,
}

#[derive(Clone, Copy)]
enum Origin {
    User,
    /// A server makes it for this attempt of another call.
    Server {
        call: usize,
        attempt: u32,
    },
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario, policy: &Policy, seed: u64) -> Self {
        let queue = Queue::new();
        let now = queue.now();
        let sidecar = |tier: usize| Sidecar::new(policy, tier, scenario.tiers[tier], now);
        let mut sidecars: Vec<Sidecar> = (0..scenario.callers).map(|_| sidecar(0)).collect();
        let (mut servers, mut tiers) = (Vec::new(), Vec::new());
        for (tier, &count) in scenario.tiers.iter().enumerate() {
            tiers.push(servers.len());
            for index in 0..count {
                let own = (tier + 1 < scenario.tiers.len()).then(|| {
                    sidecars.push(sidecar(tier + 1));
                    sidecars.len() - 1
                });
                let troubles = scenario.troubles.iter().copied();
                let troubles =
                    troubles.filter(|trouble| trouble.tier == tier && index < trouble.servers);
                servers.push(Server::new(
                    tier,
                    own,
                    scenario.capacity,
                    troubles.collect(),
                ));
            }
        }
        Self {
            scenario,
            queue,
            random: fastrand::Rng::with_seed(seed),
            users: fastrand::Rng::with_seed(!seed),
            sidecars,
            servers,
            tiers,
            calls: Vec::new(),
            measured: Measured::new(scenario),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { sidecar } => self.ask(sidecar),
            Event::Leave { call } => self.leave(call),
            Event::Deadline { call } => self.time_out(call, None),
            Event::AttemptTimeout { call, attempt } => self.time_out(call, Some(attempt)),
            Event::Retry { call } => self.attempt(call),
            Event::Reach {
                call,
                attempt,
                server,
            } => self.reach(call, attempt, server),
            Event::Worked {
                call,
                attempt,
                server,
            } => self.worked(call, attempt, server),
            Event::Answer {
                call,
                attempt,
                answer,
            } => self.answered(call, attempt, answer),
        }
    }

    fn plan_user(&mut self, sidecar: usize) {
        let after = exponential(self.scenario.every, &mut self.users);
        if self.queue.elapsed() + after < self.scenario.length {
            self.queue.plan(after, Event::Ask { sidecar });
        }
    }

    fn ask(&mut self, sidecar: usize) {
        self.plan_user(sidecar);
        self.measured.asked(self.queue.elapsed());
        let call = self.calls.len();
        self.queue.plan(PATIENCE, Event::Leave { call });
        self.begin(sidecar, Origin::User, Deadline::NONE, false);
    }

    fn begin(&mut self, sidecar: usize, origin: Origin, inherited: Deadline, is_retry: bool) {
        let call = self.calls.len();
        let now = self.queue.now();
        let (timeout, _) = self.sidecars[sidecar].timeouts();
        let deadline = Deadline::after(now, timeout).earlier(inherited);
        if let Some(remaining) = deadline.remaining(now) {
            self.queue.plan(remaining, Event::Deadline { call });
        }
        self.sidecars[sidecar].count_request(now);
        self.calls.push(Call {
            sidecar,
            origin,
            began: self.queue.elapsed(),
            deadline,
            attempts: 0,
            tried: Vec::new(),
            waited: None,
            is_retry,
            current: None,
            done: false,
        });
        self.attempt(call);
    }

    fn attempt(&mut self, index: usize) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        if call.done {
            return;
        }
        let sidecar = &self.sidecars[call.sidecar];
        let number = call.attempts + 1;
        let Some(attempt) = sidecar.begin(number, &call.tried, now, &mut self.random) else {
            // All are ejected: for other callers, too.
            self.finish(index, Err(true));
            return;
        };
        call.attempts = number;
        call.tried.push(attempt.endpoint);
        let server = self.tiers[sidecar.tier] + attempt.endpoint;
        if let (_, Some(timeout)) = sidecar.timeouts() {
            let timeout_of = Event::AttemptTimeout {
                call: index,
                attempt: number,
            };
            self.queue.plan(timeout, timeout_of);
        }
        call.current = Some(attempt);
        let reach = Event::Reach {
            call: index,
            attempt: number,
            server,
        };
        self.send(reach);
    }

    fn send(&mut self, event: Event) {
        let after = WIRE.0 + exponential(WIRE.1, &mut self.random);
        self.queue.plan(after, event);
    }

    fn reach(&mut self, call: usize, attempt: u32, server: usize) {
        let at = self.queue.elapsed();
        let tier = self.servers[server].tier;
        self.measured.reached(tier, at);
        let answer = |answer| Event::Answer {
            call,
            attempt,
            answer,
        };
        let unavailable = answer(Answer::Unavailable { retried: false });
        // Its sidecar refuses what nobody waits for any more.
        if self.calls[call].deadline.is_over(self.queue.now()) {
            self.send(unavailable);
            return;
        }
        match self.servers[server].take((call, attempt), at, &mut self.random) {
            Taken::Works(time) => self.queue.plan(
                time,
                Event::Worked {
                    call,
                    attempt,
                    server,
                },
            ),
            Taken::Waits | Taken::Silent => {}
            Taken::Errors => self.send(unavailable),
            Taken::Refuses => self.send(answer(Answer::ConnectFailed)),
        }
    }

    fn worked(&mut self, call: usize, attempt: u32, server: usize) {
        let at = self.queue.elapsed();
        if let Some(((call, attempt), time)) = self.servers[server].finish(at, &mut self.random) {
            let worked = Event::Worked {
                call,
                attempt,
                server,
            };
            self.queue.plan(time, worked);
        }
        match self.servers[server].sidecar {
            None => self.send(Event::Answer {
                call,
                attempt,
                answer: Answer::Success,
            }),
            Some(sidecar) => {
                let is_retry = self.calls[call].is_retry || attempt > 1;
                let inherited = self.calls[call].deadline;
                self.begin(
                    sidecar,
                    Origin::Server { call, attempt },
                    inherited,
                    is_retry,
                );
            }
        }
    }

    fn answered(&mut self, index: usize, attempt: u32, answer: Answer) {
        let now = self.queue.now();
        let Some(current) = self.take_current(index, attempt) else {
            return;
        };
        let (outcome, failure, retried) = match answer {
            Answer::Success => (Outcome::Success, None, false),
            Answer::Unavailable { retried } => {
                (Outcome::GatewayError, Some(Failure::Status(503)), retried)
            }
            Answer::ConnectFailed => (Outcome::ConnectFailed, Some(Failure::ConnectFailed), false),
        };
        self.sidecars[self.calls[index].sidecar].end(current, outcome, now);
        match failure {
            None => self.finish(index, Ok(())),
            Some(failure) => self.failed(index, failure, retried),
        }
    }

    /// An attempt failed: another, or the failure is the call's.
    fn failed(&mut self, index: usize, failure: Failure, retried: bool) {
        let now = self.queue.now();
        let call = &mut self.calls[index];
        let tries = Tries {
            made: call.attempts,
            tried: &call.tried,
            waited: call.waited,
            is_retry: call.is_retry,
            remaining: call.deadline.remaining(now),
        };
        let sidecar = &mut self.sidecars[call.sidecar];
        match sidecar.retry(failure, retried, &tries, now, &mut self.random) {
            Ok(after) => {
                call.waited = Some(after);
                self.queue.plan(after, Event::Retry { call: index });
            }
            Err(retried) => self.finish(index, Err(retried)),
        }
    }

    /// The time of an attempt is over, or that of the whole call.
    fn time_out(&mut self, index: usize, attempt: Option<u32>) {
        let now = self.queue.now();
        let number = attempt.unwrap_or(self.calls[index].attempts);
        if let Some(current) = self.take_current(index, number) {
            self.sidecars[self.calls[index].sidecar].end(current, Outcome::GatewayError, now);
            if attempt.is_some() {
                self.failed(index, Failure::AttemptTimeout, false);
                return;
            }
        }
        if attempt.is_none() && !self.calls[index].done {
            self.finish(index, Err(self.calls[index].attempts > 1));
        }
    }

    fn leave(&mut self, index: usize) {
        if self.calls[index].done {
            return;
        }
        self.cancel(index, self.queue.now());
        self.finish(index, Err(false));
    }

    fn cancel(&mut self, index: usize, now: Instant) {
        let call = &mut self.calls[index];
        if let Some(current) = call.current.take() {
            self.sidecars[call.sidecar].cancel(current, now);
        }
    }

    /// The attempt that is under way, if it is this one.
    fn take_current(&mut self, index: usize, attempt: u32) -> Option<Attempt> {
        let current = &mut self.calls[index].current;
        current.take_if(|current| current.number == attempt)
    }

    /// The call has ended. `Err`: whether it was retried.
    fn finish(&mut self, index: usize, result: Result<(), bool>) {
        let call = &mut self.calls[index];
        call.done = true;
        match call.origin {
            Origin::User => {
                let latency = self.queue.elapsed() - call.began;
                self.measured.ended(call.began, latency, result.is_ok());
            }
            Origin::Server { call, attempt } => {
                let answer = match result {
                    Ok(()) => Answer::Success,
                    Err(retried) => Answer::Unavailable { retried },
                };
                self.send(Event::Answer {
                    call,
                    attempt,
                    answer,
                });
            }
        }
    }
}
