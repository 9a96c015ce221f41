//! Routes to and from the wire.
//!
//! What cannot be decoded is an error for the whole message, never a match, a condition or a filter
//! that is left out: a match with a condition less fits more.

use super::{
    Backend, Filter, HttpRoutes, HttpRule, PathEdit, PathMatch, Redirect, Rewrite, RouteGroup,
    RouteMatch, Routes, RuleOrigin, RuleRetry, RuleTimeouts, Target, TcpRule, Timeout,
};
use crate::model::error::{
    Cause, ModelError, each, maybe, nested, optional, parsed, port, required,
};
use crate::model::traffic::retry_status;
use crate::model::units::{check_not_longer, milliseconds, time_or_zero, within};
use crate::names::check_label;
use crate::proto;

/// Gateway API, HTTPBackendRef.
const WEIGHT_MAX: u64 = 1_000_000;

impl TryFrom<proto::RouteGroup> for RouteGroup {
    type Error = ModelError;

    fn try_from(wire: proto::RouteGroup) -> Result<Self, ModelError> {
        use proto::route_group::Routes as Kind;
        let consumer = optional(wire.consumer);
        if let Some(namespace) = &consumer {
            check_label(namespace).map_err(ModelError::at("consumer"))?;
        }
        let routes = match wire.routes {
            None => return Err(ModelError::new("routes", Cause::Missing)),
            Some(Kind::Http(http)) => Routes::Http(nested("http", http)?),
            Some(Kind::Tcp(tcp)) => Routes::Tcp(nested("tcp", tcp)?),
        };
        Ok(Self {
            consumer,
            port: port(wire.port).map_err(ModelError::at("port"))?,
            routes,
        })
    }
}

impl From<&RouteGroup> for proto::RouteGroup {
    fn from(group: &RouteGroup) -> Self {
        use proto::route_group::Routes as Kind;
        let routes = match &group.routes {
            Routes::Http(http) => Kind::Http(http.into()),
            Routes::Tcp(tcp) => Kind::Tcp(tcp.into()),
        };
        Self {
            consumer: group.consumer.clone().unwrap_or_default(),
            port: group.port.into(),
            routes: Some(routes),
        }
    }
}

impl TryFrom<proto::HttpRoutes> for HttpRoutes {
    type Error = ModelError;

    fn try_from(wire: proto::HttpRoutes) -> Result<Self, ModelError> {
        let routes = Self {
            matches: each("matches", wire.matches)?,
            rules: each("rules", wire.rules)?,
        };
        for (index, found) in routes.matches.iter().enumerate() {
            check_rule(found, &routes.rules)
                .map_err(|cause| ModelError::new(format!("matches[{index}].rule"), cause))?;
        }
        Ok(routes)
    }
}

/// The rule is there, and replaces a prefix only if there is one.
fn check_rule(found: &RouteMatch, rules: &[HttpRule]) -> Result<(), Cause> {
    let Some(rule) = rules.get(found.rule) else {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        return Err(Cause::Range {
            value: number(found.rule),
            least: 0,
            most: number(rules.len()).saturating_sub(1),
        });
    };
    let replaces_prefix = rule.filters.iter().any(|filter| match filter {
        Filter::Redirect(Redirect { path, .. }) | Filter::Rewrite(Rewrite { path, .. }) => {
            matches!(path, Some(PathEdit::Prefix(_)))
        }
        _ => false,
    });
    if replaces_prefix && !matches!(found.path, PathMatch::Prefix(_)) {
        return Err(Cause::NoPrefix);
    }
    Ok(())
}

impl From<&HttpRoutes> for proto::HttpRoutes {
    fn from(routes: &HttpRoutes) -> Self {
        Self {
            matches: routes.matches.iter().map(Into::into).collect(),
            rules: routes.rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::HttpRule> for HttpRule {
    type Error = ModelError;

    fn try_from(wire: proto::HttpRule) -> Result<Self, ModelError> {
        Ok(Self {
            origin: required("origin", wire.origin)?,
            filters: each("filters", wire.filters)?,
            backends: each("backends", wire.backends)?,
            timeouts: timeouts(wire.request_timeout_ms, wire.backend_request_timeout_ms)?,
            retry: maybe("retry", wire.retry)?,
        })
    }
}

fn timeouts(request: Option<u64>, backend: Option<u64>) -> Result<RuleTimeouts, ModelError> {
    let at_backend = ModelError::at::<Cause>("backend_request_timeout_ms");
    let request = request.map(time_or_zero).transpose();
    let request = request.map_err(ModelError::at("request_timeout_ms"))?;
    let backend = backend.map(time_or_zero).transpose();
    let (request, backend) = match backend {
        Ok(backend) => (request.map(Timeout::from), backend.map(Timeout::from)),
        Err(cause) => return Err(at_backend(cause)),
    };
    let longest = |timeout: Option<Timeout>| timeout.and_then(Timeout::duration);
    check_not_longer(longest(backend), longest(request)).map_err(at_backend)?;
    Ok(RuleTimeouts {
        request,
        backend_request: backend,
    })
}

impl From<&HttpRule> for proto::HttpRule {
    fn from(rule: &HttpRule) -> Self {
        let timeout = |timeout: Timeout| milliseconds(timeout.duration().unwrap_or_default());
        Self {
            origin: Some((&rule.origin).into()),
            filters: rule.filters.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            request_timeout_ms: rule.timeouts.request.map(timeout),
            backend_request_timeout_ms: rule.timeouts.backend_request.map(timeout),
            retry: rule.retry.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::TcpRoutes> for TcpRule {
    type Error = ModelError;

    fn try_from(wire: proto::TcpRoutes) -> Result<Self, ModelError> {
        Ok(Self {
            origin: required("origin", wire.origin)?,
            backends: each("backends", wire.backends)?,
        })
    }
}

impl From<&TcpRule> for proto::TcpRoutes {
    fn from(rule: &TcpRule) -> Self {
        Self {
            backends: rule.backends.iter().map(Into::into).collect(),
            origin: Some((&rule.origin).into()),
        }
    }
}

impl TryFrom<proto::RuleOrigin> for RuleOrigin {
    type Error = ModelError;

    fn try_from(wire: proto::RuleOrigin) -> Result<Self, ModelError> {
        Ok(Self {
            kind: wire.kind,
            namespace: wire.namespace,
            name: wire.name,
            rule: wire.rule,
        })
    }
}

impl From<&RuleOrigin> for proto::RuleOrigin {
    fn from(origin: &RuleOrigin) -> Self {
        Self {
            kind: origin.kind.clone(),
            namespace: origin.namespace.clone(),
            name: origin.name.clone(),
            rule: origin.rule.clone(),
        }
    }
}

impl TryFrom<proto::RuleRetry> for RuleRetry {
    type Error = ModelError;

    fn try_from(wire: proto::RuleRetry) -> Result<Self, ModelError> {
        let backoff = wire.backoff_ms.map(time_or_zero).transpose();
        let codes = wire
            .codes
            .map(|wire| parsed("codes", wire.codes, retry_status));
        Ok(Self {
            codes: codes.transpose()?,
            attempts: wire.attempts,
            backoff: backoff.map_err(ModelError::at("backoff_ms"))?,
        })
    }
}

impl From<&RuleRetry> for proto::RuleRetry {
    fn from(retry: &RuleRetry) -> Self {
        let codes = |codes: &Vec<u16>| proto::RetryCodes {
            codes: codes.iter().copied().map(Into::into).collect(),
        };
        Self {
            codes: retry.codes.as_ref().map(codes),
            attempts: retry.attempts,
            backoff_ms: retry.backoff.map(milliseconds),
        }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = ModelError;

    fn try_from(wire: proto::Backend) -> Result<Self, ModelError> {
        let filters: Vec<Filter> = each("filters", wire.filters)?;
        let not_here = |filter: &Filter| match filter {
            Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) | Filter::Unsupported(_) => {
                false
            }
            Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Mirror(_) | Filter::Cors(_) => true,
        };
        if let Some(index) = filters.iter().position(not_here) {
            let field = format!("filters[{index}]");
            return Err(ModelError::new(field, Cause::BackendFilter));
        }
        Ok(Self {
            weight: within(wire.weight, 0..=WEIGHT_MAX).map_err(ModelError::at("weight"))?,
            target: required("target", wire.target)?,
            filters,
        })
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            weight: backend.weight,
            target: Some((&backend.target).into()),
            filters: backend.filters.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::RouteTarget> for Target {
    type Error = ModelError;

    fn try_from(wire: proto::RouteTarget) -> Result<Self, ModelError> {
        use proto::route_target::Kind;
        match wire.kind {
            None => Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Service(target)) => Ok(Self::Service {
                service: required("service.service", target.service)?,
                port: port(target.port).map_err(ModelError::at("service.port"))?,
            }),
            Some(Kind::Invalid(why)) => Ok(Self::Invalid(why)),
        }
    }
}

impl From<&Target> for proto::RouteTarget {
    fn from(target: &Target) -> Self {
        use proto::route_target::Kind;
        let kind = match target {
            Target::Service { service, port } => Kind::Service(proto::ServiceTarget {
                service: Some(service.into()),
                port: (*port).into(),
            }),
            Target::Invalid(why) => Kind::Invalid(why.clone()),
        };
        Self { kind: Some(kind) }
    }
}
