//! Changes of endpoints and routes while requests are on their way: none of them breaks one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{self, Connection};
use mesh_tests::load::Load;
use mesh_tests::manifest::{route, service_ref};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Workload, quiet};

use crate::common::{assert_refused, get, healthy};
use crate::routes::{Versions, http_route};
use crate::traffic::{NO_BREAKER, counted, instances};

const FILE: &str = "workload-billing-2.yaml";

/// How long an edit may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(1);

/// So that there is always something under way.
fn slow(app: &App) {
    app.behave(Behaviour::Delay(Duration::from_millis(10)));
}

fn load(mesh: &Mesh) -> Result<Load> {
    let load = Load::start(4, mesh.http("order-1")?, "billing", "/zeros/10000");
    load.goes_on(50)?;
    Ok(load)
}

#[test]
fn instances_come_and_go_under_load() -> Result<()> {
    let (apps, mesh) = instances(2, "loadBalancing: {algorithm: RoundRobin}")?;
    apps.iter().for_each(slow);
    let yaml = mesh.sidecar("billing-2")?.workload.yaml();
    let load = load(&mesh)?;
    let seen = || apps[1].requests().len();
    for _ in 0..5 {
        mesh.remove(FILE)?;
        until("it gets nothing any more", PATIENCE, || {
            let before = seen();
            load.goes_on(30)?;
            Ok(seen() == before)
        })?;
        mesh.write(FILE, &yaml)?;
        let before = seen();
        until("it gets its share again", PATIENCE, || {
            load.goes_on(10)?;
            Ok(seen() > before)
        })?;
    }
    load.finish()?;
    let refused = counted(&mesh, "order-1", "outrider_refusals_total", &[])?;
    assert_eq!(refused, 0.0);
    Ok(())
}

#[test]
fn a_new_instance_whose_sidecar_is_not_there_yet_costs_no_request() -> Result<()> {
    let (apps, mut mesh) = instances(2, "loadBalancing: {algorithm: RoundRobin}")?;
    apps.iter().for_each(slow);
    let load = load(&mesh)?;
    let app = App::start()?;
    let workload = Workload::new("billing-3")?.port("app", app.port(), Some("http"));
    mesh.add(&workload)?;
    mesh.ready("billing-3")?;
    until("it gets its share", PATIENCE, || {
        load.goes_on(20)?;
        Ok(!app.requests().is_empty())
    })?;
    load.finish()?;
    let refused = counted(&mesh, "order-1", "outrider_refusals_total", &[])?;
    assert_eq!(refused, 0.0);
    Ok(())
}

#[test]
fn what_is_in_flight_to_an_instance_that_is_taken_out_is_finished() -> Result<()> {
    let (apps, mesh) = instances(1, NO_BREAKER)?;
    let ask = |path: &str| -> Result<Connection> {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: billing\r\n\r\n"))?;
        Ok(connection)
    };
    let mut held = ask("/hold")?;
    let mut streamed = ask("/drip")?;
    assert_eq!(streamed.head()?.status, 200);
    assert_eq!(streamed.exactly(1)?, b"1");
    becomes("both are there", &2, || Ok(apps[0].requests().len()))?;
    mesh.remove("workload-billing-1.yaml")?;
    becomes("nobody is left", &Some("no_endpoints".to_owned()), || {
        Ok(get(&mesh, "/")?.reason().map(str::to_owned))
    })?;
    assert!(held.silent(Duration::from_millis(300))?);
    apps[0].release();
    assert_eq!(held.response()?.status, 200);
    assert_eq!(streamed.exactly(1)?, b"2");
    Ok(())
}

#[test]
fn a_policy_may_be_edited_under_load() -> Result<()> {
    let (apps, mesh) = instances(3, NO_BREAKER)?;
    apps.iter().for_each(slow);
    let load = load(&mesh)?;
    for round in 0..4 {
        for algorithm in [
            "LeastRequest",
            "RoundRobin",
            "Random",
            "ConsistentHash, hashOn: {source: true}",
            "PeakEwma",
        ] {
            let spec = format!(
                "loadBalancing: {{algorithm: {algorithm}}}\ntimeouts: {{request: {}s}}\n\
                 healthCheck: {{path: /check, interval: 100ms, timeout: 100ms}}",
                5 + round
            );
            let policy = mesh_tests::manifest::traffic_policy("billing", &spec);
            mesh.write("traffic.yaml", &policy)?;
            load.goes_on(20)?;
        }
    }
    load.finish()?;
    Ok(())
}

/// All to one backend.
fn all_to(name: &str) -> String {
    format!("- backendRefs: [{{name: {name}, port: 80}}]")
}

#[test]
fn a_route_may_be_edited_under_load() -> Result<()> {
    let versions = Versions::start(&[http_route(&all_to("v1"))])?;
    let Versions { v1, v2, own, mesh } = &versions;
    for app in [v1, v2, own] {
        slow(app);
    }
    let load = load(mesh)?;
    assert_eq!(v2.requests().len() + own.requests().len(), 0);
    for (app, path, rules) in [
        (v2, "/first", Some(all_to("v2"))),
        (v1, "/second", Some(all_to("v1"))),
        (own, "/third", None),
        (v2, "/fourth", Some(all_to("v2"))),
    ] {
        match rules {
            Some(rules) => mesh.write("route.yaml", &http_route(&rules).1)?,
            None => mesh.remove("route.yaml")?,
        }
        until("the edit is in force", PATIENCE, || {
            assert_eq!(get(mesh, path)?.status, 200);
            Ok(app.count(path) > 0)
        })?;
    }
    load.finish()?;
    Ok(())
}

#[test]
fn an_edit_of_a_match_is_in_force_within_a_second() -> Result<()> {
    let _alone = quiet::alone();
    let rule = |path: &str| {
        let backend = "backendRefs: [{name: v1, port: 80}]";
        http_route(&format!(
            "- matches: [{{path: {{value: {path}}}}}]\n  {backend}"
        ))
    };
    let versions = Versions::start(&[rule("/old")])?;
    assert_refused(&get(&versions.mesh, "/new")?, 404, "no_route");
    let edited = Instant::now();
    versions.mesh.write("route.yaml", &rule("/new").1)?;
    becomes("the new path leads there", &200, || {
        Ok(get(&versions.mesh, "/new")?.status)
    })?;
    assert!(edited.elapsed() < IN_FORCE, "{:?}", edited.elapsed());
    assert_refused(&get(&versions.mesh, "/old")?, 404, "no_route");
    Ok(())
}

#[test]
fn an_edit_that_is_invalid_leaves_the_last_good_route() -> Result<()> {
    let versions = Versions::start(&[http_route(&all_to("v1"))])?;
    let bad = http_route("- matches: [{path: {type: RegularExpression, value: \"(\"}}]").1;
    versions.mesh.write("route.yaml", &bad)?;
    let port = versions.mesh.control_plane_admin();
    becomes("the edit is refused", &0.0, || {
        mesh_tests::metrics::Metrics::scrape(port)?.value("outrider_control_plane_config_valid")
    })?;
    assert_eq!(get(&versions.mesh, "/still")?.status, 200);
    assert_eq!(versions.v1.count("/still"), 1);
    versions
        .mesh
        .write("route.yaml", &http_route(&all_to("v2")).1)?;
    until("a good one is in force", PATIENCE, || {
        get(&versions.mesh, "/good")?;
        Ok(versions.v2.count("/good") > 0)
    })
}

#[test]
fn a_tcp_route_follows_its_edits_and_open_connections_stay() -> Result<()> {
    let _alone = quiet::alone();
    let tcp = |name: &str| {
        route(
            "TCPRoute",
            "billing",
            &service_ref("billing"),
            &all_to(name),
        )
    };
    let versions = Versions::speaking("tcp", &[("route.yaml", tcp("v1"))])?;
    let Versions { v1, v2, own, mesh } = &versions;
    let at = mesh.upstream("order-1", "billing", 80)?;
    let mut kept = Connection::open(at)?;
    assert_eq!(kept.get("any", "/kept")?.status, 200);
    assert_eq!(v1.count("/kept"), 1);
    for (app, path, name) in [
        (v2, "/first", Some("v2")),
        (own, "/second", None),
        (v1, "/third", Some("v1")),
    ] {
        let edited = Instant::now();
        match name {
            Some(name) => mesh.write("route.yaml", &tcp(name))?,
            None => mesh.remove("route.yaml")?,
        }
        until("the edit is in force", PATIENCE, || {
            let response = http::get(at, "any", path).context("a connection")?;
            assert_eq!(response.status, 200);
            Ok(app.count(path) > 0)
        })?;
        let took = edited.elapsed();
        assert!(took < IN_FORCE, "{path}: {took:?}");
        assert_eq!(kept.get("any", "/kept")?.status, 200, "it stays open");
    }
    assert_eq!(v1.count("/kept"), 4);
    Ok(())
}

#[test]
fn a_service_that_loses_and_regains_all_of_its_instances_recovers() -> Result<()> {
    let (_apps, mesh) = instances(1, "retry: {attempts: 1}")?;
    healthy(&mesh)?;
    let file = "workload-billing-1.yaml";
    let yaml = mesh.sidecar("billing-1")?.workload.yaml();
    for _ in 0..3 {
        mesh.remove(file)?;
        becomes("nobody is left", &503, || Ok(get(&mesh, "/")?.status))?;
        assert_refused(&get(&mesh, "/")?, 503, "no_endpoints");
        mesh.write(file, &yaml)?;
        becomes("it is back", &200, || Ok(get(&mesh, "/")?.status))?;
    }
    Ok(())
}
