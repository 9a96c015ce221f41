//! The destinations that this worker's app uses: subscribed to on first use, compiled when they
//! change, local from then on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::Destination;
use outrider_api::names::ServiceName;
use tokio::sync::{mpsc, oneshot, watch};

use super::service::{Caller, Service, State};
use crate::control::subjects::Subscription;
use crate::control::{DestinationState, Subject};
use crate::refusal::Refusal;
use crate::telemetry::metrics::Metrics;

/// The first request to a Service waits this long for the control plane's answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Services and addresses that one app may use, by any name it makes up.
const MAX_SLOTS: usize = 4096;
/// Ports of one instance that nobody declared.
const MAX_UNDECLARED: usize = 64;
/// A Service that was not used for so long is let go.
const IDLE: Duration = Duration::from_secs(600);

/// Belongs to one worker.
#[derive(Debug)]
pub struct Directory {
    subscriptions: mpsc::Sender<Subscription>,
    slots: RefCell<HashMap<Subject, Rc<Slot>>>,
    /// Of every Service that is used, or was and still has requests open.
    states: RefCell<Vec<Rc<State>>>,
}

/// A subscription, with what was compiled last.
#[derive(Debug)]
pub struct Slot {
    subject: Subject,
    state: RefCell<watch::Receiver<DestinationState>>,
    service: RefCell<Option<Rc<Service>>>,
    used: Cell<Instant>,
    /// What subscribing took of the time that whoever did so has for the first answer.
    spent: Cell<Duration>,
    /// It was used since the last sweep: that costs no look at the clock.
    in_use: Cell<bool>,
    /// Ports of an instance that nobody declared, and that its callers use all the same.
    undeclared: RefCell<Vec<u16>>,
}

/// Whose an address is.
#[derive(Debug)]
pub enum Owner {
    Service(ServiceName),
    Instance(Rc<Slot>),
    /// Nobody's in the mesh.
    Nobody,
}

impl Directory {
    pub fn new(subscriptions: mpsc::Sender<Subscription>) -> Self {
        Self {
            subscriptions,
            slots: RefCell::default(),
            states: RefCell::default(),
        }
    }

    /// The slot of a Service, subscribed to if it is new.
    pub async fn slot(&self, name: &ServiceName) -> Result<Rc<Slot>, Refusal> {
        self.subscribed(Subject::Service(name.clone())).await
    }

    /// The slot of an address, subscribed to if it is new.
    pub async fn address(&self, address: IpAddr) -> Result<Rc<Slot>, Refusal> {
        self.subscribed(Subject::Address(address)).await
    }

    async fn subscribed(&self, subject: Subject) -> Result<Rc<Slot>, Refusal> {
        if let Some(slot) = self.slots.borrow().get(&subject) {
            return Ok(Rc::clone(slot));
        }
        if self.slots.borrow().len() >= MAX_SLOTS {
            self.let_go_of_strangers();
        }
        if self.slots.borrow().len() >= MAX_SLOTS {
            return Err(Refusal::UnknownDestination);
        }
        let (reply, answer) = oneshot::channel();
        let subscription = Subscription {
            subject: subject.clone(),
            reply,
        };
        let asked = tokio::time::Instant::now();
        let subscribed = async {
            let sent = self.subscriptions.send(subscription).await;
            sent.map_err(|_| Refusal::Draining)?;
            // No answer: there is no room in the sidecar as a whole.
            answer.await.map_err(|_| Refusal::DestinationUnresolved)
        };
        let state = tokio::time::timeout(FIRST_ANSWER, subscribed)
            .await
            .map_err(|_| Refusal::DestinationUnresolved)??;
        let slot = Rc::new(Slot::new(subject.clone(), state));
        slot.spent.set(asked.elapsed());
        let mut slots = self.slots.borrow_mut();
        Ok(Rc::clone(slots.entry(subject).or_insert(slot)))
    }

    /// An app may connect to any number of addresses outside the mesh, and must not lose the mesh by
    /// it: what is nobody's is asked about again when it is used again.
    fn let_go_of_strangers(&self) {
        let mut slots = self.slots.borrow_mut();
        slots.retain(|_, slot| Rc::strong_count(slot) > 1 || !slot.is_nobodys());
    }

    /// Whose an address is now. Waits only for the very first answer about it.
    pub async fn owner(&self, address: IpAddr) -> Result<Owner, Refusal> {
        let slot = self.address(address).await?;
        Ok(match slot.answered().await? {
            DestinationState::Pending | DestinationState::Invalid => {
                return Err(Refusal::DestinationUnresolved);
            }
            DestinationState::Missing => Owner::Nobody,
            DestinationState::Alias(service) => Owner::Service(service),
            DestinationState::Ready(_) => Owner::Instance(slot),
        })
    }

    /// The Service in `slot` as it is now. Waits only for the very first answer about it.
    pub async fn service(&self, slot: &Slot, caller: Caller<'_>) -> Result<Rc<Service>, Refusal> {
        if let Some(service) = slot.current() {
            return Ok(service);
        }
        slot.answered().await?;
        match slot.news() {
            DestinationState::Pending | DestinationState::Invalid => {
                Err(Refusal::DestinationUnresolved)
            }
            // An address that was an instance's when the connection was made, and is no longer.
            DestinationState::Missing | DestinationState::Alias(_) => {
                slot.service.take();
                Err(Refusal::UnknownDestination)
            }
            DestinationState::Ready(destination) => {
                let known = slot.service.borrow().clone();
                let service = slot.compile(&destination, caller);
                if known.is_none_or(|known| !Rc::ptr_eq(&known.state, &service.state)) {
                    self.states.borrow_mut().push(Rc::clone(&service.state));
                }
                Ok(service)
            }
        }
    }

    /// Tells the gauges what is open to each Service: also to those that are gone, until the last
    /// request to them has ended.
    pub fn tell(&self, metrics: &Metrics) {
        self.states.borrow_mut().retain(|state| {
            state.tell(metrics);
            Rc::strong_count(state) > 1 || state.usage.requests() != (0, 0)
        });
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
    fn new(subject: Subject, state: watch::Receiver<DestinationState>) -> Self {
        Self {
            subject,
            state: RefCell::new(state),
            service: RefCell::default(),
            used: Cell::new(Instant::now()),
            spent: Cell::default(),
            in_use: Cell::default(),
            undeclared: RefCell::default(),
        }
    }

    fn is_nobodys(&self) -> bool {
        matches!(&*self.state.borrow().borrow(), DestinationState::Missing)
    }

    /// What is known, once anything is. It stays news to whoever compiles it.
    async fn answered(&self) -> Result<DestinationState, Refusal> {
        self.used.set(Instant::now());
        let mut state = self.state.borrow().clone();
        let answered = state.wait_for(|state| !matches!(state, DestinationState::Pending));
        let left = FIRST_ANSWER.saturating_sub(self.spent.take());
        let answer = tokio::time::timeout(left, answered).await;
        answer
            .map_err(|_| Refusal::DestinationUnresolved)?
            .map_err(|_| Refusal::Draining)?;
        Ok(self.state.borrow().borrow().clone())
    }

    /// What is known, which is to be compiled now.
    fn news(&self) -> DestinationState {
        self.state.borrow_mut().borrow_and_update().clone()
    }

    fn compile(&self, destination: &Arc<Destination>, caller: Caller<'_>) -> Rc<Service> {
        let before = self.service.borrow().clone();
        let undeclared = self.undeclared.borrow();
        if let Some(service) = before
            .as_ref()
            .filter(|service| service.is_of(destination, &undeclared))
        {
            return Rc::clone(service);
        }
        // Whoever has the address now may be another, about whom nothing is known yet. A pod by itself goes
        // by the name of its first Service; to begin anew with another first one does no harm.
        let same = |before: &&Service| before.state.name == destination.service;
        let before = before.as_deref().filter(same);
        let service = Service::compile(destination, &undeclared, caller, before);
        self.service.replace(Some(Rc::clone(&service)));
        service
    }

    /// A port of an instance is about to be called; where nobody declared it, it leads to itself.
    pub fn calls(&self, port: u16) {
        let is_open = match &*self.state.borrow().borrow() {
            DestinationState::Ready(destination) => {
                destination.any_port && destination.port(port).is_none()
            }
            _ => false,
        };
        let mut undeclared = self.undeclared.borrow_mut();
        if is_open && !undeclared.contains(&port) && undeclared.len() < MAX_UNDECLARED {
            undeclared.push(port);
            // To be compiled again.
            self.state.borrow_mut().mark_changed();
        }
    }

    /// For people.
    pub fn subject(&self) -> &Subject {
        &self.subject
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
#[path = "directory_tests.rs"]
mod tests;
