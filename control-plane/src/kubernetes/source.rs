//! Watches the API server and says what it holds whenever that has changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outrider_api::manifest::Problem;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::spiffe::TrustDomain;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::cluster::{Cluster, Taken, Update};
use super::degrade::{Degraded, Past, Verdicts, degrade};
use super::entries::Entries;
use super::kinds::Kind;
use super::{Context, watches};
use crate::admin::Readiness;
use crate::index::{Endpoints, Memo, Mesh, Shelves};
use crate::source::Change;

/// Changes that come within this of the last are taken together.
const REST: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Source {
    context: Context,
    readiness: watch::Sender<Readiness>,
    updates: mpsc::Receiver<Update>,
    watches: Vec<JoinHandle<()>>,
    cluster: Cluster,
    taken: Option<Instant>,
    held: watch::Sender<Option<Arc<Held>>>,
    meshed: watch::Sender<Arc<BTreeSet<String>>>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    past: Arc<Mutex<Past>>,
}

/// What the rest of the control plane may know of what the source holds; cheap to clone.
#[derive(Clone)]
pub(crate) struct View {
    /// Everything, as it was last taken; absent until the first sync.
    pub(crate) held: watch::Receiver<Option<Arc<Held>>>,
    /// The meshed namespaces: those that need a trust bundle.
    pub(crate) meshed: watch::Receiver<Arc<BTreeSet<String>>>,
    /// What was made of each object.
    pub(crate) verdicts: watch::Receiver<Arc<Verdicts>>,
    /// What is applied; absent until anything was judged.
    pub(crate) standing: watch::Receiver<Option<Arc<Standing>>>,
}

/// All objects of the mesh at one moment.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) entries: Entries,
    pub(crate) endpoints: Endpoints,
    /// The control plane's own, in which the MeshConfig is.
    namespace: String,
    /// Whose identities these are, where no MeshConfig says it.
    trust_domain: Option<TrustDomain>,
    past: Arc<Mutex<Past>>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    judged: Mutex<Option<Judged>>,
}

/// What was made of it, when it was judged last.
#[derive(Clone, Debug)]
struct Judged {
    verdicts: Arc<Verdicts>,
    standing: Arc<Standing>,
}

/// What is applied: what an object that is not stored yet is judged beside.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// What is bad is replaced, or left out.
    pub(crate) shelves: Shelves,
    pub(crate) endpoints: Endpoints,
    /// Whose identities these are, where no MeshConfig says it.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// What was made of the Services and pods.
    pub(crate) memo: Memo,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Watches begin at once.
    pub(crate) fn new(context: Context, readiness: watch::Sender<Readiness>) -> (Self, View) {
        let (held, meshed, verdicts, standing) = (
            watch::Sender::new(None),
            watch::Sender::default(),
            watch::Sender::default(),
            watch::Sender::default(),
        );
        let view = View {
            held: held.subscribe(),
            meshed: watch::Sender::subscribe(&meshed),
            verdicts: watch::Sender::subscribe(&verdicts),
            standing: watch::Sender::subscribe(&standing),
        };
        let (updates, watches) = watches::start(&context);
        let source = Self {
            context,
            readiness,
            updates,
            watches,
            cluster: Cluster::default(),
            taken: None,
            held,
            meshed,
            verdicts,
            standing,
            past: Arc::default(),
        };
        (source, view)
    }

    /// The next change: at first all there is, once every kind has been read; then whenever that is
    /// different, at most once in [`REST`].
    pub(crate) async fn next(&mut self) -> Change {
        let mut noticed = None;
        loop {
            let Some(since) = noticed else {
                match self.updates.recv().await {
                    Some(update) => {
                        let changed = self.cluster.update(update);
                        noticed = changed.then(Instant::now);
                    }
                    // The watches have ended, which they do not.
                    None => std::future::pending().await,
                }
                continue;
            };
            let now = Instant::now();
            let rest = self.taken.map_or(now, |taken| taken + REST);
            // What has come already is taken as well; but there may be no end of it.
            let is_all = self.updates.is_empty() || now >= since + REST;
            if now >= rest && is_all {
                if self.is_complete() {
                    return self.take(since);
                }
                noticed = None;
                continue;
            }
            let more = tokio::time::timeout_at(rest.max(now).into(), self.updates.recv());
            if let Ok(Some(update)) = more.await {
                self.cluster.update(update);
            }
        }
    }

    /// Before the first sync nothing is taken: half of what there is lacks the policy that denies.
    fn is_complete(&self) -> bool {
        let missing = self.cluster.missing();
        if missing.is_empty() {
            return true;
        }
        let names: Vec<&str> = missing.into_iter().map(Kind::name).collect();
        let reason = format!("these kinds have not been read yet: {}", names.join(", "));
        self.readiness.send_replace(Readiness::NotReady(reason));
        false
    }

    fn take(&mut self, noticed: Instant) -> Change {
        let Taken {
            entries,
            endpoints,
            meshed,
        } = self.cluster.take();
        let held = Arc::new(Held {
            entries,
            endpoints,
            namespace: self.context.namespace.clone(),
            trust_domain: self.context.trust_domain.clone(),
            past: Arc::clone(&self.past),
            verdicts: self.verdicts.clone(),
            standing: self.standing.clone(),
            judged: Mutex::default(),
        });
        self.held.send_replace(Some(Arc::clone(&held)));
        self.meshed.send_if_modified(|before| {
            let changed = **before != *meshed;
            if changed {
                *before = Arc::new((*meshed).clone());
            }
            changed
        });
        self.taken = Some(Instant::now());
        Change {
            noticed,
            seen: crate::source::Seen::Objects(held),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

impl Held {
    /// What it means. Bad objects are replaced by what refuses, or left out; only a mesh of which the
    /// settings cannot be known is an error.
    pub(crate) fn judge(&self, trust: Option<&TrustBundle>) -> Result<Mesh, Vec<Problem>> {
        let Degraded {
            mesh,
            verdicts,
            shelves,
        } = degrade(self, trust);
        let standing = Standing {
            shelves,
            endpoints: self.endpoints.clone(),
            trust_domain: self.trust_domain.clone(),
            memo: lock(&self.past).memo.of_ground(),
        };
        *lock(&self.judged) = Some(Judged {
            verdicts: Arc::new(verdicts),
            standing: Arc::new(standing),
        });
        mesh
    }

    /// What was judged last is applied, or refused: now the verdicts are true.
    pub(crate) fn settle(&self) {
        if let Some(Judged { verdicts, standing }) = lock(&self.judged).clone() {
            self.verdicts.send_replace(verdicts);
            self.standing.send_replace(Some(standing));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The control plane's own namespace.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whose identities these are, where no MeshConfig says it.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    #[cfg(test)]
    pub(super) fn standing(&self) -> watch::Receiver<Option<Arc<Standing>>> {
        self.standing.subscribe()
    }

    /// As with `--trust-domain`.
    #[cfg(test)]
    pub(super) fn of_domain(self, domain: &str) -> Self {
        Self {
            trust_domain: domain.parse().ok(),
            ..self
        }
    }

    pub(super) fn past(&self) -> &Mutex<Past> {
        &self.past
    }

    /// What `before` was followed by.
    #[cfg(test)]
    pub(super) fn after(before: Option<&Self>, entries: Entries) -> Self {
        Self {
            entries,
            endpoints: Endpoints::default(),
            namespace: "outrider-system".to_owned(),
            trust_domain: before.and_then(|held| held.trust_domain.clone()),
            past: before.map_or_else(Arc::default, |held| Arc::clone(&held.past)),
            verdicts: watch::Sender::default(),
            standing: watch::Sender::default(),
            judged: Mutex::default(),
        }
    }
}
