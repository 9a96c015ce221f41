//! The life of a sidecar beside that of its app, in network namespaces.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::Process;
use mesh_tests::load::Load;
use mesh_tests::metrics::Metrics;
use mesh_tests::process::run;
use mesh_tests::programs::find;
use mesh_tests::shop::{Settings, Shop, is_gone};
use mesh_tests::wait::{PATIENCE, becomes, holds, until};
use rustix::process::Signal;

const CALLS: u64 = 200;

#[test]
fn a_sidecar_takes_calls_before_its_app_does() -> Result<()> {
    let settings = Settings {
        serves: false,
        ..Settings::default()
    };
    let shop = Shop::start("early", settings)?;
    let answer = shop.mesh.curl("client-1", &["http://web/"])?;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (
            503,
            Some("outrider; error=connection_refused; details=\"app_unreachable\"")
        ),
        "{answer:?}"
    );
    let words = shop.nginx("web-1")?;
    let mut start = shop.mesh.inside("web-1", &words[0], "nginx-light")?;
    let _nginx = Process::start("nginx", &shop.mesh.logs(), start.args(&words[1..]))?;
    becomes("the app is called as soon as it is there", &200, || {
        shop.call()
    })
}

#[test]
fn no_call_fails_while_one_of_two_instances_ends() -> Result<()> {
    let settings = Settings {
        mesh: ", drainTimeout: 4s",
        instances: 2,
        ..Settings::default()
    };
    let shop = Shop::start("ends", settings)?;
    let mesh = &shop.mesh;
    let web = shop.web()?;
    let load = |caller: &str| {
        mesh.within(caller, || {
            let kept = Load::start(4, web, "web", "/");
            Ok([kept, Load::of_connections(4, web, "web", "/")])
        })
    };
    let loads: Vec<Load> = [load("client-1")?, load("other-1")?]
        .into_iter()
        .flatten()
        .collect();
    let go_on = || loads.iter().try_for_each(|load| load.goes_on(CALLS));
    go_on()?;
    let received = |workload: &str| -> Result<f64> {
        let labels = [("reporter", "destination")];
        Ok(mesh.metrics(workload)?.sum("istio_requests_total", &labels))
    };
    assert!(received("web-1")? > 0.0 && received("web-2")? > 0.0);
    let sidecar = mesh.sidecar("web-1")?;
    let held = shop.hold_up()?;
    shop.signal("web-1", Signal::TERM)?;
    // Its app lives for as long as it may, and so does the sidecar.
    until("the sidecar has ended", Duration::from_secs(15), || {
        go_on()?;
        Ok(is_gone(sidecar))
    })?;
    go_on()?;
    for load in loads {
        load.finish()?;
    }
    drop(held);
    let up = mesh.up.as_ref().context("up runs")?;
    for said in [
        "withdrawn: nobody calls this workload any more",
        "every sidecar knows of the withdrawal",
    ] {
        until(said, PATIENCE, || Ok(up.log().contains(said)))?;
    }
    let mut scrape = mesh.command(&find("curl", "curl")?)?;
    let scrape = scrape.args(["-s", "http://127.0.0.1:15014/metrics"]);
    let metrics = Metrics::parse(&run(scrape, PATIENCE)?.success()?.stdout)?;
    let name = "outrider_control_plane_withdrawals_total";
    assert_eq!(metrics.value(name)?, 1.0);
    let name = "outrider_control_plane_withdrawal_seconds_count";
    assert_eq!(metrics.value(name)?, 1.0);
    Ok(())
}

#[test]
fn an_app_without_ports_may_call_while_its_sidecar_drains() -> Result<()> {
    let settings = Settings {
        mesh: ", drainTimeout: 60s",
        ..Settings::default()
    };
    let shop = Shop::start("portless", settings)?;
    let mesh = &shop.mesh;
    let sidecar = mesh.sidecar("other-1")?;
    let _held = shop.hold_up()?;
    shop.signal("other-1", Signal::TERM)?;
    let ready = format!("{}/ready", mesh.telemetry("other-1")?);
    becomes("it drains", &503, || {
        Ok(mesh.curl("other-1", &[&ready])?.status)
    })?;
    // Longer than the withdrawal may take.
    holds("its app may call", Duration::from_secs(6), || {
        Ok(mesh.curl("other-1", &["http://web/"])?.status == 200)
    })?;
    assert!(!is_gone(sidecar));
    // Its app has ended: there is nothing to wait for.
    let web = mesh.sidecar("web-1")?;
    shop.signal("web-1", Signal::INT)?;
    until("it is gone though its app listens", PATIENCE, || {
        Ok(is_gone(web))
    })
}
