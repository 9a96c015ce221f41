//! Where each setting of a Service comes from. Pure: the same objects of which the mesh was made.

use std::collections::BTreeMap;
use std::fmt;

use outrider_api::kinds::Traffic;
use outrider_api::manifest::{Location, Object};
use outrider_api::model::traffic::RateLimit;
use outrider_api::model::{Destination, HttpRule, RouteGroup, RuleOrigin, Timeout, Workload};
use serde::Serialize;
use serde_json::Value;

use super::WorkloadName;

/// One setting that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// As in TrafficPolicy's spec, for instance `timeouts.request`.
    pub field: String,
    /// As it would be written; `none` where nothing is set.
    pub value: String,
    /// Who said so.
    pub origin: Origin,
}

/// Who said so. Displays as `TrafficPolicy shop/billing (mesh.yaml:12)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "from")]
pub enum Origin {
    /// Nobody.
    Default,
    /// The MeshConfig, there.
    MeshConfig {
        /// Of the field.
        at: Location,
    },
    /// The Service's TrafficPolicy, there.
    TrafficPolicy {
        /// `NAMESPACE/NAME`.
        name: String,
        /// Of the field.
        at: Location,
    },
    /// A RateLimitPolicy of the workload, there.
    RateLimitPolicy {
        /// `NAMESPACE/NAME`.
        name: String,
        /// Of the limit.
        at: Location,
    },
    /// A route's rule, there.
    Rule {
        /// `HTTPRoute shop/billing rule 0`.
        name: String,
        /// Of the rule.
        at: Option<Location>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |at: &Location| format!("({}:{})", at.file.display(), at.line);
        match self {
            Self::Default => f.write_str("default"),
            Self::MeshConfig { at } => write!(f, "MeshConfig {}", place(at)),
            Self::TrafficPolicy { name, at } => write!(f, "TrafficPolicy {name} {}", place(at)),
            Self::RateLimitPolicy { name, at } => write!(f, "RateLimitPolicy {name} {}", place(at)),
            Self::Rule { name, at: Some(at) } => write!(f, "{name} {}", place(at)),
            Self::Rule { name, at: None } => f.write_str(name),
        }
    }
}

/// Every setting of a Service for its callers, in the order of their names, defaults included. What
/// a route's rule says instead is [`rule_settings`].
pub fn settings(objects: &[Object], destination: &Destination) -> Vec<Setting> {
    let service = &destination.service;
    let mut origins = BTreeMap::new();
    for object in objects {
        if let Object::MeshConfig(config) = object {
            for (field, _) in leaves(&config.spec.traffic) {
                let at = config.location(&format!("spec.traffic.{field}"));
                origins.insert(field, Origin::MeshConfig { at });
            }
        }
    }
    for object in objects {
        let Object::TrafficPolicy(policy) = object else {
            continue;
        };
        let metadata = &policy.metadata;
        let mut targets = policy.spec.target_refs.iter();
        if metadata.namespace == service.namespace
            && targets.any(|target| target.name == service.name)
        {
            for (field, _) in leaves(&policy.spec.traffic) {
                let at = policy.location(&format!("spec.{field}"));
                let name = format!("{}/{}", metadata.namespace, metadata.name);
                origins.insert(field, Origin::TrafficPolicy { name, at });
            }
        }
    }
    let whole = Traffic::from(&destination.traffic);
    let value = serde_json::to_value(&whole).unwrap_or_default();
    let mut all = Vec::new();
    collect("", &value, &mut all);
    if destination.traffic.health_check.is_none() {
        // Of a check that does not happen, only that.
        all.retain(|(field, _)| !field.starts_with("healthCheck.") || field.ends_with(".path"));
    }
    all.into_iter()
        .map(|(field, value)| Setting {
            // What is written and comes to nothing, such as a `hashOn` of no algorithm, is not it.
            origin: match origins.remove(&field) {
                Some(origin) if !value.is_null() => origin,
                _ => Origin::Default,
            },
            value: text(value),
            field,
        })
        .collect()
}

/// Whether a setting is that of the Service whose endpoints are asked; where a route leads to
/// another Service, all else is that of the one that was called.
pub fn is_of_backend(field: &str) -> bool {
    let of_called = [
        "timeouts.request",
        "timeouts.backendRequest",
        "timeouts.streamIdle",
        "retry.",
        "faults",
    ];
    !of_called.iter().any(|called| field.starts_with(called))
}

/// What a workload takes: of each rate limit that `holds` for a call, and of concurrency.
pub fn limits(
    objects: &[Object],
    workload: &Workload,
    holds: impl Fn(&RateLimit) -> bool,
) -> Vec<Setting> {
    let name = WorkloadName::new(&*workload.namespace, &*workload.name);
    let policies = super::limits::policies_of(objects, &name);
    let mut settings = Vec::new();
    for policy in policies {
        let metadata = &policy.metadata;
        let name = format!("{}/{}", metadata.namespace, metadata.name);
        let setting = |field: &str, value: String, at: &str| Setting {
            field: field.to_owned(),
            value,
            origin: Origin::RateLimitPolicy {
                name: name.clone(),
                at: policy.location(at),
            },
        };
        for (index, rate) in policy.rates().enumerate() {
            if holds(&rate) {
                let interval = outrider_api::duration::format(rate.interval);
                let value = format!("{} in {interval}, burst {}", rate.requests, rate.burst);
                let field = format!("limits.{}", rate.name);
                settings.push(setting(&field, value, &format!("spec.limits[{index}]")));
            }
        }
        if let Some(bound) = policy.concurrency() {
            let wait = outrider_api::duration::format(bound.max_wait);
            for (field, value) in [
                ("concurrency.maxRequests", bound.max_requests.to_string()),
                ("concurrency.maxQueued", bound.max_queued.to_string()),
                ("concurrency.maxWait", wait),
            ] {
                settings.push(setting(field, value, "spec.concurrency"));
            }
        }
    }
    settings
}

/// What a rule says instead of the Service's settings.
pub fn rule_settings(objects: &[Object], rule: &HttpRule) -> Vec<Setting> {
    let origin = Origin::Rule {
        name: rule.origin.to_string(),
        at: rule_location(objects, &rule.origin),
    };
    let timeout = |timeout: Option<Timeout>| {
        let duration = timeout?.duration().unwrap_or_default();
        Some(outrider_api::duration::format(duration))
    };
    let retry = rule.retry.as_ref();
    let codes = retry.and_then(|retry| retry.codes.as_ref());
    let attempts = retry.and_then(|retry| retry.attempts);
    let backoff = retry.and_then(|retry| retry.backoff);
    let given = [
        ("timeouts.request", timeout(rule.timeouts.request)),
        (
            "timeouts.backendRequest",
            timeout(rule.timeouts.backend_request),
        ),
        ("retry.attempts", attempts.map(|count| count.to_string())),
        (
            "retry.codes",
            codes.map(|codes| text(codes.as_slice().into())),
        ),
        ("retry.backoff", backoff.map(outrider_api::duration::format)),
    ];
    given
        .into_iter()
        .filter_map(|(field, value)| {
            Some(Setting {
                field: field.to_owned(),
                value: value?,
                origin: origin.clone(),
            })
        })
        .collect()
}

/// Where a rule is written.
pub fn rule_location(objects: &[Object], origin: &RuleOrigin) -> Option<Location> {
    let (object, field) = rule_field(objects, origin)?;
    Some(object.location(&field))
}

/// The route of a rule, and the field that the rule is of it.
pub(super) fn rule_field<'o>(
    objects: impl IntoIterator<Item = &'o Object>,
    origin: &RuleOrigin,
) -> Option<(&'o Object, String)> {
    let object = objects.into_iter().find(|object| {
        let metadata = object.metadata();
        object.kind() == origin.kind
            && metadata.namespace == origin.namespace
            && metadata.name == origin.name
    })?;
    let names: Vec<Option<&String>> = match object {
        Object::HttpRoute(route) => {
            let rules = route.spec.rules.iter().flatten();
            rules.map(|rule| rule.name.as_ref()).collect()
        }
        Object::GrpcRoute(route) => {
            let rules = route.spec.rules.iter().flatten();
            rules.map(|rule| rule.name.as_ref()).collect()
        }
        Object::TcpRoute(route) => {
            let rules = route.spec.rules.iter();
            rules.map(|rule| rule.name.as_ref()).collect()
        }
        _ => Vec::new(),
    };
    let named = names.iter().position(|name| *name == Some(&origin.rule));
    let index = named.or_else(|| origin.rule.parse().ok())?;
    Some((object, format!("spec.rules[{index}]")))
}

/// The routes of a port that hold for callers of a namespace: the consumer's own, else the
/// producer's (GEP-1294).
pub fn routes_for<'d>(
    destination: &'d Destination,
    port: u16,
    namespace: Option<&str>,
) -> Option<&'d RouteGroup> {
    let of = |consumer: Option<&str>| {
        let mut groups = destination.routes.iter();
        groups.find(|group| group.port == port && group.consumer.as_deref() == consumer)
    };
    namespace
        .and_then(|namespace| of(Some(namespace)))
        .or_else(|| of(None))
}

/// The fields that are written, and their values.
pub(super) fn leaves(traffic: &Traffic) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    let value = serde_json::to_value(traffic).unwrap_or_default();
    collect("", &value, &mut leaves);
    // A locality takes the place of the inherited one whole, so what it leaves out is its default.
    let is_whole = |path: &str| path.starts_with("loadBalancing.locality.");
    leaves.retain(|(path, value)| !value.is_null() || is_whole(path));
    leaves
}

/// Fields below fields, with a dot between; lists and what is chosen by one field are one value.
fn collect(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) if !path.ends_with("hashOn") => {
            for (field, value) in fields {
                let path = match path {
                    "" => field.clone(),
                    path => format!("{path}.{field}"),
                };
                collect(&path, value, leaves);
            }
        }
        value => leaves.push((path.to_owned(), value.clone())),
    }
}

fn text(value: Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text,
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        other => other.to_string(),
    }
}
