//! `outrider stat` and `outrider edges`: what the sidecars of a mesh measure, as tables. Asks the
//! sidecars of a cluster, or those that a directory describes on this machine; changes nothing.

mod source;

use std::process::ExitCode;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::source::Source;
pub(crate) use self::source::no_sidecar;
use crate::REFUSED;
use crate::args::StatArgs;
use crate::output::{self, Format};
use crate::telemetry::edges::{self, Row, Scrape};
use crate::telemetry::services::{self, Budgets, ServiceRow};
use crate::telemetry::tables;

/// So many sidecars that do not answer are named one by one.
const SILENT_NAMED: usize = 4;

/// How much of what was measured is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Everything,
    /// Who calls whom.
    Edges,
}

pub(crate) async fn run(args: StatArgs, shown: Shown) -> anyhow::Result<ExitCode> {
    let source = match &args.directory {
        None => Source::cluster(&args.scope, &args.cluster).await?,
        Some(directory) => match Source::directory(directory) {
            Ok(source) => source,
            Err(problems) => {
                problems.iter().for_each(output::note);
                return Ok(ExitCode::from(REFUSED));
            }
        },
    };
    let mut earlier = (Instant::now(), source.scrape().await?);
    loop {
        let (_, scraped) = &earlier;
        if scraped.scrape.is_empty() {
            output::note(source.nobody(&scraped.silent));
            return Ok(ExitCode::from(REFUSED));
        }
        sleep(args.interval).await;
        let now = (Instant::now(), source.scrape().await?);
        let seconds = now.0.duration_since(earlier.0).as_secs_f64();
        let scrapes = [&earlier.1.scrape, &now.1.scrape];
        let silent = now.1.silent.iter().map(|(name, _)| name.clone());
        let report = Report::between(silent.collect(), source.budgets(), scrapes, seconds, shown);
        report.print(args.output, args.watch);
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        earlier = now;
    }
}

/// What was measured in one interval.
#[derive(Debug, Serialize)]
struct Report {
    /// Of the interval.
    seconds: f64,
    edges: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Vec<ServiceRow>>,
    /// Workloads whose sidecars did not answer.
    silent: Vec<String>,
}

impl Report {
    fn between(
        silent: Vec<String>,
        budgets: &Budgets,
        [earlier, later]: [&Scrape; 2],
        seconds: f64,
        shown: Shown,
    ) -> Self {
        let everything = shown == Shown::Everything;
        Self {
            seconds,
            edges: edges::between(earlier, later, seconds),
            services: everything.then(|| services::between(earlier, later, seconds, budgets)),
            silent,
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
                if let Some(services) = &self.services {
                    output::line("");
                    output::line(tables::services(services));
                    output::line("");
                    output::line(tables::endpoints(services));
                }
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
    use super::*;

    #[test]
    fn sidecars_that_do_not_answer_are_named() {
        let nothing = Scrape::new();
        let report = |silent: &[&str]| {
            let silent = silent.iter().map(|name| (*name).to_owned()).collect();
            let scrapes = [&nothing, &nothing];
            Report::between(silent, &Budgets::new(), scrapes, 1.0, Shown::Edges)
        };
        assert_eq!(
            report(&["a-1", "b-1", "d-1", "e-1", "f-1"])
                .silent()
                .as_deref(),
            Some("no answer from the sidecar of a-1, b-1, d-1, e-1 and 1 more")
        );
        assert_eq!(report(&[]).silent(), None);
    }

    #[test]
    fn edges_are_edges_only() {
        let nothing = Scrape::new();
        let json = |shown| {
            let report = Report::between(
                Vec::new(),
                &Budgets::new(),
                [&nothing, &nothing],
                1.0,
                shown,
            );
            serde_json::to_value(report).unwrap()
        };
        assert!(json(Shown::Everything).get("services").is_some());
        assert!(json(Shown::Edges).get("services").is_none());
    }
}
