//! GRPCRoute and TCPRoute.

use anyhow::Result;
use mesh_tests::http;
use mesh_tests::manifest::{route, service_ref};
use mesh_tests::peers::Language::Go;
use mesh_tests::peers::{grpc_calls, grpc_seen, grpc_server};
use mesh_tests::{Mesh, Service, Workload};

use crate::common::refusals;
use crate::routes::Versions;

#[test]
fn a_grpc_route_matches_services_methods_and_headers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [v1, v2] = [
        grpc_server(Go, folder.path())?,
        grpc_server(Go, folder.path())?,
    ];
    let rules = "\
- matches: [{method: {service: outrider.test.Echo, method: Unary}}]
  backendRefs: [{name: v1, port: 80}]
- matches: [{method: {type: RegularExpression, service: outrider.test.Echo, method: \"Se.*\"}}]
  backendRefs: [{name: v2, port: 80}]
- matches: [{headers: [{name: x-asked, value: second}]}]
  backendRefs: [{name: v2, port: 80}]";
    let yaml = route("GRPCRoute", "billing", &service_ref("billing"), rules);
    let grpc = Some("grpc");
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", grpc))
        .service(Service::new("v1").port(80, "app", grpc))
        .service(Service::new("v2").port(80, "app", grpc))
        .workload(Workload::new("order-1")?)
        .workload(Workload::new("v1-1")?.port("app", v1.port, grpc))
        .workload(Workload::new("v2-1")?.port("app", v2.port, grpc))
        .file("route.yaml", yaml)
        .start()?;
    let port = mesh.http("order-1")?.port();
    let calls = [
        "unary:x",
        "seen",
        "server_stream:2",
        "metadata:second",
        "metadata:first",
        "bidi:1",
    ];
    let answers = grpc_calls(Go, port, "billing", &calls)?;
    let codes: Vec<_> = answers.iter().map(|answer| &answer["code"]).collect();
    // UNIMPLEMENTED where no rule fits.
    assert_eq!(codes, [0, 0, 0, 0, 12, 12], "{answers:#?}");
    assert_eq!(
        answers[1]["messages"][0], "0",
        "v2 has not seen the unary call"
    );
    assert_eq!(grpc_seen(&v1)?, 1);
    let details = answers[4]["details"].as_str().unwrap_or_default();
    assert!(details.contains("no_route"), "{details}");
    refusals(&mesh, "order-1", "outbound", "no_route", 2.0)
}

#[test]
fn a_tcp_route_splits_connections() -> Result<()> {
    const CALLS: usize = 200;
    let rules = "- backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80, weight: 1}]";
    let yaml = route("TCPRoute", "billing", &service_ref("billing"), rules);
    let versions = Versions::speaking("tcp", &[("route.yaml", yaml)])?;
    let at = versions.mesh.upstream("order-1", "billing", 80)?;
    for _ in 0..CALLS {
        assert_eq!(http::get(at, "anything", "/split")?.status, 200);
    }
    let (first, second) = (versions.v1.connections(), versions.v2.connections());
    assert_eq!((first + second, versions.own.connections()), (CALLS, 0));
    // 50 expected, with a standard deviation of 6.
    assert!((20..=80).contains(&second), "{second} of {CALLS}");
    Ok(())
}

#[test]
fn the_share_of_an_invalid_backend_is_closed() -> Result<()> {
    let rules = "- backendRefs: [{name: ghost, port: 80}]";
    let yaml = route("TCPRoute", "billing", &service_ref("billing"), rules);
    let versions = Versions::speaking("tcp", &[("route.yaml", yaml)])?;
    let at = versions.mesh.upstream("order-1", "billing", 80)?;
    assert!(http::get(at, "anything", "/").is_err());
    assert_eq!(versions.own.connections(), 0);
    refusals(
        &versions.mesh,
        "order-1",
        "outbound",
        "backend_invalid",
        1.0,
    )
}
