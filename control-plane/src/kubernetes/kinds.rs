//! What is watched.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    Service,
    EndpointSlice,
    Namespace,
    Node,
    MeshConfig,
    AuthorizationPolicy,
    TrafficPolicy,
    RateLimitPolicy,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Node,
        Self::MeshConfig,
        Self::AuthorizationPolicy,
        Self::TrafficPolicy,
        Self::RateLimitPolicy,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
    ];

    /// As it is written, and as metrics have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::MeshConfig => "MeshConfig",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
        }
    }

    /// Whether there may be no such kind: the mesh works without the Gateway API.
    pub(crate) fn may_be_absent(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute)
    }

    /// Whether what is deleted with its namespace holds until that is gone: it keeps callers from the pods
    /// there, or says which pods those are that a policy is about.
    pub(super) fn outlives_deletion(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy | Self::RateLimitPolicy | Self::Service | Self::EndpointSlice
        )
    }

    /// Where it is served, the best first; empty for Kubernetes' own kinds.
    pub(crate) fn resources(self) -> Vec<ApiResource> {
        let (group, versions, plural): (_, &[&str], _) = match self {
            Self::Pod | Self::Service | Self::EndpointSlice | Self::Namespace | Self::Node => {
                return Vec::new();
            }
            Self::MeshConfig => (OURS, &["v1alpha1"], "meshconfigs"),
            Self::AuthorizationPolicy => (OURS, &["v1alpha1"], "authorizationpolicies"),
            Self::TrafficPolicy => (OURS, &["v1alpha1"], "trafficpolicies"),
            Self::RateLimitPolicy => (OURS, &["v1alpha1"], "ratelimitpolicies"),
            Self::HttpRoute => (GATEWAY, &["v1"], "httproutes"),
            Self::GrpcRoute => (GATEWAY, &["v1"], "grpcroutes"),
            Self::TcpRoute => (GATEWAY, &["v1", "v1alpha2"], "tcproutes"),
        };
        let resource = |version: &&str| {
            let kind = GroupVersionKind::gvk(group, version, self.name());
            ApiResource::from_gvk_with_plural(&kind, plural)
        };
        versions.iter().map(resource).collect()
    }
}

const OURS: &str = "outrider.mesh";
const GATEWAY: &str = "gateway.networking.k8s.io";
