//! What a kubelet asks of an app, without an identity.

use http::uri::PathAndQuery;

use super::error::{Cause, ModelError, port};
use crate::proto;
use crate::proto::probe::Kind as Wire;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// Of the app; 1 to 65535.
    pub port: u16,
    pub kind: ProbeKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    Http {
        /// With its query if it has one: the whole target of the request, byte by byte.
        path: String,
    },
    /// That a connection can be made.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Of the request; empty: the server as a whole.
        service: String,
    },
}

/// gRPC health checking protocol, version 1 (grpc/doc/health-checking.md).
const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

impl ProbeKind {
    /// Whether a request is this probe: exactly it, and nothing that only looks like it. `target` is
    /// path and query; `grpc`: the content type says so.
    #[must_use]
    pub fn is(&self, method: &str, target: &str, grpc: bool) -> bool {
        match self {
            Self::Http { path } => method == "GET" && target == path,
            Self::Grpc { .. } => method == "POST" && target == GRPC_HEALTH_CHECK && grpc,
            Self::Tcp => false,
        }
    }
}

/// A target in origin form (RFC 9112, section 3.2.1) that stays as it is written.
///
/// # Errors
/// It is not.
pub(crate) fn check_target(text: &str) -> Result<(), Cause> {
    let is_whole = |target: PathAndQuery| target.as_str() == text;
    if text.starts_with('/') && PathAndQuery::try_from(text).is_ok_and(is_whole) {
        return Ok(());
    }
    Err(Cause::Target(text.chars().take(64).collect()))
}

impl TryFrom<proto::Probe> for Probe {
    type Error = ModelError;

    fn try_from(wire: proto::Probe) -> Result<Self, ModelError> {
        let kind = match wire.kind {
            None => return Err(ModelError::new("kind", Cause::Missing)),
            Some(Wire::HttpPath(path)) => {
                check_target(&path).map_err(ModelError::at("http_path"))?;
                ProbeKind::Http { path }
            }
            Some(Wire::Tcp(proto::Tcp {})) => ProbeKind::Tcp,
            Some(Wire::GrpcService(service)) => ProbeKind::Grpc { service },
        };
        Ok(Self {
            port: port(wire.port).map_err(ModelError::at("port"))?,
            kind,
        })
    }
}

impl From<&Probe> for proto::Probe {
    fn from(probe: &Probe) -> Self {
        let kind = match &probe.kind {
            ProbeKind::Http { path } => Wire::HttpPath(path.clone()),
            ProbeKind::Tcp => Wire::Tcp(proto::Tcp {}),
            ProbeKind::Grpc { service } => Wire::GrpcService(service.clone()),
        };
        Self {
            port: probe.port.into(),
            kind: Some(kind),
        }
    }
}
