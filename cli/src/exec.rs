//! `outrider exec`: becomes a program that runs as a workload of a mesh of network namespaces.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::args::ExecArgs;
use crate::mesh::netns::{self, inside};
use crate::mesh::plan::{Options, Placement, Plan};
use crate::mesh::spec;
use crate::{UNUSABLE, output};

/// Returns only when the program cannot be started.
pub(crate) fn run(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let ip = netns::able()?;
    let options = Options {
        placement: Placement::Namespaces,
        state_dir: args.state_dir,
        ..Options::default()
    };
    let plan = match Plan::read(&args.directory, options) {
        Ok(plan) => plan,
        Err(problems) => {
            problems.iter().for_each(output::note);
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let wanted = &args.workload;
    let mut workloads = plan.workloads.iter();
    let found = workloads.find(|workload| {
        workload.label == *wanted || format!("{}/{}", workload.namespace, workload.name) == *wanted
    });
    let Some((workload, place)) = found.and_then(|found| Some((found, found.place.as_ref()?)))
    else {
        let known: Vec<&str> = plan
            .workloads
            .iter()
            .map(|workload| workload.label.as_str())
            .collect();
        bail!("no Workload {wanted} here: there are {}", known.join(", "));
    };
    if !Path::new(inside::NAMESPACES).join(&place.netns).exists() {
        let directory = args.directory.display();
        bail!("no mesh runs from {directory}: start it with: outrider up {directory} --netns");
    }
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let error = Command::new(ip.program())
        .args(["netns", "exec", &place.netns])
        .arg(exe)
        .arg("supervised")
        .args(spec::user(workload))
        .arg("--")
        .args(&args.command)
        .exec();
    Err(error).context("cannot run ip")
}
