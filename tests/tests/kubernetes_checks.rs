//! `outrider check`, `stat`, `edges` and `certs` of the installed mesh, through the API server.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mesh_tests::kubernetes::PATIENCE;
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::shop::Shop;
use mesh_tests::process::{Finished, run};
use mesh_tests::wait::until;
use serde_json::{Value, json};

/// What `check` looks at in a mesh that is well, sidecars too.
const CHECKS: [&str; 16] = [
    "authority",
    "clock",
    "control-plane",
    "crds",
    "kubernetes-version",
    "leader",
    "pods-without-sidecar",
    "replica-certificate",
    "replica-ready",
    "sidecar-certificates",
    "sidecar-versions",
    "sidecars-asked",
    "sidecars-behind",
    "sidecars-connected",
    "sidecars-ready",
    "webhook-answers",
];

fn ask(outrider: &Outrider, arguments: &[&str]) -> Result<Finished> {
    let json = ["--output", "json"];
    run(
        &mut outrider.command(&[arguments, &json].concat())?,
        PATIENCE,
    )
}

/// The levels of the findings of each check.
fn levels(report: &Value) -> Result<BTreeMap<&str, Vec<&str>>> {
    let mut levels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for finding in report["findings"].as_array().context("no findings")? {
        let text = |field: &str| finding[field].as_str().context("a text");
        levels
            .entry(text("check")?)
            .or_default()
            .push(text("level")?);
    }
    Ok(levels)
}

/// One shop for all that is asked, since it takes its time to open.
#[test]
fn a_mesh_that_is_well_is_said_to_be_well_and_shows_what_it_does() -> Result<()> {
    let outrider = Outrider::installed()?;
    let _shop = Shop::open(&outrider)?;
    is_well(&outrider)?;
    edges_are_measured(&outrider)?;
    endpoints_are_measured(&outrider)?;
    certificates_are_listed(&outrider)
}

fn is_well(outrider: &Outrider) -> Result<()> {
    // A pod that has just started may not have said yet what it has taken.
    until("nothing is wrong", PATIENCE, || {
        let checked = ask(outrider, &["check", "--proxy", "--namespace", "shop"])?;
        Ok(checked.status.success() && json_of(&checked)?["warnings"] == 0)
    })
    .with_context(|| {
        let checked = ask(outrider, &["check", "--proxy", "--namespace", "shop"]);
        checked.map_or_else(|error| format!("{error:#}"), |checked| checked.output())
    })?;
    let report = json_of(&ask(
        outrider,
        &["check", "--proxy", "--namespace", "shop"],
    )?)?;
    let levels = levels(&report)?;
    for check in CHECKS {
        let found = levels
            .get(check)
            .with_context(|| format!("{check}: {report:#}"))?;
        assert!(
            found.iter().all(|level| *level == "ok"),
            "{check}: {report:#}"
        );
    }
    Ok(())
}

fn edges_are_measured(outrider: &Outrider) -> Result<()> {
    let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let mut last = Value::Null;
    for [caller, callee] in [["shopper", "order"], ["order", "billing"]] {
        let expected = json!({"source": id(caller), "destination": id(callee)});
        until("the edge is measured", PATIENCE, || {
            last = json_of(&ask(
                outrider,
                &["edges", "--namespace", "shop", "--interval", "2s"],
            )?)?;
            let mut edges = last["edges"].as_array().context("edges")?.iter();
            let row = edges.find(|row| {
                ["source", "destination"]
                    .iter()
                    .all(|end| row[end] == expected[end])
            });
            Ok(row
                .is_some_and(|row| row["success"] == 1.0 && row["per_second"].as_f64() > Some(0.0)))
        })
        .with_context(|| format!("{caller} to {callee}: {last:#}"))?;
    }
    assert_eq!(last["silent"], json!([]), "{last:#}");
    Ok(())
}

/// As each caller sees them.
fn endpoints_are_measured(outrider: &Outrider) -> Result<()> {
    let mut last = Value::Null;
    let stat = ["stat", "--namespace", "shop", "--interval", "2s"];
    until("an endpoint of billing is called", PATIENCE, || {
        last = json_of(&ask(outrider, &stat)?.success()?)?;
        let services = last["services"].as_array().context("services")?.iter();
        let called = services.filter(|row| {
            let caller = row["caller"].as_str().unwrap_or_default();
            caller.starts_with("shop/order-") && row["service"] == "shop/billing"
        });
        let mut endpoints =
            called.flat_map(|row| row["endpoints"].as_array().into_iter().flatten());
        Ok(endpoints.any(|row| {
            let endpoint = row["endpoint"].as_str().unwrap_or_default();
            endpoint.starts_with("shop/billing-")
                && row["per_second"].as_f64() > Some(0.0)
                && row["success"] == 1.0
        }))
    })
    .with_context(|| format!("{last:#}"))?;
    assert_eq!(last["silent"], json!([]), "{last:#}");
    Ok(())
}

fn certificates_are_listed(outrider: &Outrider) -> Result<()> {
    let listed = json_of(&ask(outrider, &["certs", "--namespace", "shop"])?.success()?)?;
    let certificates = listed["certificates"].as_array().context("certificates")?;
    let of_billing = certificates
        .iter()
        .filter(|row| row["identity"] == "spiffe://cluster.local/ns/shop/sa/billing");
    let left: Vec<i64> = of_billing
        .filter_map(|row| row["secondsLeft"].as_i64())
        .collect();
    assert_eq!(left.len(), 2, "{listed:#}");
    assert!(left.iter().all(|seconds| *seconds > 600), "{listed:#}");
    let authorities = listed["authorities"].as_array().context("a list")?;
    assert!(!authorities.is_empty(), "{listed:#}");
    Ok(())
}

fn json_of(finished: &Finished) -> Result<Value> {
    serde_json::from_str(&finished.stdout).with_context(|| finished.output())
}
