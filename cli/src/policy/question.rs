//! What `outrider policy test` is asked: who calls, whom, and how. Pure.

use std::net::IpAddr;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::authorization::{Call, HttpCall};
use outrider_api::model::{Destination, Protocol, Workload};
use outrider_api::names::ServiceName;
use outrider_api::routing::RouteRequest;
use outrider_certs::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use outrider_control_plane::index::Mesh;
use thiserror::Error;

use crate::args::TestArgs;

/// Why the question cannot be answered.
#[derive(Debug, Error)]
pub(super) enum QuestionError {
    #[error(
        "--from {0}: expected NAMESPACE/SERVICEACCOUNT or spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT"
    )]
    FromForm(String),
    #[error("--from {0}: {1}")]
    FromId(String, SpiffeIdError),
    #[error("--to {0}: expected NAMESPACE/SERVICE[:PORT] or NAMESPACE/WORKLOAD[:PORT]")]
    ToForm(String),
    #[error("--to {wanted}: there is no such Service or Workload; there are {there}")]
    ToUnknown { wanted: String, there: String },
    #[error("--to {wanted}: there is no such Service; there are {there}")]
    ToNoService { wanted: String, there: String },
    #[error("--to {wanted}: no port {port}; it has {there}")]
    ToPort {
        wanted: String,
        port: u16,
        there: String,
    },
    #[error("--to {wanted}: say which port, it has {there}")]
    ToWhichPort { wanted: String, there: String },
    #[error("--to {0}: no Workload is selected by this Service")]
    ToNobody(String),
    #[error("--header {0}: expected NAME:VALUE")]
    Header(String),
    #[error("--path {0}: expected a path that begins with /")]
    Path(String),
}

impl QuestionError {
    /// Where only a Service will do.
    pub(super) fn unknown_service(wanted: &str, mesh: &Mesh) -> Self {
        let there: Vec<String> = service_names(mesh).collect();
        Self::ToNoService {
            wanted: wanted.to_owned(),
            there: there.join(", "),
        }
    }
}

/// One workload that the call could reach, and on which port of its app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) workload: String,
    pub(super) port: u16,
    /// Its app speaks gRPC there.
    grpc: bool,
}

/// A whole question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) from: Option<SpiffeId>,
    /// Past the mesh, without mutual TLS.
    pub(super) plaintext: bool,
    pub(super) targets: Vec<Target>,
    source: IpAddr,
    http: Option<Http>,
}

#[derive(Debug)]
struct Http {
    method: String,
    path: String,
    authority: String,
    headers: HeaderMap,
}

impl Question {
    /// Understands the arguments against a mesh.
    pub(super) fn new(args: &TestArgs, mesh: &Mesh) -> Result<Self, QuestionError> {
        let from = args
            .from
            .as_deref()
            .map(|from| identity(from, &mesh.settings().trust_domain))
            .transpose()?;
        let (name, port) = whom(&args.to)?;
        let targets = targets(&args.to, &name, port, mesh)?;
        let grpc = targets.iter().any(|target| target.grpc);
        Ok(Self {
            from,
            plaintext: args.plaintext,
            targets,
            source: args.source_ip,
            http: http(args, &name, grpc)?,
        })
    }

    /// The call as the evaluator of that workload would see it.
    pub(super) fn call(&self, target: &Target) -> Call<'_> {
        Call {
            peer: self.from.as_ref(),
            source: self.source,
            port: target.port,
            http: self.http.as_ref().map(|http| HttpCall {
                method: &http.method,
                path: &http.path,
                authority: &http.authority,
                headers: &http.headers,
            }),
        }
    }

    /// The request as routes look at it; `None`: an opaque connection.
    pub(super) fn route_request(&self) -> Option<RouteRequest<'_>> {
        self.http.as_ref().map(|http| RouteRequest {
            method: &http.method,
            path_and_query: &http.path,
            headers: &http.headers,
        })
    }

    /// Whether it is one of the probes that `workload` declares for that port.
    pub(super) fn is_probe(&self, target: &Target, workload: &Workload) -> bool {
        let Some(http) = &self.http else {
            return false;
        };
        let grpc = outrider_proxy::http::headers::is_grpc(&http.headers);
        let probes = workload.probes.iter();
        let mut probes = probes.filter(|probe| probe.port == target.port);
        probes.any(|probe| probe.kind.is(&http.method, &http.path, grpc))
    }

    /// What is called, for people.
    pub(super) fn what(&self) -> String {
        let what = match &self.http {
            Some(http) => format!("{} {}", http.method, http.path),
            None => "an opaque connection".to_owned(),
        };
        if self.plaintext {
            return format!("{what} in plaintext");
        }
        what
    }
}

pub(super) fn identity(from: &str, trust_domain: &TrustDomain) -> Result<SpiffeId, QuestionError> {
    let bad = |error| QuestionError::FromId(from.to_owned(), error);
    if from.starts_with("spiffe:") {
        return from.parse().map_err(bad);
    }
    let (namespace, account) = from
        .split_once('/')
        .ok_or_else(|| QuestionError::FromForm(from.to_owned()))?;
    SpiffeId::workload(trust_domain, namespace, account).map_err(bad)
}

pub(super) fn whom(to: &str) -> Result<(ServiceName, Option<u16>), QuestionError> {
    let bad = || QuestionError::ToForm(to.to_owned());
    let (namespace, rest) = to.split_once('/').ok_or_else(bad)?;
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| bad())?)),
        None => (rest, None),
    };
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(bad());
    }
    let name = ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Ok((name, port))
}

/// The workloads behind a Service, or the one of that name.
fn targets(
    wanted: &str,
    name: &ServiceName,
    port: Option<u16>,
    mesh: &Mesh,
) -> Result<Vec<Target>, QuestionError> {
    if let Some(service) = mesh.destination(name) {
        let port = service_port(wanted, port, service)?;
        let is_grpc = service
            .port(port)
            .is_some_and(|port| port.protocol == Protocol::Grpc);
        let targets: Vec<Target> = service
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                let port = endpoint.target_port(port)?;
                let workload = mesh.workload(&endpoint.namespace, &endpoint.workload)?;
                Some(target(workload, port, is_grpc))
            })
            .collect();
        if targets.is_empty() {
            return Err(QuestionError::ToNobody(wanted.to_owned()));
        }
        return Ok(targets);
    }
    let Some(workload) = mesh.workload(&name.namespace, &name.name) else {
        let workloads = mesh.workloads().keys().map(ToString::to_string);
        let there: Vec<String> = service_names(mesh).chain(workloads).collect();
        return Err(QuestionError::ToUnknown {
            wanted: wanted.to_owned(),
            there: there.join(", "),
        });
    };
    let ports: Vec<u16> = workload.ports.iter().map(|port| port.port).collect();
    Ok(vec![target(
        workload,
        one_port(wanted, port, &ports)?,
        false,
    )])
}

fn service_names(mesh: &Mesh) -> impl Iterator<Item = String> {
    let names = mesh.destinations().keys();
    names.map(|name| format!("{}/{}", name.namespace, name.name))
}

/// The port that was asked for, or the only one of a Service.
pub(super) fn service_port(
    wanted: &str,
    asked: Option<u16>,
    service: &Destination,
) -> Result<u16, QuestionError> {
    let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
    one_port(wanted, asked, &ports)
}

fn target(workload: &Workload, port: u16, grpc: bool) -> Target {
    let declared = workload.ports.iter().find(|declared| declared.port == port);
    Target {
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
        port,
        grpc: grpc || declared.is_some_and(|declared| declared.protocol == Protocol::Grpc),
    }
}

/// The port that was asked for, or the only one.
fn one_port(wanted: &str, asked: Option<u16>, ports: &[u16]) -> Result<u16, QuestionError> {
    let wanted = wanted.to_owned();
    let there = match ports {
        [] => "none".to_owned(),
        ports => ports
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    match (asked, ports) {
        (Some(port), ports) if ports.contains(&port) => Ok(port),
        (Some(port), _) => Err(QuestionError::ToPort {
            wanted,
            port,
            there,
        }),
        (None, [port]) => Ok(*port),
        (None, _) => Err(QuestionError::ToWhichPort { wanted, there }),
    }
}

/// What a client would send: a gRPC client where the port is declared as gRPC.
fn http(args: &TestArgs, name: &ServiceName, grpc: bool) -> Result<Option<Http>, QuestionError> {
    let asked = args.method.is_some()
        || args.path.is_some()
        || args.host.is_some()
        || !args.header.is_empty();
    if !asked {
        return Ok(None);
    }
    let path = args.path.clone().unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/') {
        return Err(QuestionError::Path(path));
    }
    let mut headers = HeaderMap::new();
    for text in &args.header {
        let (name, value) = header(text).ok_or_else(|| QuestionError::Header(text.clone()))?;
        headers.append(name, value);
    }
    if grpc && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    let default_method = if grpc { "POST" } else { "GET" };
    Ok(Some(Http {
        method: args
            .method
            .clone()
            .unwrap_or_else(|| default_method.to_owned()),
        path,
        authority: args.host.clone().unwrap_or_else(|| name.name.clone()),
        headers,
    }))
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls() {
        let domain: TrustDomain = "shop.example".parse().unwrap();
        let id = "spiffe://shop.example/ns/shop/sa/order";
        assert_eq!(identity("shop/order", &domain).unwrap().as_str(), id);
        assert_eq!(identity(id, &domain).unwrap().as_str(), id);
        assert!(matches!(
            identity("order", &domain),
            Err(QuestionError::FromForm(_))
        ));
        assert!(matches!(
            identity("spiffe://x", &domain),
            Err(QuestionError::FromId(..))
        ));
        assert!(matches!(
            identity("Shop/order", &domain),
            Err(QuestionError::FromId(..))
        ));
    }

    #[test]
    fn whom_it_calls() {
        let (name, port) = whom("shop/billing:80").unwrap();
        assert_eq!(
            (name.namespace.as_str(), name.name.as_str(), port),
            ("shop", "billing", Some(80))
        );
        assert_eq!(whom("shop/billing").unwrap().1, None);
        for bad in ["billing", "shop/", "/billing", "shop/billing:x", "shop/a/b"] {
            assert!(whom(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn which_port() {
        assert_eq!(one_port("a/b", None, &[80]).unwrap(), 80);
        assert_eq!(one_port("a/b", Some(81), &[80, 81]).unwrap(), 81);
        let ambiguous = one_port("a/b", None, &[80, 81]).unwrap_err().to_string();
        assert_eq!(ambiguous, "--to a/b: say which port, it has 80, 81");
        let unknown = one_port("a/b", Some(9), &[80]).unwrap_err().to_string();
        assert_eq!(unknown, "--to a/b: no port 9; it has 80");
    }

    #[test]
    fn headers() {
        let (name, value) = header("x-team: a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-team", "a:b"));
        assert!(header("x-team").is_none());
        assert!(header("x team: a").is_none());
    }
}
