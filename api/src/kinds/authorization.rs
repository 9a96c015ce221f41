//! `AuthorizationPolicy`: who may call these workloads (the shape is GEP-3779's).

use schemars::JsonSchema;
use serde::Deserialize;

use super::field::{self, Accepted};
use super::meta::ObjectMeta;
use super::source::Source;
use super::text;
use crate::authorization::{self, GrpcMatch, HttpMatch};

mod matches;
mod target;

pub use target::TargetRef;
pub(super) use target::{TARGETS_MAX, target_refs};

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    pub metadata: ObjectMeta,
    pub spec: AuthorizationPolicySpec,
    #[serde(default, rename = "status")]
    _status: Accepted,
}

impl AuthorizationPolicy {
    /// What the evaluator takes.
    #[must_use]
    pub fn to_policy(&self) -> authorization::Policy {
        let namespace = &self.metadata.namespace;
        authorization::Policy {
            namespace: namespace.clone(),
            name: self.metadata.name.clone(),
            action: self.spec.action,
            rules: self
                .spec
                .rules
                .iter()
                .map(|rule| rule.resolve(namespace))
                .collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "Written")]
pub struct AuthorizationPolicySpec {
    /// 1 to 16 (GEP-713), in the policy's own namespace.
    pub target_refs: Vec<TargetRef>,
    #[schemars(with = "Action")]
    pub action: authorization::Action,
    /// One of them must match. Empty: none does; of an ALLOW policy, nobody may call.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.action) || self.action != 'DENY' || (has(self.rules) && size(self.rules) > 0)",
    "message": "a DENY policy without rules refuses nothing, expected at least one rule ({} matches everything)"
}]))]
struct Written {
    /// Which workloads: 1 to 16 (GEP-713), in the policy's own namespace.
    #[schemars(length(min = 1, max = 16))]
    #[serde(deserialize_with = "target::target_refs")]
    target_refs: Vec<TargetRef>,
    /// What becomes of a call that a rule matches; AUDIT only says what DENY would do. Default ALLOW.
    #[serde(default)]
    action: Action,
    /// One of them must match. Empty: none does, so that an ALLOW policy allows nobody; a DENY policy
    /// without rules is an error.
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
}

impl TryFrom<Written> for AuthorizationPolicySpec {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let action = match written.action {
            Action::Allow => authorization::Action::Allow,
            Action::Deny if written.rules.is_empty() => {
                return Err("is a DENY policy without rules, which refuses nothing; \
                            expected at least one rule ({} matches everything)");
            }
            Action::Deny => authorization::Action::Deny,
            Action::Audit => authorization::Action::Audit,
        };
        Ok(Self {
            target_refs: written.target_refs,
            action,
            rules: written.rules,
        })
    }
}

/// All of sources, ports and protocol must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// For people: refusals and `policy test` name it.
    #[schemars(with = "Option<text::Label>")]
    #[serde(default, deserialize_with = "rule_name")]
    pub name: Option<String>,
    /// Left out: anyone. Empty: nobody.
    #[serde(default, deserialize_with = "field::present")]
    pub sources: Option<Vec<Source>>,
    /// What is known of a connection. Left out: any.
    #[serde(default, deserialize_with = "field::present")]
    pub network_attributes: Option<NetworkAttributes>,
    /// One of `http` and `grpc` must match; both left out: any protocol.
    #[schemars(with = "Vec<matches::WrittenHttp>", length(min = 1))]
    #[serde(default, deserialize_with = "matches::http")]
    pub http: Vec<HttpMatch>,
    /// As `http`, for gRPC.
    #[schemars(with = "Vec<matches::WrittenGrpc>", length(min = 1))]
    #[serde(default, deserialize_with = "matches::grpc")]
    pub grpc: Vec<GrpcMatch>,
}

/// What is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkAttributes {
    /// Of the app, not of the Service.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    #[serde(deserialize_with = "field::ports")]
    pub ports: Vec<u16>,
}

impl Rule {
    fn resolve(&self, namespace: &str) -> authorization::Rule {
        let sources = self.sources.as_ref();
        let ports = self
            .network_attributes
            .as_ref()
            .map(|network| network.ports.clone());
        authorization::Rule {
            name: self.name.clone(),
            sources: sources.map(|all| all.iter().map(|one| one.resolve(namespace)).collect()),
            ports: ports.unwrap_or_default(),
            http: self.http.clone(),
            grpc: self.grpc.clone(),
        }
    }
}

fn rule_name<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    field::label(deserializer).map(Some)
}
