//! Everything that is not the data path: identity and discovery. One thread; what it learns goes to
//! the workers through `watch` channels, finished for their use.

pub mod channel;
pub mod discovery;
pub mod identity;

use std::sync::Arc;

use outrider_api::model::{Destination, Workload};
use outrider_api::names::ServiceName;
use outrider_certs::bundle::TrustBundle;
use outrider_certs::svid::Svid;

/// What proves who this sidecar is, with the TLS configuration finished. Replaced whole.
#[derive(Debug)]
pub struct Credentials {
    pub svid: Svid,
    pub bundle: TrustBundle,
    /// For the mesh port.
    pub server: Arc<rustls::ServerConfig>,
    /// Grows with each replacement: connections made with an older one take no new streams.
    pub generation: u64,
}

/// The sidecar's own workload, as of a version; `None` before the first snapshot: refuse all.
pub type WorkloadState = Option<Arc<Workload>>;

/// A destination as the admin address shows it.
#[derive(Clone, Debug)]
pub struct Inventoried {
    pub service: ServiceName,
    pub version: u64,
    pub state: DestinationState,
}

/// What is known about a Service.
#[derive(Clone, Debug)]
pub enum DestinationState {
    /// Asked, not answered.
    Pending,
    /// The control plane says that there is none.
    Missing,
    /// What came cannot be used, and nothing usable came before: refuse.
    Invalid,
    Ready(Arc<Destination>),
}
