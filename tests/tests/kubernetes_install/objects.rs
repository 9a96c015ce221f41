//! What `outrider install` prints is applied, changes nothing the second time, is what kustomize
//! makes, and goes without a trace.

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::{self, ApiServer};
use mesh_tests::process::{command, run};
use mesh_tests::programs::{self, root};
use mesh_tests::wait::PATIENCE;
use serde_json::Value;
use tempfile::TempDir;

use super::{APPLY, CREATE, ESTABLISHED, install, objects, ours, without_webhooks};

/// Says what the API server would store, if it takes it.
const TRY_THERE: &str = "apply --server-side --force-conflicts --dry-run=server";

/// Combinations of options that add or change objects.
const OPTIONS: [&str; 3] = [
    "",
    "--profile ha",
    "--profile ha --network-policy --translated-addresses --ca-secret mesh-ca \
     --trust-domain shop.example --image-registry registry.example:5000/mesh \
     --image-pull-secret registry",
];

#[test]
fn all_that_is_printed_is_taken_and_the_second_time_changes_nothing() -> Result<()> {
    let server = ApiServer::start()?;
    // Objects in a namespace that is not there yet cannot be tried.
    server.kubectl("create namespace outrider-system", "")?;
    for options in OPTIONS {
        let tried = server.kubectl(&format!("{TRY_THERE} --filename -"), &install(options)?)?;
        ensure!(tried.lines().count() >= 17, "{options:?}: {tried}");
    }
    for options in OPTIONS {
        let yaml = install(options)?;
        let first = server.try_kubectl(APPLY, &yaml)?;
        let first = first.success().with_context(|| options.to_owned())?;
        // A field that is not known, or that is dropped, would be a warning.
        let mut warnings = first.stderr.lines();
        ensure!(
            warnings.all(|line| line.contains("last-applied-configuration")),
            "{options:?}: {}",
            first.stderr
        );
        let second = server.kubectl(APPLY, &yaml)?;
        for line in second.lines() {
            // Of a budget, kubectl writes the selector each time, whatever it was.
            let is_written = line.starts_with("poddisruptionbudget.policy/");
            ensure!(
                is_written || line.ends_with(" unchanged"),
                "{options:?}: {line}"
            );
        }
    }
    // What the control plane has written stays when the same is applied again.
    let validator = "validatingwebhookconfiguration/outrider-validator";
    let bundle =
        r#"{"webhooks":[{"name":"validator.outrider.mesh","clientConfig":{"caBundle":"YQ=="}}]}"#;
    server.kubectl(&format!("patch {validator} --patch {bundle}"), "")?;
    server.kubectl(APPLY, &install("")?)?;
    let kept = server.read(validator)?;
    assert_eq!(kept["webhooks"][0]["clientConfig"]["caBundle"], "YQ==");
    Ok(())
}

/// As docs/kubernetes.md and manifests/README.md say.
#[test]
fn what_kustomize_makes_is_taken() -> Result<()> {
    let server = ApiServer::start()?;
    server.kubectl("create namespace outrider-system", "")?;
    let own = kustomization_of_the_readme()?;
    let manifests = root().join("manifests");
    for (folder, least) in [
        (manifests.join("crds"), 5),
        (manifests.join("base"), 17),
        (manifests.join("ha"), 18),
        (own.path().to_owned(), 18),
    ] {
        let line = format!("{TRY_THERE} --kustomize {}", folder.display());
        let taken = server.try_kubectl(&line, "")?.success();
        let taken = taken.with_context(|| line.clone())?;
        ensure!(
            taken.stdout.lines().count() >= least,
            "{line}: {}",
            taken.stdout
        );
        ensure!(taken.stderr.is_empty(), "{line}: {}", taken.stderr);
    }
    // One's own changes are in it, besides.
    let line = format!(
        "{TRY_THERE} --output json --kustomize {}",
        own.path().display()
    );
    let all: Value = serde_json::from_str(&server.kubectl(&line, "")?)?;
    let mut all = all["items"].as_array().context("a list")?.iter();
    let deployment = all.find(|object| object["kind"] == "Deployment");
    let deployment = deployment.context("a Deployment")?;
    let class = &deployment["spec"]["template"]["spec"]["priorityClassName"];
    assert_eq!(class, "system-cluster-critical");
    assert_eq!(deployment["spec"]["replicas"], 3);
    Ok(())
}

/// The one that manifests/README.md shows, on top of what it says to print.
fn kustomization_of_the_readme() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let readme = std::fs::read_to_string(root().join("manifests/README.md"))?;
    let shown = readme
        .split_once("```yaml\n")
        .and_then(|(_, rest)| rest.split_once("```"));
    let (shown, _) = shown.context("manifests/README.md shows a kustomization")?;
    let printed = shown
        .split_once("# outrider install ")
        .and_then(|(_, rest)| rest.split_once(" > outrider.yaml"));
    let (options, _) = printed.context("it says what is printed")?;
    std::fs::write(folder.path().join("outrider.yaml"), install(options)?)?;
    std::fs::write(folder.path().join("kustomization.yaml"), shown)?;
    Ok(folder)
}

#[test]
fn kustomize_makes_what_the_command_prints() -> Result<()> {
    let kubectl = api_server::program("kubectl")?;
    for (folder, options) in [("base", ""), ("ha", "--profile ha")] {
        let folder = root().join("manifests").join(folder);
        let made = run(command(&kubectl)?.arg("kustomize").arg(&folder), PATIENCE)?.success()?;
        let (made, printed) = (objects(&made.stdout)?, objects(&install(options)?)?);
        for (id, object) in &printed {
            assert_eq!(made.get(id), Some(object), "{folder:?}: {id:?}");
        }
        assert_eq!(made.len(), printed.len(), "{folder:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_uninstall() -> Result<()> {
    let server = ApiServer::start()?;
    let before = ours(&server)?;
    assert!(before.is_empty(), "{before:?}");
    server.kubectl(APPLY, &install("--profile ha --network-policy")?)?;
    with_a_sidecar_in_the_shop(&server)?;
    // What a running mesh makes, in its own namespace and in others.
    for namespace in ["shop", "outrider-system"] {
        let bundle = "create configmap outrider-trust-bundle --from-literal=trust-bundle.pem=x";
        server.kubectl(&format!("{bundle} --namespace {namespace}"), "")?;
    }
    server.kubectl(
        "create secret generic outrider-ca --namespace outrider-system",
        "",
    )?;
    let lease = "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
                 metadata: {name: outrider-control-plane, namespace: outrider-system}\n";
    server.kubectl(CREATE, lease)?;
    // One that is somebody else's stays.
    server.kubectl("create configmap mine --namespace shop", "")?;
    let made = ours(&server)?;
    ensure!(made.len() >= 22, "{made:?}");

    let removed = uninstall(&server)?;
    ensure!(
        removed.stderr.contains("1 pods have a sidecar, in shop"),
        "{}",
        removed.stderr
    );
    let delete = "delete --ignore-not-found --wait=false --filename -";
    server.kubectl(delete, &removed.stdout)?;
    let left = ours(&server)?;
    ensure!(left.is_empty(), "left: {left:?}");
    server.kubectl("get configmap mine --namespace shop", "")?;
    // Again, there is nothing to do, and that is no error.
    server.kubectl(delete, &uninstall(&server)?.stdout)?;
    Ok(())
}

/// A namespace with a pod that has a sidecar, as the injector would have made it.
fn with_a_sidecar_in_the_shop(server: &ApiServer) -> Result<()> {
    server.kubectl("create namespace shop", "")?;
    server.kubectl("create serviceaccount default --namespace shop", "")?;
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: order, namespace: shop}\n\
               spec: {containers: [{name: app, image: app}, {name: outrider-proxy, image: proxy}]}\n";
    server.kubectl(CREATE, pod)?;
    let running = r#"{"status":{"phase":"Running"}}"#;
    let patch = "patch pod order --namespace shop --subresource status --patch";
    server.kubectl(&format!("{patch} {running}"), "")?;
    Ok(())
}

/// `outrider uninstall` of the API server.
fn uninstall(server: &ApiServer) -> Result<mesh_tests::process::Finished> {
    server
        .run(&programs::outrider()?, "uninstall", "")?
        .success()
}

#[test]
fn uninstall_without_a_cluster_says_so() -> Result<()> {
    let mut nowhere = command(&programs::outrider()?)?;
    nowhere.args(["uninstall", "--kubeconfig", "/nowhere"]);
    let refused = run(&mut nowhere, PATIENCE)?;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stdout, "", "half of it would be deleted");
    ensure!(refused.stderr.contains("--offline"), "{}", refused.stderr);
    let mut offline = command(&programs::outrider()?)?;
    offline.args(["uninstall", "--offline"]);
    let names = objects(&run(&mut offline, PATIENCE)?.success()?.stdout)?;
    ensure!(names.len() >= 22, "{names:?}");
    Ok(())
}

#[test]
fn policies_go_with_their_definitions_only() -> Result<()> {
    let server = ApiServer::start()?;
    server.kubectl(APPLY, &install("--crds only")?)?;
    let rest = install("--crds none")?;
    server.kubectl(APPLY, &rest)?;
    without_webhooks(&server)?;
    server.kubectl(ESTABLISHED, "")?;
    let config = "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\n\
                  metadata: {name: default, namespace: outrider-system}\nspec: {defaultDeny: true}\n";
    server.kubectl(APPLY, config)?;
    // All but the namespace, with which everything in it would go.
    let rest: Vec<&str> = rest
        .split("\n---\n")
        .filter(|document| !document.contains("kind: Namespace"))
        .collect();
    let delete = "delete --ignore-not-found --wait=false --filename -";
    server.kubectl(delete, &rest.join("\n---\n"))?;
    server.kubectl("get meshconfig default --namespace outrider-system", "")?;
    Ok(())
}
