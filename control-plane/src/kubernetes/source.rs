//! Watches the API server and says what it holds whenever that has changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_api::manifest::{Object, Problem};
use outrider_certs::bundle::TrustBundle;
use tokio::sync::watch;

use super::{Context, Pods};
use crate::index::{self, Mesh};
use crate::source::Change;

/// See the module.
pub(crate) struct Source {}

/// What the rest of the control plane may know of what the source holds; cheap to clone.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) pods: Pods,
    /// Everything, as it was last taken; absent until the first sync.
    pub(crate) held: watch::Receiver<Option<Arc<Held>>>,
    /// The meshed namespaces: those that need a trust bundle.
    pub(crate) meshed: watch::Receiver<Arc<BTreeSet<String>>>,
}

/// All objects of the mesh at one moment.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) objects: Vec<Object>,
}

impl Source {
    /// Nothing is asked before [`Self::next`].
    pub(crate) fn new(_context: &Context) -> (Self, View) {
        let view = View {
            pods: Pods::new(),
            held: watch::channel(None).1,
            meshed: watch::channel(Arc::default()).1,
        };
        (Self {}, view)
    }

    /// The next change: at first all there is, once every kind has been read; then whenever that is
    /// different.
    pub(crate) async fn next(&mut self) -> Change {
        std::future::pending().await
    }
}

impl Held {
    /// What it means. Bad objects are replaced by what refuses, or left out; only a mesh of which the
    /// settings cannot be known is an error.
    pub(crate) fn judge(&self, trust: Option<&TrustBundle>) -> Result<Mesh, Vec<Problem>> {
        index::build(&self.objects, trust)
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }
}
