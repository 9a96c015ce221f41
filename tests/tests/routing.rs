//! Which Service a request reaches, and what is answered where there is none.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_tests::http::{self, exchange};
use mesh_tests::load::Load;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::{assert_refused, get, healthy, http_mesh, refusals};

#[test]
fn every_form_of_a_services_name_reaches_it() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let hosts = [
        "billing",
        "billing:80",
        "billing.shop",
        "billing.shop.svc",
        "billing.shop.svc.cluster.local",
        "billing.shop.svc.cluster.local.:80",
        "BILLING.Shop",
    ];
    for host in hosts {
        let response = http::get(mesh.http("order-1")?, host, "/echo")?;
        assert_eq!(response.status, 200, "{host}: {}", response.head);
    }
    assert_eq!(app.requests().len(), hosts.len());
    let absolute = "GET http://billing/absolute?x HTTP/1.1\r\nHost: billing\r\n\r\n";
    assert_eq!(exchange(mesh.http("order-1")?, absolute)?.status, 200);
    assert_eq!(
        app.last().map(|request| request.path),
        Some("/absolute?x".into())
    );
    Ok(())
}

#[test]
fn what_is_not_in_the_mesh_is_404_with_a_reason() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let at = mesh.http("order-1")?;
    for host in [
        "nowhere",
        "billing.elsewhere",
        "example.com",
        "127.0.0.1",
        "billing.shop.svc.other",
    ] {
        assert_refused(&http::get(at, host, "/")?, 404, "unknown_destination");
    }
    assert_refused(&http::get(at, "billing:81", "/")?, 404, "unknown_port");
    refusals(&mesh, "order-1", "outbound", "unknown_destination", 5.0)?;
    refusals(&mesh, "order-1", "outbound", "unknown_port", 1.0)?;
    healthy(&mesh)
}

#[test]
fn a_service_added_while_the_mesh_runs_is_reached() -> Result<()> {
    let (app, mesh) = http_mesh(Some("http"))?;
    let at = mesh.http("order-1")?;
    assert_refused(&http::get(at, "payments", "/")?, 404, "unknown_destination");
    let service = Service::new("payments").port(80, app.port(), Some("http"));
    let yaml = service.yaml().replace("{app: payments}", "{app: billing}");
    mesh.write("service-payments.yaml", &yaml)?;
    becomes("the new Service answers", &200, || {
        Ok(http::get(at, "payments", "/")?.status)
    })?;
    mesh.remove("service-payments.yaml")?;
    becomes("it is gone again", &404, || {
        Ok(http::get(at, "payments", "/")?.status)
    })
}

#[test]
fn a_service_without_workloads_is_503_with_a_reason() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .service(Service::new("empty").port(80, 8080, Some("http")))
        .start()?;
    let response = http::get(mesh.http("order-1")?, "empty", "/")?;
    assert_refused(&response, 503, "no_endpoints");
    refusals(&mesh, "order-1", "outbound", "no_endpoints", 1.0)
}

#[test]
fn an_app_that_is_down_is_told_from_a_sidecar_that_is_down() -> Result<()> {
    let (app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let port = app.port();
    drop(app);
    until("the app's sidecar says that it is gone", PATIENCE, || {
        let response = get(&mesh, "/")?;
        Ok(response.status == 503 && response.reason() == Some("app_unreachable"))
    })?;
    refusals(&mesh, "billing-1", "inbound", "app_unreachable", 1.0)?;
    let _app = App::on(port)?;
    becomes("the app is back", &200, || Ok(get(&mesh, "/")?.status))?;

    mesh.process("billing-1")?.kill()?;
    until(
        "the caller's sidecar says that its peer is gone",
        PATIENCE,
        || {
            let response = get(&mesh, "/")?;
            Ok(response.status == 503 && response.reason() == Some("connect_failed"))
        },
    )?;
    mesh.start_sidecar("billing-1")?;
    mesh.ready("billing-1")?;
    becomes("the sidecar is back", &200, || Ok(get(&mesh, "/")?.status))
}

/// `order-1` and two instances of billing, each with an app of its own.
fn two_instances() -> Result<([App; 2], Mesh)> {
    two_instances_with("retry: {attempts: 1}")
}

/// The same under a TrafficPolicy.
fn two_instances_with(policy: &str) -> Result<([App; 2], Mesh)> {
    let apps = [App::start()?, App::start()?];
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("http")))
        .workload(Workload::new("billing-1")?.port("app", apps[0].port(), Some("http")))
        .workload(Workload::new("billing-2")?.port("app", apps[1].port(), Some("http")))
        .workload(Workload::new("order-1")?.upstream("billing", 80)?)
        .file("traffic.yaml", traffic_policy("billing", policy))
        .start()?;
    Ok((apps, mesh))
}

#[test]
fn requests_are_spread_over_the_instances() -> Result<()> {
    // By what is in flight alone: one slow answer must not decide.
    let (apps, mesh) = two_instances_with("loadBalancing: {algorithm: LeastRequest}")?;
    for _ in 0..200 {
        assert_eq!(get(&mesh, "/")?.status, 200);
    }
    for app in &apps {
        let share = app.requests().len();
        assert!(
            share >= 40,
            "one of two instances got {share} of 200 requests"
        );
    }
    Ok(())
}

#[test]
fn an_instance_that_is_killed_costs_what_was_in_flight_at_most() -> Result<()> {
    const CALLERS: usize = 2;
    let (_apps, mut mesh) = two_instances()?;
    let load = Load::start(CALLERS, mesh.http("order-1")?, "billing", "/zeros/10");
    load.goes_on(100)?;
    mesh.process("billing-2")?.kill()?;
    load.reaches(300)?;
    let failures = load.failures();
    assert!(failures.len() <= CALLERS, "{failures:?}");
    // What had no head yet is sent again or refused; what had one breaks off.
    let cut_off = |failure: &String| {
        let refused = failure.contains("502") && failure.contains("upstream_reset");
        refused || failure.contains("closed after")
    };
    assert!(failures.iter().all(cut_off), "{failures:?}");
    mesh.start_sidecar("billing-2")?;
    mesh.ready("billing-2")?;
    load.reaches(300)?;
    assert_eq!(load.failures(), failures, "its return costs nothing");
    Ok(())
}

#[test]
fn a_workload_removed_from_the_directory_gets_no_new_request() -> Result<()> {
    let (apps, mesh) = two_instances()?;
    until("both instances are used", PATIENCE, || {
        get(&mesh, "/")?;
        Ok(apps.iter().all(|app| !app.requests().is_empty()))
    })?;
    mesh.remove("workload-billing-2.yaml")?;
    until("twenty requests in a row go to the first", PATIENCE, || {
        let before = apps[1].requests().len();
        let statuses: BTreeSet<u16> = (0..20)
            .map(|_| Ok(get(&mesh, "/")?.status))
            .collect::<Result<_>>()?;
        assert_eq!(statuses, BTreeSet::from([200]));
        Ok(apps[1].requests().len() == before)
    })
}
