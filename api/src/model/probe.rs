//! What a kubelet asks of an app, without an identity.

use http::header::{HOST, HeaderName, HeaderValue, InvalidHeaderName, InvalidHeaderValue};
use http::uri::PathAndQuery;

use super::error::{Cause, ModelError, parsed, port};
use crate::proto;
use crate::proto::probe::Kind as Wire;
use crate::routing::is_editable;

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
        /// The app speaks TLS. Such a probe is asked of the sidecar, which asks the app.
        tls: bool,
        /// What it asks besides.
        headers: Vec<ProbeHeader>,
    },
    /// That a connection can be made.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Of the request; empty: the server as a whole.
        service: String,
    },
}

/// A header that is part of a probe. Its value may be a secret, and does not show in logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeHeader {
    name: HeaderName,
    value: HeaderValue,
}

/// Why a header cannot be part of a probe.
#[derive(Debug, thiserror::Error)]
pub enum ProbeHeaderError {
    #[error("{0:?} is not the name of a header")]
    Name(String, #[source] InvalidHeaderName),
    /// It may be a secret: it is not repeated.
    #[error("is not the value of a header")]
    Value(#[from] InvalidHeaderValue),
    #[error("{0} is about the connection or frames the request, expected another header")]
    Framing(HeaderName),
}

impl ProbeHeader {
    /// # Errors
    /// It is no header, or is of one connection (RFC 9110, section 7.6.1) rather than of a request.
    pub fn new(name: &str, value: &[u8]) -> Result<Self, ProbeHeaderError> {
        let name = HeaderName::try_from(name)
            .map_err(|error| ProbeHeaderError::Name(name.chars().take(64).collect(), error))?;
        if name != HOST && !is_editable(&name) {
            return Err(ProbeHeaderError::Framing(name));
        }
        // Space around it is none of it (RFC 9110, section 5.5), and clients do not send it.
        let mut value = HeaderValue::from_bytes(value.trim_ascii())?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }

    /// Which may be `Host`.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// gRPC health checking protocol, version 1 (grpc/doc/health-checking.md).
const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

impl ProbeKind {
    /// Whether a request in plaintext is this probe: exactly it, and nothing that only looks like it.
    /// `target` is path and query; `grpc`: the content type says so.
    #[must_use]
    pub fn is(&self, method: &str, target: &str, grpc: bool) -> bool {
        match self {
            Self::Http { tls: true, .. } => false,
            Self::Http { path, .. } => method == "GET" && target == path,
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
                let header =
                    |field: proto::HeaderField| ProbeHeader::new(&field.name, &field.value);
                ProbeKind::Http {
                    path,
                    tls: wire.tls,
                    headers: parsed("headers", wire.headers, header)?,
                }
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
        let mut wire = Self {
            port: probe.port.into(),
            ..Self::default()
        };
        wire.kind = Some(match &probe.kind {
            ProbeKind::Http { path, tls, headers } => {
                wire.tls = *tls;
                wire.headers = headers.iter().map(Into::into).collect();
                Wire::HttpPath(path.clone())
            }
            ProbeKind::Tcp => Wire::Tcp(proto::Tcp {}),
            ProbeKind::Grpc { service } => Wire::GrpcService(service.clone()),
        });
        wire
    }
}

impl From<&ProbeHeader> for proto::HeaderField {
    fn from(header: &ProbeHeader) -> Self {
        Self {
            name: header.name.to_string(),
            value: header.value.as_bytes().to_vec().into(),
        }
    }
}
