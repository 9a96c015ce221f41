//! The chart: it renders what `outrider install` prints, is installed, upgraded and uninstalled, and
//! refuses values that mean nothing.

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::{self, ApiServer};
use mesh_tests::process::{Finished, command, run};
use mesh_tests::programs::root;
use mesh_tests::wait::PATIENCE;

use super::{ESTABLISHED, install, objects, ours};

const RELEASE: &str = "--namespace outrider-system";

/// Without a cluster.
fn helm(line: &str) -> Result<Finished> {
    let mut helm = command(&api_server::program("helm")?)?;
    run(helm.args(line.split_whitespace()), PATIENCE)
}

fn chart() -> Result<String> {
    let chart = root().join("manifests/helm/outrider");
    Ok(chart.to_str().context("UTF-8")?.to_owned())
}

#[test]
fn the_chart_renders_what_the_command_prints() -> Result<()> {
    let chart = chart()?;
    for (options, values) in [
        ("", "profile=default"),
        ("--profile ha", "profile=ha"),
        ("--crds none", "crds.enabled=false"),
        (
            "--profile ha --network-policy --translated-addresses --ca-secret mesh-ca \
             --trust-domain shop.example --image-registry registry.example:5000/mesh \
             --image-tag 1.2.3 --image-pull-policy Always --image-pull-secret registry",
            "profile=ha,networkPolicy.enabled=true,translatedAddresses=true,ca.secret=mesh-ca,\
             trustDomain=shop.example,image.registry=registry.example:5000/mesh,image.tag=1.2.3,\
             image.pullPolicy=Always,image.pullSecrets={registry}",
        ),
    ] {
        // A release finds the namespace, and leaves the definitions when it goes.
        let as_printed = "namespace.create=true,crds.keep=false";
        let render = format!("template outrider {chart} {RELEASE} --set {as_printed},{values}");
        let rendered = objects(&helm(&render)?.success()?.stdout)?;
        let printed = objects(&install(options)?)?;
        for (id, object) in &printed {
            assert_eq!(rendered.get(id), Some(object), "{options:?}: {id:?}");
        }
        assert_eq!(rendered.len(), printed.len(), "{options:?}");
    }
    helm(&format!("lint --strict {chart} {RELEASE}"))?.success()?;
    Ok(())
}

#[test]
fn a_release_comes_and_goes() -> Result<()> {
    let server = ApiServer::start()?;
    let chart = chart()?;
    let said = server.helm(&format!(
        "install outrider {chart} {RELEASE} --create-namespace"
    ))?;
    let next = "rollout status deployment/outrider-control-plane";
    ensure!(said.contains(next), "{said}");
    ensure!(said.contains("image.registry is empty"), "{said}");
    let deployment = "deployment outrider-control-plane --namespace outrider-system";
    assert_eq!(server.read(deployment)?["spec"]["replicas"], 1);
    server.kubectl(ESTABLISHED, "")?;

    let values = "profile=ha,image.registry=registry.example/mesh,controlPlane.logLevel=debug";
    let said = server.helm(&format!(
        "upgrade outrider {chart} {RELEASE} --set {values}"
    ))?;
    ensure!(!said.contains("image.registry is empty"), "{said}");
    let upgraded = server.read(deployment)?;
    assert_eq!(upgraded["spec"]["replicas"], 3);
    let container = &upgraded["spec"]["template"]["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap_or_default();
    let expected = "registry.example/mesh/outrider-control-plane:";
    ensure!(image.starts_with(expected), "{image}");
    let expected = serde_json::json!({"name": "OUTRIDER_LOG", "value": "debug"});
    let mut environment = container["env"].as_array().context("env")?.iter();
    ensure!(environment.any(|one| *one == expected), "{container:#}");

    server.helm(&format!("uninstall outrider {RELEASE}"))?;
    let left = ours(&server)?;
    let kinds: Vec<&str> = left.iter().map(|(kind, _, _)| kind.as_str()).collect();
    // Policies are not lost with a release; the namespace is not of the release.
    let definitions = ["CustomResourceDefinition"; 5];
    let expected = [&definitions[..], &["Namespace"]].concat();
    assert_eq!(kinds, expected, "{left:?}");
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_refused() -> Result<()> {
    let chart = chart()?;
    for (value, expected) in [
        ("profile=huge", "profile"),
        ("replicas=3", "'replicas' not allowed"),
        ("controlPlane.replicas=0", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.tag=-a", "tag"),
        ("image.registry=https://a", "registry"),
        ("ca.secret=Mesh_CA", "secret"),
        ("trustDomain=Shop.Example", "trustDomain"),
        ("networkPolicy=true", "networkPolicy"),
    ] {
        let refused = helm(&format!(
            "template outrider {chart} {RELEASE} --set {value}"
        ))?;
        ensure!(!refused.status.success(), "{value} was taken");
        let said = refused.stderr;
        ensure!(
            said.contains("don't meet the specifications of the schema"),
            "{value}: {said}"
        );
        ensure!(said.contains(expected), "{value}: {said}");
    }
    let refused = helm(&format!("template outrider {chart} --namespace elsewhere"))?;
    ensure!(!refused.status.success(), "{}", refused.stdout);
    let expected = "expected --namespace outrider-system";
    ensure!(refused.stderr.contains(expected), "{}", refused.stderr);
    Ok(())
}
