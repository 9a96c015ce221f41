//! Sidecars that die, or are replaced, under a storm of new connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::paced::{Paced, Window};
use mesh_tests::process::{Process, command, run};
use mesh_tests::programs::find;
use mesh_tests::quiet;
use mesh_tests::shop::{Settings, Shop};
use mesh_tests::wait::{PATIENCE, until};

/// New connections a second.
const STORM: u32 = 300;
/// A call that fails does not hang.
const SOON: Duration = Duration::from_secs(5);

fn storm(shop: &Shop) -> Result<Paced> {
    let web = shop.web()?;
    shop.mesh.within("client-1", || {
        Ok(Paced::of_connections(STORM, web, "web", "/"))
    })
}

/// The calls from the death of a workload's sidecar until there is no failure any more.
fn killed(shop: &Shop, client: &mut Paced, workload: &str) -> Result<Window> {
    let before = shop.mesh.sidecar(workload)?;
    shop.kill(workload)?;
    let mut during = Window::default();
    until("calls succeed again", PATIENCE, || {
        let next = client.next(STORM as usize / 10)?;
        let good = next.failures().is_empty();
        during.calls.extend(next.calls);
        Ok(good && shop.mesh.sidecar(workload)? != before)
    })?;
    Ok(during)
}

#[test]
fn a_storm_goes_on_when_a_sidecar_was_killed() -> Result<()> {
    let _alone = quiet::alone();
    let shop = Shop::start("storm", Settings::default())?;
    let mut client = storm(&shop)?;
    let good = client.next(STORM as usize)?;
    assert_eq!(good.success_percent(), 100.0, "{:?}", good.failures());
    for workload in ["web-1", "client-1"] {
        let during = killed(&shop, &mut client, workload)?;
        let failed = during.calls.iter().filter(|call| call.failure.is_some());
        let failed: Vec<_> = failed.collect();
        let span = failed.len() as f64 / f64::from(STORM);
        println!(
            "{workload} killed: {} of {} calls failed ({span:.2} s of the storm), slowest {:?}; {:?}",
            failed.len(),
            during.calls.len(),
            during.quantile(1.0),
            during.failures(),
        );
        ensure!(during.quantile(1.0) < SOON, "a call hung");
        ensure!(span < 3.0, "traffic stopped for too long");
        let after = client.next(STORM as usize)?;
        assert_eq!(after.success_percent(), 100.0, "{:?}", after.failures());
    }
    Ok(())
}

#[test]
fn a_storm_notices_nothing_when_a_sidecar_is_replaced() -> Result<()> {
    let _alone = quiet::alone();
    let shop = Shop::start("replace", Settings::default())?;
    // With sidecars that can be replaced in the place of those that `up` has started.
    let _held = shop.hold_up()?;
    let folder = tempfile::tempdir()?;
    run(
        command(&find("chown", "coreutils")?)?.args(["2102", &folder.path().display().to_string()]),
        PATIENCE,
    )?
    .success()?;
    let mesh = &shop.mesh;
    let mut sidecars = Vec::new();
    for workload in ["web-1", "client-1"] {
        let line = shop.mesh.sidecar_line(workload)?;
        shop.kill(workload)?;
        let socket = folder.path().join(workload).display().to_string();
        let start = move || -> Result<Process> {
            let more = ["--handover", &socket];
            let mut start = mesh.another_sidecar(workload, &line, &more)?;
            Process::start(workload, &mesh.logs(), &mut start)
        };
        let mut first = start()?;
        first.wait_for_log("ready", PATIENCE)?;
        sidecars.push((start, first));
    }
    let mut client = storm(&shop)?;
    client.next(STORM as usize)?;
    let mut last = Vec::new();
    for (start, mut first) in sidecars {
        for _ in 0..3 {
            let next = start()?;
            let status = first.exit(PATIENCE)?;
            ensure!(status.success(), "{status}: {}", first.log());
            let during = client.next(STORM as usize)?;
            assert_eq!(during.success_percent(), 100.0, "{:?}", during.failures());
            first = next;
        }
        last.push(first);
    }
    drop(client);
    Ok(())
}
