//! `outrider stat`: what a mesh that `outrider up` runs measures.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mesh_tests::http::{self, local};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::outrider;
use mesh_tests::wait::PATIENCE;
use mesh_tests::{App, Service, Workload};
use serde_json::Value;

use crate::cli_up::up;

fn stat(directory: &Path, arguments: &[&str]) -> Result<Finished> {
    let mut stat = command(&outrider()?)?;
    stat.arg("stat").arg(directory).args(arguments);
    run(&mut stat, PATIENCE)
}

#[test]
fn stat_shows_edges_retries_and_breakers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let app = App::start()?;
    let order = Workload::new("order-1")?;
    let billing = Workload::new("billing-1")?.port("app", app.port(), Some("http"));
    let service = Service::new("billing").port(80, "app", Some("http"));
    let policy = traffic_policy(
        "billing",
        "retry: {attempts: 1}\nretryBudget: {budget: {percent: 30}}\n\
         outlierDetection: {maxEjectedPercent: 100, consecutiveGatewayErrors: 3, baseEjection: 1h, maxEjection: 1h}",
    );
    for (name, yaml) in [
        ("order-1.yaml", order.yaml()),
        ("billing-1.yaml", billing.yaml()),
        ("billing.yaml", service.yaml()),
        ("traffic.yaml", policy),
    ] {
        fs::write(folder.path().join(name), yaml)?;
    }
    let mut mesh = up(folder)?;
    mesh.process.wait_for_log("Ctrl-C ends it", PATIENCE)?;
    let call = || http::get(local(order.http_port), "billing", "/");
    assert_eq!(call()?.status, 200);
    app.behave(mesh_tests::app::Behaviour::Status(503));
    for _ in 0..5 {
        assert_eq!(call()?.status, 503);
    }

    let directory = mesh.folder.path();
    let told = stat(directory, &["--interval", "100ms"])?.success()?.stdout;
    let rows: Vec<Vec<&str>> = told
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = rows
        .iter()
        .find(|row| row.starts_with(&["order-1", "shop/billing", "shop/billing-1"]))
        .with_context(|| told.clone())?;
    assert_eq!(row[3..5], ["open", "1"], "{told}");

    let json = stat(directory, &["--interval", "100ms", "--output", "json"])?;
    let json: Value = serde_json::from_str(&json.success()?.stdout)?;
    let service = &json["services"][0];
    assert_eq!(service["caller"], "order-1", "{json:#}");
    assert_eq!(service["service"], "shop/billing", "{json:#}");
    assert_eq!(service["budget_percent"], 30, "{json:#}");
    assert_eq!(service["endpoints"][0]["breaker"], "open", "{json:#}");
    assert_eq!(json["silent"], Value::Array(Vec::new()), "{json:#}");
    Ok(())
}

#[test]
fn stat_says_that_no_mesh_runs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(
        folder.path().join("order-1.yaml"),
        Workload::new("order-1")?.yaml(),
    )?;
    let finished = stat(folder.path(), &[])?;
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    assert!(finished.stderr.contains("no mesh runs from"));
    assert_eq!(finished.stdout, "");
    Ok(())
}
