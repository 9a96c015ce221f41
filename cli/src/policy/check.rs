//! `outrider policy check`: every mistake in a directory, with its place.

use std::process::ExitCode;

use outrider_control_plane::index::Mesh;
use serde_json::json;

use super::load;
use crate::REFUSED;
use crate::args::CheckArgs;
use crate::output::{self, Format};

pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    match load(&args.directory) {
        Ok(mesh) => {
            match args.output {
                Format::Text => output::line(format_args!(
                    "{}: good: {}",
                    args.directory.display(),
                    summary(&mesh)
                )),
                Format::Json => output::json(&json!({
                    "good": true,
                    "problems": [],
                    "workloads": mesh.workloads().len(),
                    "services": mesh.destinations().len(),
                    "trustDomain": mesh.settings().trust_domain.to_string(),
                    "defaultDeny": mesh.settings().default_deny,
                })),
            }
            ExitCode::SUCCESS
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

fn summary(mesh: &Mesh) -> String {
    let policies: std::collections::BTreeSet<String> = mesh
        .workloads()
        .values()
        .flat_map(|workload| workload.authorization.policies())
        .map(ToString::to_string)
        .collect();
    format!(
        "{} workloads, {} services, {} policies in force, trust domain {}, {} by default",
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
