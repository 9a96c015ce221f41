//! What is spoken on a port.

use crate::model::error::{Cause, ModelError};
use crate::proto;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not declared: detected from the first bytes.
    #[default]
    Detect,
    /// HTTP of either version, by the first bytes.
    Http,
    Http1,
    Http2,
    Grpc,
    /// Opaque; the server may speak first.
    Tcp,
    /// TLS of the app's own: opaque.
    Tls,
}

impl Protocol {
    /// The protocol that `appProtocol` declares, else the port's name up to the first "-" (as
    /// Istio reads it: `http`, `grpc-web`, `tcp-metrics`).
    ///
    /// An `appProtocol` that is not known (`redis`, `postgres`) is opaque; a name that is not
    /// known declares nothing.
    #[must_use]
    pub fn from_declared(app_protocol: Option<&str>, port_name: Option<&str>) -> Self {
        if let Some(declared) = app_protocol.filter(|declared| !declared.is_empty()) {
            return Self::from_word(declared).unwrap_or(Self::Tcp);
        }
        let name = port_name.unwrap_or_default();
        if name.to_ascii_lowercase().starts_with("grpc-web") {
            return Self::Http;
        }
        let word = name.split('-').next().unwrap_or_default();
        Self::from_word(word).unwrap_or_default()
    }

    /// The words of Kubernetes (KEP-3726) and Istio.
    fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "http" | "grpc-web" => Self::Http,
            "http1" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" => Self::Tcp,
            _ => return None,
        })
    }
}

impl TryFrom<i32> for Protocol {
    type Error = ModelError;

    fn try_from(wire: i32) -> Result<Self, ModelError> {
        match proto::Protocol::try_from(wire) {
            Ok(proto::Protocol::Unspecified) => Ok(Self::Detect),
            Ok(proto::Protocol::Http) => Ok(Self::Http),
            Ok(proto::Protocol::Http1) => Ok(Self::Http1),
            Ok(proto::Protocol::Http2) => Ok(Self::Http2),
            Ok(proto::Protocol::Grpc) => Ok(Self::Grpc),
            Ok(proto::Protocol::Tcp) => Ok(Self::Tcp),
            Ok(proto::Protocol::Tls) => Ok(Self::Tls),
            Err(_) => Err(ModelError::new("protocol", Cause::Number(wire))),
        }
    }
}

impl From<Protocol> for proto::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Detect => Self::Unspecified,
            Protocol::Http => Self::Http,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
            Protocol::Tcp => Self::Tcp,
            Protocol::Tls => Self::Tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_wins_and_unknown_is_opaque() {
        let table = [
            (Some("http"), None, Protocol::Http),
            (Some("HTTP"), None, Protocol::Http),
            (Some("http2"), None, Protocol::Http2),
            (Some("h2c"), None, Protocol::Http2),
            (Some("kubernetes.io/h2c"), None, Protocol::Http2),
            (Some("kubernetes.io/ws"), None, Protocol::Http1),
            (Some("kubernetes.io/wss"), None, Protocol::Tls),
            (Some("grpc"), Some("http"), Protocol::Grpc),
            (Some("grpc-web"), None, Protocol::Http),
            (Some("https"), None, Protocol::Tls),
            (Some("tls"), None, Protocol::Tls),
            (Some("tcp"), Some("http"), Protocol::Tcp),
            (Some("postgres"), Some("http"), Protocol::Tcp),
            (Some("example.com/own"), None, Protocol::Tcp),
            (Some(""), Some("http"), Protocol::Http),
            (None, Some("http"), Protocol::Http),
            (None, Some("http-admin"), Protocol::Http),
            (None, Some("http2-x"), Protocol::Http2),
            (None, Some("grpc-web-x"), Protocol::Http),
            (None, Some("grpc-x"), Protocol::Grpc),
            (None, Some("https"), Protocol::Tls),
            (None, Some("tcp-x"), Protocol::Tcp),
            (None, Some("mysql"), Protocol::Tcp),
            (None, Some("web"), Protocol::Detect),
            (None, Some("httpx"), Protocol::Detect),
            (None, Some(""), Protocol::Detect),
            (None, None, Protocol::Detect),
        ];
        for (app_protocol, name, expected) in table {
            let got = Protocol::from_declared(app_protocol, name);
            assert_eq!(got, expected, "{app_protocol:?} {name:?}");
        }
    }
}
