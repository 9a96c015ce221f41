//! One of two instances is killed, stopped, made slow or made to answer 503, under load: what its
//! callers see of it, and that it takes requests again when it is well.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::app::Behaviour;
use mesh_tests::manifest::traffic_policy;
use mesh_tests::paced::{Paced, Window};
use mesh_tests::peers::{Language, Server, grpc_behave, grpc_seen, grpc_server, grpc_server_on};
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{App, Mesh, Service, Workload, quiet};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::traffic::breaker_is;

/// An attempt may take half a second, which a busy machine may stall without anything being wrong; an instance that fails is left out for one second, then two.
const POLICY: &str = "timeouts: {request: 4s, backendRequest: 500ms, connect: 500ms}
retry: {attempts: 1, nonIdempotent: true}
outlierDetection: {baseEjection: 1s, maxEjection: 2s}";
/// Calls in a second.
const RATE: u32 = 100;
/// What fails at most: one call in a hundred.
const SUCCESS_PERCENT: f64 = 99.0;
/// One attempt that is cut, the longest backoff, and room for a busy machine.
const ADDED_P99: Duration = Duration::from_millis(500 + 75 + 175);
const ADDED_P50: Duration = Duration::from_millis(50);
const VICTIM: &str = "billing-2";

/// Under load, with both instances well.
struct Bench<B> {
    client: Paced,
    billing: [B; 2],
    mesh: Mesh,
    folder: TempDir,
    _alone: quiet::Turn,
}

fn mesh(ports: [u16; 2], protocol: &str) -> Result<Mesh> {
    Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some(protocol)))
        .workload(Workload::new("billing-1")?.port("app", ports[0], Some(protocol)))
        .workload(Workload::new("billing-2")?.port("app", ports[1], Some(protocol)))
        .workload(Workload::new("order-1")?)
        .file("traffic.yaml", traffic_policy("billing", POLICY))
        .start()
}

fn http() -> Result<Bench<Option<App>>> {
    let alone = quiet::alone();
    let folder = tempfile::tempdir()?;
    let apps = [App::start()?, App::start()?];
    let mesh = mesh([apps[0].port(), apps[1].port()], "http")?;
    Ok(Bench {
        client: Paced::http(RATE, mesh.http("order-1")?, "billing", "/"),
        billing: apps.map(Some),
        mesh,
        folder,
        _alone: alone,
    })
}

fn grpc() -> Result<Bench<Server>> {
    let alone = quiet::alone();
    let folder = tempfile::tempdir()?;
    let first = grpc_server(Language::Go, folder.path())?;
    let second = grpc_server(Language::Go, folder.path())?;
    let mesh = mesh([first.port, second.port], "grpc")?;
    let port = mesh.http("order-1")?.port();
    Ok(Bench {
        client: Paced::grpc(RATE, folder.path(), port, "billing")?,
        billing: [first, second],
        mesh,
        folder,
        _alone: alone,
    })
}

/// Something that counts what reaches it.
trait Counts {
    fn seen(&self) -> Result<u64>;
}

impl Counts for Option<App> {
    fn seen(&self) -> Result<u64> {
        let app = self.as_ref().context("the app runs")?;
        Ok(app.requests().len() as u64)
    }
}

impl Counts for Server {
    fn seen(&self) -> Result<u64> {
        grpc_seen(self)
    }
}

impl<B: Counts> Bench<B> {
    /// Harms the second instance, looks at what the caller sees, and heals it. One that is `ejected`
    /// takes calls again soon; one that was only steered away from does when the balancer has
    /// forgotten how slow it was, which takes about a minute.
    fn survives(
        &mut self,
        ejected: bool,
        harm: impl FnOnce(&mut Self) -> Result<()>,
        heal: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let well = self.client.next(200)?;
        ensure!(well.success_percent() == 100.0, "{:?}", well.failures());
        harm(self)?;
        let harmed = self.client.next(500)?;
        bearable(&well, &harmed)?;
        if ejected {
            let metrics = self.mesh.metrics("order-1")?;
            let labels = [("endpoint", "shop/billing-2"), ("to", "open")];
            let opened = metrics.sum("outrider_endpoint_transitions_total", &labels);
            ensure!(opened >= 1.0, "it was never ejected");
        }
        heal(self)?;
        breaker_is(&self.mesh, VICTIM, "closed")?;
        let before = self.billing[1].seen()?;
        if ejected {
            until("it takes calls again", PATIENCE, || {
                Ok(self.billing[1].seen()? > before)
            })?;
        }
        let after = self.client.next(200)?;
        ensure!(after.success_percent() == 100.0, "{:?}", after.failures());
        Ok(())
    }
}

/// What the caller noticed is little.
fn bearable(well: &Window, harmed: &Window) -> Result<()> {
    let success = harmed.success_percent();
    let added = |quantile| {
        harmed
            .quantile(quantile)
            .saturating_sub(well.quantile(quantile))
    };
    let (p50, p99) = (added(0.5), added(0.99));
    let told = format!(
        "{success:.2} % of {} calls, p50 {p50:?} and p99 {p99:?} longer; {:?}",
        harmed.calls.len(),
        harmed.failures()
    );
    ensure!(success >= SUCCESS_PERCENT, "{told}");
    ensure!(p99 <= ADDED_P99 && p50 <= ADDED_P50, "{told}");
    Ok(())
}

fn behaves(behaviour: Behaviour) -> impl FnOnce(&mut Bench<Option<App>>) -> Result<()> {
    move |bench| {
        let app = bench.billing[1].as_ref().context("the app runs")?;
        app.behave(behaviour);
        Ok(())
    }
}

fn grpc_behaves(behaviour: &str) -> impl FnOnce(&mut Bench<Server>) -> Result<()> {
    move |bench| grpc_behave(&bench.billing[1], behaviour)
}

#[test]
fn an_instance_is_killed_under_http_load() -> Result<()> {
    let mut bench = http()?;
    let port = bench.billing[1].as_ref().map_or(0, App::port);
    let harm = |bench: &mut Bench<Option<App>>| {
        bench.mesh.process(VICTIM)?.kill()?;
        bench.billing[1] = None;
        Ok(())
    };
    bench.survives(true, harm, |bench| {
        bench.billing[1] = Some(App::on(port)?);
        bench.mesh.start_sidecar(VICTIM)?;
        bench.mesh.ready(VICTIM)
    })
}

/// The app alone: its sidecar says that it is gone.
#[test]
fn an_app_is_killed_under_grpc_load() -> Result<()> {
    let mut bench = grpc()?;
    let harm = |bench: &mut Bench<Server>| bench.billing[1].process.kill();
    bench.survives(true, harm, |bench| {
        let port = bench.billing[1].port;
        bench.billing[1] = grpc_server_on(Language::Go, bench.folder.path(), port)?;
        Ok(())
    })
}

/// The whole instance says nothing any more; its connections stay open. The balancer may well steer
/// away before there is anything to eject it for, here and below.
#[test]
fn a_sidecar_is_stopped_under_http_load() -> Result<()> {
    let harm = |bench: &mut Bench<_>| bench.mesh.process(VICTIM)?.signal(Signal::STOP);
    http()?.survives(false, harm, |bench| {
        bench.mesh.process(VICTIM)?.signal(Signal::CONT)
    })
}

#[test]
fn an_app_is_stopped_under_grpc_load() -> Result<()> {
    let harm = |bench: &mut Bench<Server>| bench.billing[1].process.signal(Signal::STOP);
    grpc()?.survives(false, harm, |bench| {
        bench.billing[1].process.signal(Signal::CONT)
    })
}

#[test]
fn an_instance_is_slow_under_http_load() -> Result<()> {
    let slow = behaves(Behaviour::Delay(Duration::from_secs(2)));
    http()?.survives(false, slow, behaves(Behaviour::Usual))
}

#[test]
fn an_instance_is_slow_under_grpc_load() -> Result<()> {
    grpc()?.survives(false, grpc_behaves("delay 2000"), grpc_behaves("ok"))
}

#[test]
fn an_instance_answers_503_under_http_load() -> Result<()> {
    http()?.survives(
        true,
        behaves(Behaviour::Status(503)),
        behaves(Behaviour::Usual),
    )
}

#[test]
fn an_instance_answers_unavailable_under_grpc_load() -> Result<()> {
    grpc()?.survives(true, grpc_behaves("status 14"), grpc_behaves("ok"))
}
