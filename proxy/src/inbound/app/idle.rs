//! HTTP/1 connections to the app that carry nothing now.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connect::{AppAddress, Sender1};

/// Below the keep-alive times that servers have (Node 5 s, gunicorn 2 s, nginx 75 s): mostly it is
/// us who closes, so that no request meets a connection that is being closed.
const IDLE: Duration = Duration::from_millis(1500);
const MAX_IDLE: usize = 512;

#[derive(Debug, Default)]
pub struct Idle {
    by_address: RefCell<HashMap<AppAddress, Vec<(Sender1, Instant)>>>,
}

impl Idle {
    /// The connection used last: the others may grow old and be closed.
    pub fn take(&self, address: AppAddress) -> Option<Sender1> {
        let mut by_address = self.by_address.borrow_mut();
        let idle = by_address.get_mut(&address)?;
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }

    /// Closes what has been idle for long.
    pub fn sweep(&self, now: Instant) {
        self.by_address.borrow_mut().retain(|_, idle| {
            idle.retain(|(sender, since)| {
                !sender.is_closed() && now.saturating_duration_since(*since) < IDLE
            });
            !idle.is_empty()
        });
    }
}

/// A connection, put back when this is dropped unless it has ended.
#[derive(Debug)]
pub struct Lent {
    idle: Rc<Idle>,
    address: AppAddress,
    sender: Option<Sender1>,
}

impl Lent {
    pub fn new(idle: &Rc<Idle>, address: AppAddress, sender: Sender1) -> Self {
        Self {
            idle: Rc::clone(idle),
            address,
            sender: Some(sender),
        }
    }

    /// The connection cannot be used again.
    pub fn discard(mut self) {
        self.sender = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            let mut by_address = self.idle.by_address.borrow_mut();
            let idle = by_address.entry(self.address).or_default();
            if idle.len() < MAX_IDLE {
                idle.push((sender, Instant::now()));
            }
        }
    }
}
