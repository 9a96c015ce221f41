//! Policies to and from the wire.
//!
//! What cannot be decoded is an error for the whole set, never a condition or a rule that is left
//! out: a rule with a condition less allows more.

use super::header::{HeaderMatch, HeaderValueMatch};
use super::host::HostMatch;
use super::matches::{GrpcMatch, HttpMatch, Method, PathMatch, PathMatchKind};
use super::policy::{Action, IpBlock, Policy, PolicySet, Rule, Source};
use crate::model::error::{Cause, ModelError, each, optional, parsed, port};
use crate::names::{check_label, check_subdomain};
use crate::proto;

impl TryFrom<proto::AuthorizationPolicies> for PolicySet {
    type Error = ModelError;

    fn try_from(wire: proto::AuthorizationPolicies) -> Result<Self, ModelError> {
        Ok(Self::new(
            wire.default_deny,
            each("policies", wire.policies)?,
        ))
    }
}

impl From<&PolicySet> for proto::AuthorizationPolicies {
    fn from(set: &PolicySet) -> Self {
        Self {
            default_deny: set.default_deny(),
            policies: set.policies().iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::AuthorizationPolicy> for Policy {
    type Error = ModelError;

    fn try_from(wire: proto::AuthorizationPolicy) -> Result<Self, ModelError> {
        let action = match proto::Action::try_from(wire.action) {
            Ok(proto::Action::Allow) => Action::Allow,
            Ok(proto::Action::Deny) => Action::Deny,
            Ok(proto::Action::Audit) => Action::Audit,
            Ok(proto::Action::Unspecified) | Err(_) => {
                return Err(ModelError::new("action", Cause::Number(wire.action)));
            }
        };
        check_label(&wire.namespace).map_err(ModelError::at("namespace"))?;
        check_subdomain(&wire.name).map_err(ModelError::at("name"))?;
        Ok(Self {
            namespace: wire.namespace,
            name: wire.name,
            action,
            rules: each("rules", wire.rules)?,
        })
    }
}

impl From<&Policy> for proto::AuthorizationPolicy {
    fn from(policy: &Policy) -> Self {
        let action = match policy.action {
            Action::Allow => proto::Action::Allow,
            Action::Deny => proto::Action::Deny,
            Action::Audit => proto::Action::Audit,
        };
        Self {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            action: action.into(),
            rules: policy.rules.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Rule> for Rule {
    type Error = ModelError;

    fn try_from(wire: proto::Rule) -> Result<Self, ModelError> {
        let sources = wire.sources.map(|wire| each("sources", wire.sources));
        Ok(Self {
            name: optional(wire.name),
            sources: sources.transpose()?,
            ports: parsed("ports", wire.ports, port)?,
            http: each("http", wire.http)?,
            grpc: each("grpc", wire.grpc)?,
        })
    }
}

impl From<&Rule> for proto::Rule {
    fn from(rule: &Rule) -> Self {
        let sources = rule.sources.as_ref().map(|sources| proto::Sources {
            sources: sources.iter().map(Into::into).collect(),
        });
        Self {
            name: rule.name.clone().unwrap_or_default(),
            sources,
            ports: rule.ports.iter().copied().map(Into::into).collect(),
            http: rule.http.iter().map(Into::into).collect(),
            grpc: rule.grpc.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Source> for Source {
    type Error = ModelError;

    fn try_from(wire: proto::Source) -> Result<Self, ModelError> {
        use proto::source::Kind;
        match wire.kind {
            None => Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Namespace(namespace)) => {
                check_label(&namespace).map_err(ModelError::at("namespace"))?;
                Ok(Self::Namespace(namespace))
            }
            Some(Kind::ServiceAccount(wire)) => {
                check_label(&wire.namespace)
                    .map_err(ModelError::at("service_account.namespace"))?;
                if wire.name == "*" {
                    return Ok(Self::Namespace(wire.namespace));
                }
                check_subdomain(&wire.name).map_err(ModelError::at("service_account.name"))?;
                Ok(Self::ServiceAccount {
                    namespace: wire.namespace,
                    name: wire.name,
                })
            }
            Some(Kind::SpiffeId(id)) => {
                let id = id.parse().map_err(ModelError::at("spiffe_id"))?;
                Ok(Self::Spiffe(id))
            }
            Some(Kind::IpBlock(wire)) => {
                let at = ModelError::at::<ipnet::AddrParseError>("ip_block.cidr");
                let cidr = wire.cidr.parse().map_err(at)?;
                let except = parsed("ip_block.except", wire.except, |net| net.parse())?;
                let block = IpBlock::new(cidr, except).map_err(ModelError::at("ip_block"))?;
                Ok(Self::IpBlock(block))
            }
        }
    }
}

impl From<&Source> for proto::Source {
    fn from(source: &Source) -> Self {
        use proto::source::Kind;
        let kind = match source {
            Source::ServiceAccount { namespace, name } => {
                Kind::ServiceAccount(proto::ServiceAccountSource {
                    namespace: namespace.clone(),
                    name: name.clone(),
                })
            }
            Source::Namespace(namespace) => Kind::Namespace(namespace.clone()),
            Source::Spiffe(id) => Kind::SpiffeId(id.to_string()),
            Source::IpBlock(block) => Kind::IpBlock(proto::IpBlock {
                cidr: block.cidr().to_string(),
                except: block.except().iter().map(ToString::to_string).collect(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::HttpMatch> for HttpMatch {
    type Error = ModelError;

    fn try_from(wire: proto::HttpMatch) -> Result<Self, ModelError> {
        Ok(Self {
            methods: parsed("methods", wire.methods, |text| Method::new(&text))?,
            paths: each("paths", wire.paths)?,
            hosts: parsed("hosts", wire.hosts, |text| HostMatch::new(&text))?,
            headers: each("headers", wire.headers)?,
        })
    }
}

impl From<&HttpMatch> for proto::HttpMatch {
    fn from(http: &HttpMatch) -> Self {
        Self {
            methods: http
                .methods
                .iter()
                .map(|method| method.as_str().to_owned())
                .collect(),
            paths: http.paths.iter().map(Into::into).collect(),
            hosts: http.hosts.iter().map(ToString::to_string).collect(),
            headers: http.headers.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::PathMatch> for PathMatch {
    type Error = ModelError;

    fn try_from(wire: proto::PathMatch) -> Result<Self, ModelError> {
        use proto::path_match::Kind;
        match wire.kind {
            None => Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::Exact(text)) => {
                Self::new(PathMatchKind::Exact, &text).map_err(ModelError::at("exact"))
            }
            Some(Kind::Prefix(text)) => {
                Self::new(PathMatchKind::Prefix, &text).map_err(ModelError::at("prefix"))
            }
        }
    }
}

impl From<&PathMatch> for proto::PathMatch {
    fn from(path: &PathMatch) -> Self {
        use proto::path_match::Kind;
        let text = path.as_str().to_owned();
        let kind = match path.kind() {
            PathMatchKind::Exact => Kind::Exact(text),
            PathMatchKind::Prefix => Kind::Prefix(text),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::HeaderMatch> for HeaderMatch {
    type Error = ModelError;

    fn try_from(wire: proto::HeaderMatch) -> Result<Self, ModelError> {
        use proto::header_match::Kind;
        let value = match wire.kind {
            Some(Kind::Exact(bytes)) => HeaderValueMatch::Exact(bytes.to_vec()),
            Some(Kind::Prefix(bytes)) => HeaderValueMatch::Prefix(bytes.to_vec()),
            Some(Kind::Present(true)) => HeaderValueMatch::Present,
            Some(Kind::Present(false)) | None => {
                return Err(ModelError::new("kind", Cause::Missing));
            }
        };
        Self::new(&wire.name, value).map_err(ModelError::at("name"))
    }
}

impl From<&HeaderMatch> for proto::HeaderMatch {
    fn from(header: &HeaderMatch) -> Self {
        use proto::header_match::Kind;
        let kind = match header.value() {
            HeaderValueMatch::Exact(bytes) => Kind::Exact(bytes.clone().into()),
            HeaderValueMatch::Prefix(bytes) => Kind::Prefix(bytes.clone().into()),
            HeaderValueMatch::Present => Kind::Present(true),
        };
        Self {
            name: header.name().to_string(),
            kind: Some(kind),
        }
    }
}

impl TryFrom<proto::GrpcMatch> for GrpcMatch {
    type Error = ModelError;

    fn try_from(wire: proto::GrpcMatch) -> Result<Self, ModelError> {
        let method = optional(wire.method);
        Self::new(&wire.service, method.as_deref()).map_err(ModelError::at("service"))
    }
}

impl From<&GrpcMatch> for proto::GrpcMatch {
    fn from(grpc: &GrpcMatch) -> Self {
        Self {
            service: grpc.service().to_owned(),
            method: grpc.method().unwrap_or_default().to_owned(),
        }
    }
}
