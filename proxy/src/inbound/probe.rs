//! Health probes of the workload's host, which have no identity: they reach the app on exactly the
//! ports and paths that the workload declares, and nothing else does by way of them. What the app gets
//! is the probe as it is declared, whoever has sent it: of the request's own nothing remains that could
//! mean something else to the app ([`declared`]).

pub mod declared;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, TE};
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use outrider_api::model::{Mtls, Probe, ProbeHeader, ProbeKind, Workload};

use super::app::{self, Answered};
use super::http::for_app;
use super::plaintext::Door;
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::headers;
use crate::http::wire::Target;
use crate::outbound::route;
use crate::refusal::Refusal;

/// The most that the message of a gRPC health check may hold, bytes.
const MAX_MESSAGE: usize = 1024;
/// Field 1 of a protobuf message, of which the length comes next: `HealthCheckRequest.service`.
const SERVICE: u8 = 0x0a;

/// The probes that a request may be, by its head.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// With the headers that are declared.
    Http(Vec<ProbeHeader>),
    /// Of one of these services, which only its message tells.
    Grpc(Vec<String>),
}

/// Those that ask the port itself: one over TLS asks the sidecar ([`over_tls`]).
pub fn of_port(workload: &Workload, port: u16) -> impl Iterator<Item = &Probe> {
    let is_over_tls = |probe: &Probe| matches!(probe.kind, ProbeKind::Http { tls: true, .. });
    let probes = workload.probes.iter();
    probes.filter(move |probe| probe.port == port && !is_over_tls(probe))
}

/// The headers of the probe over TLS that asks for `target`, path and query, on a port of the app;
/// `None`: no such probe is declared.
pub fn over_tls<'w>(
    workload: &'w Workload,
    port: u16,
    target: &str,
    sent: &HeaderMap,
) -> Option<&'w [ProbeHeader]> {
    let probes = workload.probes.iter().filter(|probe| probe.port == port);
    let declarations = probes.filter_map(|probe| match &probe.kind {
        ProbeKind::Http {
            path,
            tls: true,
            headers,
        } if path == target => Some(headers.as_slice()),
        ProbeKind::Http { .. } | ProbeKind::Grpc { .. } | ProbeKind::Tcp => None,
    });
    declared::closest(declarations, sent, &Uri::default())
}

/// Which of the declared probes of a port a request is; `None`: it is none.
pub fn asked<B: Body>(workload: &Workload, port: u16, request: &Request<B>) -> Option<Asked> {
    matching(of_port(workload, port), request)
}

fn matching<'p, B: Body>(
    probes: impl Iterator<Item = &'p Probe>,
    request: &Request<B>,
) -> Option<Asked> {
    let method = request.method().as_str();
    let target = request.uri().path_and_query()?.as_str();
    let grpc = headers::is_grpc(request.headers());
    let (mut services, mut declarations) = (Vec::new(), Vec::new());
    for probe in probes.filter(|probe| probe.kind.is(method, target, grpc)) {
        match &probe.kind {
            // A GET with content means something to few, and to no probe.
            ProbeKind::Http { headers, .. } if request.body().is_end_stream() => {
                declarations.push(headers.as_slice());
            }
            ProbeKind::Grpc { service } => services.push(service.clone()),
            ProbeKind::Http { .. } | ProbeKind::Tcp => {}
        }
    }
    let declarations = declarations.into_iter();
    if let Some(headers) = declared::closest(declarations, request.headers(), request.uri()) {
        return Some(Asked::Http(headers.to_vec()));
    }
    (!services.is_empty()).then_some(Asked::Grpc(services))
}

pub fn is_tcp(probe: &Probe) -> bool {
    matches!(probe.kind, ProbeKind::Tcp)
}

/// Whether the app takes a connection.
pub async fn app_listens(door: &Door) -> bool {
    let worker = &door.connection.worker;
    let listens = app::connect(door.connection.app(door.port)).await.is_ok();
    if listens {
        worker.metrics.probes.with_label_values(&["tcp"]).inc();
    }
    listens
}

/// Has the app answer a probe. It is no request of the workload's callers: neither policy, nor limits,
/// nor their metrics are about it.
pub async fn answer(
    door: &Door,
    request: Request<Incoming>,
    asked: Asked,
) -> Response<ResponseBody> {
    let grpc = headers::is_grpc(request.headers());
    let version = request.version();
    let worker = &door.connection.worker;
    let kind = match asked {
        Asked::Http(_) => "http",
        Asked::Grpc(_) => "grpc",
    };
    match forward(door, request, asked).await {
        Ok(response) => {
            worker.metrics.probes.with_label_values(&[kind]).inc();
            response
        }
        Err(refusal) => {
            worker.metrics.refused("inbound", refusal, "");
            refusal.response(grpc, version)
        }
    }
}

async fn forward(
    door: &Door,
    mut request: Request<Incoming>,
    asked: Asked,
) -> Result<Response<ResponseBody>, Refusal> {
    let worker = &door.connection.worker;
    let target = Target::take(request.headers_mut()).map_err(|_| Refusal::BadRequest)?;
    let address = door.connection.app(target.port);
    let (parts, body) = request.into_parts();
    let body = match &asked {
        Asked::Http(_) => RequestBody::Empty,
        Asked::Grpc(services) => {
            RequestBody::Whole(message(body, services).await.ok_or(match door.mtls {
                Mtls::Strict => Refusal::PlaintextRefused,
                Mtls::Permissive => Refusal::AuthorizationDenied,
            })?)
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = headers_of(&parts.headers, &asked);
    *request.uri_mut() = named(door, &parts, &asked)?;
    let request = for_app(&door.connection, request, target)?;
    let Answered {
        mut response,
        lease,
    } = worker.app.send(address, target.version, request).await?;
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_identity(response.headers_mut());
    if response.status().is_redirection() && door.mtls == Mtls::Strict {
        // A kubelet follows it to the same host, where it would ask for what is no probe and be refused.
        // A redirect that leads nowhere is a success to it, as one to another host is.
        response.headers_mut().remove(LOCATION);
    }
    Ok(response.map(|body| ResponseBody::uncounted(body, lease)))
}

/// The target, with the name by which the app is called: the declared one, or its address.
fn named(door: &Door, parts: &Parts, asked: &Asked) -> Result<Uri, Refusal> {
    let declared = match asked {
        Asked::Http(declared) => declared.as_slice(),
        Asked::Grpc(_) => &[],
    };
    let host = declared::host(&parts.headers, &parts.uri, declared);
    let authority = match host {
        Some(host) => Authority::try_from(host.value().as_bytes()),
        None => Authority::try_from(door.to.to_string()),
    };
    route::absolute(
        parts.uri.clone(),
        authority.map_err(|_| Refusal::BadAuthority)?,
    )
}

/// The headers of the probe.
fn headers_of(sent: &HeaderMap, asked: &Asked) -> HeaderMap {
    match asked {
        Asked::Http(declared) => declared::headers(sent, declared),
        Asked::Grpc(_) => {
            let mut headers = declared::kept(sent);
            let grpc = HeaderValue::from_static("application/grpc");
            headers.insert(CONTENT_TYPE, grpc);
            headers.insert(TE, HeaderValue::from_static("trailers"));
            headers
        }
    }
}

/// The message of a health check of one of `services`; `None`: it is not.
async fn message<B>(body: B, services: &[String]) -> Option<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let message = Limited::new(body, MAX_MESSAGE).collect().await.ok()?;
    let message = message.to_bytes();
    let is_declared = services.iter().any(|service| encoded(service) == message);
    is_declared.then_some(message)
}

/// A `HealthCheckRequest` as the one message of a gRPC call, not compressed.
fn encoded(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(SERVICE);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

    fn request(method: &str, path: &str, grpc: bool) -> Request<Empty<Bytes>> {
        let mut request = Request::builder().method(method).uri(path);
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        request.body(Empty::new()).expect("a request")
    }

    fn probe(kind: ProbeKind) -> Probe {
        Probe { port: 8080, kind }
    }

    #[test]
    fn only_what_is_declared_is_a_probe() {
        let http = |path: &str, tls| {
            let (path, headers) = (path.to_owned(), Vec::new());
            probe(ProbeKind::Http { path, tls, headers })
        };
        let probes = [
            http("/healthz?full=1", false),
            http("/over-tls", true),
            probe(ProbeKind::Tcp),
        ];
        let is = |method, path| matching(probes.iter(), &request(method, path, false));
        assert_eq!(is("GET", "/healthz?full=1"), Some(Asked::Http(Vec::new())));
        for (method, path) in [
            ("GET", "/over-tls"),
            ("POST", "/healthz?full=1"),
            ("GET", "/healthz"),
            ("GET", "/healthz?full=1&x"),
            ("GET", "/healthz/../admin?full=1"),
        ] {
            assert_eq!(is(method, path), None, "{method} {path}");
        }
        assert_eq!(
            matching(probes.iter(), &request("POST", GRPC_HEALTH_CHECK, true)),
            None
        );
        let with_content = Request::get("/healthz?full=1");
        let with_content = with_content.body(Full::new(Bytes::from("x")));
        let with_content = with_content.expect("a request");
        assert_eq!(matching(probes.iter(), &with_content), None);
    }

    #[test]
    fn a_grpc_probe_is_a_health_check() {
        let service = String::new();
        let probes = [probe(ProbeKind::Grpc { service })];
        let is = |path, grpc| matching(probes.iter(), &request("POST", path, grpc));
        let asked = Some(Asked::Grpc(vec![String::new()]));
        assert_eq!(is(GRPC_HEALTH_CHECK, true), asked);
        assert_eq!(is(GRPC_HEALTH_CHECK, false), None);
        assert_eq!(is("/shop.Billing/Charge", true), None);
    }

    #[tokio::test]
    async fn the_service_is_compared() {
        let of = async |message: &'static [u8]| {
            let services = ["shop.Billing".to_owned(), "x".repeat(200)];
            let body = Full::new(Bytes::from_static(message));
            message_of(body, &services).await.is_some()
        };
        use super::message as message_of;
        assert!(of(b"\0\0\0\0\x0e\x0a\x0cshop.Billing").await);
        for other in [
            &b""[..],
            b"\0\0\0\0\0",
            b"\0\0\0\0\x0c\x0a\x0ashop.Order",
            b"\x01\0\0\0\x0e\x0a\x0cshop.Billing",
            b"\0\0\0\0\x0e\x0a\x0cshop.Billing\0\0\0\0\0",
        ] {
            assert!(!of(other).await, "{other:?}");
        }
        assert_eq!(&encoded("")[..], [0; 5]);
        // A length of two bytes: protobuf's varint.
        assert_eq!(
            &encoded(&"x".repeat(200))[..9],
            b"\0\0\0\0\xcb\x0a\xc8\x01x"
        );
        let large = Full::new(Bytes::from(vec![0; MAX_MESSAGE + 1]));
        assert!(message_of(large, &[String::new()]).await.is_none());
    }

    #[test]
    fn a_grpc_probe_has_the_headers_of_one() {
        let sent = HeaderMap::from_iter([
            (http::header::USER_AGENT, HeaderValue::from_static("u")),
            (http::header::COOKIE, HeaderValue::from_static("c")),
        ]);
        let headers = headers_of(&sent, &Asked::Grpc(Vec::new()));
        assert_eq!(headers.len(), 3);
        assert!(!headers.contains_key(http::header::COOKIE));
    }
}
