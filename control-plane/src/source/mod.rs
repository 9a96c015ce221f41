//! Where the mesh's objects come from. A source only reads and says what it read; what it means is
//! the index's to say.

pub mod directory;
pub mod watch;

use std::sync::Arc;
use std::time::Instant;

use outrider_api::manifest::Problem;
use outrider_certs::bundle::TrustBundle;
use tokio::task::JoinError;

use self::directory::Files;
use self::watch::DirectoryWatch;
use crate::index::{self, Mesh};
use crate::kubernetes;

/// What is watched.
pub(crate) enum Source {
    Directory(DirectoryWatch),
    Kubernetes(Box<kubernetes::Source>),
}

/// What the source holds now, and when it was noticed that it had changed.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) noticed: Instant,
    pub(crate) seen: Seen,
}

/// All that a source holds.
#[derive(Debug)]
pub(crate) enum Seen {
    Files(Files),
    Objects(Arc<kubernetes::Held>),
}

impl Source {
    /// The next change: at once what there is, then whenever that is different.
    ///
    /// # Errors
    /// Reading it has panicked.
    pub(crate) async fn next(&mut self) -> Result<Change, JoinError> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Kubernetes(cluster) => Ok(cluster.next().await),
        }
    }
}

impl Seen {
    /// What it means, or what is wrong with it. Takes its time.
    pub(crate) fn judge(&self, trust: Option<&TrustBundle>) -> Result<Mesh, Vec<Problem>> {
        match self {
            Self::Files(files) => index::build(&files.parse()?, trust),
            Self::Objects(held) => held.judge(trust),
        }
    }

    /// What was judged last is applied, or refused.
    pub(crate) fn settle(&self) {
        match self {
            Self::Files(_) => {}
            Self::Objects(held) => held.settle(),
        }
    }

    /// How many files or objects there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Objects(held) => held.len(),
        }
    }
}
