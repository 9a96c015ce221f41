//! How a control plane does that has much to do: many sidecars on their streams, a large mesh behind a
//! real API server, endpoints that come and go, and policy that changes meanwhile, judged before it is
//! stored.
//!
//! `cargo bench -p mesh-tests --bench scale -- [--sidecars N] [--services N] …`; the control plane is the
//! released `outrider`, or what `OUTRIDER_BIN` names.
//!
//! - [`objects`]: what is in the API server: Services, pods, EndpointSlices, made in its own way.
//! - [`fleet`]: the streams, which acknowledge whatever comes, with certificates of the mesh's authority.
//! - [`plane`]: the control plane, a process of which memory and processor time are read.
//! - [`report`]: what it came to, and whether the marks are met.

mod fleet;
mod objects;
mod plane;
mod report;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser as _;
use mesh_tests::api_server::ApiServer;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::fleet::Fleet;
use crate::objects::Cluster;
use crate::plane::ControlPlane;
use crate::report::{AtOnce, Churned, Report};

/// What a control plane is measured with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "scale")]
struct Arguments {
    /// cargo says so
    #[arg(long, hide = true)]
    bench: bool,
    /// Streams of sidecars
    #[arg(long, default_value_t = 2_000)]
    sidecars: usize,
    /// Services
    #[arg(long, default_value_t = 500)]
    services: usize,
    /// Endpoints of all of them
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
    /// Services that each sidecar calls
    #[arg(long, default_value_t = 5)]
    calls: usize,
    /// Endpoints that change in a second, while policy is applied
    #[arg(long, default_value_t = 100)]
    churn: u32,
    /// How often a policy is applied that every sidecar must acknowledge
    #[arg(long, default_value_t = 20)]
    policies: u32,
    /// Seconds between two of them
    #[arg(long, default_value_t = 2)]
    pause: u64,
    /// Further policies, which are applied all at once
    #[arg(long, default_value_t = 1_000)]
    at_once: u32,
}

/// Streams need a file each.
const FILES: u64 = 65_536;
/// What is begun has had its effect by then.
const SETTLED: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(measure(&arguments))?;
    std::io::stdout().write_all(report.text().as_bytes())?;
    anyhow::ensure!(report.is_good(), "a mark is missed");
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Report> {
    let server = ApiServer::start()?;
    server.kubectl("apply --filename -", &plane::definitions()?)?;
    let cluster = Cluster::connect(&server.kubeconfig()).await?;
    say("making objects");
    cluster.make(arguments).await?;
    let server = Arc::new(server);
    let mut plane = ControlPlane::start(&server.kubeconfig())?;
    let begun = Instant::now();
    plane.ready().await?;
    let ready = begun.elapsed();
    let (registered, webhook) = (Arc::clone(&server), plane.webhook());
    tokio::task::spawn_blocking(move || registered.register_validator(webhook)).await??;
    say("connecting sidecars");
    let bundle = cluster.authority().await?;
    let fleet = Fleet::connect(arguments, &bundle, plane.listen()).await?;
    sleep(SETTLED).await;
    let mut report = Report::new(arguments.clone(), ready, fleet.connected(), plane.usage()?);
    say("changing endpoints and applying policy");
    let changed = Arc::new(AtomicU64::new(0));
    let churning = churn(cluster.clone(), arguments.clone(), Arc::clone(&changed));
    let churning = tokio::spawn(churning);
    sleep(SETTLED).await;
    let before = plane.usage()?;
    let changed_before = changed.load(Ordering::Relaxed);
    let begun = Instant::now();
    for number in 1..=arguments.policies {
        let applied = Instant::now();
        cluster.apply_policy(number).await?;
        let taken = fleet.acknowledged(number, applied).await;
        report.policy(taken.with_context(|| format!("policy {number}: {}", plane.log()))?);
        sleep(Duration::from_secs(arguments.pause)).await;
    }
    report.churned(Churned {
        time: begun.elapsed(),
        changed: changed.load(Ordering::Relaxed) - changed_before,
        before,
        after: plane.usage()?,
    });
    if arguments.at_once > 0 {
        say("applying many policies at once");
        report.at_once(
            at_once(arguments, &cluster, &fleet)
                .await
                .with_context(|| plane.log())?,
        );
    }
    report.most(plane.usage()?.peak);
    churning.abort();
    Ok(report)
}

/// What every sidecar has acknowledged includes all that was there before it.
async fn at_once(arguments: &Arguments, cluster: &Cluster, fleet: &Fleet) -> Result<AtOnce> {
    let begun = Instant::now();
    let each = cluster.apply_many(arguments).await?;
    let applied = begun.elapsed();
    let (last, of_last) = (arguments.policies + 1, Instant::now());
    cluster.apply_policy(last).await?;
    fleet.acknowledged(last, of_last).await?;
    Ok(AtOnce {
        each,
        applied,
        acknowledged: of_last.elapsed(),
    })
}

/// One endpoint after the other is not ready, and ready again the next time. `changed` counts those that
/// the API server has taken: it may be slower than it is asked to be.
async fn churn(cluster: Cluster, arguments: Arguments, changed: Arc<AtomicU64>) -> Result<()> {
    let Some(pause) = Duration::from_secs(1).checked_div(arguments.churn) else {
        return Ok(());
    };
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        tick.tick().await;
        let cluster = cluster.clone();
        let (arguments, changed) = (arguments.clone(), Arc::clone(&changed));
        tokio::spawn(async move {
            match cluster.change_endpoint(&arguments, number).await {
                Ok(()) => {
                    changed.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => say(&format!("an endpoint was not changed: {error:#}")),
            }
        });
    }
    Ok(())
}

/// How far it is; what was measured goes to standard output.
fn say(text: &str) {
    eprintln!("scale: {text}");
}

/// As far as it may be.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(FILES, |most| most.min(FILES));
    let limit = Rlimit {
        current: Some(wanted.max(now.current.unwrap_or(0))),
        maximum: now.maximum,
    };
    // Too few show themselves when streams cannot be opened.
    let _ = setrlimit(Resource::Nofile, limit);
}
