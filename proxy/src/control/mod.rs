//! Everything that is not the data path: identity and discovery. One thread; what it learns goes to
//! the workers through `watch` channels, finished for their use.

pub mod anchors;
pub mod channel;
pub mod discovery;
pub mod identity;
pub mod requests;
pub mod subjects;

use std::net::IpAddr;
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

/// What a sidecar asks the control plane about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Service(ServiceName),
    /// Whose it is: a Service's, an instance's, or nobody's in the mesh.
    Address(IpAddr),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A destination as the admin address shows it.
#[derive(Clone, Debug)]
pub struct Inventoried {
    pub subject: Subject,
    pub version: u64,
    pub state: DestinationState,
}

/// What is known about a Service or an address.
#[derive(Clone, Debug)]
pub enum DestinationState {
    /// Asked, not answered.
    Pending,
    /// The control plane says that there is none in the mesh.
    Missing,
    /// The address is this Service's.
    Alias(ServiceName),
    /// What came cannot be used, and nothing usable came before: refuse.
    Invalid,
    Ready(Arc<Destination>),
}
