//! Filters to and from the wire.

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{Cors, Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite};
use crate::model::error::{Cause, ModelError, maybe, nested, optional, parsed, port, required};
use crate::model::units::{positive, within};
use crate::names::check_subdomain;
use crate::proto;
use crate::routing::{EditError, is_editable};

impl TryFrom<proto::Filter> for Filter {
    type Error = ModelError;

    fn try_from(wire: proto::Filter) -> Result<Self, ModelError> {
        use proto::filter::Kind;
        Ok(match wire.kind {
            None => return Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::RequestHeaders(edit)) => {
                Self::RequestHeaders(nested("request_headers", edit)?)
            }
            Some(Kind::ResponseHeaders(edit)) => {
                Self::ResponseHeaders(nested("response_headers", edit)?)
            }
            Some(Kind::Redirect(redirect)) => Self::Redirect(nested("redirect", redirect)?),
            Some(Kind::Rewrite(rewrite)) => Self::Rewrite(nested("rewrite", rewrite)?),
            Some(Kind::Mirror(mirror)) => Self::Mirror(nested("mirror", mirror)?),
            Some(Kind::Cors(cors)) => Self::Cors(nested("cors", cors)?),
            Some(Kind::Unsupported(what)) => Self::Unsupported(what),
        })
    }
}

impl From<&Filter> for proto::Filter {
    fn from(filter: &Filter) -> Self {
        use proto::filter::Kind;
        let kind = match filter {
            Filter::RequestHeaders(edit) => Kind::RequestHeaders(edit.into()),
            Filter::ResponseHeaders(edit) => Kind::ResponseHeaders(edit.into()),
            Filter::Redirect(redirect) => Kind::Redirect(redirect.into()),
            Filter::Rewrite(rewrite) => Kind::Rewrite(rewrite.into()),
            Filter::Mirror(mirror) => Kind::Mirror(mirror.into()),
            Filter::Cors(cors) => Kind::Cors(cors.into()),
            Filter::Unsupported(what) => Kind::Unsupported(what.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::HeaderEdit> for HeaderEdit {
    type Error = ModelError;

    fn try_from(wire: proto::HeaderEdit) -> Result<Self, ModelError> {
        Ok(Self {
            set: parsed("set", wire.set, field)?,
            add: parsed("add", wire.add, field)?,
            remove: parsed("remove", wire.remove, |name| editable(&name))?,
        })
    }
}

fn field(wire: proto::HeaderField) -> Result<(HeaderName, HeaderValue), Cause> {
    Ok((
        editable(&wire.name)?,
        HeaderValue::from_maybe_shared(wire.value)?,
    ))
}

fn editable(name: &str) -> Result<HeaderName, Cause> {
    let name: HeaderName = name.parse()?;
    if is_editable(&name) {
        Ok(name)
    } else {
        Err(Cause::Framing(name))
    }
}

impl From<&HeaderEdit> for proto::HeaderEdit {
    fn from(edit: &HeaderEdit) -> Self {
        let field = |(name, value): &(HeaderName, HeaderValue)| proto::HeaderField {
            name: name.to_string(),
            value: value.as_bytes().to_vec().into(),
        };
        Self {
            set: edit.set.iter().map(field).collect(),
            add: edit.add.iter().map(field).collect(),
            remove: edit.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<proto::Redirect> for Redirect {
    type Error = ModelError;

    fn try_from(wire: proto::Redirect) -> Result<Self, ModelError> {
        if !matches!(wire.scheme.as_str(), "" | "http" | "https") {
            return Err(ModelError::new("scheme", EditError::Scheme(wire.scheme)));
        }
        let port = match wire.port {
            0 => None,
            given => Some(port(given).map_err(ModelError::at("port"))?),
        };
        Ok(Self {
            scheme: optional(wire.scheme),
            hostname: hostname(wire.hostname)?,
            port,
            path: maybe("path", wire.path)?,
            status: redirection(wire.status).map_err(ModelError::at("status"))?,
        })
    }
}

/// 301, 302, 303, 307 or 308.
fn redirection(wire: u32) -> Result<StatusCode, Cause> {
    let known = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let found = known
        .into_iter()
        .find(|known| u32::from(known.as_u16()) == wire);
    found.ok_or_else(|| Cause::Number(i32::try_from(wire).unwrap_or(i32::MAX)))
}

fn hostname(wire: String) -> Result<Option<String>, ModelError> {
    let hostname = optional(wire);
    if let Some(hostname) = &hostname {
        check_subdomain(hostname).map_err(ModelError::at("hostname"))?;
    }
    Ok(hostname)
}

impl From<&Redirect> for proto::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: redirect.scheme.clone().unwrap_or_default(),
            hostname: redirect.hostname.clone().unwrap_or_default(),
            port: redirect.port.unwrap_or_default().into(),
            path: redirect.path.as_ref().map(Into::into),
            status: redirect.status.as_u16().into(),
        }
    }
}

impl TryFrom<proto::Rewrite> for Rewrite {
    type Error = ModelError;

    fn try_from(wire: proto::Rewrite) -> Result<Self, ModelError> {
        Ok(Self {
            hostname: hostname(wire.hostname)?,
            path: maybe("path", wire.path)?,
        })
    }
}

impl From<&Rewrite> for proto::Rewrite {
    fn from(rewrite: &Rewrite) -> Self {
        Self {
            hostname: rewrite.hostname.clone().unwrap_or_default(),
            path: rewrite.path.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::PathEdit> for PathEdit {
    type Error = ModelError;

    fn try_from(wire: proto::PathEdit) -> Result<Self, ModelError> {
        use proto::path_edit::Kind;
        let (edit, field) = match wire.kind {
            None => return Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Full(text)) => (Self::Full(text), "full"),
            Some(Kind::Prefix(text)) => (Self::Prefix(text), "prefix"),
        };
        edit.check().map_err(ModelError::at(field))?;
        Ok(edit)
    }
}

impl From<&PathEdit> for proto::PathEdit {
    fn from(edit: &PathEdit) -> Self {
        use proto::path_edit::Kind;
        let kind = match edit {
            PathEdit::Full(text) => Kind::Full(text.clone()),
            PathEdit::Prefix(text) => Kind::Prefix(text.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Mirror> for Mirror {
    type Error = ModelError;

    fn try_from(wire: proto::Mirror) -> Result<Self, ModelError> {
        let denominator = positive(wire.denominator).map_err(ModelError::at("denominator"))?;
        let numerator = within(wire.numerator, 0..=denominator.into());
        Ok(Self {
            backend: required("backend", wire.backend)?,
            numerator: numerator.map_err(ModelError::at("numerator"))?,
            denominator,
        })
    }
}

impl From<&Mirror> for proto::Mirror {
    fn from(mirror: &Mirror) -> Self {
        Self {
            backend: Some((&mirror.backend).into()),
            numerator: mirror.numerator,
            denominator: mirror.denominator,
        }
    }
}

impl TryFrom<proto::Cors> for Cors {
    type Error = ModelError;

    fn try_from(wire: proto::Cors) -> Result<Self, ModelError> {
        let header = |name: String| any_or(name, |name| name.parse::<HeaderName>().map(drop));
        let method = |name: String| any_or(name, |name| name.parse::<Method>().map(drop));
        Ok(Self {
            allow_origins: parsed("allow_origins", wire.allow_origins, |origin| {
                any_or(origin, |origin| match Self::is_origin(origin) {
                    true => Ok(()),
                    false => Err(Cause::Origin(origin.to_owned())),
                })
            })?,
            allow_methods: parsed("allow_methods", wire.allow_methods, method)?,
            allow_headers: parsed("allow_headers", wire.allow_headers, header)?,
            expose_headers: parsed("expose_headers", wire.expose_headers, header)?,
            allow_credentials: wire.allow_credentials,
            max_age: wire.max_age,
        })
    }
}

/// `*`, or a text that is right.
fn any_or<E: Into<Cause>>(
    text: String,
    check: impl Fn(&str) -> Result<(), E>,
) -> Result<String, Cause> {
    if text != "*" {
        check(&text).map_err(Into::into)?;
    }
    Ok(text)
}

impl From<&Cors> for proto::Cors {
    fn from(cors: &Cors) -> Self {
        Self {
            allow_origins: cors.allow_origins.clone(),
            allow_methods: cors.allow_methods.clone(),
            allow_headers: cors.allow_headers.clone(),
            expose_headers: cors.expose_headers.clone(),
            allow_credentials: cors.allow_credentials,
            max_age: cors.max_age,
        }
    }
}
