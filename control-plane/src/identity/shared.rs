//! The certificate authority as the parts of the control plane share it: absent until the mesh has said
//! of which trust domain it is, and replaced whole where it is rotated.

use std::sync::Arc;

use outrider_certs::authority::CertificateAuthority;
use tokio::sync::watch;

/// Has the newest authority, and says when it is another.
pub(crate) type Replacements = watch::Receiver<Option<Arc<CertificateAuthority>>>;

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SharedAuthority(watch::Sender<Option<Arc<CertificateAuthority>>>);

impl SharedAuthority {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// The authority that signs now.
    pub(crate) fn current(&self) -> Option<Arc<CertificateAuthority>> {
        self.0.borrow().clone()
    }

    /// Has `authority` sign from now on.
    pub(crate) fn replace(&self, authority: CertificateAuthority) {
        self.0.send_replace(Some(Arc::new(authority)));
    }

    /// Hears of every replacement.
    pub(crate) fn follow(&self) -> Replacements {
        self.0.subscribe()
    }
}
