//! The command as people and scripts use it.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_tests::http::{self, local};
use mesh_tests::manifest::{Service, Workload, account, policy};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::ports::free_port;
use mesh_tests::process::{Finished, Process, command, run, run_with_input};
use mesh_tests::programs::{find, outrider, root};
use mesh_tests::wait::{PATIENCE, becomes, until};
use mesh_tests::{Mesh, quiet};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn outrider_run(arguments: &[&str]) -> Result<Finished> {
    run(command(&outrider()?)?.args(arguments), CLIENT_LIMIT)
}

#[test]
fn help_has_examples_and_mistakes_have_hints() -> Result<()> {
    for arguments in [
        ["--help"].as_slice(),
        &["demo", "--help"],
        &["up", "--help"],
        &["policy", "check", "--help"],
        &["policy", "test", "--help"],
        &["token", "--help"],
        &["proxy", "--help"],
        &["control-plane", "--help"],
        &["completions", "--help"],
    ] {
        let finished = outrider_run(arguments)?.success()?;
        assert!(
            finished.stdout.contains("Examples:"),
            "{arguments:?}: {}",
            finished.stdout
        );
    }
    assert!(
        outrider_run(&["--version"])?
            .success()?
            .stdout
            .starts_with("outrider 0.")
    );
    let mistake = outrider_run(&["dmeo"])?;
    assert_eq!(mistake.status.code(), Some(2));
    assert!(mistake.stderr.contains("demo"), "{}", mistake.stderr);
    Ok(())
}

#[test]
fn completions_are_scripts_of_their_shells() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = outrider_run(&["completions", shell])?.success()?.stdout;
        assert!(
            script.contains("outrider") && script.contains("policy"),
            "{shell}: {script:.300}"
        );
        if shell == "bash" {
            let mut bash = command(&find("bash", "bash")?)?;
            run_with_input(bash.arg("-n"), script.as_bytes(), CLIENT_LIMIT)?.success()?;
        }
    }
    Ok(())
}

/// A directory where order may charge billing, and nobody else may.
fn charges() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let put = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    put(
        "mesh.yaml",
        "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\n\
         spec: {trustDomain: shop.example, defaultDeny: true}\n"
            .into(),
    )?;
    put(
        "billing.yaml",
        Service::new("billing").port(80, 8080, Some("http")).yaml(),
    )?;
    put(
        "billing-1.yaml",
        Workload::new("billing-1")?
            .port("app", 8080, Some("http"))
            .yaml(),
    )?;
    put("order-1.yaml", Workload::new("order-1")?.yaml())?;
    let rules = format!(
        "- name: order-charges\n  sources: [{}]\n  http: [{{methods: [POST], paths: [{{type: Exact, value: /charges}}]}}]",
        account("order")
    );
    put("policy.yaml", policy("billing", "billing", "ALLOW", &rules))?;
    Ok(folder)
}

#[test]
fn policy_test_answers_with_the_rule() -> Result<()> {
    let folder = charges()?;
    let directory = folder.path().display().to_string();
    let ask =
        |more: &[&str]| outrider_run(&[&["policy", "test", directory.as_str()], more].concat());
    let yes = ask(&[
        "--from",
        "shop/order",
        "--to",
        "shop/billing",
        "--method",
        "POST",
        "--path",
        "/charges",
    ])?;
    assert_eq!(yes.status.code(), Some(0), "{}", yes.output());
    assert!(yes.stdout.contains("order-charges"), "{}", yes.stdout);

    for refused in [
        [
            "--from",
            "shop/order",
            "--to",
            "shop/billing",
            "--method",
            "GET",
            "--path",
            "/charges",
        ]
        .as_slice(),
        &[
            "--from",
            "shop/user",
            "--to",
            "shop/billing",
            "--method",
            "POST",
            "--path",
            "/charges",
        ],
        &[
            "--from",
            "shop/order",
            "--to",
            "shop/billing",
            "--method",
            "POST",
            "--path",
            "/charges/../admin",
        ],
        &["--from", "shop/order", "--to", "shop/billing"],
        &[
            "--to",
            "shop/billing",
            "--method",
            "POST",
            "--path",
            "/charges",
        ],
        &[
            "--from",
            "spiffe://other.example/ns/shop/sa/order",
            "--to",
            "shop/billing-1:8080",
            "--path",
            "/charges",
        ],
    ] {
        let no = ask(refused)?;
        assert_eq!(no.status.code(), Some(1), "{refused:?}: {}", no.output());
    }
    let arguments = [
        "--from",
        "shop/user",
        "--to",
        "shop/billing",
        "--path",
        "/",
        "--output",
        "json",
    ];
    let json: Value = serde_json::from_str(&ask(&arguments)?.stdout)?;
    assert_eq!(json["allowed"], false, "{json}");
    assert!(json.to_string().contains("authorization_denied"), "{json}");

    for question in [
        ["--from", "shop/order", "--to", "shop/nobody"],
        ["--from", "a/b/c", "--to", "shop/billing"],
    ] {
        let unanswered = ask(&question)?;
        assert_eq!(
            unanswered.status.code(),
            Some(2),
            "{question:?}: {}",
            unanswered.output()
        );
        assert_eq!(
            unanswered.output().lines().count(),
            1,
            "{}",
            unanswered.output()
        );
    }
    Ok(())
}

#[test]
fn policy_test_agrees_with_the_sidecar() -> Result<()> {
    let app = mesh_tests::App::start()?;
    let rules = format!(
        "- sources: [{}]\n  http: [{{methods: [POST], paths: [{{type: PathPrefix, value: /v1}}]}}]",
        account("order")
    );
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", true)
        .file("policy.yaml", policy("billing", "billing", "ALLOW", &rules))
        .start()?;
    let directory = mesh.config_dir().display().to_string();
    for (method, path) in [
        ("POST", "/v1"),
        ("POST", "/v1/charges?x=/v2"),
        ("GET", "/v1"),
        ("POST", "/v2"),
        ("POST", "/v1x"),
        ("POST", "/v1/%2e%2e/admin"),
        ("post", "/v1"),
    ] {
        let told = outrider_run(&[
            "policy",
            "test",
            &directory,
            "--from",
            "shop/order",
            "--to",
            "shop/billing",
            "--method",
            method,
            "--path",
            path,
        ])?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: 0\r\n\r\n");
        let done = http::exchange(mesh.http("order-1")?, request)?;
        let allowed = told.status.code() == Some(0);
        assert_eq!(
            allowed,
            done.status == 200,
            "{method} {path}: {} but {}",
            told.output(),
            done.head
        );
        let reason = done.reason().unwrap_or_default();
        assert!(
            told.output().contains(reason) || allowed,
            "{reason}: {}",
            told.output()
        );
    }
    Ok(())
}

/// `outrider up` on a directory, on ports of its own.
struct Up {
    process: Process,
    admin: u16,
    _folder: TempDir,
}

fn up(folder: TempDir) -> Result<Up> {
    let admin = free_port()?;
    let mut start = command(&outrider()?)?;
    start
        .arg("up")
        .arg(folder.path())
        .args(["--control-plane-port", &free_port()?.to_string()])
        .args(["--control-plane-admin-port", &admin.to_string()]);
    let process = Process::start("up", folder.path(), &mut start)?.stopped_by(Signal::TERM);
    Ok(Up {
        process,
        admin,
        _folder: folder,
    })
}

#[test]
fn up_runs_what_a_directory_describes_and_drains_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let put = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    let app_port = free_port()?;
    let billing = Workload::new("billing-1")?
        .port("app", app_port, Some("http"))
        .command(&format!(
            "[python3, -u, -m, http.server, \"{app_port}\", --bind, 127.0.0.1]"
        ));
    let order = Workload::new("order-1")?;
    put(
        "billing.yaml",
        Service::new("billing")
            .port(80, app_port, Some("http"))
            .yaml(),
    )?;
    put("billing-1.yaml", billing.yaml())?;
    put("order-1.yaml", order.yaml())?;
    let mut up = up(folder)?;
    let call = || http::get(local(order.http_port), "billing", "/");
    until("the app answers through both sidecars", PATIENCE, || {
        anyhow::ensure!(up.process.running(), "it ended:\n{}", up.process.log());
        Ok(call()?.status == 200)
    })?;
    assert_eq!(http::fetch(up.admin, "/ready")?.status, 200);
    until(
        "the output of every part has a prefix of its own",
        PATIENCE,
        || {
            let log = up.process.log();
            Ok(log.contains("billing-1")
                && log.contains("order-1")
                && log.contains("control-plane"))
        },
    )?;
    up.process.wait_for_log("GET / HTTP", PATIENCE)?;

    let children = children(up.process.id())?;
    assert!(
        children.len() >= 4,
        "control plane, two sidecars and an app: {children:?}"
    );
    up.process.signal(Signal::INT)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    becomes("nothing of it is left", &Vec::<u32>::new(), || {
        Ok(children
            .iter()
            .copied()
            .filter(|child| is_running(*child))
            .collect())
    })?;
    TcpListener::bind(local(app_port)).context("the app's port is free again")?;
    Ok(())
}

/// Every process under this one.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let tasks = fs::read_dir(format!("/proc/{parent}/task"))?;
    for task in tasks.flatten() {
        let listed = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in listed
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            found.push(child);
            found.extend(self::children(child).unwrap_or_default());
        }
    }
    Ok(found)
}

fn is_running(process: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_port_in_use_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?;
    fs::write(folder.path().join("order-1.yaml"), order.yaml())?;
    let taken = TcpListener::bind(local(order.mesh_port))?;
    let mut up = up(folder)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(!status.success());
    let log = up.process.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in [
        order.mesh_port.to_string(),
        "order-1".into(),
        "meshPort".into(),
    ] {
        assert!(log.contains(&part), "{part} in {log}");
    }
    drop(taken);
    Ok(())
}

#[test]
fn a_bad_file_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?
        .yaml()
        .replace("serviceAccount", "serviceAcount");
    fs::write(folder.path().join("order-1.yaml"), order)?;
    let mut up = up(folder)?;
    let status = up.process.exit(PATIENCE)?;
    assert!(!status.success());
    let log = up.process.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.contains("order-1.yaml:5:") && log.contains("serviceAcount"),
        "{log}"
    );
    Ok(())
}

#[test]
fn an_app_that_cannot_be_started_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let order = Workload::new("order-1")?.command("[no-such-program-anywhere]");
    fs::write(folder.path().join("order-1.yaml"), order.yaml())?;
    let mut up = up(folder)?;
    up.process
        .wait_for_log("no-such-program-anywhere", PATIENCE)
}

#[test]
fn the_demos_claims_hold() -> Result<()> {
    let _alone = quiet::alone();
    let mut demo = command(&outrider()?)?;
    demo.args(["demo", "--check"]).current_dir(root());
    let finished = run(&mut demo, Duration::from_secs(120))?;
    let output = finished.output();
    assert!(finished.status.success(), "{output}");
    assert!(
        finished.took < Duration::from_secs(60),
        "it took {:?}",
        finished.took
    );
    assert!(
        finished.stdout.lines().count() >= 6,
        "a line for each claim: {output}"
    );
    Ok(())
}
