//! What users write: the kinds of `outrider.mesh/v1alpha1` those of the Gateway API, and those of
//! Kubernetes that files need.
//!
//! Owns the shape of each kind and the meaning of a single field: names are names, ports are ports,
//! paths are canonical once they are here. What takes two objects to know (does the target exist?)
//! is the index's. Unknown fields are errors; of Kubernetes' own kinds, the fields that Kubernetes
//! knows and a mesh has no use for are accepted.
//!
//! The name of a Rust field in camelCase is the name in YAML.

mod authorization;
mod bounded;
mod field;
mod mesh_config;
mod meta;
mod rate_limit;
mod route;
mod service;
mod source;
pub mod status;
mod text;
pub mod traffic;
mod workload;

pub use authorization::{
    AuthorizationPolicy, AuthorizationPolicySpec, NetworkAttributes, Rule, TargetRef,
};
pub use bounded::{Count, Percent, Span};
pub use mesh_config::{MeshConfig, MeshConfigSpec, Mtls, Network, Ranges, UnknownDestinations};
pub use meta::ObjectMeta;
pub use rate_limit::{Concurrency, Limit, RateLimitPolicy, RateLimitPolicySpec};
pub use route::{GrpcRoute, HttpRoute, TcpRoute};
pub use service::{
    ClusterIp, Service, ServiceAccount, ServicePort, ServiceSpec, ServiceType, TargetPort,
    Transport,
};
pub use source::Source;
pub use traffic::{ServiceRef, Traffic, TrafficPolicy, TrafficPolicySpec, Wrong};
pub use workload::{
    Interception, Mode, Outbound, Probe, Upstream, Workload, WorkloadPort, WorkloadSpec,
};

/// The types of which routes are made.
pub use gateway_api::experimental as gateway;

/// The API group and version of our own kinds.
pub const API_VERSION: &str = "outrider.mesh/v1alpha1";
