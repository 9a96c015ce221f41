//! Why a message is no model, and the helpers that name the field.

use std::net::{AddrParseError, IpAddr};

use http::header::{HeaderName, InvalidHeaderName, InvalidHeaderValue};
use http::method::InvalidMethod;
use outrider_certs::bundle::BundleError;
use outrider_certs::spiffe::SpiffeIdError;

use super::probe::ProbeHeaderError;
use crate::authorization::MatchError;
use crate::names::NameError;
use crate::routing::{EditError, PatternError};

/// A message that does not say what it must. Nothing of it is used.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {cause}")]
pub struct ModelError {
    /// From the message on, for instance `authorization.policies[0].rules[2].ports[1]`.
    pub field: String,
    pub cause: Cause,
}

/// What is wrong with a field of a message.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("is missing")]
    Missing,
    #[error("{0} is none of the known values")]
    Number(i32),
    #[error("{0} is not a port, expected 1 to 65535")]
    Port(u32),
    #[error("{0} more than once")]
    Duplicate(u16),
    #[error("{0} more than once")]
    Twice(IpAddr),
    #[error("does not begin with {0}, expected the mesh address first")]
    NotFirst(IpAddr),
    #[error("{0:?} is not the target of a request, expected a path that begins with \"/\"")]
    Target(String),
    #[error(transparent)]
    Address(#[from] AddrParseError),
    #[error(transparent)]
    Block(#[from] ipnet::AddrParseError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Identity(#[from] SpiffeIdError),
    #[error(transparent)]
    Trust(#[from] BundleError),
    #[error(transparent)]
    Match(#[from] MatchError),
    #[error("is {value}, expected {least} to {most}")]
    Range { value: u64, least: u64, most: u64 },
    #[error("{0:?} is not a path of a match, expected one that begins with \"/\"")]
    Path(String),
    #[error("{0:?} is not a prefix, expected \"\" or a path without \"/\" at its end")]
    Prefix(String),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("{0:?} is not an origin, expected \"*\" or SCHEME://HOST[:PORT] with http or https")]
    Origin(String),
    #[error(transparent)]
    Method(#[from] InvalidMethod),
    #[error(transparent)]
    HeaderName(#[from] InvalidHeaderName),
    #[error(transparent)]
    HeaderValue(#[from] InvalidHeaderValue),
    #[error(transparent)]
    ProbeHeader(#[from] ProbeHeaderError),
    #[error("{0} is not a header that a route may edit")]
    Framing(HeaderName),
    #[error("is a rule that replaces a prefix, expected one that does not, or a match by prefix")]
    NoPrefix,
    #[error("is not a filter of a backend, expected an edit of headers")]
    BackendFilter,
}

impl ModelError {
    pub(crate) fn new(field: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self {
            field: field.into(),
            cause: cause.into(),
        }
    }

    /// For `map_err`: the error of a field, as an error of the message.
    pub(crate) fn at<E: Into<Cause>>(field: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::new(field, error)
    }

    fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            cause: self.cause,
        }
    }
}

/// Every element of `wire`, or the error of the first that is wrong.
pub(crate) fn each<W, M>(field: &str, wire: Vec<W>) -> Result<Vec<M>, ModelError>
where
    M: TryFrom<W, Error = ModelError>,
{
    let element = |(index, wire): (usize, W)| {
        M::try_from(wire).map_err(|error| error.within(&format!("{field}[{index}]")))
    };
    wire.into_iter().enumerate().map(element).collect()
}

/// Every scalar of `wire`, parsed.
pub(crate) fn parsed<W, M, E: Into<Cause>>(
    field: &str,
    wire: Vec<W>,
    parse: impl Fn(W) -> Result<M, E>,
) -> Result<Vec<M>, ModelError> {
    let element = |(index, wire): (usize, W)| {
        parse(wire).map_err(|error| ModelError::new(format!("{field}[{index}]"), error))
    };
    wire.into_iter().enumerate().map(element).collect()
}

/// A message that must be there.
pub(crate) fn required<W, M>(field: &str, wire: Option<W>) -> Result<M, ModelError>
where
    M: TryFrom<W, Error = ModelError>,
{
    let wire = wire.ok_or_else(|| ModelError::new(field, Cause::Missing))?;
    nested(field, wire)
}

/// A message that may be there.
pub(crate) fn maybe<W, M>(field: &str, wire: Option<W>) -> Result<Option<M>, ModelError>
where
    M: TryFrom<W, Error = ModelError>,
{
    wire.map(|wire| nested(field, wire)).transpose()
}

/// A message that is there.
pub(crate) fn nested<W, M>(field: &str, wire: W) -> Result<M, ModelError>
where
    M: TryFrom<W, Error = ModelError>,
{
    M::try_from(wire).map_err(|error| error.within(field))
}

/// protobuf writes absent text as empty.
pub(crate) fn optional(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(crate) fn port(wire: u32) -> Result<u16, Cause> {
    match u16::try_from(wire) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Cause::Port(wire)),
    }
}
