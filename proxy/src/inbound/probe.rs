//! Health probes of the workload's host, which have no identity: they reach the app on exactly the
//! ports and paths that the workload declares, and nothing else does by way of them.

use http::{Request, Response};
use hyper::body::Incoming;
use outrider_api::model::{Probe, ProbeKind};

use super::app::{self, Answered};
use super::http::for_app;
use super::plaintext::Door;
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::headers;
use crate::http::wire::Target;
use crate::refusal::Refusal;

/// The kind of the probe that a request is, for metrics; `None`: it is none.
pub fn matching<B>(probes: &[Probe], request: &Request<B>) -> Option<&'static str> {
    let method = request.method().as_str();
    let target = request.uri().path_and_query()?.as_str();
    let grpc = headers::is_grpc(request.headers());
    let mut kinds = probes.iter().map(|probe| &probe.kind);
    let kind = kinds.find(|kind| kind.is(method, target, grpc))?;
    Some(match kind {
        ProbeKind::Http { .. } => "http",
        ProbeKind::Grpc { .. } => "grpc",
        ProbeKind::Tcp => "tcp",
    })
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
pub async fn answer(door: &Door, request: Request<Incoming>, kind: &str) -> Response<ResponseBody> {
    let grpc = headers::is_grpc(request.headers());
    let version = request.version();
    let worker = &door.connection.worker;
    match forward(door, request).await {
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
) -> Result<Response<ResponseBody>, Refusal> {
    let worker = &door.connection.worker;
    let target = Target::take(request.headers_mut()).map_err(|_| Refusal::BadRequest)?;
    let address = door.connection.app(target.port);
    let request = for_app(
        &door.connection,
        request.map(RequestBody::Streaming),
        target,
    )?;
    let Answered {
        mut response,
        lease,
    } = worker.app.send(address, target.version, request).await?;
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_identity(response.headers_mut());
    Ok(response.map(|body| ResponseBody::uncounted(body, lease)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRPC_HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

    fn request(method: &str, path: &str, grpc: bool) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        request.body(()).expect("a request")
    }

    fn probe(kind: ProbeKind) -> Probe {
        Probe { port: 8080, kind }
    }

    #[test]
    fn only_what_is_declared_is_a_probe() {
        let path = "/healthz?full=1".to_owned();
        let probes = [probe(ProbeKind::Http { path }), probe(ProbeKind::Tcp)];
        let is = |method, path| matching(&probes, &request(method, path, false));
        assert_eq!(is("GET", "/healthz?full=1"), Some("http"));
        for (method, path) in [
            ("POST", "/healthz?full=1"),
            ("GET", "/healthz"),
            ("GET", "/healthz?full=1&x"),
            ("GET", "/healthz/../admin?full=1"),
        ] {
            assert_eq!(is(method, path), None, "{method} {path}");
        }
        assert_eq!(
            matching(&probes, &request("POST", GRPC_HEALTH_CHECK, true)),
            None
        );
    }

    #[test]
    fn a_grpc_probe_is_a_health_check() {
        let service = String::new();
        let probes = [probe(ProbeKind::Grpc { service })];
        let is = |path, grpc| matching(&probes, &request("POST", path, grpc));
        assert_eq!(is(GRPC_HEALTH_CHECK, true), Some("grpc"));
        assert_eq!(is(GRPC_HEALTH_CHECK, false), None);
        assert_eq!(is("/shop.Billing/Charge", true), None);
    }
}
