//! The command as people and scripts use it.

use std::fs;

use anyhow::Result;
use mesh_tests::Mesh;
use mesh_tests::http;
use mesh_tests::manifest::{Service, Workload, account, policy};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::process::{Finished, command, run, run_with_input};
use mesh_tests::programs::{find, outrider};
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
        for hidden in ["supervised", "proxy-init"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
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
