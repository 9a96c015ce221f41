//! The README's start on Kubernetes: what it tells its readers to type is typed, as it stands there, by
//! somebody whose namespace runs without a mesh.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::program;
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::shop;
use mesh_tests::kubernetes::{Namespace, PATIENCE};
use mesh_tests::process::run;
use mesh_tests::programs::{self, find, root};
use serde_json::Value;

use crate::kubernetes_common::{allow_friend, call, client, enforced, web};

/// Where the README's images are. Nobody pulls from there: the nodes have them.
const REGISTRY: &str = "registry.test/mesh";

#[test]
fn the_three_commands_of_the_readme_bring_a_namespace_into_the_mesh() -> Result<()> {
    let outrider = Outrider::none()?;
    outrider.publish_at(&format!("{REGISTRY}/"), env!("CARGO_PKG_VERSION"))?;
    let started = start(&outrider);
    // One replica, from images of its own: not what other tests expect.
    outrider.uninstall()?;
    started
}

/// Fails without a panic, so that the mesh is gone in any case.
fn start(outrider: &Outrider) -> Result<()> {
    let namespace = shop::without_mesh(outrider.cluster())?;
    namespace.apply(&web())?;
    namespace.rolled_out("deployment/web")?;
    ensure!(sidecars(&namespace)? == [false, false], "no sidecar yet");

    let folder = tempfile::tempdir()?;
    for (name, program) in [
        ("outrider", programs::outrider()?),
        ("kubectl", program("kubectl")?),
    ] {
        symlink(program, folder.path().join(name))?;
    }
    for line in commands()? {
        type_in(outrider, folder.path(), &line)?;
    }
    namespace.rolled_out("deployment/web")?;
    let what = "the old pods are gone";
    namespace.eventually(what, &["pods", "--selector", "app=web"], |pods| {
        (pods["items"].as_array()?.len() == 2).then_some(())
    })?;
    ensure!(sidecars(&namespace)? == [true, true], "a sidecar each");

    // Nobody calls it but whom a policy names, and its status says how many enforce it.
    namespace.apply(&client("friend"))?;
    namespace.wait("pod/friend", "Ready")?;
    let refused = call(&namespace, "friend", "/")?;
    ensure!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    namespace.apply(&allow_friend())?;
    enforced(&namespace, "web", 2)?;
    let allowed = call(&namespace, "friend", "/")?;
    ensure!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    Ok(())
}

/// Those that follow the making of the images, in the README's section.
fn commands() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let block = text
        .split_once("\n## On Kubernetes\n")
        .and_then(|(_, section)| section.split_once("\n```\n"))
        .and_then(|(_, block)| block.split_once("\n```\n"));
    let (block, _) = block.context("README.md has commands for Kubernetes")?;
    let lines: Vec<String> = block.lines().map(str::to_owned).collect();
    ensure!(lines.len() == 3, "expected three commands, got {lines:?}");
    ensure!(lines[0].contains(" REGISTRY "), "{}", lines[0]);
    Ok(lines)
}

fn type_in(outrider: &Outrider, programs: &Path, line: &str) -> Result<()> {
    let line = line.replace("REGISTRY", REGISTRY);
    let bash = find("bash", "bash")?;
    let arguments = ["-o", "pipefail", "-ec", &line];
    let mut shell = outrider.cluster().command_of(&bash, &arguments)?;
    let path = std::env::var("PATH").unwrap_or_default();
    shell.env("PATH", format!("{}:{path}", programs.display()));
    run(&mut shell, PATIENCE)?
        .success()
        .with_context(|| line.clone())?;
    Ok(())
}

/// Whether each pod of `web` has one.
fn sidecars(namespace: &Namespace) -> Result<Vec<bool>> {
    let pods = namespace.read(&["pods", "--selector", "app=web"])?;
    let pods = pods["items"].as_array().context("a list")?;
    let has = |pod: &Value| {
        let init = pod["spec"]["initContainers"].as_array();
        init.is_some_and(|all| all.iter().any(|one| one["name"] == "outrider-proxy"))
    };
    Ok(pods.iter().map(has).collect())
}
