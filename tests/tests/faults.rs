//! Faults that a policy injects: delays and aborts, for a share of the requests.

use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::peers::Language::Go;
use mesh_tests::peers::{grpc_calls, grpc_seen, grpc_server};
use mesh_tests::wait::becomes;
use mesh_tests::{Mesh, Service, Workload, quiet};

use crate::common::{assert_refused, get, healthy, refusals};
use crate::traffic::instances;

const CALLS: usize = 400;
const DELAY: Duration = Duration::from_millis(200);

#[test]
fn an_abort_is_answered_with_the_status_of_the_policy_and_never_retried() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "retry: {attempts: 3, codes: [418]}\nfaults: [{percent: 100, abort: {status: 418}}]",
    )?;
    for _ in 0..5 {
        assert_refused(&get(&mesh, "/")?, 418, "fault_injected");
    }
    assert_eq!(
        get(&mesh, "/")?.header("proxy-status"),
        Some("outrider; error=proxy_internal_response; details=\"fault_injected\"")
    );
    assert_eq!(apps[0].requests().len(), 0, "the app is not asked");
    refusals(&mesh, "order-1", "outbound", "fault_injected", 6.0)?;
    let metrics = mesh.metrics("order-1")?;
    let labels = [("reason", "fault_injected")];
    assert_eq!(metrics.sum("outrider_refusals_total", &labels), 6.0);
    assert_eq!(metrics.sum("outrider_retries_total", &[]), 0.0);
    let flags = [("response_code", "418"), ("response_flags", "FI")];
    assert_eq!(metrics.sum("istio_requests_total", &flags), 6.0);
    Ok(())
}

#[test]
fn an_abort_befalls_its_share_of_the_requests() -> Result<()> {
    let (apps, mesh) = instances(1, "faults: [{percent: 25, abort: {}}]")?;
    let mut aborted = 0;
    for _ in 0..CALLS {
        let response = get(&mesh, "/")?;
        match response.status {
            200 => {}
            _ => {
                assert_refused(&response, 503, "fault_injected");
                aborted += 1;
            }
        }
    }
    // 100 expected, with a standard deviation of 9.
    assert!((60..=140).contains(&aborted), "{aborted} of {CALLS}");
    assert_eq!(apps[0].requests().len(), CALLS - aborted);
    refusals(
        &mesh,
        "order-1",
        "outbound",
        "fault_injected",
        aborted as f64,
    )
}

#[test]
fn nothing_befalls_a_share_of_zero_and_an_edit_ends_it() -> Result<()> {
    let none = "faults: [{percent: 0, abort: {}}, {percent: 0, delay: 10s}]";
    let (_apps, mesh) = instances(1, none)?;
    for _ in 0..100 {
        assert_eq!(get(&mesh, "/")?.status, 200);
    }
    let all = traffic_policy("billing", "faults: [{percent: 100, abort: {status: 500}}]");
    mesh.write("traffic.yaml", &all)?;
    becomes("every request is aborted", &500, || {
        Ok(get(&mesh, "/")?.status)
    })?;
    mesh.write("traffic.yaml", &traffic_policy("billing", none))?;
    becomes("none is", &200, || Ok(get(&mesh, "/")?.status))?;
    healthy(&mesh)
}

#[test]
fn a_delay_holds_its_share_up_and_sends_it_on() -> Result<()> {
    const CALLS: usize = 40;
    let _alone = quiet::alone();
    let (apps, mesh) = instances(1, "faults: [{percent: 50, delay: 200ms}]")?;
    let mut delayed = 0;
    for _ in 0..CALLS {
        let begin = Instant::now();
        assert_eq!(get(&mesh, "/")?.status, 200);
        delayed += usize::from(begin.elapsed() >= DELAY);
    }
    // 20 expected, with a standard deviation of 3.
    assert!((6..=34).contains(&delayed), "{delayed} of {CALLS}");
    assert_eq!(apps[0].requests().len(), CALLS);
    let all = traffic_policy("billing", "faults: [{percent: 100, delay: 200ms}]");
    mesh.write("traffic.yaml", &all)?;
    becomes("ten in a row are held up", &10, || {
        let mut delayed = 0;
        for _ in 0..10 {
            let begin = Instant::now();
            assert_eq!(get(&mesh, "/")?.status, 200);
            delayed += usize::from(begin.elapsed() >= DELAY);
        }
        Ok(delayed)
    })
}

#[test]
fn a_delay_uses_up_the_callers_time() -> Result<()> {
    let (_apps, mesh) = instances(
        1,
        "timeouts: {request: 150ms}\nfaults: [{percent: 100, delay: 300ms}]",
    )?;
    assert_refused(&get(&mesh, "/")?, 504, "request_timeout");
    refusals(&mesh, "order-1", "outbound", "request_timeout", 1.0)
}

#[test]
fn delays_add_up_and_come_before_the_abort() -> Result<()> {
    let (apps, mesh) = instances(
        1,
        "faults: [{percent: 100, abort: {status: 500}}, {percent: 100, delay: 200ms}, {percent: 100, delay: 200ms}]",
    )?;
    let begin = Instant::now();
    assert_refused(&get(&mesh, "/")?, 500, "fault_injected");
    assert!(begin.elapsed() >= 2 * DELAY, "{:?}", begin.elapsed());
    assert_eq!(apps[0].requests().len(), 0);
    Ok(())
}

#[test]
fn a_grpc_call_is_aborted_in_its_own_words() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = grpc_server(Go, folder.path())?;
    let policy = |faults: &str| traffic_policy("billing", &format!("faults: [{faults}]"));
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("grpc")))
        .workload(Workload::new("order-1")?)
        .workload(Workload::new("billing-1")?.port("app", server.port, Some("grpc")))
        .file(
            "traffic.yaml",
            policy("{percent: 100, abort: {status: 500, grpcStatus: NOT_FOUND}}"),
        )
        .start()?;
    let port = mesh.http("order-1")?.port();
    let answers = grpc_calls(Go, port, "billing", &["unary:x", "server_stream:2"])?;
    for answer in &answers {
        assert_eq!(answer["code"], 5, "{answer}");
        let details = answer["details"].as_str().unwrap_or_default();
        assert!(details.contains("(fault_injected)"), "{details}");
    }
    assert_eq!(grpc_seen(&server)?, 0);
    refusals(&mesh, "order-1", "outbound", "fault_injected", 2.0)?;
    let labels = [
        ("request_protocol", "grpc"),
        ("response_code", "200"),
        ("grpc_response_status", "5"),
        ("response_flags", "FI"),
    ];
    assert_eq!(
        mesh.metrics("order-1")?
            .sum("istio_requests_total", &labels),
        2.0
    );

    mesh.write("traffic.yaml", &policy("{percent: 30, abort: {}}"))?;
    becomes("some calls come through", &true, || {
        Ok(grpc_calls(Go, port, "billing", &["unary:x"])?[0]["code"] == 0)
    })?;
    let answers = grpc_calls(Go, port, "billing", &["unary:x"; CALLS])?;
    let aborted = answers.iter().filter(|answer| answer["code"] == 14).count();
    let well = answers.iter().filter(|answer| answer["code"] == 0).count();
    assert_eq!(aborted + well, CALLS);
    // 120 expected, with a standard deviation of 9.
    assert!((80..=160).contains(&aborted), "{aborted} of {CALLS}");
    Ok(())
}
