//! Two replicas that count themselves the leader, all the time: what both write is one authority, one trust
//! bundle, one status, and neither undoes what the other does.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_tests::api_server::{ApiServer, program};
use mesh_tests::faulty_server::FaultyServer;
use mesh_tests::http::local;
use mesh_tests::metrics::Metrics;
use mesh_tests::process::{Process, command};
use mesh_tests::programs::root;
use mesh_tests::wait::{eventually, holds, until};
use serde_json::{Value, json};

use crate::kubernetes_watched::{RECOVERED, SEEN, Watched, apply, established, policy};

/// In which both have looked at everything once more: a replica looks at the webhooks every five seconds,
/// at what else it writes more often.
const LOOKS: Duration = Duration::from_secs(7);
const SECRET: &str = "--namespace outrider-system secret outrider-ca";
const MESHED: [&str; 2] = ["outrider-system", "shop"];
const POLICIES: usize = 20;
const ROTATIONS: usize = 3;

#[test]
fn two_leaders_at_once_write_one_authority_one_bundle_and_one_status() -> Result<()> {
    let api = ApiServer::start()?;
    let definitions = root().join("manifests/crds");
    api.kubectl(&format!("apply --kustomize {}", definitions.display()), "")?;
    established(&api)?;
    let folder = tempfile::tempdir()?;
    let secret = SecretWatch::start(&api, folder.path())?;
    let one = Watched::of(api)?;
    apply(&one.api, &rights_to_another_lease())?;
    let two = one.beside(FaultyServer::apart)?;
    let both = [&one, &two];
    for replica in both {
        replica.ready()?;
        replica.leads(true)?;
    }
    one.api.register_validator(local(one.webhook))?;
    one.run("billing-1", "billing", "10.244.0.7")?;

    agree(&one, both, 1)?;
    for rotation in 1..=ROTATIONS {
        rotate(&one, rotation)?;
        agree(&one, both, 1 + rotation)?;
        for replica in both {
            let steps = steps(replica, "Begin");
            ensure!(
                steps >= rotation,
                "it has not tried: {}",
                replica.process.log()
            );
        }
    }
    // Each of both has made one each time, and who came second has taken the first one's: in no version of
    // the Secret was there ever another.
    let seen = secret.authorities();
    ensure!(seen.len() == 1 + ROTATIONS, "{} authorities", seen.len());

    let names: Vec<String> = (0..POLICIES).map(|number| format!("p-{number}")).collect();
    let policies: Vec<Value> = names.iter().map(|name| policy(name)).collect();
    one.apply(&policies)?;
    for name in &names {
        is_said(&one, name, "0 of 1 sidecars at generation 1")?;
    }
    one.run("billing-2", "billing", "10.244.0.8")?;
    for name in &names {
        is_said(&one, name, "0 of 2 sidecars at generation 1")?;
    }

    // What somebody edits both put right.
    let edit = json!({"data": {"trust-bundle.pem": "nobody"}});
    let line = format!(
        "--namespace shop patch configmap outrider-trust-bundle --type merge --patch {edit}"
    );
    one.api.kubectl(&line.replace(": ", ":"), "")?;
    agree(&one, both, 1 + ROTATIONS)?;

    let before = versions(&one)?;
    holds("nobody writes anything", LOOKS, || {
        let now = versions(&one)?;
        ensure!(now == before, "{now:#?}\nbefore: {before:#?}");
        Ok(true)
    })?;
    for replica in both {
        let metrics = Metrics::scrape(replica.admin)?;
        let leads = metrics.value("outrider_control_plane_leader")?;
        ensure!(leads > 0.5, "it leads no longer");
        let log = replica.process.log();
        ensure!(!log.to_lowercase().contains("forbidden"), "{log}");
    }
    Ok(())
}

/// `kubectl get --watch` of the authority's Secret: a line for each of its versions.
struct SecretWatch(Process);

impl SecretWatch {
    fn start(api: &ApiServer, folder: &Path) -> Result<Self> {
        let certificates = r#"jsonpath={.data.tls\.crt}{" "}{.data.next\.crt}{"\n"}"#;
        let mut watch = command(&program("kubectl")?)?;
        watch
            .env("KUBECONFIG", api.kubeconfig())
            .args([
                "get",
                "secrets",
                "--namespace",
                "outrider-system",
                "--watch",
            ])
            .args(["--field-selector", "metadata.name=outrider-ca"])
            .args(["--output", certificates]);
        Ok(Self(Process::start("kubectl-watch", folder, &mut watch)?))
    }

    /// All that ever signed or were to sign.
    fn authorities(&self) -> BTreeSet<String> {
        let log = self.0.log();
        log.split_whitespace().map(str::to_owned).collect()
    }
}

/// How often a replica wanted to take this step of a rotation.
fn steps(replica: &Watched, step: &str) -> usize {
    let log = replica.process.log();
    let steps = log
        .lines()
        .filter(|line| line.contains("a step of the authority's rotation") && line.contains(step));
    steps.count()
}

/// Those to the Lease that only the second replica knows.
fn rights_to_another_lease() -> [Value; 2] {
    let metadata = json!({"name": "another-lease", "namespace": "outrider-system"});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
        "rules": [{
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "resourceNames": ["outrider-control-apart"], "verbs": ["get", "update"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "another-lease",
        },
        "subjects": [{
            "kind": "ServiceAccount", "name": "control-plane", "namespace": "outrider-system",
        }],
    });
    [role, binding]
}

/// Asks for another authority and waits until it signs.
fn rotate(replica: &Watched, number: usize) -> Result<()> {
    let asked = number.to_string();
    let line = "--namespace outrider-system annotate --overwrite secret outrider-ca";
    let line = format!("{line} outrider.mesh/rotate={asked}");
    replica.api.kubectl(&line, "")?;
    until("the next one signs", RECOVERED, || {
        let secret = replica.api.read(SECRET)?;
        let answered = &secret["metadata"]["annotations"]["outrider.mesh/rotated"];
        Ok(*answered == json!(asked) && secret["data"]["next.key"].is_null())
    })
}

/// Waits until both replicas, every meshed namespace and the webhooks trust so many authorities, the same
/// ones everywhere.
fn agree(replica: &Watched, both: [&Watched; 2], authorities: usize) -> Result<()> {
    for replica in both {
        until("the replica trusts them", SEEN, || {
            let metrics = Metrics::scrape(replica.admin)?;
            let anchors = metrics.value("outrider_control_plane_trust_anchors")?;
            Ok((anchors - authorities as f64).abs() < 0.5)
        })?;
    }
    eventually("all bundles are the same", SEEN, || {
        let bundles = bundles(replica)?;
        let first = bundles.first().context("a bundle")?;
        let count = first.matches("BEGIN CERTIFICATE").count();
        Ok((count == authorities && bundles.iter().all(|bundle| bundle == first)).then_some(()))
    })
}

/// The trust bundle as each namespace has it, and as the API server knows the validator by.
fn bundles(replica: &Watched) -> Result<Vec<String>> {
    let mut bundles = Vec::new();
    for namespace in MESHED {
        let line = format!("--namespace {namespace} configmap outrider-trust-bundle");
        let map = replica.api.read(&line)?;
        let text = map["data"]["trust-bundle.pem"].as_str();
        bundles.push(text.context("a bundle")?.to_owned());
    }
    let validator = replica
        .api
        .read("validatingwebhookconfiguration outrider-validator")?;
    for webhook in validator["webhooks"].as_array().context("webhooks")? {
        let bundle = webhook["clientConfig"]["caBundle"].as_str();
        let bundle = STANDARD.decode(bundle.context("a bundle")?)?;
        bundles.push(String::from_utf8(bundle)?);
    }
    Ok(bundles)
}

fn is_said(replica: &Watched, policy: &str, message: &str) -> Result<()> {
    until(&format!("{policy}: {message}"), RECOVERED, || {
        let conditions = replica.conditions("authorizationpolicy", policy)?;
        let mut programmed = conditions.iter().filter(|one| one["type"] == "Programmed");
        Ok(programmed.any(|one| one["message"] == message))
    })
}

/// Of everything that a leader writes, but for the Leases.
fn versions(replica: &Watched) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for kinds in [
        SECRET,
        "--all-namespaces configmaps --field-selector metadata.name=outrider-trust-bundle",
        "--all-namespaces authorizationpolicies",
        "validatingwebhookconfigurations",
    ] {
        let found = replica.api.read(kinds)?;
        let items = found["items"].as_array().cloned();
        for object in items.unwrap_or_else(|| vec![found.clone()]) {
            let metadata = &object["metadata"];
            versions.push(format!(
                "{} {}",
                metadata["name"], metadata["resourceVersion"]
            ));
        }
    }
    Ok(versions)
}
