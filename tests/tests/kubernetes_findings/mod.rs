//! What `outrider check` finds in a mesh that is not well: each state is made for real, and its finding has
//! to name it and to say what to do.

mod cluster;
mod objects;

use anyhow::{Context, Result, ensure};
use mesh_tests::process::Finished;
use serde_json::Value;

/// What was found.
struct Findings(Vec<Value>);

impl Findings {
    fn read(finished: &Finished) -> Result<Self> {
        let report: Value =
            serde_json::from_str(&finished.stdout).with_context(|| finished.output())?;
        let findings = report["findings"].as_array().context("findings")?;
        Ok(Self(findings.clone()))
    }

    fn of<'f>(&'f self, check: &'f str) -> impl Iterator<Item = &'f Value> {
        let findings = self.0.iter();
        findings.filter(move |finding| finding["check"] == check)
    }

    /// Each line of `expected` is a check, its level, what is in its message, and what in its remedy, with `|`
    /// between.
    fn have(&self, expected: &str) -> Result<()> {
        for line in expected.lines().filter(|line| !line.trim().is_empty()) {
            let columns: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
            let [check, level, message, remedy] = columns[..] else {
                anyhow::bail!("four columns, got {line:?}");
            };
            let says = |finding: &Value, field: &str, text: &str| {
                let said = finding[field].as_str().unwrap_or_default();
                said.contains(text)
            };
            let is_it = |finding: &&Value| {
                finding["level"] == level
                    && says(finding, "message", message)
                    && says(finding, "remedy", remedy)
            };
            let all: Vec<&Value> = self.of(check).collect();
            ensure!(all.iter().any(is_it), "expected {line:?}, got {all:#?}");
        }
        Ok(())
    }

    fn are_good(&self, checks: &[&str]) -> Result<()> {
        for check in checks {
            let all: Vec<&Value> = self.of(check).collect();
            let good = !all.is_empty() && all.iter().all(|one| one["level"] == "ok");
            ensure!(good, "{check}: {all:#?}");
        }
        Ok(())
    }
}
