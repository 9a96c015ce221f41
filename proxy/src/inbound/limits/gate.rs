//! How many requests the app is given at once. Who finds no room waits in line, in the order of
//! arrival, or is sent away: an app that has enough to do serves nobody faster for a longer line.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outrider_api::model::traffic::Concurrency;
use prometheus::IntGauge;
use tokio::sync::Semaphore;

/// One for all workers.
#[derive(Debug)]
pub struct Gate {
    /// Hands room that becomes free to whoever has waited longest.
    room: Semaphore,
    /// Of the room. Changed with policy only.
    size: Mutex<u32>,
    /// Room that is still in use although the gate has become smaller.
    excess: AtomicU32,
    queued: AtomicU32,
    gauge: IntGauge,
}

/// Room for one request, until it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = &self.0;
        let less = |excess: u32| excess.checked_sub(1);
        let paid = gate
            .excess
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        if paid.is_err() {
            gate.room.add_permits(1);
        }
    }
}

/// A place in the line, until it is dropped.
struct Place<'g>(&'g Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::AcqRel);
        self.0.gauge.dec();
    }
}

impl Gate {
    /// `gauge` tells how many wait.
    pub fn new(gauge: IntGauge) -> Self {
        Self {
            room: Semaphore::new(0),
            size: Mutex::new(0),
            excess: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            gauge,
        }
    }

    /// From now on there is room for `requests`. Those that are in stay in.
    pub fn resize(&self, requests: u32) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if requests > *size {
            let more = requests - *size;
            let excess = self
                .excess
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |excess| {
                    Some(excess.saturating_sub(more))
                });
            let excess = excess.unwrap_or_default();
            self.room.add_permits((more - more.min(excess)) as usize);
        } else {
            let less = *size - requests;
            let gone = self.room.forget_permits(less as usize) as u32;
            self.excess.fetch_add(less - gone, Ordering::AcqRel);
        }
        *size = requests;
    }

    /// Waits for room for as long as `settings` say. `None`: there is none.
    pub async fn enter(self: &Arc<Self>, settings: &Concurrency) -> Option<Permit> {
        if let Ok(room) = self.room.try_acquire() {
            room.forget();
            return Some(Permit(Arc::clone(self)));
        }
        let _place = self.line_up(settings.max_queued)?;
        let waiting = tokio::time::timeout(settings.max_wait, self.room.acquire());
        let room = waiting.await.ok()?.ok()?;
        room.forget();
        Some(Permit(Arc::clone(self)))
    }

    fn line_up(&self, most: u32) -> Option<Place<'_>> {
        let more = |queued: u32| Some(queued + 1).filter(|queued| *queued <= most);
        self.queued
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        self.gauge.inc();
        Some(Place(self))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const NO_QUEUE: Concurrency = Concurrency {
        max_requests: 2,
        max_queued: 0,
        max_wait: Duration::from_millis(100),
    };
    const QUEUE: Concurrency = Concurrency {
        max_queued: 2,
        ..NO_QUEUE
    };

    fn gate(size: u32) -> Arc<Gate> {
        let gauge = IntGauge::new("queued", "Requests that wait.").expect("a name");
        let gate = Arc::new(Gate::new(gauge));
        gate.resize(size);
        gate
    }

    /// With the clock stopped: it jumps to where somebody waits for it.
    fn paused(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(test);
    }

    #[test]
    fn what_does_not_fit_is_shed_at_once() {
        paused(async {
            let gate = gate(2);
            let first = gate.enter(&NO_QUEUE).await.expect("room");
            let _second = gate.enter(&NO_QUEUE).await.expect("room");
            let start = tokio::time::Instant::now();
            assert!(gate.enter(&NO_QUEUE).await.is_none());
            assert_eq!(start.elapsed(), Duration::ZERO);
            drop(first);
            assert!(gate.enter(&NO_QUEUE).await.is_some());
        });
    }

    #[test]
    fn the_line_is_served_in_order_and_is_bounded() {
        paused(async {
            let gate = gate(1);
            let inside = gate.enter(&QUEUE).await.expect("room");
            let served = std::cell::RefCell::new(Vec::new());
            let wait = async |name: u8| {
                let permit = gate.enter(&QUEUE).await;
                served.borrow_mut().push((name, permit.is_some()));
            };
            let leave = async {
                tokio::task::yield_now().await;
                assert_eq!(gate.gauge.get(), 2);
                drop(inside);
            };
            futures_util::future::join4(wait(1), wait(2), wait(3), leave).await;
            // The third found the line full; it was told so before anyone had room.
            assert_eq!(*served.borrow(), [(3, false), (1, true), (2, true)]);
            assert_eq!(gate.gauge.get(), 0);
        });
    }

    #[test]
    fn nobody_waits_for_longer_than_said() {
        paused(async {
            let gate = gate(1);
            let _inside = gate.enter(&QUEUE).await.expect("room");
            let start = tokio::time::Instant::now();
            assert!(gate.enter(&QUEUE).await.is_none());
            assert_eq!(start.elapsed(), QUEUE.max_wait);
            assert_eq!(gate.gauge.get(), 0);
        });
    }

    #[test]
    fn a_caller_that_goes_leaves_its_place() {
        paused(async {
            let gate = gate(1);
            let inside = gate.enter(&QUEUE).await.expect("room");
            let mut gone = Box::pin(gate.enter(&QUEUE));
            assert!((&mut gone).now_or_never().is_none());
            drop(gone);
            assert_eq!(gate.gauge.get(), 0);
            drop(inside);
            assert!(gate.enter(&NO_QUEUE).await.is_some());
        });
    }

    #[test]
    fn it_grows_and_shrinks_under_those_that_are_in() {
        paused(async {
            let gate = gate(1);
            let mut inside = vec![gate.enter(&NO_QUEUE).await.expect("room")];
            gate.resize(3);
            inside.push(gate.enter(&NO_QUEUE).await.expect("room"));
            inside.push(gate.enter(&NO_QUEUE).await.expect("room"));
            assert!(gate.enter(&NO_QUEUE).await.is_none());
            gate.resize(1);
            inside.pop();
            inside.pop();
            assert!(gate.enter(&NO_QUEUE).await.is_none());
            inside.pop();
            inside.push(gate.enter(&NO_QUEUE).await.expect("room"));
            assert!(gate.enter(&NO_QUEUE).await.is_none());
            // Smaller than what is in, and larger again before it has left.
            gate.resize(0);
            gate.resize(2);
            inside.push(gate.enter(&NO_QUEUE).await.expect("room"));
            assert!(gate.enter(&NO_QUEUE).await.is_none());
        });
    }
}
