//! What `outrider install` prints: what tests install of it, or in its likeness.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{command, run};
use crate::programs::outrider;
use crate::wait::PATIENCE;

/// Everything but the definitions, with these options, as YAML.
pub fn text(options: &[&str]) -> Result<String> {
    install(&[&["--crds", "none"], options].concat())
}

/// The definitions alone.
pub fn definitions() -> Result<String> {
    install(&["--crds", "only"])
}

fn install(options: &[&str]) -> Result<String> {
    let mut install = command(&outrider()?)?;
    install.arg("install").args(options);
    Ok(run(&mut install, PATIENCE)?.success()?.stdout)
}

/// The first object of a kind, without options.
pub fn object(kind: &str) -> Result<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text(&[])?)?;
    let mut objects = objects.into_iter();
    let found = objects.find(|object| object["kind"] == kind);
    found.with_context(|| format!("outrider install prints no {kind}"))
}
