//! The destinations that one sidecar follows, and which of them have something new for it. A
//! destination is either waited for or ready to be sent, never both, so a sidecar that does not read
//! holds one place each, whatever changes meanwhile.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use outrider_api::model::Destination;
use outrider_api::names::ServiceName;

use crate::store::{DestinationWatch, Snapshot, Store};

/// A sidecar may follow so many destinations.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 4096;

/// There is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

type Waiting = Pin<Box<dyn Future<Output = Result<DestinationWatch, Aborted>> + Send>>;

/// See the module.
pub(crate) struct Subscriptions {
    store: Arc<Store>,
    active: HashMap<ServiceName, State>,
    waiting: FuturesUnordered<Waiting>,
    ready: VecDeque<DestinationWatch>,
}

enum State {
    Ready,
    Waiting(AbortHandle),
}

impl Subscriptions {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            active: HashMap::new(),
            waiting: FuturesUnordered::new(),
            ready: VecDeque::new(),
        }
    }

    /// Follows `name`, from what it is now. Twice is once.
    pub(crate) fn subscribe(&mut self, name: ServiceName) -> Result<(), Full> {
        if self.active.contains_key(&name) {
            return Ok(());
        }
        if self.active.len() >= MAX_SUBSCRIPTIONS {
            return Err(Full);
        }
        self.ready.push_back(self.store.destination(name.clone()));
        self.active.insert(name, State::Ready);
        Ok(())
    }

    /// Follows `name` no longer.
    pub(crate) fn unsubscribe(&mut self, name: &ServiceName) {
        match self.active.remove(name) {
            Some(State::Waiting(handle)) => handle.abort(),
            Some(State::Ready) => self.ready.retain(|watch| watch.name() != name),
            None => {}
        }
    }

    /// Waits until one more destination is ready. Safe to cancel.
    pub(crate) async fn changed(&mut self) {
        while let Some(finished) = self.waiting.next().await {
            if let Ok(watch) = finished {
                self.active.insert(watch.name().clone(), State::Ready);
                self.ready.push_back(watch);
                return;
            }
        }
        std::future::pending().await
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The newest of the destination that has been ready the longest; it is waited for again.
    pub(crate) fn pop(&mut self) -> Option<(ServiceName, Snapshot<Destination>)> {
        let mut watch = self.ready.pop_front()?;
        let snapshot = watch.newest()?;
        let name = watch.name().clone();
        let (handle, registration) = AbortHandle::new_pair();
        self.active.insert(name.clone(), State::Waiting(handle));
        self.waiting.push(Box::pin(Abortable::new(
            async move {
                watch.changed().await;
                watch
            },
            registration,
        )));
        Some((name, snapshot))
    }
}
