//! Which instance a request goes to, by algorithm.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{Connection, Response, exchange};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::get;
use crate::traffic::instances;

const KEYS: usize = 60;

/// Which key is whose: keys are told by the path that the app was asked for.
type Owners = BTreeMap<String, usize>;

fn key(index: usize) -> String {
    format!("/user-{index}")
}

/// Makes each key's call, and says where it went. Paths that were asked for before are forgotten.
fn owners(apps: &[App], call: impl Fn(usize) -> Result<Response>) -> Result<Owners> {
    let before: Vec<usize> = apps.iter().map(|app| app.requests().len()).collect();
    for index in 0..KEYS {
        let response = call(index)?;
        // Whoever waits for owners takes an error for "not yet".
        assert_eq!(response.status, 200, "{}", response.head);
    }
    let mut owners = Owners::new();
    for (index, app) in apps.iter().enumerate() {
        for request in app.requests().split_off(before[index]) {
            let known = owners.insert(request.path.clone(), index);
            ensure!(known.is_none(), "{} has two owners", request.path);
        }
    }
    Ok(owners)
}

fn share(owners: &Owners, of: usize) -> usize {
    owners.values().filter(|owner| **owner == of).count()
}

/// The same key is the same instance's each time; keys are spread over all of them.
fn are_consistent(apps: &[App], call: impl Fn(usize) -> Result<Response>) -> Result<Owners> {
    let first = owners(apps, &call)?;
    for _ in 0..3 {
        assert_eq!(owners(apps, &call)?, first);
    }
    for index in 0..apps.len() {
        let keys = share(&first, index);
        // 20 of 60 expected, with a standard deviation of 4.
        assert!(keys >= 5, "instance {index} has {keys} keys");
    }
    Ok(first)
}

/// A call for a key, with header fields made of its path.
fn asking<F: Fn(&str) -> String>(at: SocketAddr, fields: F) -> impl Fn(usize) -> Result<Response> {
    move |index| {
        let path = key(index);
        let fields = fields(&path);
        let head = format!("GET {path} HTTP/1.1\r\nHost: billing\r\n{fields}\r\n");
        exchange(at, head)
    }
}

const BY_HEADER: &str = "loadBalancing: {algorithm: ConsistentHash, hashOn: {header: X-User}}";

#[test]
fn a_header_leads_to_the_same_instance_and_only_the_keys_of_a_dead_one_move() -> Result<()> {
    let spec =
        format!("{BY_HEADER}\noutlierDetection: {{baseEjection: 100ms, maxEjection: 100ms}}");
    let (apps, mut mesh) = instances(3, &spec)?;
    let call = asking(mesh.http("order-1")?, |path| format!("x-user: {path}\r\n"));
    let well = are_consistent(&apps, &call)?;
    mesh.process("billing-2")?.kill()?;
    for _ in 0..3 {
        let now = owners(&apps, &call)?;
        for (path, owner) in &well {
            let moved = now[path] != *owner;
            assert_eq!(
                moved,
                *owner == 1,
                "{path} of {owner} went to {}",
                now[path]
            );
        }
        assert!(share(&now, 0) > share(&well, 0) && share(&now, 2) > share(&well, 2));
    }
    mesh.start_sidecar("billing-2")?;
    mesh.ready("billing-2")?;
    becomes("each key is where it was", &well, || owners(&apps, &call))
}

#[test]
fn a_cookie_leads_to_the_same_instance() -> Result<()> {
    let (apps, mesh) = instances(
        3,
        "loadBalancing: {algorithm: ConsistentHash, hashOn: {cookie: session}}",
    )?;
    let others = asking(mesh.http("order-1")?, |path| {
        format!(
            "Cookie: sessions=1; session={path}; other={}\r\n",
            path.len()
        )
    });
    are_consistent(&apps, others)?;
    Ok(())
}

#[test]
fn a_request_without_the_key_goes_anywhere() -> Result<()> {
    let (apps, mesh) = instances(3, BY_HEADER)?;
    let owners = owners(&apps, asking(mesh.http("order-1")?, |_| String::new()))?;
    for index in 0..3 {
        assert!(share(&owners, index) >= 5, "{owners:?}");
    }
    Ok(())
}

#[test]
fn an_instance_that_is_taken_out_moves_few_keys_of_others() -> Result<()> {
    let (apps, mesh) = instances(3, BY_HEADER)?;
    let call = asking(mesh.http("order-1")?, |path| format!("X-User: {path}\r\n"));
    let well = are_consistent(&apps, &call)?;
    mesh.remove("workload-billing-2.yaml")?;
    until("it gets nothing any more", PATIENCE, || {
        Ok(share(&owners(&apps, &call)?, 1) == 0)
    })?;
    let now = owners(&apps, &call)?;
    let others = well.iter().filter(|(_, owner)| **owner != 1);
    let moved = others.filter(|(path, owner)| now[*path] != **owner).count();
    // Maglev moves a few besides (NSDI 2016, section 3.4).
    assert!(moved <= KEYS / 6, "{moved} of {KEYS}");
    Ok(())
}

#[test]
fn a_source_address_leads_to_the_same_instance() -> Result<()> {
    let (apps, mesh) = instances(
        3,
        "loadBalancing: {algorithm: ConsistentHash, hashOn: {source: true}}",
    )?;
    let at = mesh.http("order-1")?;
    are_consistent(&apps, |index| {
        let source = Ipv4Addr::new(127, 0, 1, u8::try_from(index)?);
        Connection::open_from(source, at)?.get("billing", &key(index))
    })?;
    Ok(())
}

#[test]
fn a_source_address_leads_opaque_connections_too() -> Result<()> {
    let apps = [App::start()?, App::start()?, App::start()?];
    let tcp = Some("tcp");
    let spec = "loadBalancing: {algorithm: ConsistentHash, hashOn: {source: true}}";
    let mut builder = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", tcp))
        .workload(Workload::new("order-1")?.upstream("billing", 80)?)
        .file("traffic.yaml", traffic_policy("billing", spec));
    for (index, app) in (1..).zip(&apps) {
        let instance = Workload::new(&format!("billing-{index}"))?;
        builder = builder.workload(instance.port("app", app.port(), tcp));
    }
    let mesh = builder.start()?;
    let at = mesh.upstream("order-1", "billing", 80)?;
    are_consistent(&apps, |index| {
        let source = Ipv4Addr::new(127, 0, 2, u8::try_from(index)?);
        Connection::open_from(source, at)?.get("billing", &key(index))
    })?;
    Ok(())
}

fn counts(apps: &[App], path: &str) -> Vec<usize> {
    apps.iter().map(|app| app.count(path)).collect()
}

#[test]
fn round_robin_takes_turns() -> Result<()> {
    let (apps, mesh) = instances(3, "loadBalancing: {algorithm: RoundRobin}")?;
    for round in 1..=10 {
        for _ in 0..3 {
            assert_eq!(get(&mesh, "/")?.status, 200);
        }
        assert_eq!(counts(&apps, "/"), [round; 3]);
    }
    Ok(())
}

#[test]
fn random_has_no_favourite() -> Result<()> {
    let (apps, mesh) = instances(3, "loadBalancing: {algorithm: Random}")?;
    for _ in 0..300 {
        assert_eq!(get(&mesh, "/")?.status, 200);
    }
    let counts = counts(&apps, "/");
    // 100 expected, with a standard deviation of 8; and taking turns would be exact each time.
    assert!(
        counts.iter().all(|count| (60..=140).contains(count)),
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn least_request_leaves_a_busy_instance_alone() -> Result<()> {
    let (apps, mesh) = instances(2, "loadBalancing: {algorithm: LeastRequest}")?;
    let mut held = Vec::new();
    for number in 1..=2 {
        let mut connection = Connection::open(mesh.http("order-1")?)?;
        connection.send("GET /hold HTTP/1.1\r\nHost: billing\r\n\r\n")?;
        held.push(connection);
        becomes("it hangs", &number, || {
            Ok(counts(&apps, "/hold").iter().sum::<usize>())
        })?;
    }
    assert_eq!(
        counts(&apps, "/hold"),
        [1, 1],
        "the second goes to the idle one"
    );
    apps[1].release();
    let ended = held.iter_mut().find_map(|connection| {
        let ended = !connection.silent(Duration::from_millis(500)).ok()?;
        ended.then(|| connection.response())
    });
    assert_eq!(ended.context("one ends")??.status, 200);
    for _ in 0..40 {
        assert_eq!(get(&mesh, "/")?.status, 200);
    }
    assert_eq!(counts(&apps, "/"), [0, 40]);
    apps[0].release();
    until("both are asked again", PATIENCE, || {
        get(&mesh, "/after")?;
        Ok(counts(&apps, "/after").iter().all(|count| *count > 0))
    })
}
