//! What the wire means: validated, immutable values that the data path can trust.
//!
//! Owns the way from [`crate::proto`] and back. Each conversion parses everything, and an error
//! names the field. Nothing that is wrong is skipped: the whole message is refused.

pub mod address;
mod destination;
pub(crate) mod error;
mod mtls;
pub(crate) mod probe;
mod protocol;
mod route;
pub mod traffic;
mod units;
mod workload;

pub use destination::{Destination, Endpoint, ServicePort};
pub use error::{Cause, ModelError};
pub use mtls::Mtls;
pub use probe::{Probe, ProbeHeader, ProbeHeaderError, ProbeKind};
pub use protocol::Protocol;
pub use route::{
    Backend, Cors, Filter, HeaderEdit, HeaderMatch, HttpRoutes, HttpRule, Mirror, PathEdit,
    PathMatch, QueryMatch, Redirect, Rewrite, RouteGroup, RouteMatch, Routes, RuleOrigin,
    RuleRetry, RuleTimeouts, Target, TcpRule, Timeout, ValueMatch,
};
pub use workload::{AppPort, MeshSettings, Outbound, UnknownDestinations, Upstream, Workload};

use crate::names::ServiceName;
use crate::proto;

impl TryFrom<proto::ServiceRef> for ServiceName {
    type Error = ModelError;

    fn try_from(wire: proto::ServiceRef) -> Result<Self, ModelError> {
        crate::names::check_label(&wire.namespace).map_err(ModelError::at("namespace"))?;
        crate::names::check_label(&wire.name).map_err(ModelError::at("name"))?;
        Ok(Self {
            namespace: wire.namespace,
            name: wire.name,
        })
    }
}

impl From<&ServiceName> for proto::ServiceRef {
    fn from(service: &ServiceName) -> Self {
        Self {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
        }
    }
}
