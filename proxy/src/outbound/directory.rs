//! The destinations that this worker's app uses: subscribed to on first use, compiled when they
//! change, local from then on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::Destination;
use outrider_api::names::ServiceName;
use tokio::sync::{mpsc, oneshot, watch};

use super::service::{Caller, Service};
use crate::control::DestinationState;
use crate::control::discovery::Subscription;
use crate::refusal::Refusal;

/// The first request to a Service waits this long for the control plane's answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Services that one app may use, by any name it makes up.
const MAX_SERVICES: usize = 4096;
/// A Service that was not used for so long is let go.
const IDLE: Duration = Duration::from_secs(600);

/// Belongs to one worker.
#[derive(Debug)]
pub struct Directory {
    subscriptions: mpsc::Sender<Subscription>,
    slots: RefCell<HashMap<ServiceName, Rc<Slot>>>,
}

/// A subscription, with what was compiled last.
#[derive(Debug)]
pub struct Slot {
    name: ServiceName,
    state: RefCell<watch::Receiver<DestinationState>>,
    service: RefCell<Option<Rc<Service>>>,
    used: Cell<Instant>,
    /// It was used since the last sweep: that costs no look at the clock.
    in_use: Cell<bool>,
}

impl Directory {
    pub fn new(subscriptions: mpsc::Sender<Subscription>) -> Self {
        Self {
            subscriptions,
            slots: RefCell::default(),
        }
    }

    /// The slot of a Service, subscribed to if it is new.
    pub async fn slot(&self, name: &ServiceName) -> Result<Rc<Slot>, Refusal> {
        if let Some(slot) = self.slots.borrow().get(name) {
            return Ok(Rc::clone(slot));
        }
        if self.slots.borrow().len() >= MAX_SERVICES {
            return Err(Refusal::UnknownDestination);
        }
        let (reply, answer) = oneshot::channel();
        let subscription = Subscription {
            service: name.clone(),
            reply,
        };
        self.subscriptions
            .send(subscription)
            .await
            .map_err(|_| Refusal::Draining)?;
        let state = answer.await.map_err(|_| Refusal::Draining)?;
        let slot = Rc::new(Slot {
            name: name.clone(),
            state: RefCell::new(state),
            service: RefCell::default(),
            used: Cell::new(Instant::now()),
            in_use: Cell::default(),
        });
        let mut slots = self.slots.borrow_mut();
        Ok(Rc::clone(slots.entry(name.clone()).or_insert(slot)))
    }

    /// The Service in `slot` as it is now. Waits only for the very first answer about it.
    pub async fn service(&self, slot: &Slot, caller: Caller<'_>) -> Result<Rc<Service>, Refusal> {
        slot.used.set(Instant::now());
        if let Some(service) = slot.current() {
            return Ok(service);
        }
        let mut state = slot.state.borrow().clone();
        let answered = state.wait_for(|state| !matches!(state, DestinationState::Pending));
        let answer = tokio::time::timeout(FIRST_ANSWER, answered).await;
        answer
            .map_err(|_| Refusal::DestinationUnresolved)?
            .map_err(|_| Refusal::Draining)?;
        let answer = slot.state.borrow_mut().borrow_and_update().clone();
        match answer {
            DestinationState::Pending | DestinationState::Invalid => {
                Err(Refusal::DestinationUnresolved)
            }
            DestinationState::Missing => {
                slot.service.take();
                Err(Refusal::UnknownDestination)
            }
            DestinationState::Ready(destination) => Ok(slot.compile(&destination, caller)),
        }
    }

    /// Every Service that is known here, for what is counted now and then.
    pub fn each(&self, mut look: impl FnMut(&Service)) {
        for slot in self.slots.borrow().values() {
            if let Some(service) = slot.service.borrow().as_deref() {
                look(service);
            }
        }
    }

    /// Lets go what was not used for long; connections in use are not touched.
    pub fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_, slot| {
            if slot.in_use.take() {
                slot.used.set(now);
            }
            Rc::strong_count(slot) > 1 || now.saturating_duration_since(slot.used.get()) < IDLE
        });
    }
}

impl Slot {
    fn compile(&self, destination: &Arc<Destination>, caller: Caller<'_>) -> Rc<Service> {
        let before = self.service.borrow().clone();
        if let Some(service) = before.as_ref().filter(|service| service.is_of(destination)) {
            return Rc::clone(service);
        }
        let service = Service::compile(&self.name, destination, caller, before.as_deref());
        self.service.replace(Some(Rc::clone(&service)));
        service
    }

    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// What was compiled last, unless something newer has come.
    pub fn current(&self) -> Option<Rc<Service>> {
        self.in_use.set(true);
        let unchanged = self
            .state
            .borrow()
            .has_changed()
            .is_ok_and(|changed| !changed);
        self.service
            .borrow()
            .as_ref()
            .filter(|_| unchanged)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_not_let_go() {
        let directory = Directory::new(mpsc::channel(1).0);
        let (_state, state) = watch::channel(DestinationState::Pending);
        let name = ServiceName::new("shop", "billing").expect("a name");
        let now = Instant::now();
        let slot = Rc::new(Slot {
            name: name.clone(),
            state: RefCell::new(state),
            service: RefCell::default(),
            used: Cell::new(now),
            in_use: Cell::default(),
        });
        directory.slots.borrow_mut().insert(name, Rc::clone(&slot));
        slot.current();
        drop(slot);
        directory.sweep(now + IDLE);
        assert_eq!(directory.slots.borrow().len(), 1);
        directory.sweep(now + 2 * IDLE);
        assert!(directory.slots.borrow().is_empty());
    }
}
