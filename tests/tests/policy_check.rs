//! `outrider policy check`: each mistake by its file, line and field, and at once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::manifest::{Service, Workload, policy, route, service_ref, traffic_policy};
use mesh_tests::peers::CLIENT_LIMIT;
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::{find, outrider};
use tempfile::TempDir;

/// What a check may take, the start of the process included (the bound of the issue is 100 ms for
/// the validation; the rest is for a busy machine).
const LIMIT: Duration = Duration::from_secs(2);
/// What it may hold, KiB.
const MEMORY: u64 = 64 * 1024;

/// A directory that is good: the Service billing, with a Workload and a policy.
fn good() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let put = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    put(
        "service.yaml",
        Service::new("billing").port(80, 8080, Some("http")).yaml(),
    )?;
    let workload = Workload::new("billing-1")?.port("app", 8080, Some("http"));
    put("workload.yaml", workload.yaml())?;
    put(
        "policy.yaml",
        policy("billing", "billing", "ALLOW", "- name: anyone"),
    )?;
    Ok(folder)
}

fn check(directory: &Path, more: &[&str]) -> Result<Finished> {
    let mut check = command(&outrider()?)?;
    check.args(["policy", "check"]).arg(directory).args(more);
    run(&mut check, CLIENT_LIMIT)
}

#[test]
fn a_good_directory_passes() -> Result<()> {
    let folder = good()?;
    let finished = check(folder.path(), &[])?;
    assert_eq!(finished.status.code(), Some(0), "{}", finished.output());
    check(
        &mesh_tests::programs::root().join("examples/shop/mesh"),
        &[],
    )?
    .success()?;
    Ok(())
}

/// One mistake: what `policy.yaml` says, and what must be said about it, with its line.
fn mistake(yaml: &str, line: usize, parts: &[&str]) -> Result<()> {
    let folder = good()?;
    fs::write(folder.path().join("policy.yaml"), yaml)?;
    let finished = check(folder.path(), &[])?;
    let output = finished.output();
    ensure!(
        finished.status.code() == Some(1),
        "{:?}: {output}\n{yaml}",
        finished.status
    );
    let place = format!("policy.yaml:{line}:");
    ensure!(
        output.contains(&place),
        "{place} in:\n{output}\n{yaml:.2000}"
    );
    for part in parts {
        ensure!(
            output.contains(part),
            "{part:?} in:\n{output}\n{yaml:.2000}"
        );
    }
    Ok(())
}

/// The good policy: 9 lines, of which 5 is the first of `spec`.
fn policy_with(from: &str, to: &str) -> String {
    let good = policy(
        "billing",
        "billing",
        "ALLOW",
        "- name: anyone\n  sources: [{type: Namespace, namespace: shop}]",
    );
    let bad = good.replacen(from, to, 1);
    assert_ne!(good, bad, "{from} is in the good one");
    bad
}

/// The line of the good policy on which `text` is.
fn line_of(yaml: &str, text: &str) -> usize {
    1 + yaml
        .lines()
        .position(|line| line.contains(text))
        .unwrap_or(usize::MAX - 1)
}

#[test]
fn unknown_fields_and_kinds() -> Result<()> {
    for (from, to, parts) in [
        ("  rules:", "  rulez:", ["rulez", "rules"]),
        ("sources:", "souces:", ["souces", "sources"]),
        (
            "namespace: shop}]",
            "namespac: shop}]",
            ["namespac", "spec.rules[0].sources[0]"],
        ),
        (
            "kind: AuthorizationPolicy",
            "kind: AuthorisationPolicy",
            ["AuthorisationPolicy", "kind"],
        ),
        (
            "outrider.mesh/v1alpha1",
            "outrider.mesh/v9",
            ["outrider.mesh/v9", "apiVersion"],
        ),
        ("action: ALLOW", "action: PERMIT", ["PERMIT", "spec.action"]),
        (
            "type: Namespace",
            "type: Name",
            ["Name", "spec.rules[0].sources[0]"],
        ),
    ] {
        let yaml = policy_with(from, to);
        mistake(&yaml, line_of(&yaml, to), &parts)?;
    }
    Ok(())
}

#[test]
fn duplicate_keys() -> Result<()> {
    let yaml = policy_with("  action: ALLOW\n", "  action: ALLOW\n  action: DENY\n");
    mistake(&yaml, line_of(&yaml, "action: DENY"), &["action", "twice"]).or_else(|_| {
        mistake(
            &yaml,
            line_of(&yaml, "action: DENY"),
            &["action", "duplicate"],
        )
    })
}

#[test]
fn targets_that_do_not_exist() -> Result<()> {
    let yaml = policy_with(
        "kind: Service, name: billing",
        "kind: Service, name: biling",
    );
    mistake(
        &yaml,
        line_of(&yaml, "biling"),
        &["biling", "spec.targetRefs[0]"],
    )?;
    let yaml = policy_with(
        "{group: \"\", kind: Service, name: billing}",
        "{group: outrider.mesh, kind: Workload, name: billing-9}",
    );
    mistake(
        &yaml,
        line_of(&yaml, "billing-9"),
        &["billing-9", "spec.targetRefs[0]"],
    )
}

#[test]
fn values_that_are_none() -> Result<()> {
    let rule = |rule: &str| policy("billing", "billing", "ALLOW", rule);
    for (text, parts) in [
        ("- networkAttributes: {ports: [0]}", ["ports[0]", "0"]),
        (
            "- networkAttributes: {ports: [65536]}",
            ["ports[0]", "65536"],
        ),
        (
            "- sources: [{type: IPBlock, ipBlock: {cidr: 10.0.0.0/33}}]",
            ["cidr", "10.0.0.0/33"],
        ),
        (
            "- sources: [{type: SPIFFE, spiffe: \"spiffe://x/../y\"}]",
            ["spiffe", "spec.rules[0].sources[0]"],
        ),
        (
            "- http: [{paths: [{type: Exact, value: no-slash}]}]",
            ["paths[0]", "no-slash"],
        ),
        (
            "- http: [{paths: [{type: Regex, value: /a}]}]",
            ["paths[0]", "Regex"],
        ),
        (
            "- http: [{headers: [{name: 'a b', type: Present}]}]",
            ["headers[0]", "a b"],
        ),
        ("- http: [{methods: ['GET ']}]", ["methods[0]", "GET"]),
    ] {
        let yaml = rule(text);
        mistake(&yaml, line_of(&yaml, &text[2..]), &parts).with_context(|| text.to_owned())?;
    }
    Ok(())
}

#[test]
fn what_is_wrong_between_files_is_told_at_both() -> Result<()> {
    let folder = good()?;
    fs::copy(
        folder.path().join("policy.yaml"),
        folder.path().join("twin.yaml"),
    )?;
    let finished = check(folder.path(), &[])?;
    assert_eq!(finished.status.code(), Some(1), "{}", finished.output());
    let output = finished.output();
    assert!(
        output.contains("twin.yaml:") && output.contains("policy.yaml"),
        "{output}"
    );
    Ok(())
}

#[test]
fn every_mistake_is_told_at_once_also_as_json() -> Result<()> {
    let folder = good()?;
    fs::write(
        folder.path().join("policy.yaml"),
        policy_with("rules:", "rulez:"),
    )?;
    fs::write(
        folder.path().join("other.yaml"),
        "apiVersion: v1\nkind: Nothing\n",
    )?;
    let finished = check(folder.path(), &["--output", "json"])?;
    assert_eq!(finished.status.code(), Some(1));
    let told: serde_json::Value =
        serde_json::from_str(&finished.stdout).with_context(|| finished.output())?;
    let text = told.to_string();
    for part in ["policy.yaml", "rulez", "other.yaml", "Nothing", "\"line\":"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    Ok(())
}

/// A route whose only backend does not exist.
const NOWHERE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
    metadata: {name: billing, namespace: shop}\nspec:\n  \
    parentRefs: [{group: '', kind: Service, name: billing}]\n  \
    rules: [{backendRefs: [{name: nowhere, port: 80}]}]\n";

#[test]
fn what_gateway_api_answers_is_a_warning() -> Result<()> {
    let folder = good()?;
    fs::write(folder.path().join("route.yaml"), NOWHERE)?;
    let finished = check(folder.path(), &[])?;
    assert_eq!(finished.status.code(), Some(0), "{}", finished.output());
    let warning =
        "route.yaml:6:33: spec.rules[0].backendRefs[0].name: there is no Service shop/nowhere";
    for part in ["warning: ", warning, "good: ", "1 HTTPRoute"] {
        assert!(
            finished.stdout.contains(part),
            "{part} in {}",
            finished.output()
        );
    }
    let denied = check(folder.path(), &["--deny-warnings", "--output", "json"])?;
    assert_eq!(denied.status.code(), Some(1), "{}", denied.output());
    let told: serde_json::Value = serde_json::from_str(&denied.stdout)?;
    assert_eq!(told["good"], false);
    assert_eq!(told["problems"][0]["severity"], "warning");
    Ok(())
}

#[test]
fn each_setting_is_explained_by_who_said_so() -> Result<()> {
    let folder = good()?;
    fs::write(folder.path().join("route.yaml"), NOWHERE)?;
    fs::write(
        folder.path().join("traffic.yaml"),
        "apiVersion: outrider.mesh/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {name: billing, namespace: shop}\nspec:\n  \
         targetRefs: [{group: '', kind: Service, name: billing}]\n  timeouts: {request: 2s}\n",
    )?;
    let mut explain = command(&outrider()?)?;
    explain.arg("explain").arg(folder.path());
    explain.args([
        "--to",
        "shop/billing",
        "--path",
        "/charges",
        "--output",
        "json",
    ]);
    let finished = run(&mut explain, CLIENT_LIMIT)?;
    assert_eq!(finished.status.code(), Some(0), "{}", finished.output());
    let told: serde_json::Value = serde_json::from_str(&finished.stdout)?;
    assert_eq!(told["authorization"][0]["allowed"], true);
    let route = &told["routes"]["matches"][0];
    assert_eq!(route["rule"], "HTTPRoute shop/billing rule 0");
    assert_eq!(route["at"]["line"], 6);
    assert_eq!(told["routes"]["met"], 0);
    let settings = told["settings"].as_array().context("no settings")?;
    let setting = |field: &str| settings.iter().find(|setting| setting["field"] == field);
    let request = setting("timeouts.request").context("no timeouts.request")?;
    assert_eq!(request["value"], "2s");
    assert_eq!(request["origin"]["name"], "shop/billing");
    assert_eq!(request["origin"]["at"]["line"], 6);
    let attempts = setting("retry.attempts").context("no retry.attempts")?;
    assert_eq!(attempts["origin"]["from"], "default");
    Ok(())
}

#[test]
fn a_tcp_route_and_what_it_leads_to_are_explained() -> Result<()> {
    let folder = good()?;
    let write = |name: &str, yaml: String| fs::write(folder.path().join(name), yaml);
    let opaque = |name| Service::new(name).port(80, 8080, Some("tcp")).yaml();
    write("service.yaml", opaque("billing"))?;
    write("v2.yaml", opaque("billing-v2"))?;
    let rules = "- name: shares\n  backendRefs:\n  \
                 - {name: billing, port: 80, weight: 9}\n  \
                 - {name: billing-v2, port: 80, weight: 1}";
    write(
        "route.yaml",
        route("TCPRoute", "billing", &service_ref("billing"), rules),
    )?;
    let idle = "timeouts: {tcpIdle: 5s, request: 9s}";
    write("traffic.yaml", traffic_policy("billing-v2", idle))?;
    let explain = |format: &str| {
        let mut explain = command(&outrider()?)?;
        explain.arg("explain").arg(folder.path());
        explain.args(["--to", "shop/billing", "--output", format]);
        let finished = run(&mut explain, CLIENT_LIMIT)?;
        ensure!(finished.status.code() == Some(0), "{}", finished.output());
        Ok(finished.stdout)
    };
    let told: serde_json::Value = serde_json::from_str(&explain("json")?)?;
    let matched = &told["routes"]["matches"][0];
    assert_eq!(matched["rule"], "TCPRoute shop/billing rule shares");
    let file = matched["at"]["file"].as_str().context("a file")?;
    assert!(file.ends_with("route.yaml"), "{file}");
    let line = matched["at"]["line"].as_u64().context("a line")?;
    let yaml = fs::read_to_string(folder.path().join("route.yaml"))?;
    let line = yaml.lines().nth(usize::try_from(line)? - 1);
    assert!(
        line.is_some_and(|line| line.contains("name: shares")),
        "{line:?}"
    );
    assert_eq!(
        matched["backends"],
        serde_json::json!(["shop/billing:80 weight 9", "shop/billing-v2:80 weight 1"])
    );
    let backends = told["backends"].as_array().context("no backends")?;
    assert_eq!(backends.len(), 1, "the Service's own are its settings");
    assert_eq!(backends[0]["service"], "shop/billing-v2");
    let settings = backends[0]["settings"].as_array().context("no settings")?;
    let setting = |field: &str| settings.iter().find(|setting| setting["field"] == field);
    let idle = setting("timeouts.tcpIdle").context("no timeouts.tcpIdle")?;
    assert_eq!(idle["value"], "5s");
    assert_eq!(idle["origin"]["name"], "shop/billing-v2");
    assert_eq!(setting("timeouts.request"), None, "that of the called one");
    let text = explain("text")?;
    for part in [
        "TCPRoute shop/billing rule shares (",
        "Settings of shop/billing-v2, for its endpoints:",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    Ok(())
}

/// Runs the check under a Python parent that tells how much memory it took.
fn bounded(yaml: &str, parts: &[&str]) -> Result<()> {
    const PARENT: &str = "import resource, subprocess, sys\n\
        status = subprocess.run(sys.argv[1:]).returncode\n\
        print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
        sys.exit(status)";
    let folder = good()?;
    fs::write(folder.path().join("policy.yaml"), yaml)?;
    let mut parent = command(&find("python3", "python3")?)?;
    parent
        .args(["-c", PARENT])
        .arg(outrider()?)
        .args(["policy", "check"])
        .arg(folder.path());
    let finished = run(&mut parent, CLIENT_LIMIT)?;
    let output = finished.output();
    ensure!(
        finished.status.code() == Some(1),
        "{:?}: {output:.2000}",
        finished.status
    );
    ensure!(output.contains("policy.yaml:"), "{output:.2000}");
    for part in parts {
        ensure!(output.contains(part), "{part:?} in {output:.2000}");
    }
    ensure!(
        output.len() < 16 * 1024,
        "an error of {} bytes",
        output.len()
    );
    ensure!(finished.took < LIMIT, "it took {:?}", finished.took);
    let peak = output
        .lines()
        .find_map(|line| line.strip_prefix("peak ")?.parse::<u64>().ok())
        .context("the peak")?;
    ensure!(peak < MEMORY, "it took {peak} KiB");
    Ok(())
}

#[test]
fn a_bomb_of_anchors() -> Result<()> {
    let mut yaml = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        yaml.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    bounded(&yaml, &[])?;
    let recursive = "apiVersion: v1\nkind: Service\nmetadata: &m {name: a, labels: *m}\n";
    bounded(recursive, &[])
}

#[test]
fn ten_thousand_levels() -> Result<()> {
    let flow = format!("a: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    bounded(&flow, &[])?;
    let maps = format!("a: {}1{}\n", "{b: ".repeat(10_000), "}".repeat(10_000));
    bounded(&maps, &[])?;
    let block: String = (0..3_000)
        .map(|level| format!("{}a:\n", " ".repeat(level % 1_000)))
        .collect();
    bounded(&block, &[])
}

#[test]
fn sizes_beyond_reason() -> Result<()> {
    let long = policy_with(
        "name: anyone",
        &format!("name: \"{}\"", "x".repeat(100_000)),
    );
    bounded(&long, &[])?;
    let many = policy(
        "billing",
        "billing",
        "ALLOW",
        &"- name: anyone\n".repeat(100_000),
    );
    bounded(&many, &[])?;
    bounded(&"# a comment\n".repeat(1_000_000), &[])
}

#[test]
fn bytes_that_are_no_text() -> Result<()> {
    let folder = good()?;
    for bytes in [
        &b"\xff\xfe\0\0"[..],
        b"a: \0",
        b"kind: \xc3\x28",
        b"\t- a",
        b"%YAML 9.9\n---\n",
    ] {
        fs::write(folder.path().join("policy.yaml"), bytes)?;
        let finished = check(folder.path(), &[])?;
        assert_eq!(
            finished.status.code(),
            Some(1),
            "{bytes:?}: {}",
            finished.output()
        );
        assert!(
            finished.output().contains("policy.yaml:"),
            "{}",
            finished.output()
        );
    }
    Ok(())
}

#[test]
fn names_that_only_look_alike_are_told_apart() -> Result<()> {
    // A Cyrillic letter in the name of a field, and in the name of a target.
    let yaml = policy_with("rules:", "rul\u{435}s:");
    mistake(&yaml, line_of(&yaml, "rul\u{435}s"), &["rul"])?;
    let yaml = policy_with("name: billing}", "name: b\u{456}lling}");
    mistake(
        &yaml,
        line_of(&yaml, "b\u{456}lling"),
        &["spec.targetRefs[0]"],
    )
}

#[test]
fn a_directory_that_is_none_is_one_clear_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file.yaml");
    fs::write(&file, "")?;
    for path in [folder.path().join("missing"), folder.path().to_owned()] {
        let finished = check(&path, &[])?;
        assert!(
            !finished.status.success(),
            "{}: {}",
            path.display(),
            finished.output()
        );
        let lines = finished.output().lines().count();
        assert!((1..=2).contains(&lines), "{}", finished.output());
    }
    let missing = check(&folder.path().join("missing"), &[])?.output();
    assert!(
        // There is no line in what is not there.
        missing.contains("expected a directory of YAML") && !missing.contains(":1:1"),
        "{missing}"
    );
    Ok(())
}
