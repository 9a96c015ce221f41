//! The destinations that this worker's app uses: subscribed to on first use, compiled when they
//! change, local from then on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_api::model::traffic::TrafficSettings;
use outrider_api::model::{self, Destination, Protocol};
use outrider_api::names::ServiceName;
use tokio::sync::{mpsc, oneshot, watch};

use super::endpoint::Endpoint;
use crate::control::DestinationState;
use crate::control::discovery::Subscription;
use crate::refusal::Refusal;
use crate::telemetry::edge::{Edge, Party, Reporter};
use crate::telemetry::metrics::Metrics;
use crate::traffic::balance::Balancer;
use crate::traffic::health::Ejections;

/// The first request to a Service waits this long for the control plane's answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Services that one app may use, by any name it makes up.
const MAX_SERVICES: usize = 4096;
/// A Service that was not used for so long is let go.
const IDLE: Duration = Duration::from_secs(600);

/// A Service, ready for the data path.
#[derive(Debug)]
pub struct Service {
    ports: Vec<(u16, Protocol)>,
    pub balancer: Balancer<Rc<Endpoint>>,
    /// For requests that reach no endpoint.
    pub edge: Rc<Edge>,
    compiled_from: Arc<Destination>,
}

impl Service {
    /// What the port of the Service speaks; `None` if there is no such port.
    pub fn protocol(&self, port: u16) -> Option<Protocol> {
        self.ports
            .iter()
            .find(|(known, _)| *known == port)
            .map(|(_, protocol)| *protocol)
    }

    pub fn traffic(&self) -> &TrafficSettings {
        &self.compiled_from.traffic
    }
}

/// Belongs to one worker.
#[derive(Debug)]
pub struct Directory {
    subscriptions: mpsc::Sender<Subscription>,
    slots: RefCell<HashMap<ServiceName, Rc<Slot>>>,
    metrics: Arc<Metrics>,
}

/// A subscription, with what was compiled last.
#[derive(Debug)]
pub struct Slot {
    name: ServiceName,
    state: RefCell<watch::Receiver<DestinationState>>,
    service: RefCell<Option<Rc<Service>>>,
    ejections: Rc<Ejections>,
    used: Cell<Instant>,
}

impl Directory {
    pub fn new(subscriptions: mpsc::Sender<Subscription>, metrics: Arc<Metrics>) -> Self {
        Self {
            subscriptions,
            slots: RefCell::default(),
            metrics,
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
            ejections: Rc::default(),
            used: Cell::new(Instant::now()),
        });
        let mut slots = self.slots.borrow_mut();
        Ok(Rc::clone(slots.entry(name.clone()).or_insert(slot)))
    }

    /// The Service in `slot` as it is now. Waits only for the very first answer about it.
    /// `source` and `zone` are the caller's.
    pub async fn service(
        &self,
        slot: &Slot,
        source: &Party,
        zone: Option<&str>,
    ) -> Result<Rc<Service>, Refusal> {
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
            DestinationState::Ready(destination) => {
                Ok(self.compile(slot, &destination, source, zone))
            }
        }
    }

    /// Lets go what was not used for long; connections in use are not touched.
    pub fn sweep(&self, now: Instant) {
        self.slots.borrow_mut().retain(|_, slot| {
            Rc::strong_count(slot) > 1 || now.saturating_duration_since(slot.used.get()) < IDLE
        });
    }

    fn compile(
        &self,
        slot: &Slot,
        destination: &Arc<Destination>,
        source: &Party,
        zone: Option<&str>,
    ) -> Rc<Service> {
        let before = slot.service.borrow().clone();
        if let Some(service) = &before
            && Arc::ptr_eq(&service.compiled_from, destination)
        {
            return Rc::clone(service);
        }
        let edge = |to| {
            Edge::new(
                &self.metrics,
                Reporter::Source,
                source.clone(),
                to,
                Some(slot.name.clone()),
            )
        };
        // What is known of an endpoint, and its warm connections, outlive a change of others.
        let known: HashMap<SocketAddr, &Rc<Endpoint>> = before
            .iter()
            .flat_map(|service| service.balancer.endpoints())
            .map(|known| (known.model.mesh_address, known))
            .collect();
        let endpoint = |model: &model::Endpoint| match known.get(&model.mesh_address) {
            Some(&known) if known.model == *model => Rc::clone(known),
            _ => {
                let to = Party {
                    workload: model.workload.clone(),
                    namespace: model.namespace.clone(),
                    principal: model.id.to_string(),
                    app: model.app.clone(),
                };
                Endpoint::new(model.clone(), edge(to), Rc::clone(&slot.ejections))
            }
        };
        let traffic = &destination.traffic;
        let balancer = Balancer::new(
            destination.endpoints.iter().map(endpoint).collect(),
            &traffic.balancing,
            traffic.outliers.when_all_ejected,
            zone,
        );
        let service = Rc::new(Service {
            ports: destination
                .ports
                .iter()
                .map(|port| (port.port, port.protocol))
                .collect(),
            balancer,
            edge: edge(Party::unknown()),
            compiled_from: Arc::clone(destination),
        });
        slot.service.replace(Some(Rc::clone(&service)));
        service
    }
}

impl Slot {
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// What was compiled last, unless something newer has come.
    pub fn current(&self) -> Option<Rc<Service>> {
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
