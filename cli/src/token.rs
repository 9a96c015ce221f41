//! `outrider token`: mints a bootstrap token, for a sidecar that is started by hand.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use outrider_certs::spiffe::SpiffeId;
use outrider_certs::token::TokenIssuer;

use crate::args::TokenArgs;
use crate::mesh::plan::Plan;
use crate::output;

pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let (id, state_dir) = match (&args.spiffe, &args.workload, &args.directory) {
        (Some(id), _, directory) => {
            let default = directory.as_deref().map(Plan::default_state_dir);
            let Some(state_dir) = args.state_dir.clone().or(default) else {
                bail!("--state-dir: say where the control plane keeps token.key");
            };
            (id.clone(), state_dir)
        }
        (None, Some(workload), Some(directory)) => {
            let state_dir = args
                .state_dir
                .clone()
                .unwrap_or_else(|| Plan::default_state_dir(directory));
            (identity_of(directory, workload)?, state_dir)
        }
        _ => bail!("give --spiffe, or --workload with the directory that describes it in --dir"),
    };
    if !state_dir.join("token.key").is_file() {
        bail!(
            "{}: no token.key there; the control plane makes it at its first start (--state-dir)",
            state_dir.display()
        );
    }
    let issuer = TokenIssuer::load_or_create(&state_dir)
        .with_context(|| format!("cannot use the token key in {}", state_dir.display()))?;
    let token = issuer
        .mint(&id, args.lifetime, SystemTime::now())
        .with_context(|| format!("cannot mint a token for {id}"))?;
    output::line(token);
    Ok(())
}

/// The identity that a directory gives to NAMESPACE/NAME.
fn identity_of(directory: &Path, workload: &str) -> anyhow::Result<SpiffeId> {
    let (namespace, name) = workload
        .split_once('/')
        .with_context(|| format!("--workload {workload}: expected NAMESPACE/NAME"))?;
    let mesh = crate::policy::load(directory).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(
            "{} has problems:\n{}",
            directory.display(),
            lines.join("\n")
        )
    })?;
    let found = mesh.workload(namespace, name);
    let found = found.with_context(|| {
        format!(
            "--workload {workload}: no such Workload in {}",
            directory.display()
        )
    })?;
    Ok(found.id.clone())
}
