//! Matches to and from the wire.

use http::HeaderName;

use super::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use crate::authorization::Method;
use crate::model::error::{Cause, ModelError, each, optional, required};
use crate::model::units::within;
use crate::proto;

impl TryFrom<proto::RouteMatch> for RouteMatch {
    type Error = ModelError;

    fn try_from(wire: proto::RouteMatch) -> Result<Self, ModelError> {
        let method = optional(wire.method);
        if let Some(method) = &method {
            Method::new(method).map_err(ModelError::at("method"))?;
        }
        Ok(Self {
            path: required("path", wire.path)?,
            method,
            headers: each("headers", wire.headers)?,
            query: each("query", wire.query)?,
            rule: within(wire.rule, 0..=u32::MAX.into()).map_err(ModelError::at("rule"))?,
        })
    }
}

impl From<&RouteMatch> for proto::RouteMatch {
    fn from(found: &RouteMatch) -> Self {
        Self {
            path: Some((&found.path).into()),
            method: found.method.clone().unwrap_or_default(),
            headers: found.headers.iter().map(Into::into).collect(),
            query: found.query.iter().map(Into::into).collect(),
            // What does not fit is the index of no rule, and refused.
            rule: u32::try_from(found.rule).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<proto::RoutePath> for PathMatch {
    type Error = ModelError;

    fn try_from(wire: proto::RoutePath) -> Result<Self, ModelError> {
        use proto::route_path::Kind;
        match wire.kind {
            None => Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Exact(path)) if path.starts_with('/') => Ok(Self::Exact(path)),
            Some(Kind::Exact(path)) => Err(ModelError::new("exact", Cause::Path(path))),
            Some(Kind::Prefix(path)) => {
                let whole = path.starts_with('/') && !path.ends_with('/');
                if whole || path.is_empty() {
                    Ok(Self::Prefix(path))
                } else {
                    Err(ModelError::new("prefix", Cause::Prefix(path)))
                }
            }
            Some(Kind::Regex(pattern)) => {
                let pattern = pattern.parse().map_err(ModelError::at("regex"))?;
                Ok(Self::Regex(pattern))
            }
        }
    }
}

impl From<&PathMatch> for proto::RoutePath {
    fn from(path: &PathMatch) -> Self {
        use proto::route_path::Kind;
        let kind = match path {
            PathMatch::Exact(path) => Kind::Exact(path.clone()),
            PathMatch::Prefix(prefix) => Kind::Prefix(prefix.clone()),
            PathMatch::Regex(pattern) => Kind::Regex(pattern.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::RouteHeader> for HeaderMatch {
    type Error = ModelError;

    fn try_from(wire: proto::RouteHeader) -> Result<Self, ModelError> {
        let name = wire.name.parse::<HeaderName>();
        Ok(Self {
            name: name.map_err(ModelError::at("name"))?,
            value: required("value", wire.value)?,
        })
    }
}

impl From<&HeaderMatch> for proto::RouteHeader {
    fn from(header: &HeaderMatch) -> Self {
        Self {
            name: header.name.to_string(),
            value: Some((&header.value).into()),
        }
    }
}

impl TryFrom<proto::RouteQuery> for QueryMatch {
    type Error = ModelError;

    fn try_from(wire: proto::RouteQuery) -> Result<Self, ModelError> {
        Ok(Self {
            name: wire.name,
            value: required("value", wire.value)?,
        })
    }
}

impl From<&QueryMatch> for proto::RouteQuery {
    fn from(query: &QueryMatch) -> Self {
        Self {
            name: query.name.clone(),
            value: Some((&query.value).into()),
        }
    }
}

impl TryFrom<proto::RouteValue> for ValueMatch {
    type Error = ModelError;

    fn try_from(wire: proto::RouteValue) -> Result<Self, ModelError> {
        use proto::route_value::Kind;
        match wire.kind {
            None => Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Exact(text)) => Ok(Self::Exact(text)),
            Some(Kind::Regex(pattern)) => {
                let pattern = pattern.parse().map_err(ModelError::at("regex"))?;
                Ok(Self::Regex(pattern))
            }
        }
    }
}

impl From<&ValueMatch> for proto::RouteValue {
    fn from(value: &ValueMatch) -> Self {
        use proto::route_value::Kind;
        let kind = match value {
            ValueMatch::Exact(text) => Kind::Exact(text.clone()),
            ValueMatch::Regex(pattern) => Kind::Regex(pattern.to_string()),
        };
        Self { kind: Some(kind) }
    }
}
