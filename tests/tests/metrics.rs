//! What operators see: names and labels that dashboards know, in bounds, taken in by Prometheus.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_tests::http::Connection;
use mesh_tests::manifest::spiffe_id;
use mesh_tests::metrics::reaches;
use mesh_tests::peers::{CLIENT_LIMIT, Prometheus};
use mesh_tests::process::{command, run_with_input};
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{Mesh, http, programs};

use crate::common::{assert_refused, get, healthy, http_mesh};

/// Every `/metrics` of a mesh: where, and what.
fn expositions(mesh: &Mesh) -> Result<Vec<(String, String)>> {
    let mut ports = vec![("control-plane".to_owned(), mesh.control_plane_admin())];
    for name in ["order-1", "billing-1"] {
        ports.push((name.into(), mesh.sidecar(name)?.workload.telemetry_port));
    }
    ports
        .into_iter()
        .map(|(name, port)| Ok((name, http::fetch(port, "/metrics")?.text())))
        .collect()
}

#[test]
fn promtool_finds_nothing_wrong() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    get(&mesh, "/status/500")?;
    http::get(mesh.http("order-1")?, "nowhere", "/")?;
    for (name, text) in expositions(&mesh)? {
        let mut promtool = command(&programs::find("promtool", "prometheus")?)?;
        promtool.args(["check", "metrics"]);
        let finished = run_with_input(&mut promtool, text.as_bytes(), CLIENT_LIMIT)?;
        // Istio's name for the latency has milliseconds in it, which promtool would rather not see.
        let known = "istio_request_duration_milliseconds ";
        let output = finished.output();
        let wrong: Vec<&str> = output
            .lines()
            .filter(|line| !line.starts_with(known) && !line.is_empty())
            .collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
    Ok(())
}

#[test]
fn requests_carry_the_labels_of_istios_dashboards() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    for _ in 0..3 {
        healthy(&mesh)?;
    }
    let (order, billing) = (spiffe_id("order"), spiffe_id("billing"));
    let common = [
        ("source_workload", "order-1"),
        ("source_workload_namespace", "shop"),
        ("source_app", "order"),
        ("destination_workload", "billing-1"),
        ("destination_workload_namespace", "shop"),
        ("destination_app", "billing"),
        ("destination_principal", billing.as_str()),
        ("destination_service_name", "billing"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
    ];
    let source = [
        &common[..],
        &[("reporter", "source"), ("source_principal", &order)],
    ]
    .concat();
    reaches(
        mesh.sidecar("order-1")?.workload.telemetry_port,
        "istio_requests_total",
        &source,
        3.0,
    )?;
    // What the callee's side knows of the caller is what its certificate says.
    let known: Vec<_> = common
        .into_iter()
        .filter(|(label, _)| !["source_workload", "source_app"].contains(label))
        .chain([
            ("reporter", "destination"),
            ("source_principal", order.as_str()),
            ("connection_security_policy", "mutual_tls"),
        ])
        .collect();
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    reaches(port, "istio_requests_total", &known, 3.0)?;

    let metrics = mesh.metrics("billing-1")?;
    let sample = metrics.select("istio_requests_total", &[]).next();
    let labels: BTreeSet<&str> = sample
        .map(|sample| sample.labels.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let expected = BTreeSet::from([
        "reporter",
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "request_protocol",
        "response_code",
        "grpc_response_status",
        "response_flags",
        "connection_security_policy",
    ]);
    assert_eq!(labels, expected);
    let count = "istio_request_duration_milliseconds_count";
    assert_eq!(metrics.sum(count, &[("reporter", "destination")]), 3.0);
    assert!(metrics.sum("istio_request_duration_milliseconds_sum", &[]) > 0.0);
    Ok(())
}

#[test]
fn every_metric_that_is_promised_is_there() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let sidecar = mesh.metrics("order-1")?;
    for name in [
        "outrider_certificate_expiry_timestamp_seconds",
        "outrider_config_age_seconds",
        "outrider_config_version",
        "outrider_resident_memory_bytes",
        "outrider_control_plane_connected",
    ] {
        sidecar.value(name)?;
    }
    assert_eq!(sidecar.value("outrider_control_plane_connected")?, 1.0);
    let memory = sidecar.value("outrider_resident_memory_bytes")?;
    assert!((1e6..1e8).contains(&memory), "{memory} bytes");
    let expiry = sidecar.value("outrider_certificate_expiry_timestamp_seconds")?;
    let left = expiry - mesh_tests::pki::seconds() as f64;
    assert!(
        (23.0 * 3600.0..=24.0 * 3600.0).contains(&left),
        "{left} s of a day are left"
    );
    let renewals = sidecar.sum("outrider_certificate_renewals_total", &[]);
    assert_eq!(renewals, 1.0, "one certificate since the start");
    let kept = Connection::open(mesh.http("order-1")?)?;
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    reaches(
        port,
        "outrider_open_connections",
        &[("direction", "outbound")],
        1.0,
    )?;
    drop(kept);
    let handshakes = [("direction", "outbound"), ("result", "ok")];
    assert_eq!(
        sidecar.sum("outrider_tls_handshakes_total", &handshakes),
        1.0
    );

    let control = mesh.control_plane_metrics()?;
    for name in [
        "connected_sidecars",
        "resource_version",
        "nacks_total",
        "certificates_issued_total",
        "config_valid",
        "config_problems",
        "config_last_success_timestamp_seconds",
        "propagation_seconds_count",
    ] {
        control.value(&format!("outrider_control_plane_{name}"))?;
    }
    assert_eq!(
        control.value("outrider_control_plane_certificates_issued_total")?,
        2.0
    );
    Ok(())
}

#[test]
fn prometheus_scrapes_and_answers() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    let folder = mesh.logs();
    let ports = [
        mesh.sidecar("order-1")?.workload.telemetry_port,
        mesh.sidecar("billing-1")?.workload.telemetry_port,
        mesh.control_plane_admin(),
    ];
    let prometheus = Prometheus::start(&folder, &ports)?;
    until("all three are up", PATIENCE, || {
        Ok(prometheus.query("sum(up{job=\"mesh\"})")? == [3.0])
    })?;
    let rate =
        "sum(rate(istio_requests_total{reporter=\"destination\",response_code=\"200\"}[5s]))";
    until("there is a rate of requests", PATIENCE, || {
        healthy(&mesh)?;
        Ok(prometheus
            .query(rate)?
            .first()
            .is_some_and(|rate| *rate > 0.0))
    })?;
    let p99 = "histogram_quantile(0.99, sum by (le) \
               (rate(istio_request_duration_milliseconds_bucket{reporter=\"source\"}[5s])))";
    until("there is a latency", PATIENCE, || {
        healthy(&mesh)?;
        Ok(prometheus.query(p99)?.first().is_some_and(|p99| *p99 > 0.0))
    })?;
    assert_eq!(
        prometheus.query("outrider_control_plane_connected_sidecars")?,
        [2.0]
    );
    Ok(())
}

#[test]
fn names_that_callers_invent_make_no_series() -> Result<()> {
    let (_app, mut mesh) = http_mesh(Some("http"))?;
    healthy(&mesh)?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    assert_refused(
        &connection.get("nowhere-first", "/")?,
        404,
        "unknown_destination",
    );
    let before = mesh.metrics("order-1")?.samples.len();
    let memory = mesh.process("order-1")?.resident()?;
    for index in 0..10_000 {
        let response = connection.get(&format!("nowhere-{index}"), "/")?;
        assert_eq!(response.status, 404, "{index}: {}", response.head);
    }
    // And what else a caller may choose.
    for index in 0..500 {
        let request = format!(
            "M{index} /{index} HTTP/1.1\r\nHost: billing\r\nUser-Agent: agent-{index}\r\n\
             X-Forwarded-For: {index}\r\nContent-Length: 0\r\n\r\n"
        );
        connection.send(request)?;
        connection.response()?;
    }
    for name in ["order-1", "billing-1"] {
        let samples = mesh.metrics(name)?.samples;
        assert!(
            samples.len() <= before + 60,
            "{name}: {before} series, then {}",
            samples.len()
        );
        let named = samples.iter().find(|sample| {
            sample
                .labels
                .values()
                .any(|value| value.contains("nowhere") || value.contains("M499"))
        });
        assert!(named.is_none(), "{name}: {named:?}");
    }
    let grown = mesh.process("order-1")?.resident()?.saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes more");
    let unknown = [("reason", "unknown_destination")];
    assert_eq!(
        mesh.metrics("order-1")?
            .sum("outrider_refusals_total", &unknown),
        10_001.0
    );
    healthy(&mesh)
}

#[test]
fn a_status_that_an_app_invents_is_counted_as_it_is() -> Result<()> {
    let (_app, mesh) = http_mesh(Some("http"))?;
    for status in [201, 302, 404, 418, 500, 503, 599] {
        assert_eq!(get(&mesh, &format!("/status/{status}"))?.status, status);
    }
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    for status in ["201", "302", "404", "418", "500", "503", "599"] {
        reaches(
            port,
            "istio_requests_total",
            &[("response_code", status)],
            1.0,
        )?;
    }
    // The app's own refusals are none of the sidecar's.
    assert_eq!(
        mesh.metrics("billing-1")?
            .sum("outrider_refusals_total", &[]),
        0.0
    );
    Ok(())
}
