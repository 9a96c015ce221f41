//! The destinations that one sidecar follows, or the addresses, and which of them have something new
//! for it. Each is either waited for or ready to be sent, never both, so a sidecar that does not read
//! holds one place each, whatever changes meanwhile.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use outrider_api::sidecar::SUBSCRIPTIONS_MAX;

use crate::store::{Key, Snapshot, Store, Watch};

/// There is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

type Waiting<K> = Pin<Box<dyn Future<Output = Result<Watch<K>, Aborted>> + Send>>;

/// See the module.
pub(crate) struct Subscriptions<K: Key> {
    store: Arc<Store>,
    active: HashMap<K, State>,
    waiting: FuturesUnordered<Waiting<K>>,
    ready: VecDeque<Watch<K>>,
}

enum State {
    Ready,
    Waiting(AbortHandle),
}

impl<K: Key> Subscriptions<K> {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            active: HashMap::new(),
            waiting: FuturesUnordered::new(),
            ready: VecDeque::new(),
        }
    }

    /// Follows `key`, from what it is now. Twice is once.
    pub(crate) fn subscribe(&mut self, key: K) -> Result<(), Full> {
        if self.active.contains_key(&key) {
            return Ok(());
        }
        if self.active.len() >= SUBSCRIPTIONS_MAX {
            return Err(Full);
        }
        self.ready.push_back(self.store.follow(key.clone()));
        self.active.insert(key, State::Ready);
        Ok(())
    }

    /// Follows `key` no longer.
    pub(crate) fn unsubscribe(&mut self, key: &K) {
        match self.active.remove(key) {
            Some(State::Waiting(handle)) => handle.abort(),
            Some(State::Ready) => self.ready.retain(|watch| watch.key() != key),
            None => {}
        }
    }

    /// Waits until one more is ready. Safe to cancel.
    pub(crate) async fn changed(&mut self) {
        while let Some(finished) = self.waiting.next().await {
            if let Ok(watch) = finished {
                self.active.insert(watch.key().clone(), State::Ready);
                self.ready.push_back(watch);
                return;
            }
        }
        std::future::pending().await
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The newest of what has been ready the longest; it is waited for again.
    pub(crate) fn pop(&mut self) -> Option<(K, Snapshot<K::Value>)> {
        let mut watch = self.ready.pop_front()?;
        let snapshot = watch.newest()?;
        let key = watch.key().clone();
        let (handle, registration) = AbortHandle::new_pair();
        self.active.insert(key.clone(), State::Waiting(handle));
        self.waiting.push(Box::pin(Abortable::new(
            async move {
                watch.changed().await;
                watch
            },
            registration,
        )));
        Some((key, snapshot))
    }
}
