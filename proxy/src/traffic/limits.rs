//! How much is open to a Service at once, and whether more may be. Counted by each worker.

use std::cell::Cell;
use std::rc::Rc;

use outrider_api::model::traffic::Limits;

/// Which of the limits has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reached {
    Connections,
    PendingRequests,
    Requests,
}

/// What is open to one Service.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    connections: Rc<Cell<u32>>,
    pending: Rc<Cell<u32>>,
    requests: Rc<Cell<u32>>,
}

/// One that is open, until it is dropped.
#[derive(Debug)]
pub struct Held(Rc<Cell<u32>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Usage {
    /// Requests that are open now, and those that wait for a connection.
    #[must_use]
    pub fn requests(&self) -> (u32, u32) {
        (self.requests.get(), self.pending.get())
    }

    /// An opaque connection, or an upgraded one.
    ///
    /// # Errors
    /// There are as many as may be.
    pub fn connection(&self, limits: &Limits) -> Result<Held, Reached> {
        hold(&self.connections, limits.max_connections).ok_or(Reached::Connections)
    }

    /// A request that waits for a connection.
    ///
    /// # Errors
    /// There are as many as may be.
    pub fn pending(&self, limits: &Limits) -> Result<Held, Reached> {
        hold(&self.pending, limits.max_pending_requests).ok_or(Reached::PendingRequests)
    }

    /// A request, from its head to the end of its answer.
    ///
    /// # Errors
    /// There are as many as may be.
    pub fn request(&self, limits: &Limits) -> Result<Held, Reached> {
        hold(&self.requests, limits.max_requests).ok_or(Reached::Requests)
    }
}

fn hold(count: &Rc<Cell<u32>>, most: u32) -> Option<Held> {
    if count.get() >= most {
        return None;
    }
    count.set(count.get() + 1);
    Some(Held(Rc::clone(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Take = fn(&Usage, &Limits) -> Result<Held, Reached>;

    #[test]
    fn each_kind_has_its_own_limit_until_it_is_dropped() {
        let limits = Limits {
            max_connections: 1,
            max_pending_requests: 2,
            max_requests: 3,
        };
        let usage = Usage::default();
        let kinds: [(Take, usize, Reached); 3] = [
            (Usage::connection, 1, Reached::Connections),
            (Usage::pending, 2, Reached::PendingRequests),
            (Usage::request, 3, Reached::Requests),
        ];
        for (take, most, reached) in kinds {
            let mut held: Vec<_> = (0..most)
                .map(|_| take(&usage, &limits).expect("room"))
                .collect();
            assert_eq!(take(&usage, &limits).err(), Some(reached));
            held.pop();
            assert!(take(&usage, &limits).is_ok());
        }
    }

    #[test]
    fn a_limit_that_shrinks_waits_for_what_is_open() {
        let usage = Usage::default();
        let with = |max_requests| Limits {
            max_requests,
            ..Limits::default()
        };
        let held: Vec<_> = (0..3)
            .map(|_| usage.request(&with(3)).expect("room"))
            .collect();
        assert!(usage.request(&with(1)).is_err());
        drop(held);
        assert!(usage.request(&with(1)).is_ok());
        assert!(usage.request(&with(0)).is_err());
    }
}
