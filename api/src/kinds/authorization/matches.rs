//! `http[]` and `grpc[]` of a rule, as they are written.

use std::fmt::Display;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::authorization::{
    GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpMatch, Method, PathMatch,
    PathMatchKind,
};
use crate::kinds::{field, text};

pub(super) fn http<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HttpMatch>, D::Error> {
    let written: Vec<WrittenHttp> = field::non_empty(deserializer)?;
    let compiled = written.into_iter().map(|written| HttpMatch {
        methods: written
            .methods
            .into_iter()
            .map(|Given(method)| method)
            .collect(),
        paths: written
            .paths
            .into_iter()
            .map(|WrittenPath(path)| path)
            .collect(),
        hosts: written.hosts.into_iter().map(|Given(host)| host).collect(),
        headers: written
            .headers
            .into_iter()
            .map(|WrittenHeader(header)| header)
            .collect(),
    });
    Ok(compiled.collect())
}

pub(super) fn grpc<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<GrpcMatch>, D::Error> {
    let written: Vec<WrittenGrpc> = field::non_empty(deserializer)?;
    Ok(written.into_iter().map(|WrittenGrpc(grpc)| grpc).collect())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenHttp {
    /// Uppercase letters, digits, `-`, `_`, such as `GET`. Left out: any.
    #[schemars(with = "Vec<text::MethodName>", length(min = 1))]
    #[serde(default, deserialize_with = "field::non_empty")]
    methods: Vec<Given<Method>>,
    /// Left out: any.
    #[schemars(with = "Vec<PathFields>", length(min = 1))]
    #[serde(default, deserialize_with = "field::non_empty")]
    paths: Vec<WrittenPath>,
    /// DNS names, `*.` and a DNS name, or IP addresses, without a port. Left out: any.
    #[schemars(with = "Vec<text::Host>", length(min = 1))]
    #[serde(default, deserialize_with = "field::non_empty")]
    hosts: Vec<Given<HostMatch>>,
    /// All of them must match. Left out: any.
    #[schemars(with = "Vec<HeaderFields>", length(min = 1))]
    #[serde(default, deserialize_with = "field::non_empty")]
    headers: Vec<WrittenHeader>,
}

/// A condition that is one string.
struct Given<T>(T);

impl<'de> Deserialize<'de> for Given<Method> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, Method::new).map(Self)
    }
}

impl<'de> Deserialize<'de> for Given<HostMatch> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, HostMatch::new).map(Self)
    }
}

fn parsed<'de, D: Deserializer<'de>, T, E: Display>(
    deserializer: D,
    compile: fn(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    compile(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[derive(Deserialize)]
#[serde(try_from = "PathFields")]
struct WrittenPath(PathMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PathFields {
    /// A prefix counts by segment: `/v1` is one of `/v1` and `/v1/x`, not of `/v1x`.
    r#type: PathType,
    /// Canonical, without a query.
    #[schemars(with = "text::RequestPath")]
    value: String,
}

#[derive(Deserialize, JsonSchema)]
enum PathType {
    Exact,
    PathPrefix,
}

impl TryFrom<PathFields> for WrittenPath {
    type Error = crate::authorization::MatchError;

    fn try_from(fields: PathFields) -> Result<Self, Self::Error> {
        let kind = match fields.r#type {
            PathType::Exact => PathMatchKind::Exact,
            PathType::PathPrefix => PathMatchKind::Prefix,
        };
        PathMatch::new(kind, &fields.value).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(try_from = "HeaderFields")]
struct WrittenHeader(HeaderMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"properties": {"type": {"enum": ["Present"]}}, "required": ["type"], "maxProperties": 2},
    {"required": ["value"], "not": {"properties": {"type": {"enum": ["Present"]}}, "required": ["type"]}}
]))]
struct HeaderFields {
    /// Not `host`.
    #[schemars(with = "text::Token")]
    name: String,
    /// How `value` is compared. Default Exact.
    #[serde(default)]
    r#type: HeaderType,
    /// Required but for Present, where it must be left out.
    #[serde(default, deserialize_with = "field::present")]
    value: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
enum HeaderType {
    #[default]
    Exact,
    Prefix,
    Present,
}

impl TryFrom<HeaderFields> for WrittenHeader {
    type Error = String;

    fn try_from(fields: HeaderFields) -> Result<Self, String> {
        let value = match (fields.r#type, fields.value) {
            (HeaderType::Exact, Some(value)) => HeaderValueMatch::Exact(value.into_bytes()),
            (HeaderType::Prefix, Some(value)) => HeaderValueMatch::Prefix(value.into_bytes()),
            (HeaderType::Present, None) => HeaderValueMatch::Present,
            (HeaderType::Present, Some(_)) => {
                return Err("expected no \"value\" beside type Present".to_owned());
            }
            (_, None) => return Err("expected \"value\" beside type Exact or Prefix".to_owned()),
        };
        HeaderMatch::new(&fields.name, value)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "GrpcFields")]
pub(super) struct WrittenGrpc(#[schemars(with = "GrpcFields")] GrpcMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GrpcFields {
    /// Full name with its package, such as `shop.Billing`.
    #[schemars(length(min = 1, max = 4096))]
    service: String,
    /// Left out: every method of the service.
    #[schemars(length(min = 1, max = 4096))]
    #[serde(default, deserialize_with = "field::present")]
    method: Option<String>,
}

impl TryFrom<GrpcFields> for WrittenGrpc {
    type Error = crate::authorization::MatchError;

    fn try_from(fields: GrpcFields) -> Result<Self, Self::Error> {
        GrpcMatch::new(&fields.service, fields.method.as_deref()).map(Self)
    }
}
