//! `probes[]` of a Workload: what is answered without an identity.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::super::service::TargetPort;
use super::super::{field, text};
use crate::model::probe::check_target;
use crate::model::{ProbeHeader, ProbeHeaderError, ProbeKind};

/// As in Kubernetes, with exactly one of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
pub struct Probe {
    #[schemars(with = "String")]
    pub port: TargetPort,
    #[schemars(with = "String")]
    pub kind: ProbeKind,
}

impl Probe {
    /// The field that is given.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self.kind {
            ProbeKind::Http { .. } => "httpGet",
            ProbeKind::Tcp => "tcpSocket",
            ProbeKind::Grpc { .. } => "grpc",
        }
    }
}

/// As in Kubernetes, with exactly one of its fields.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("maxProperties" = 1, "minProperties" = 1))]
pub(super) struct Written {
    /// A GET, of this target only.
    #[serde(default, deserialize_with = "field::present")]
    http_get: Option<HttpGet>,
    /// That a connection can be made.
    #[serde(default, deserialize_with = "field::present")]
    tcp_socket: Option<TcpSocket>,
    /// `grpc.health.v1.Health/Check`.
    #[serde(default, deserialize_with = "field::present")]
    grpc: Option<Grpc>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpGet {
    /// With its query, if it has one. Default `/`.
    #[serde(default = "root", deserialize_with = "target")]
    path: String,
    /// Of the app, by number or by name.
    #[schemars(with = "text::PortOrName")]
    port: TargetPort,
    /// What the app speaks. With HTTPS the sidecar is asked, at `/probe/https/PORT/PATH` of its
    /// telemetry port, and asks the app, whose certificate may be any. Default HTTP.
    #[serde(default)]
    scheme: Scheme,
    /// They reach the app if they are sent as they are written here. Others do not.
    #[serde(default)]
    http_headers: Vec<HttpHeader>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
enum Scheme {
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "HTTPS")]
    Https,
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WrittenHeader")]
struct HttpHeader(#[schemars(with = "WrittenHeader")] ProbeHeader);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenHeader {
    /// May be `Host`; none of those that frame the request or are about the connection.
    #[schemars(with = "text::Token")]
    name: String,
    /// Without the space around it.
    value: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TcpSocket {
    /// Of the app, by number or by name.
    #[schemars(with = "text::PortOrName")]
    port: TargetPort,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Grpc {
    /// Of the app.
    #[schemars(range(min = 1))]
    #[serde(deserialize_with = "field::port")]
    port: u16,
    /// Of the request. Left out: the server as a whole.
    #[serde(default)]
    service: String,
}

impl TryFrom<Written> for Probe {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        match (written.http_get, written.tcp_socket, written.grpc) {
            (Some(get), None, None) => Ok(Self {
                port: get.port,
                kind: ProbeKind::Http {
                    path: get.path,
                    tls: get.scheme == Scheme::Https,
                    headers: get.http_headers.into_iter().map(|one| one.0).collect(),
                },
            }),
            (None, Some(TcpSocket { port }), None) => Ok(Self {
                port,
                kind: ProbeKind::Tcp,
            }),
            (None, None, Some(Grpc { port, service })) => Ok(Self {
                port: TargetPort::Number(port),
                kind: ProbeKind::Grpc { service },
            }),
            _ => Err("expected exactly one of httpGet, tcpSocket and grpc"),
        }
    }
}

impl TryFrom<WrittenHeader> for HttpHeader {
    type Error = ProbeHeaderError;

    fn try_from(written: WrittenHeader) -> Result<Self, ProbeHeaderError> {
        ProbeHeader::new(&written.name, written.value.as_bytes()).map(Self)
    }
}

fn root() -> String {
    "/".to_owned()
}

fn target<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    check_target(&text).map_err(D::Error::custom)?;
    Ok(text)
}
