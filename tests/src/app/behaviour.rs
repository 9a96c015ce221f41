//! How an app answers whatever it is asked, switched while it runs.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::lock;

/// See [`super::App::behave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// As the path says.
    #[default]
    Usual,
    /// With this status, without a body.
    Status(u16),
    /// As usual, so much later.
    Delay(Duration),
    /// Not at all, until it behaves otherwise.
    Hang,
    /// The connection is reset instead of an answer.
    ResetBeforeHead,
    /// The connection is reset after the head and half of the body.
    ResetMidBody,
}

/// What a connection does with one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Usual,
    Status(u16),
    Reset { after: &'static [u8] },
}

/// The behaviour, and who waits for it to change.
#[derive(Debug, Default)]
pub(super) struct Switch {
    now: Mutex<Behaviour>,
    changed: Condvar,
}

impl Switch {
    pub(super) fn set(&self, behaviour: Behaviour) {
        *lock(&self.now) = behaviour;
        self.changed.notify_all();
    }

    /// What to do with the next request, once it may be answered.
    pub(super) fn next(&self) -> Answer {
        let mut now = lock(&self.now);
        while *now == Behaviour::Hang {
            now = self
                .changed
                .wait(now)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let behaviour = *now;
        drop(now);
        match behaviour {
            Behaviour::Usual | Behaviour::Hang => Answer::Usual,
            Behaviour::Status(status) => Answer::Status(status),
            Behaviour::Delay(delay) => {
                thread::sleep(delay);
                Answer::Usual
            }
            Behaviour::ResetBeforeHead => Answer::Reset { after: b"" },
            Behaviour::ResetMidBody => Answer::Reset {
                after: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ",
            },
        }
    }
}
