//! Instances of the caller's zone first, and new ones slowly.

use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::app::Behaviour;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{App, Mesh, Service, Workload, quiet};

use crate::common::get;
use crate::traffic::{breaker_is, instances};

/// `order-1` in zone `a`, and an instance of billing in each of `zones`.
fn zoned(zones: &[&str], spec: &str) -> Result<(Vec<App>, Mesh)> {
    let apps: Vec<App> = zones.iter().map(|_| App::start()).collect::<Result<_>>()?;
    let mut builder = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("http")))
        .workload(Workload::new("order-1")?.zone("a"))
        .file("traffic.yaml", traffic_policy("billing", spec));
    for (index, (app, zone)) in apps.iter().zip(zones).enumerate() {
        let instance = Workload::new(&format!("billing-{}", index + 1))?.zone(zone);
        builder = builder.workload(instance.port("app", app.port(), Some("http")));
    }
    Ok((apps, builder.start()?))
}

fn calls(mesh: &Mesh, path: &str, times: usize) -> Result<()> {
    for _ in 0..times {
        assert_eq!(get(mesh, path)?.status, 200);
    }
    Ok(())
}

fn counts(apps: &[App], path: &str) -> Vec<usize> {
    apps.iter().map(|app| app.count(path)).collect()
}

#[test]
fn the_own_zone_comes_first_and_another_takes_over_when_it_dies() -> Result<()> {
    let spec = "loadBalancing: {locality: {}}\noutlierDetection: {baseEjection: 100ms, maxEjection: 100ms}";
    let (apps, mut mesh) = zoned(&["a", "b", "b"], spec)?;
    calls(&mesh, "/well", 60)?;
    assert_eq!(counts(&apps, "/well"), [60, 0, 0]);
    mesh.process("billing-1")?.kill()?;
    calls(&mesh, "/over", 60)?;
    let over = counts(&apps, "/over");
    assert_eq!((over[0], over[1] + over[2]), (0, 60));
    assert!(over[1] > 0 && over[2] > 0, "{over:?}");
    mesh.start_sidecar("billing-1")?;
    mesh.ready("billing-1")?;
    until("the own zone has all again", PATIENCE, || {
        let before = apps[0].count("/back");
        calls(&mesh, "/back", 20)?;
        Ok(apps[0].count("/back") == before + 20)
    })
}

#[test]
fn too_few_in_the_own_zone_share_with_the_others_in_proportion() -> Result<()> {
    const CALLS: usize = 280;
    let spec = "loadBalancing: {algorithm: Random, locality: {minAvailablePercent: 70}}\n\
                outlierDetection: {consecutiveGatewayErrors: 1, baseEjection: 1h, maxEjection: 1h}";
    let (apps, mesh) = zoned(&["a", "a", "b"], spec)?;
    calls(&mesh, "/well", 40)?;
    assert_eq!(counts(&apps, "/well")[2], 0);
    apps[0].behave(Behaviour::Status(503));
    until("it has been asked", PATIENCE, || {
        calls(&mesh, "/find", 1)?;
        Ok(apps[0].count("/find") > 0)
    })?;
    breaker_is(&mesh, "billing-1", "open")?;
    // What is available is counted ten times a second.
    until("others are asked", PATIENCE, || {
        calls(&mesh, "/known", 1)?;
        Ok(apps[2].count("/known") > 0)
    })?;
    calls(&mesh, "/less", CALLS)?;
    let less = counts(&apps, "/less");
    // Half of the zone where 70% are wanted: 50/70 stay. 80 of 280 leave, with a deviation of 8.
    assert_eq!(less[0], 0);
    assert!((48..=112).contains(&less[2]), "{less:?}");
    Ok(())
}

#[test]
fn zones_are_not_looked_at_unless_the_policy_says_so() -> Result<()> {
    let spec = "loadBalancing: {algorithm: RoundRobin}";
    let (apps, mesh) = zoned(&["a", "b"], spec)?;
    calls(&mesh, "/", 20)?;
    assert_eq!(counts(&apps, "/"), [10, 10]);
    let own = "loadBalancing: {algorithm: RoundRobin, locality: {}}";
    mesh.write("traffic.yaml", &traffic_policy("billing", own))?;
    until("the own zone has all", PATIENCE, || {
        let before = apps[0].count("/own");
        calls(&mesh, "/own", 10)?;
        Ok(apps[0].count("/own") == before + 10)
    })
}

#[test]
fn a_caller_whose_zone_has_no_instance_asks_the_others() -> Result<()> {
    let spec = "loadBalancing: {algorithm: RoundRobin, locality: {}}";
    let (apps, mesh) = zoned(&["b", "c"], spec)?;
    calls(&mesh, "/", 20)?;
    assert_eq!(counts(&apps, "/"), [10, 10]);
    Ok(())
}

#[test]
fn an_instance_that_moves_to_another_zone_is_followed() -> Result<()> {
    let (apps, mesh) = zoned(&["a", "b"], "loadBalancing: {locality: {}}")?;
    calls(&mesh, "/", 20)?;
    assert_eq!(counts(&apps, "/"), [20, 0]);
    for (name, zone) in [("billing-2", "a"), ("billing-1", "b")] {
        let moved = mesh.sidecar(name)?.workload.clone().zone(zone);
        mesh.write(&format!("workload-{name}.yaml"), &moved.yaml())?;
    }
    until("the other one has all", PATIENCE, || {
        let before = apps[1].count("/moved");
        calls(&mesh, "/moved", 10)?;
        Ok(apps[1].count("/moved") == before + 10)
    })
}

#[test]
fn a_new_instance_begins_with_a_small_share() -> Result<()> {
    const SLOW_START: Duration = Duration::from_secs(4);
    let _alone = quiet::alone();
    let spec = "loadBalancing: {algorithm: LeastRequest, slowStart: 4s}";
    let (apps, mesh) = instances(2, spec)?;
    let file = "workload-billing-2.yaml";
    let yaml = mesh.sidecar("billing-2")?.workload.yaml();
    mesh.remove(file)?;
    calls(&mesh, "/first", 1)?;
    let known = Instant::now();
    until("one is left, and warm", PATIENCE, || {
        let before = apps[0].count("/one");
        calls(&mesh, "/one", 10)?;
        Ok(apps[0].count("/one") == before + 10 && known.elapsed() > SLOW_START)
    })?;
    mesh.write(file, &yaml)?;
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    let labels = [("endpoint", "shop/billing-2"), ("state", "closed")];
    until("the caller knows of the new one", PATIENCE, || {
        calls(&mesh, "/learn", 1)?;
        let metrics = mesh_tests::metrics::Metrics::scrape(port)?;
        Ok(metrics.sum("outrider_endpoint_state", &labels) == 1.0)
    })?;
    let begin = Instant::now();
    calls(&mesh, "/soon", 100)?;
    // It began with nothing.
    let weight = begin.elapsed().as_secs_f64() / SLOW_START.as_secs_f64() / 2.0;
    until("it is warm", PATIENCE, || {
        calls(&mesh, "/warming", 1)?;
        Ok(begin.elapsed() > SLOW_START)
    })?;
    calls(&mesh, "/late", 200)?;
    let early = apps[1].count("/soon") as f64 / 100.0;
    let late = apps[1].count("/late") as f64 / 200.0;
    // The standard deviation is 0.04 at most, and without a slow start it were a half at once.
    assert!(early < weight + 0.15, "{early}, not {weight} or less");
    assert!(early < late, "{early}, {late}");
    assert!((0.3..0.7).contains(&late), "{late}");
    Ok(())
}
