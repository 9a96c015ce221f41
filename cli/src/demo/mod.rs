//! `outrider demo`: the example shop as a mesh, under traffic, in eight scenes.
//!
//! - `stage`: the YAML it runs from, and its edits.
//! - `traffic`, `log`: the calls, and what became of them.
//! - `scenes`: what is shown, done and claimed.
//! - `board`: what is displayed; `live` draws it, `plain` prints it.

mod board;
mod live;
mod log;
mod plain;
mod scenes;
mod stage;
mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use self::board::{Board, Claim};
use self::log::Log;
use self::plain::Detail;
use self::scenes::Show;
use self::stage::Stage;
use self::traffic::Traffic;
use crate::REFUSED;
use crate::args::DemoArgs;
use crate::fetch::Door;
use crate::mesh::plan::{Options, Placement, Plan};
use crate::mesh::{self, Event, Mesh, ports};
use crate::output::{self, Format};
use crate::stop::Signals;
use crate::telemetry::{self, Target, edges};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Of every Service of the shop.
const SERVICE_PORT: u16 = 80;
/// How long a scene stays on the screen when it is over.
const DWELL: Duration = Duration::from_secs(6);
/// How often the live table is computed.
const REFRESH: Duration = Duration::from_secs(1);

/// How the demo is displayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Live,
    Lines(Detail),
}

impl Mode {
    fn of(args: &DemoArgs) -> Self {
        match (args.check, args.output) {
            (_, Format::Json) => Self::Lines(Detail::Nothing),
            (true, Format::Text) => Self::Lines(Detail::Claims),
            (false, Format::Text) if output::is_terminal() => Self::Live,
            (false, Format::Text) => Self::Lines(Detail::Everything),
        }
    }
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let signals = Signals::watch()?;
    let (stage, plan) = prepare(args.netns)?;
    output::note(format_args!(
        "starting the shop as a mesh: {} sidecars",
        plan.workloads.len()
    ));
    let mesh = Mesh::prepare(plan)?;
    let came_up = tokio::select! {
        result = mesh.bring_up() => Some(result),
        () = signals.first() => None,
    };
    let played = match came_up {
        Some(Ok(())) => {
            output::note(format_args!(
                "ready in {:.1} s",
                started.elapsed().as_secs_f64()
            ));
            tokio::select! {
                played = play(&mesh, &stage, &args) => Some(played),
                () = signals.first() => None,
                () = mesh.look_after() => None,
            }
        }
        Some(Err(error)) => Some(Err(error.into())),
        None => None,
    };
    // However the terminal was left.
    if played.is_none() && Mode::of(&args) == Mode::Live {
        ratatui::restore();
    }
    tokio::select! {
        () = mesh.drain(mesh.plan().drain_deadline()) => {}
        () = signals.second() => mesh.kill_all().await,
    }
    let Some(claims) = played.transpose()? else {
        return Ok(ExitCode::FAILURE);
    };
    let holds = !claims.is_empty() && claims.iter().all(|claim| claim.holds);
    if args.output == Format::Json {
        output::json(&serde_json::json!({
            "holds": holds,
            "seconds": started.elapsed().as_secs_f64(),
            "claims": claims,
        }));
    } else if Mode::of(&args) != Mode::Live {
        let held = claims.iter().filter(|claim| claim.holds).count();
        let seconds = started.elapsed().as_secs_f64();
        output::line(format_args!(
            "{held} of {} claims hold, {seconds:.1} s",
            claims.len()
        ));
    }
    Ok(if args.check && !holds {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Writes the shop's YAML to a directory of its own, on ports and in ranges that are free.
fn prepare(netns: bool) -> anyhow::Result<(Stage, Plan)> {
    let mut wanted = match netns {
        true => Vec::new(),
        false => stage::ports()?,
    };
    let defaults = Options::default();
    wanted.extend([
        defaults.control_plane_port,
        defaults.control_plane_admin_port,
    ]);
    let taken: Vec<u16> = wanted
        .into_iter()
        .filter(|port| std::net::TcpListener::bind((LOOPBACK, *port)).is_err())
        .collect();
    let others = ports::free(taken.len()).context("cannot find free ports")?;
    let moved: BTreeMap<u16, u16> = taken.into_iter().zip(others).collect();
    if !moved.is_empty() {
        output::note(format_args!(
            "{} of the usual ports are taken: others are used",
            moved.len()
        ));
    }
    let stage = match netns {
        true => Stage::prepare_netns(&mesh::netns::free_network()?)?,
        false => Stage::prepare(&moved)?,
    };
    let or_moved = |port: u16| moved.get(&port).copied().unwrap_or(port);
    let options = Options {
        placement: match netns {
            true => Placement::Namespaces,
            false => Placement::Machine,
        },
        state_dir: None,
        control_plane_port: or_moved(defaults.control_plane_port),
        control_plane_admin_port: or_moved(defaults.control_plane_admin_port),
    };
    match Plan::read(stage.path(), options) {
        Ok(plan) => Ok((stage, plan)),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            bail!("the demo's own policy is wrong:\n{}", lines.join("\n"))
        }
    }
}

/// Starts the traffic, plays the scenes and displays them; returns the claims.
async fn play(mesh: &Mesh, stage: &Stage, args: &DemoArgs) -> anyhow::Result<Vec<Claim>> {
    let mode = Mode::of(args);
    let log = Log::new();
    let plan = mesh.plan();
    let traffic = Traffic::new(
        door(&plan, "shopper-1", "order")?,
        door(&plan, "notification-1", "billing")?,
        log.clone(),
    );
    let targets: Vec<Target> = plan.workloads.iter().map(Target::of).collect();
    let (board, steps) = Board::new();
    let shown = board.watch();
    let _traffic = traffic.start(args.rate);
    let show = Show {
        mesh,
        stage,
        traffic: &traffic,
        log: &log,
        board: &board,
        targets: &targets,
        rate: args.rate,
        dwell: if mode == Mode::Live {
            DWELL
        } else {
            Duration::ZERO
        },
    };
    match mode {
        Mode::Live => {
            let scenes = async {
                show.run().await;
                match args.duration {
                    Some(duration) => sleep(duration).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                drawn = live::run(shown.clone()) => drawn.context("cannot draw in this terminal")?,
                () = scenes => ratatui::restore(),
                () = refresh(&targets, &board) => {}
                () = report(mesh, &board) => {}
            }
            Ok(shown.borrow().claims.clone())
        }
        Mode::Lines(detail) => {
            let printer = tokio::spawn(plain::run(steps, detail));
            show.run().await;
            if let (Some(duration), false) = (args.duration, args.check) {
                sleep(duration).await;
            }
            drop(board);
            printer.await.context("the printer failed")
        }
    }
}

/// Where an app beside the sidecar of `workload` calls a Service of the shop.
fn door(plan: &Plan, workload: &str, service: &str) -> anyhow::Result<Door> {
    let workload = plan
        .workload(workload)
        .with_context(|| format!("there is no {workload}"))?;
    let address = match workload.place {
        None => workload
            .outbound_http
            .map(|port| SocketAddr::new(LOOPBACK, port)),
        Some(_) => {
            let address = plan.names.address_of(&workload.namespace, service);
            address.map(|address| SocketAddr::new(address, SERVICE_PORT))
        }
    };
    let address = address.with_context(|| format!("{} has no way to {service}", workload.label))?;
    Ok(workload.door(address))
}

/// Keeps the table of edges current; never resolves.
async fn refresh(targets: &[Target], board: &Board) {
    let mut earlier = (Instant::now(), telemetry::scrape(targets).await);
    loop {
        sleep(REFRESH).await;
        let now = (Instant::now(), telemetry::scrape(targets).await);
        let seconds = now.0.duration_since(earlier.0).as_secs_f64();
        board.rows(edges::between(&earlier.1, &now.1, seconds));
        earlier = now;
    }
}

/// Passes on what happens to the processes; resolves when the mesh is gone.
async fn report(mesh: &Mesh, board: &Board) {
    let mut events = mesh.subscribe();
    loop {
        match events.recv().await {
            Ok(Event::Started { child, pid }) => {
                board.news(format!("{child} runs as process {pid}"))
            }
            Ok(Event::Ended { child, how, .. }) => board.news(format!("{child} ended ({how})")),
            Ok(Event::Progress(text)) => board.news(text),
            Ok(Event::Line { .. } | Event::Ready { .. }) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
