//! How many of a Service's endpoints are out, and whether one more may be.

use std::cell::Cell;

/// Shared by the breakers of one Service on one worker, which count themselves in and out.
#[derive(Debug, Default)]
pub struct Ejections {
    endpoints: Cell<usize>,
    out: Cell<usize>,
}

impl Ejections {
    /// Endpoints whose breaker is not closed.
    #[must_use]
    pub fn out(&self) -> usize {
        self.out.get()
    }

    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.endpoints.get()
    }

    /// Whether one more may be ejected where at most `max_percent` may. The first of several always
    /// may: a Service of two endpoints with a limit of 10% would otherwise have no breaker. The only
    /// one may where all may: to leave it out helps nobody else, and is an outage.
    #[must_use]
    pub fn has_room(&self, max_percent: u8) -> bool {
        let out = self.out.get();
        let endpoints = self.endpoints.get();
        let is_first_of_several = out == 0 && endpoints > 1;
        is_first_of_several || (out + 1) * 100 <= usize::from(max_percent) * endpoints
    }

    pub(super) fn enter(&self) {
        self.endpoints.set(self.endpoints.get() + 1);
    }

    pub(super) fn leave(&self, was_out: bool) {
        self.endpoints.set(self.endpoints.get().saturating_sub(1));
        if was_out {
            self.restored();
        }
    }

    pub(super) fn ejected(&self) {
        self.out.set(self.out.get() + 1);
    }

    pub(super) fn restored(&self) {
        self.out.set(self.out.get().saturating_sub(1));
    }
}
