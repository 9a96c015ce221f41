//! `outrider up`: runs the mesh that a directory describes, in the foreground.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::timeout;

use crate::REFUSED;
use crate::args::UpArgs;
use crate::mesh::plan::{Options, Placement, Plan, WorkloadPlan};
use crate::mesh::{Event, Mesh, elsewhere, netns, ports};
use crate::output::{self, Format, Palette, Table};
use crate::stop::Signals;

/// How long the last lines of ended children are waited for.
const LAST_LINES: Duration = Duration::from_millis(500);

/// So many ports in use are named one by one.
const PORTS_NAMED: usize = 4;

pub(crate) async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let signals = Signals::watch()?;
    if args.netns {
        netns::able()?;
    }
    let options = Options {
        placement: match args.netns {
            true => Placement::Namespaces,
            false => Placement::Machine,
        },
        state_dir: args.state_dir,
        control_plane_port: args.control_plane_port,
        control_plane_admin_port: args.control_plane_admin_port,
    };
    let Some(plan) = usable_plan(&args.directory, options) else {
        return Ok(ExitCode::from(REFUSED));
    };
    let mesh = Mesh::prepare(plan)?;
    let printer = tokio::spawn(print_events(
        mesh.subscribe(),
        Printer::new(&mesh.plan(), args.output),
    ));
    let came_up = tokio::select! {
        result = mesh.bring_up() => Some(result),
        () = signals.first() => None,
    };
    let mut code = match came_up {
        Some(Ok(())) => {
            tokio::select! {
                () = signals.first() => {}
                () = mesh.look_after() => {}
            }
            ExitCode::SUCCESS
        }
        Some(Err(error)) => {
            output::note(format_args!("outrider: {error}"));
            ExitCode::FAILURE
        }
        None => ExitCode::FAILURE,
    };
    tokio::select! {
        () = mesh.drain(mesh.plan().drain_deadline()) => {}
        () = signals.second() => {
            mesh.kill_all().await;
            code = ExitCode::FAILURE;
        }
    }
    drop(mesh);
    let _ = timeout(LAST_LINES, printer).await;
    Ok(code)
}

/// What the directory describes, when it is good and every port is free; else says why not.
fn usable_plan(directory: &Path, options: Options) -> Option<Plan> {
    let plan = Plan::read(directory, options)
        .inspect_err(|problems| problems.iter().for_each(output::note))
        .ok()?;
    if !plan.misplaced.is_empty() {
        plan.misplaced.iter().for_each(output::note);
        return None;
    }
    // Where there is a network to be made, ports are checked in it.
    let checked = match plan.network {
        Some(_) => Ok(()),
        None => ports::check(&plan.ports()),
    };
    if let Err(problems) = checked {
        problems.iter().take(PORTS_NAMED).for_each(output::note);
        let more = problems.len().saturating_sub(PORTS_NAMED);
        if more > 0 {
            output::note(format_args!(
                "… and {more} more ports: does this mesh run already?"
            ));
        }
        return None;
    }
    for workload in &plan.elsewhere {
        output::note(elsewhere(workload));
    }
    Some(plan)
}

struct Printer {
    plan: Plan,
    palette: Palette,
    width: usize,
    format: Format,
}

impl Printer {
    fn new(plan: &Plan, format: Format) -> Self {
        let sidecars = plan
            .workloads
            .iter()
            .map(|workload| workload.label.len() + "/sidecar".len());
        Self {
            plan: plan.clone(),
            palette: Palette::for_stdout(),
            width: sidecars.chain(["control-plane".len()]).max().unwrap_or(0),
            format,
        }
    }

    fn print(&self, event: &Event) {
        let width = self.width;
        match event {
            Event::Line { child, text } => {
                let line = format!(
                    "{} {text}",
                    self.palette
                        .of(child.as_str(), format_args!("{child:width$} |"))
                );
                match self.format {
                    Format::Text => output::line(line),
                    Format::Json => output::note(line),
                }
            }
            Event::Started { .. } => {}
            Event::Ended {
                child,
                how,
                again_in,
            } => output::note(format_args!(
                "{child} ended ({how}); it is started again in {:.1} s",
                again_in.as_secs_f64()
            )),
            Event::Progress(text) => output::note(text),
            Event::Ready { took } => {
                print_table(&self.plan, self.format);
                output::note(format_args!(
                    "ready in {:.2} s; Ctrl-C ends it",
                    took.as_secs_f64()
                ));
            }
        }
    }
}

async fn print_events(mut events: broadcast::Receiver<Event>, printer: Printer) {
    loop {
        match events.recv().await {
            Ok(event) => printer.print(&event),
            Err(RecvError::Lagged(lines)) => {
                output::note(format_args!("… {lines} lines were not shown"))
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// What listens where, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listening<'a> {
    workload: String,
    identity: &'a str,
    /// Its network namespace, and its addresses there.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    mesh: String,
    app: Option<String>,
    outbound_http: Option<String>,
    upstreams: Vec<String>,
    admin: String,
    metrics: String,
}

impl<'a> Listening<'a> {
    fn of(workload: &'a WorkloadPlan) -> Self {
        Self {
            workload: format!("{}/{}", workload.namespace, workload.name),
            identity: workload.id.as_str(),
            netns: workload.place.as_ref().map(|place| place.netns.as_str()),
            addresses: workload.place.as_ref().map_or_else(Vec::new, |place| {
                place.addresses.iter().map(ToString::to_string).collect()
            }),
            mesh: workload.mesh().to_string(),
            app: workload.app().map(|address| address.to_string()),
            outbound_http: workload
                .outbound_http
                .map(|port| format!("http://127.0.0.1:{port}")),
            upstreams: workload
                .upstreams
                .iter()
                .map(|upstream| {
                    format!(
                        "{}:{} at 127.0.0.1:{}",
                        upstream.service, upstream.port, upstream.local_port
                    )
                })
                .collect(),
            admin: format!("http://{}", workload.admin()),
            metrics: format!("http://{}/metrics", workload.telemetry()),
        }
    }
}

fn print_table(plan: &Plan, format: Format) {
    let rows: Vec<Listening> = plan.workloads.iter().map(Listening::of).collect();
    match format {
        Format::Json => output::json(&serde_json::json!({
            "controlPlane": plan.control_plane.to_string(),
            "controlPlaneMetrics": format!("http://{}/metrics", plan.control_plane_admin),
            "trustDomain": plan.trust_domain.to_string(),
            "workloads": rows,
        })),
        Format::Text if plan.network.is_some() => {
            output::line(namespaces(rows));
            output::note(
                "run a program as a workload: ip netns exec NAMESPACE PROGRAM, or outrider exec",
            );
        }
        Format::Text => output::line(loopback_ports(rows)),
    }
}

fn namespaces(rows: Vec<Listening>) -> Table {
    let mut table = Table::new([
        "WORKLOAD",
        "IDENTITY",
        "NAMESPACE",
        "ADDRESSES",
        "APP",
        "METRICS",
    ]);
    for row in rows {
        table.row([
            row.workload,
            row.identity.to_owned(),
            row.netns.unwrap_or("-").to_owned(),
            row.addresses.join(" "),
            row.app.unwrap_or_else(|| "-".to_owned()),
            row.metrics,
        ]);
    }
    table
}

fn loopback_ports(rows: Vec<Listening>) -> Table {
    let mut table = Table::new([
        "WORKLOAD",
        "IDENTITY",
        "MESH PORT",
        "APP",
        "CALLS GO TO",
        "METRICS",
    ]);
    for row in rows {
        let calls: Vec<String> = row.outbound_http.into_iter().chain(row.upstreams).collect();
        table.row([
            row.workload,
            row.identity.to_owned(),
            row.mesh,
            row.app.unwrap_or_else(|| "-".to_owned()),
            if calls.is_empty() {
                "-".to_owned()
            } else {
                calls.join(", ")
            },
            row.metrics,
        ]);
    }
    table
}
