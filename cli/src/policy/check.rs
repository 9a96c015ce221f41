//! `outrider policy check`: every mistake in a directory, with its place.

use std::collections::BTreeMap;
use std::process::ExitCode;

use outrider_api::manifest::Object;
use outrider_control_plane::index::Mesh;
use serde_json::json;

use super::load_objects;
use crate::REFUSED;
use crate::args::CheckArgs;
use crate::output::{self, Format};

/// The kinds that the summary counts besides, in this order.
const COUNTED: [&str; 5] = [
    "TrafficPolicy",
    "RateLimitPolicy",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
];

pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    match load_objects(&args.directory) {
        Ok((objects, mesh)) => {
            let good = mesh.warnings().is_empty() || !args.deny_warnings;
            match args.output {
                Format::Text => {
                    mesh.warnings().iter().for_each(output::line);
                    if good {
                        output::line(format_args!(
                            "{}: good: {}",
                            args.directory.display(),
                            summary(&objects, &mesh)
                        ));
                    }
                }
                Format::Json => output::json(&json!({
                    "good": good,
                    "problems": mesh.warnings(),
                    "workloads": mesh.workloads().len(),
                    "services": mesh.destinations().len(),
                    "objects": counts(&objects),
                    "trustDomain": mesh.settings().trust_domain.to_string(),
                    "defaultDeny": mesh.settings().default_deny,
                })),
            }
            ExitCode::from(if good { 0 } else { REFUSED })
        }
        Err(problems) => {
            match args.output {
                Format::Text => problems.iter().for_each(output::line),
                Format::Json => output::json(&json!({"good": false, "problems": problems})),
            }
            ExitCode::from(REFUSED)
        }
    }
}

/// How many there are of each kind that is there.
fn counts(objects: &[Object]) -> BTreeMap<&'static str, usize> {
    objects.iter().fold(BTreeMap::new(), |mut counts, object| {
        *counts.entry(object.kind()).or_default() += 1;
        counts
    })
}

fn summary(objects: &[Object], mesh: &Mesh) -> String {
    let policies: std::collections::BTreeSet<String> = mesh
        .workloads()
        .values()
        .flat_map(|workload| workload.authorization.policies())
        .map(ToString::to_string)
        .collect();
    let counts = counts(objects);
    let others: String = COUNTED
        .iter()
        .filter_map(|kind| Some(format!("{} {kind}, ", counts.get(kind)?)))
        .collect();
    format!(
        "{} workloads, {} services, {} policies in force, {others}trust domain {}, {} by default",
        mesh.workloads().len(),
        mesh.destinations().len(),
        policies.len(),
        mesh.settings().trust_domain,
        if mesh.settings().default_deny {
            "deny"
        } else {
            "allow"
        }
    )
}
