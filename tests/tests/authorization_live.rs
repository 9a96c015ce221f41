//! Policy that changes while traffic flows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_tests::http::Connection;
use mesh_tests::manifest::{account, policy};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::process::{command, run};
use mesh_tests::wait::{PATIENCE, becomes, holds, until};
use mesh_tests::{App, Mesh, metrics, programs, quiet};

use crate::common::{assert_refused, get, healthy};

const SECOND: Duration = Duration::from_secs(1);

fn allow_order() -> String {
    policy(
        "billing",
        "billing",
        "ALLOW",
        &format!("- sources: [{}]", account("order")),
    )
}

fn allow_nobody() -> String {
    policy("billing", "billing", "ALLOW", "- sources: []")
}

fn strict_mesh() -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", true)
        .file("policy.yaml", allow_order())
        .start()?;
    Ok((app, mesh))
}

#[test]
fn an_edit_reaches_the_next_request_within_a_second() -> Result<()> {
    let _alone = quiet::alone();
    let (_app, mesh) = strict_mesh()?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    assert_eq!(connection.get("billing", "/")?.status, 200);
    for (yaml, status) in [(allow_nobody(), 403), (allow_order(), 200)] {
        let start = Instant::now();
        mesh.write("policy.yaml", &yaml)?;
        // On the connection that is open, as on a new one.
        becomes("the edit decides", &status, || {
            Ok(connection.get("billing", "/")?.status)
        })?;
        let took = start.elapsed();
        assert!(took < SECOND, "{took:?} until {status}");
    }
    Ok(())
}

#[test]
fn an_edit_is_acknowledged_and_measured() -> Result<()> {
    let (_app, mesh) = strict_mesh()?;
    let before = mesh.control_plane_metrics()?;
    let name = "outrider_control_plane_propagation_seconds_count";
    assert_eq!(
        before.value("outrider_control_plane_connected_sidecars")?,
        2.0
    );
    let version = before.value("outrider_control_plane_resource_version")?;
    mesh.write("policy.yaml", &allow_nobody())?;
    becomes("the edit decides", &403, || Ok(get(&mesh, "/")?.status))?;
    let admin = mesh.control_plane_admin();
    metrics::reaches(admin, name, &[], before.value(name)? + 1.0)?;
    let labels = [("namespace", "shop"), ("workload", "billing-1")];
    let acknowledged = "outrider_control_plane_acknowledged_version";
    metrics::reaches(admin, acknowledged, &labels, version + 1.0)?;
    assert_eq!(
        mesh.control_plane_metrics()?
            .value("outrider_control_plane_nacks_total")?,
        0.0
    );
    Ok(())
}

/// Runs `outrider policy check` on a mesh's directory.
fn policy_check(mesh: &Mesh) -> Result<(Option<i32>, String)> {
    let mut check = command(&programs::outrider()?)?;
    check.args(["policy", "check"]).arg(mesh.config_dir());
    let finished = run(&mut check, CLIENT_LIMIT)?;
    Ok((finished.status.code(), finished.output()))
}

#[test]
fn a_bad_edit_keeps_the_last_good_and_says_so() -> Result<()> {
    let (_app, mut mesh) = strict_mesh()?;
    let admin = mesh.control_plane_admin();
    healthy(&mesh)?;
    assert_eq!(policy_check(&mesh)?.0, Some(0));
    assert_eq!(
        mesh.control_plane_metrics()?
            .value("outrider_control_plane_config_valid")?,
        1.0
    );

    // The edit would open the door, were it not for its second document.
    let open = policy("billing", "billing", "ALLOW", "- name: anyone");
    mesh.write(
        "policy.yaml",
        &format!("{open}---\n{}", allow_nobody().replace("rules", "rulez")),
    )?;
    becomes("the metric says that the edit is bad", &0.0, || {
        mesh.control_plane_metrics()?
            .value("outrider_control_plane_config_valid")
    })?;
    metrics::reaches(admin, "outrider_control_plane_config_problems", &[], 1.0)?;
    let result = [("result", "refused")];
    metrics::reaches(
        admin,
        "outrider_control_plane_config_reloads_total",
        &result,
        1.0,
    )?;
    let log = mesh.control_plane()?.log();
    ensure!(
        log.contains("policy.yaml") && log.contains("rulez"),
        "the log names it:\n{log}"
    );

    let (code, output) = policy_check(&mesh)?;
    assert_eq!(code, Some(1), "{output}");
    ensure!(
        output.contains("policy.yaml:") && output.contains("rulez"),
        "{output}"
    );

    // Neither half of it is in force.
    holds(
        "order is allowed, and nobody else",
        Duration::from_millis(500),
        || Ok(get(&mesh, "/")?.status == 200),
    )?;
    mesh.write("policy.yaml", &allow_nobody())?;
    becomes("a good edit is applied again", &403, || {
        Ok(get(&mesh, "/")?.status)
    })?;
    assert_eq!(
        mesh.control_plane_metrics()?
            .value("outrider_control_plane_config_valid")?,
        1.0
    );
    Ok(())
}

#[test]
fn a_bad_file_never_opens_a_door() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", true)
        .file("policy.yaml", allow_nobody())
        .start()?;
    assert_refused(&get(&mesh, "/")?, 403, "authorization_denied");
    let bad = [
        "",
        "{",
        "not: [yaml",
        "kind: AuthorizationPolicy",
        "\u{feff}\0",
        "apiVersion: outrider.mesh/v1alpha1\nkind: Unknown\nmetadata: {name: x}\n",
    ];
    for yaml in bad {
        mesh.write("policy.yaml", yaml)?;
        becomes("the edit is seen to be bad", &0.0, || {
            mesh.control_plane_metrics()?
                .value("outrider_control_plane_config_valid")
        })?;
        assert_refused(&get(&mesh, "/")?, 403, "authorization_denied");
        mesh.write("policy.yaml", &allow_nobody())?;
        becomes("and the next to be good", &1.0, || {
            mesh.control_plane_metrics()?
                .value("outrider_control_plane_config_valid")
        })?;
    }
    assert!(app.requests().is_empty());
    Ok(())
}

#[test]
fn edits_under_load_change_the_answer_and_break_nothing() -> Result<()> {
    let (_app, mesh) = strict_mesh()?;
    let mut connection = Connection::open(mesh.http("order-1")?)?;
    let mut statuses = Vec::new();
    for round in 0..10 {
        let (yaml, status) = if round % 2 == 0 {
            (allow_nobody(), 403)
        } else {
            (allow_order(), 200)
        };
        mesh.write("policy.yaml", &yaml)?;
        until(&format!("edit {round} decides"), PATIENCE, || {
            let seen = connection.get("billing", "/")?.status;
            statuses.push(seen);
            Ok(seen == status)
        })?;
    }
    // Each edit flips the answer once; never anything else, never back.
    statuses.dedup();
    let expected: Vec<u16> = [200, 403]
        .into_iter()
        .cycle()
        .take(statuses.len())
        .collect();
    let from = usize::from(statuses.first() == Some(&403));
    let expected = if from == 1 {
        [&[403][..], &expected[..expected.len() - 1]].concat()
    } else {
        expected
    };
    assert_eq!(statuses, expected);
    Ok(())
}

#[test]
fn default_deny_can_be_switched_while_the_mesh_runs() -> Result<()> {
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .start()?;
    healthy(&mesh)?;
    let config = std::fs::read_to_string(mesh.config_dir().join("mesh.yaml"))?;
    mesh.write(
        "mesh.yaml",
        &config.replace("defaultDeny: false", "defaultDeny: true"),
    )?;
    becomes("what no rule allows is refused", &403, || {
        Ok(get(&mesh, "/")?.status)
    })?;
    mesh.write("policy.yaml", &allow_order())?;
    becomes("what a rule allows is not", &200, || {
        Ok(get(&mesh, "/")?.status)
    })?;
    mesh.remove("policy.yaml")?;
    becomes("without the rule it is again", &403, || {
        Ok(get(&mesh, "/")?.status)
    })
}
