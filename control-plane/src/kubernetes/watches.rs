//! One watch for each kind. What goes wrong is counted and tried again; what was known before stays
//! until the API server has said all there is anew.

use std::collections::HashSet;
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
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cluster::{Item, Update};
use super::kinds::Kind;
use super::namespaces::{self, Ending};
use super::patience::Patience;
use super::services;
use super::{Context, definitions, is_not_found, objects, pods};
use crate::index::ZONE;
use crate::logging::one_line;
use crate::metrics::unix_seconds;

/// So many updates wait for the source; the watches wait for it after that.
const QUEUE: usize = 1024;
/// So many events that have come together share what is asked about them.
const TOGETHER: usize = 64;
/// What goes on failing is said so often.
const QUIET: Duration = Duration::from_secs(60);
/// How often a kind that does not exist is looked for again.
const ABSENT: Duration = Duration::from_secs(30);
/// The same, of one without which nothing is served.
const REQUIRED: Duration = Duration::from_secs(2);
/// What is asked about a deletion is asked again after so long without an answer.
const ANSWER: Duration = Duration::from_secs(5);
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

/// What the API server has been asked since the last events came: that is true of all of these.
#[derive(Default)]
struct Asked {
    going: Option<bool>,
    /// Whether they are being deleted, which was said then.
    namespaces: HashSet<String>,
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
                self.follow(stream, |it| Some(Item::Namespace(namespaces::read(it))))
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
        let mut patience = Patience::new();
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
                    patience.wait().await;
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

    /// Whether objects are gone, or missing from a list, because their kind is going.
    async fn takes_kind_away<K>(&self, event: &Event<K>, asked: &mut Asked) -> bool {
        if !matches!(event, Event::Delete(_) | Event::InitDone) {
            return false;
        }
        if let Some(going) = asked.going {
            return going;
        }
        let going = self.until_known(|| self.is_going()).await;
        *asked.going.insert(going)
    }

    /// Which namespaces are being deleted of those from which objects are gone, or may be missing from a
    /// list. Their own watch may be behind.
    async fn ending<K: Resource>(&self, event: &Event<K>, asked: &mut Asked) -> Vec<Ending> {
        if !self.kind.outlives_deletion() {
            return Vec::new();
        }
        let client = || self.context.client.clone();
        match event {
            Event::Delete(object) if services::is_derived(object.meta()) => Vec::new(),
            Event::Delete(object) => {
                let name = object.meta().namespace.as_deref().unwrap_or_default();
                if asked.namespaces.contains(name) {
                    return Vec::new();
                }
                let ask = || namespaces::ending(client(), name);
                let ending = self.until_known(ask).await;
                asked.namespaces.insert(name.to_owned());
                ending.into_iter().collect()
            }
            Event::InitDone => {
                let ask = || namespaces::all_ending(client());
                self.until_known(ask).await
            }
            Event::Apply(_) | Event::Init | Event::InitApply(_) => Vec::new(),
        }
    }

    /// Asks until there is an answer: until then what is known stays.
    async fn until_known<T, F>(&self, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut patience = Patience::new();
        loop {
            match timeout(ANSWER, ask()).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => self.failed(&error),
                Err(elapsed) => self.failed(&elapsed),
            }
            patience.wait().await;
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
        let stream = stream.backoff(Patience::new()).ready_chunks(TOGETHER);
        let mut stream = std::pin::pin!(stream);
        while let Some(events) = stream.next().await {
            let mut asked = Asked::default();
            for event in events {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        self.failed(&error);
                        if is_gone(&error) && !self.kind.resources().is_empty() {
                            return End::NoSuchKind;
                        }
                        continue;
                    }
                };
                if self.takes_kind_away(&event, &mut asked).await {
                    return End::NoSuchKind;
                }
                let ending = self.ending(&event, &mut asked).await;
                let mut updates: Vec<Update> = ending.into_iter().map(Update::Ending).collect();
                updates.extend(self.update(&event, &read));
                for update in updates {
                    if self.updates.send(update).await.is_err() {
                        return End::Unheard;
                    }
                }
            }
        }
        // It has no end.
        End::NoSuchKind
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

#[cfg(test)]
#[path = "watches_tests.rs"]
mod tests;
