//! Alert rules: Prometheus takes them, and every metric in them is one that there is.

use std::fs;

use anyhow::{Result, ensure};
use mesh_tests::process::{command, run};
use mesh_tests::programs::{find, root};
use mesh_tests::wait::PATIENCE;
use serde_json::Value;

#[test]
fn alert_rules_are_good_and_about_metrics_that_there_are() -> Result<()> {
    let file = root().join("manifests/monitoring/alerts.yaml");
    let mut promtool = command(&find("promtool", "prometheus")?)?;
    promtool.args(["check", "rules", "--lint-fatal"]).arg(&file);
    run(&mut promtool, PATIENCE)?.success()?;

    let reference = fs::read_to_string(root().join("docs/reference/metrics.md"))?;
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
    let rules = rules["groups"][0]["rules"].as_array().cloned();
    let mut metrics = 0;
    for rule in rules.unwrap_or_default() {
        let expression = rule["expr"].as_str().unwrap_or_default();
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        for name in expression
            .split(word)
            .filter(|name| name.starts_with("outrider_"))
        {
            let name = name.trim_end_matches("_bucket");
            // The control plane's are listed without what they all begin with.
            let short = name.trim_start_matches("outrider_control_plane_");
            let is_known = [name, short]
                .iter()
                .any(|name| reference.contains(&format!("`{name}`")));
            ensure!(
                is_known,
                "{name} is not in docs/reference/metrics.md: {expression}"
            );
            metrics += 1;
        }
    }
    ensure!(metrics >= 9, "only {metrics} metrics");
    Ok(())
}
