//! The three kinds of routes as one: an HTTPRoute can say whatever the others can, but for how a
//! GRPCRoute matches.

use outrider_api::kinds::gateway::grpcroutes::GrpcRouteRulesMatches;
use outrider_api::kinds::gateway::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesMatches,
};
use outrider_api::manifest::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// In order of precedence on one port (GEP-1294).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Grpc,
    Http,
    Tcp,
}

/// A route as it was written.
pub(super) struct Route<'o> {
    pub(super) object: &'o Object,
    pub(super) kind: Kind,
    pub(super) has_hostnames: bool,
    pub(super) parents: Vec<HttpRouteParentRefs>,
    pub(super) rules: Vec<Rule>,
}

/// `common` has no matches: they are beside it.
pub(super) struct Rule {
    pub(super) common: HttpRouteRules,
    pub(super) matches: Matches,
}

/// Left out, or empty: whatever comes.
pub(super) enum Matches {
    Http(Vec<HttpRouteRulesMatches>),
    Grpc(Vec<GrpcRouteRulesMatches>),
}

impl<'o> Route<'o> {
    /// `None`: the object is no route.
    pub(super) fn new(object: &'o Object) -> Option<Self> {
        match object {
            Object::HttpRoute(route) => {
                let spec = route.spec.clone();
                let rules = spec.rules.into_iter().flatten().map(Rule::http);
                Some(Self {
                    object,
                    kind: Kind::Http,
                    has_hostnames: spec.hostnames.is_some_and(|names| !names.is_empty()),
                    parents: spec.parent_refs.unwrap_or_default(),
                    rules: rules.collect(),
                })
            }
            Object::GrpcRoute(route) => {
                let spec = &route.spec;
                let rules = spec.rules.iter().flatten().map(|rule| {
                    let matches = rule.matches.clone().unwrap_or_default();
                    Rule::other(rule, Matches::Grpc(matches))
                });
                let hostnames = spec.hostnames.as_ref();
                Some(Self {
                    object,
                    kind: Kind::Grpc,
                    has_hostnames: hostnames.is_some_and(|names| !names.is_empty()),
                    parents: same(&spec.parent_refs).unwrap_or_default(),
                    rules: rules.collect::<Option<_>>()?,
                })
            }
            Object::TcpRoute(route) => {
                let none = || Matches::Http(Vec::new());
                let rules = route.spec.rules.iter();
                let rules = rules.map(|rule| Rule::other(rule, none()));
                Some(Self {
                    object,
                    kind: Kind::Tcp,
                    has_hostnames: false,
                    parents: same(&route.spec.parent_refs).unwrap_or_default(),
                    rules: rules.collect::<Option<_>>()?,
                })
            }
            _ => None,
        }
    }

    /// `shop/billing`.
    pub(super) fn name(&self) -> String {
        let metadata = self.object.metadata();
        format!("{}/{}", metadata.namespace, metadata.name)
    }

    /// Oldest first (GEP-713): by creation if it is known, then by name.
    pub(super) fn age(&self) -> (bool, Option<&str>, &str, &str) {
        let metadata = self.object.metadata();
        let created = metadata.creation_timestamp.as_deref();
        let (namespace, name) = (&metadata.namespace, &metadata.name);
        (created.is_none(), created, namespace, name)
    }
}

impl Rule {
    fn http(mut common: HttpRouteRules) -> Self {
        let matches = Matches::Http(common.matches.take().unwrap_or_default());
        Self { common, matches }
    }

    fn other(rule: &impl Serialize, matches: Matches) -> Option<Self> {
        let mut value = serde_json::to_value(rule).ok()?;
        if let Value::Object(fields) = &mut value {
            fields.remove("matches");
        }
        let common = serde_json::from_value(value).ok()?;
        Some(Self { common, matches })
    }
}

/// The generated types of one shape, as one of them.
pub(super) fn same<T: DeserializeOwned>(value: &impl Serialize) -> Option<T> {
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}
