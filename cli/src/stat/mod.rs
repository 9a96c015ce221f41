//! `outrider stat`: what the sidecars of a mesh that runs on this machine measure, as tables. Asks
//! the sidecars that the directory describes; changes nothing.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::args::StatArgs;
use crate::mesh::plan::{Options, Placement, Plan};
use crate::output::{self, Format};
use crate::telemetry::edges::{self, Row, Scrape};
use crate::telemetry::services::{self, Budgets, ServiceRow};
use crate::telemetry::{self, Target, tables};
use crate::{REFUSED, policy};

/// So many sidecars that do not answer are named one by one.
const SILENT_NAMED: usize = 4;

pub(crate) async fn run(args: StatArgs) -> anyhow::Result<ExitCode> {
    let mesh = match policy::load(&args.directory) {
        Ok(mesh) => mesh,
        Err(problems) => {
            problems.iter().for_each(output::note);
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let budgets = services::budgets(&mesh);
    let options = Options {
        placement: Placement::Either,
        ..Options::default()
    };
    let plan = Plan::of(&mesh, &args.directory, options);
    let targets: Vec<Target> = plan.workloads.iter().map(Target::of).collect();
    let mut earlier = (Instant::now(), telemetry::scrape(&targets).await);
    loop {
        if earlier.1.is_empty() {
            output::note(no_mesh(&args.directory, &targets));
            return Ok(ExitCode::from(REFUSED));
        }
        sleep(args.interval).await;
        let now = (Instant::now(), telemetry::scrape(&targets).await);
        let seconds = now.0.duration_since(earlier.0).as_secs_f64();
        let report = Report::between(&targets, &budgets, [&earlier.1, &now.1], seconds);
        report.print(args.output, args.watch);
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        earlier = now;
    }
}

/// What is said when nobody answers.
fn no_mesh(directory: &Path, targets: &[Target]) -> String {
    let directory = directory.display();
    match targets {
        [] => format!("{directory} describes no sidecar on this machine"),
        [first, ..] => format!(
            "no mesh runs from {directory}: none of its {} sidecars answers ({} at http://{}/metrics …); \
             start it with: outrider up {directory}",
            targets.len(),
            first.workload,
            first.address
        ),
    }
}

/// What was measured in one interval.
#[derive(Debug, Serialize)]
struct Report {
    /// Of the interval.
    seconds: f64,
    edges: Vec<Row>,
    services: Vec<ServiceRow>,
    /// Workloads whose sidecars did not answer.
    silent: Vec<String>,
}

impl Report {
    fn between(
        targets: &[Target],
        budgets: &Budgets,
        [earlier, later]: [&Scrape; 2],
        seconds: f64,
    ) -> Self {
        let silent = targets
            .iter()
            .filter(|target| !later.contains_key(&target.workload))
            .map(|target| target.workload.clone());
        Self {
            seconds,
            edges: edges::between(earlier, later, seconds),
            services: services::between(earlier, later, seconds, budgets),
            silent: silent.collect(),
        }
    }

    fn print(&self, format: Format, again: bool) {
        match format {
            Format::Json if again => output::json_line(self),
            Format::Json => output::json(self),
            Format::Text => {
                if again {
                    output::clear();
                }
                output::line(tables::edges(&self.edges));
                output::line("");
                output::line(tables::services(&self.services));
                output::line("");
                output::line(tables::endpoints(&self.services));
                if let Some(silent) = self.silent() {
                    output::note(silent);
                }
            }
        }
    }

    /// A line about the sidecars that did not answer.
    fn silent(&self) -> Option<String> {
        let named = self.silent.iter().take(SILENT_NAMED).cloned();
        let named: Vec<String> = named.collect();
        let more = self.silent.len() - named.len();
        let mut line = format!("no answer from the sidecar of {}", named.join(", "));
        if more > 0 {
            line.push_str(&format!(" and {more} more"));
        }
        (!named.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::telemetry::edges::Scraped;

    fn target(workload: &str) -> Target {
        Target {
            workload: workload.to_owned(),
            identity: format!("spiffe://shop.example/ns/shop/sa/{workload}"),
            address: (Ipv4Addr::LOCALHOST, 18120).into(),
        }
    }

    #[test]
    fn a_mesh_that_does_not_run_is_one_clear_line() {
        let said = no_mesh(Path::new("mesh"), &[target("order-1"), target("user-1")]);
        assert_eq!(
            said,
            "no mesh runs from mesh: none of its 2 sidecars answers (order-1 at http://127.0.0.1:18120/metrics …); \
             start it with: outrider up mesh"
        );
        assert!(no_mesh(Path::new("mesh"), &[]).contains("no sidecar"));
    }

    #[test]
    fn sidecars_that_do_not_answer_are_named() {
        let targets: Vec<Target> = ["a-1", "b-1", "c-1", "d-1", "e-1", "f-1"]
            .into_iter()
            .map(target)
            .collect();
        let scrape = Scrape::from([("c-1".to_owned(), Scraped::default())]);
        let report = Report::between(&targets, &Budgets::new(), [&scrape, &scrape], 1.0);
        assert_eq!(
            report.silent().as_deref(),
            Some("no answer from the sidecar of a-1, b-1, d-1, e-1 and 1 more")
        );
        let report = Report::between(&targets[2..3], &Budgets::new(), [&scrape, &scrape], 1.0);
        assert_eq!(report.silent(), None);
    }
}
