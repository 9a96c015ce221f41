//! One document to one object.

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::decode;
use super::place::{Located, Location, Problem};
use super::suggest;
use super::tree::{Node, Value};
use crate::kinds::{self, API_VERSION, ObjectMeta};
use crate::names;

/// What a document says. Cheap to clone; equal is what says the same, wherever.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Located<kinds::Service>),
    ServiceAccount(Located<kinds::ServiceAccount>),
    Workload(Located<kinds::Workload>),
    AuthorizationPolicy(Located<kinds::AuthorizationPolicy>),
    MeshConfig(Located<kinds::MeshConfig>),
    HttpRoute(Located<kinds::HttpRoute>),
    GrpcRoute(Located<kinds::GrpcRoute>),
    TcpRoute(Located<kinds::TcpRoute>),
    TrafficPolicy(Located<kinds::TrafficPolicy>),
    RateLimitPolicy(Located<kinds::RateLimitPolicy>),
}

impl Object {
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "Service",
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::Workload(_) => "Workload",
            Self::AuthorizationPolicy(_) => "AuthorizationPolicy",
            Self::MeshConfig(_) => "MeshConfig",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::GrpcRoute(_) => "GRPCRoute",
            Self::TcpRoute(_) => "TCPRoute",
            Self::TrafficPolicy(_) => "TrafficPolicy",
            Self::RateLimitPolicy(_) => "RateLimitPolicy",
        }
    }

    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Service(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Workload(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::MeshConfig(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::TrafficPolicy(object) => &object.metadata,
            Self::RateLimitPolicy(object) => &object.metadata,
        }
    }

    /// The same, of which only the file is known ([`Located`] keeps the place of each field).
    #[must_use]
    pub fn without_places(&self) -> Self {
        match self {
            Self::Service(object) => Self::Service(object.without_places()),
            Self::ServiceAccount(object) => Self::ServiceAccount(object.without_places()),
            Self::Workload(object) => Self::Workload(object.without_places()),
            Self::AuthorizationPolicy(object) => Self::AuthorizationPolicy(object.without_places()),
            Self::MeshConfig(object) => Self::MeshConfig(object.without_places()),
            Self::HttpRoute(object) => Self::HttpRoute(object.without_places()),
            Self::GrpcRoute(object) => Self::GrpcRoute(object.without_places()),
            Self::TcpRoute(object) => Self::TcpRoute(object.without_places()),
            Self::TrafficPolicy(object) => Self::TrafficPolicy(object.without_places()),
            Self::RateLimitPolicy(object) => Self::RateLimitPolicy(object.without_places()),
        }
    }

    /// As [`Located::is`].
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => one.is(other),
            (Self::ServiceAccount(one), Self::ServiceAccount(other)) => one.is(other),
            (Self::Workload(one), Self::Workload(other)) => one.is(other),
            (Self::AuthorizationPolicy(one), Self::AuthorizationPolicy(other)) => one.is(other),
            (Self::MeshConfig(one), Self::MeshConfig(other)) => one.is(other),
            (Self::HttpRoute(one), Self::HttpRoute(other)) => one.is(other),
            (Self::GrpcRoute(one), Self::GrpcRoute(other)) => one.is(other),
            (Self::TcpRoute(one), Self::TcpRoute(other)) => one.is(other),
            (Self::TrafficPolicy(one), Self::TrafficPolicy(other)) => one.is(other),
            (Self::RateLimitPolicy(one), Self::RateLimitPolicy(other)) => one.is(other),
            _ => false,
        }
    }

    /// As [`Located::location`].
    #[must_use]
    pub fn location(&self, field: &str) -> Location {
        match self {
            Self::Service(object) => object.location(field),
            Self::ServiceAccount(object) => object.location(field),
            Self::Workload(object) => object.location(field),
            Self::AuthorizationPolicy(object) => object.location(field),
            Self::MeshConfig(object) => object.location(field),
            Self::HttpRoute(object) => object.location(field),
            Self::GrpcRoute(object) => object.location(field),
            Self::TcpRoute(object) => object.location(field),
            Self::TrafficPolicy(object) => object.location(field),
            Self::RateLimitPolicy(object) => object.location(field),
        }
    }

    /// As [`Located::problem`].
    pub fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let field = field.into();
        Problem::new(self.location(&field), field, message)
    }
}

/// Each kind with the versions of it that are read; the first is what an error names.
const KINDS: [(&[&str], &str); 10] = [
    (&["v1"], "Service"),
    (&["v1"], "ServiceAccount"),
    (&[API_VERSION], "Workload"),
    (&[API_VERSION], "AuthorizationPolicy"),
    (&[API_VERSION], "TrafficPolicy"),
    (&[API_VERSION], "RateLimitPolicy"),
    (&[GATEWAY_V1], "HTTPRoute"),
    (&[GATEWAY_V1], "GRPCRoute"),
    (&[GATEWAY_V1, GATEWAY_V1ALPHA2], "TCPRoute"),
    (&[API_VERSION], "MeshConfig"),
];
const GATEWAY_V1: &str = "gateway.networking.k8s.io/v1";
const GATEWAY_V1ALPHA2: &str = "gateway.networking.k8s.io/v1alpha2";

pub(super) fn read(file: &Arc<Path>, root: Node) -> Result<Object, Problem> {
    let kind = kind_of(file, &root)?;
    match kind {
        "Service" => {
            let service: Located<kinds::Service> = located(file, root)?;
            let label = names::check_label(&service.metadata.name);
            label.map_err(|error| {
                service.problem("metadata.name", format!("of a Service {error}"))
            })?;
            Ok(Object::Service(service))
        }
        "ServiceAccount" => Ok(Object::ServiceAccount(located(file, root)?)),
        "Workload" => Ok(Object::Workload(located(file, root)?)),
        "AuthorizationPolicy" => Ok(Object::AuthorizationPolicy(located(file, root)?)),
        "TrafficPolicy" => Ok(Object::TrafficPolicy(located(file, root)?)),
        "RateLimitPolicy" => Ok(Object::RateLimitPolicy(located(file, root)?)),
        "HTTPRoute" => Ok(Object::HttpRoute(located(file, root)?)),
        "GRPCRoute" => Ok(Object::GrpcRoute(located(file, root)?)),
        "TCPRoute" => Ok(Object::TcpRoute(located(file, root)?)),
        // The last that `kind_of` knows.
        _ => Ok(Object::MeshConfig(located(file, root)?)),
    }
}

fn located<T: DeserializeOwned>(file: &Arc<Path>, root: Node) -> Result<Located<T>, Problem> {
    let value = decode::decode(&root, &["apiVersion", "kind"])
        .map_err(|error| error.into_problem(file, &root))?;
    Ok(Located::new(value, file.clone(), root))
}

fn kind_of(file: &Arc<Path>, root: &Node) -> Result<&'static str, Problem> {
    let problem = |field: &str, message: String| {
        let node = root.find(field);
        let location = Location {
            file: file.clone(),
            line: node.line,
            column: node.column,
        };
        Problem::new(location, field, message)
    };
    let Value::Map(_) = root.value else {
        let message = "is not an object, expected the fields apiVersion, kind, metadata and spec";
        return Err(problem("", message.to_owned()));
    };
    let text = |field| match &root.find(field).value {
        Value::Text(text) => Ok(text.as_str()),
        Value::Map(_) => Err(problem(field, "is missing".to_owned())),
        _ => Err(problem(field, "is not text".to_owned())),
    };
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let Some((versions, kind)) = KINDS.into_iter().find(|(_, known)| *known == kind) else {
        let expected = suggest::expected(kind, &KINDS.map(|(_, kind)| kind));
        return Err(problem(
            "kind",
            format!("unknown kind {kind:?}, {expected}"),
        ));
    };
    if !versions.contains(&version) {
        let expected = versions.join(" or ");
        let message = format!("unknown apiVersion {version:?} of {kind}, expected {expected}");
        return Err(problem("apiVersion", message));
    }
    Ok(kind)
}
