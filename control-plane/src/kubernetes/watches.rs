//! One watch for each kind. What goes wrong is counted and tried again; what was known before stays
//! until the API server has said all there is anew.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use outrider_api::annotations::INJECT;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cluster::{Item, Namespace, Update};
use super::kinds::Kind;
use super::services;
use super::{Context, definitions, objects, pods};
use crate::index::ZONE;
use crate::logging::one_line;
use crate::metrics::unix_seconds;

/// So many updates wait for the source; the watches wait for it after that.
const QUEUE: usize = 1024;
/// How soon a watch that failed is tried again, at first and at last.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// What goes on failing is said so often.
const QUIET: Duration = Duration::from_secs(60);
/// A watch that has lasted for so long begins with the first delay again.
const GOOD: Duration = Duration::from_secs(30);
/// How often a kind that does not exist is looked for again.
const ABSENT: Duration = Duration::from_secs(30);
/// The same, of one without which nothing is served.
const REQUIRED: Duration = Duration::from_secs(2);
/// An error may quote a page of a proxy's.
const MAX_LOGGED_BYTES: usize = 512;

/// Watches every kind, until the other half is dropped.
pub(super) fn start(context: &Context) -> (mpsc::Receiver<Update>, Vec<JoinHandle<()>>) {
    let (updates, receiver) = mpsc::channel(QUEUE);
    let tasks = Kind::ALL.into_iter().map(|kind| {
        let watch = Watch {
            kind,
            context: context.clone(),
            updates: updates.clone(),
            warned: Mutex::default(),
        };
        tokio::spawn(watch.run())
    });
    (receiver, tasks.collect())
}

/// The watch of one kind.
struct Watch {
    kind: Kind,
    context: Context,
    updates: mpsc::Sender<Update>,
    /// When it was last said that it fails.
    warned: Mutex<Option<Instant>>,
}

/// One of our own kinds is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no such kind in the version that is read, or it is being deleted: expected its \
     CustomResourceDefinition, which `outrider install` makes"
)]
struct Absent;

/// Why a watch is over.
enum End {
    /// Nobody listens any more.
    Unheard,
    /// There is no such kind any more, or it is going.
    NoSuchKind,
}

impl Watch {
    async fn run(self) {
        let client = self.context.client.clone();
        match self.kind {
            Kind::Pod => {
                // A pod that has ended has no address, and keeps nobody.
                let living = "status.phase!=Succeeded,status.phase!=Failed";
                let config = Config::default().fields(living);
                let stream = watcher(Api::<v1::Pod>::all(client), config);
                self.follow(stream, |pod| {
                    let (pod, entry) = pods::read(pod)?;
                    Some(Item::Pod(Arc::new(pod), Arc::new(entry)))
                })
                .await;
            }
            Kind::Service => {
                let stream = watcher(Api::<v1::Service>::all(client), Config::default());
                let read = |service: &v1::Service| services::read(service).map(Arc::new);
                self.follow(stream, |service| read(service).map(Item::Service))
                    .await;
            }
            Kind::EndpointSlice => {
                let stream = watcher(Api::<EndpointSlice>::all(client), Config::default());
                self.follow(stream, |slice| services::read_slice(slice).map(Item::Slice))
                    .await;
            }
            Kind::Namespace => {
                let namespaces = Api::<v1::Namespace>::all(client);
                let stream = watcher(namespaces, Config::default());
                self.follow(stream, |it| Some(Item::Namespace(namespace(it))))
                    .await;
            }
            Kind::Node => {
                let stream = watcher(
                    Api::<PartialObjectMeta<v1::Node>>::all(client),
                    Config::default(),
                );
                self.follow(stream, |node| {
                    let labels = node.metadata.labels.as_ref();
                    let zone = labels.and_then(|labels| labels.get(ZONE)).cloned();
                    Some(Item::Node(zone.filter(|zone| !zone.is_empty())))
                })
                .await;
            }
            Kind::MeshConfig
            | Kind::AuthorizationPolicy
            | Kind::TrafficPolicy
            | Kind::RateLimitPolicy
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TcpRoute => self.run_custom().await,
        }
    }

    /// Of kinds that may come and go.
    async fn run_custom(self) {
        let mut patience = patience();
        loop {
            let resource = match self.served().await {
                Ok(Some(resource)) => resource,
                Ok(None) => {
                    let wait = self.absent().await;
                    if self.updates.is_closed() {
                        return;
                    }
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(patience.next().unwrap_or(LAST_DELAY)).await;
                    continue;
                }
            };
            let api = Api::<DynamicObject>::all_with(self.context.client.clone(), &resource);
            let (version, kind) = (resource.api_version.clone(), self.kind);
            let stream = watcher(api, Config::default());
            let end = self
                .follow(stream, |object| {
                    let entry = objects::read(kind, &version, object)?;
                    Some(Item::Object(Arc::new(entry)))
                })
                .await;
            if let End::Unheard = end {
                return;
            }
        }
    }

    /// Where this kind is served, if it is.
    async fn served(&self) -> kube::Result<Option<ApiResource>> {
        for resource in self.kind.resources() {
            let client = self.context.client.clone();
            let api = Api::<DynamicObject>::all_with(client, &resource);
            match api.list_metadata(&ListParams::default().limit(1)).await {
                Ok(_) if self.is_going().await? => return Ok(None),
                Ok(_) => return Ok(Some(resource)),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether this is a kind without which nothing is served, and is being deleted.
    async fn is_going(&self) -> kube::Result<bool> {
        match self.kind.resources().first() {
            Some(resource) if !self.kind.may_be_absent() => {
                definitions::is_going(self.context.client.clone(), resource).await
            }
            _ => Ok(false),
        }
    }

    /// Whether objects are gone, or missing from a list, because their kind is going. It is asked until
    /// that is known: until then what is known stays.
    async fn takes_kind_away<K>(&self, event: &Event<K>) -> bool {
        if !matches!(event, Event::Delete(_) | Event::InitDone) {
            return false;
        }
        let mut patience = patience();
        loop {
            match self.is_going().await {
                Ok(going) => return going,
                Err(error) => self.failed(&error),
            }
            tokio::time::sleep(patience.next().unwrap_or(LAST_DELAY)).await;
        }
    }

    /// There is no such kind: then there is none of it, if the mesh works without. What was known of
    /// one that it needs stays.
    async fn absent(&self) -> Duration {
        if !self.kind.may_be_absent() {
            self.failed(&Absent);
            return REQUIRED;
        }
        let kind = self.kind;
        for update in [Update::Restart(kind), Update::Synced(kind)] {
            // Nobody listens any more: whoever sleeps next sees it.
            let _ = self.updates.send(update).await;
        }
        ABSENT
    }

    async fn follow<K>(
        &self,
        stream: impl Stream<Item = watcher::Result<Event<K>>>,
        read: impl Fn(&K) -> Option<Item>,
    ) -> End
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let stream = stream.backoff(patience());
        let mut stream = std::pin::pin!(stream);
        loop {
            let update = match stream.next().await {
                Some(Ok(event)) if self.takes_kind_away(&event).await => return End::NoSuchKind,
                Some(Ok(event)) => self.update(&event, &read),
                Some(Err(error)) => {
                    self.failed(&error);
                    if is_gone(&error) && !self.kind.resources().is_empty() {
                        return End::NoSuchKind;
                    }
                    continue;
                }
                // It has no end.
                None => return End::NoSuchKind,
            };
            if let Some(update) = update
                && self.updates.send(update).await.is_err()
            {
                return End::Unheard;
            }
        }
    }

    fn update<K: Resource>(
        &self,
        event: &Event<K>,
        read: impl Fn(&K) -> Option<Item>,
    ) -> Option<Update> {
        let kind = self.kind;
        let told = &self.context.metrics.watches.last_event;
        let told = told.with_label_values(&[kind.name()]);
        told.set(unix_seconds(SystemTime::now()));
        match event {
            Event::Init => Some(Update::Restart(kind)),
            Event::InitDone => Some(Update::Synced(kind)),
            Event::Apply(object) | Event::InitApply(object) => {
                let id = objects::id(kind, object.meta())?;
                Some(match read(object) {
                    Some(item) => Update::Apply(id, item),
                    None => Update::Delete(id),
                })
            }
            Event::Delete(object) => Some(Update::Delete(objects::id(kind, object.meta())?)),
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        self.metrics_of_error();
        let error = one_line(&described(error), MAX_LOGGED_BYTES);
        let kind = self.kind.name();
        if self.may_warn() {
            tracing::warn!(
                kind,
                error,
                "a watch has failed: what is known stays, and it is tried again"
            );
        } else {
            tracing::debug!(kind, error, "a watch has failed again");
        }
    }

    /// At most once in [`QUIET`].
    fn may_warn(&self) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = warned.is_none_or(|warned| now > warned + QUIET);
        if may {
            *warned = Some(now);
        }
        may
    }

    fn metrics_of_error(&self) {
        let errors = &self.context.metrics.watches.errors;
        errors.with_label_values(&[self.kind.name()]).inc();
    }
}

fn namespace(namespace: &v1::Namespace) -> Namespace {
    let labels = namespace.metadata.labels.as_ref();
    let inject = labels.and_then(|labels| labels.get(INJECT));
    Namespace {
        uid: namespace.metadata.uid.clone(),
        is_meshed: inject.is_some_and(|inject| inject == "enabled"),
        is_ending: namespace.metadata.deletion_timestamp.is_some(),
    }
}

/// What the API server says, or the error with its causes: most of a client only say that something
/// has failed.
fn described(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = || std::iter::successors(Some(error), |error| error.source());
    let said = chain().find_map(|error| match error.downcast_ref() {
        Some(kube::Error::Api(status)) => Some(format!("{}: {}", status.code, status.message)),
        _ => None,
    });
    said.unwrap_or_else(|| {
        let texts: Vec<String> = chain().map(ToString::to_string).collect();
        texts.join(": ")
    })
}

fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_not_found(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn patience() -> Doubling {
    Doubling {
        delay: FIRST_DELAY,
        last: None,
    }
}

/// Delays that double, each up to a half shorter at random. Only time makes them short again: a list
/// that is answered says nothing of the watch that follows, which may fail each time.
struct Doubling {
    delay: Duration,
    last: Option<Instant>,
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now > last + GOOD) {
            self.delay = FIRST_DELAY;
        }
        self.last = Some(now);
        let delay = self.delay;
        self.delay = (delay * 2).min(LAST_DELAY);
        Some(delay.mul_f64(1.0 - fastrand::f64() / 2.0))
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_fails_each_time_is_tried_more_and_more_slowly() {
        let mut patience = patience();
        let delays = (0..10).map(|_| {
            // The list before it is answered each time.
            patience.reset();
            patience.next().unwrap()
        });
        let delays: Vec<Duration> = delays.collect();
        assert!(delays[0] <= FIRST_DELAY && delays[0] >= FIRST_DELAY / 2);
        assert!(delays[9] <= LAST_DELAY && delays[9] >= LAST_DELAY / 2);
    }
}
