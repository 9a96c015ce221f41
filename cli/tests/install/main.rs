//! What `outrider install` prints: hardened, with no more rights than it says, and the same as what is
//! kept in `manifests`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drift;
mod hardened;
mod rights;

use clap::Parser as _;
use outrider_cli::args::{Cli, Command};
use outrider_cli::install::{self, Crds, InstallArgs, Objects};
use serde_json::Value;

/// What is printed with these options.
fn printed(options: &[&str]) -> Vec<Value> {
    let args = parsed(options);
    let objects = Objects::new(&args.settings()).unwrap();
    objects.in_order(args.crds)
}

fn parsed(options: &[&str]) -> InstallArgs {
    let line = ["outrider", "install"].iter().chain(options);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Install(args) => args,
        other => panic!("{other:?}"),
    }
}

/// Of this kind and name.
fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    let mut found = objects
        .iter()
        .filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Every combination of options that adds or changes objects.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--profile", "ha"],
    &[
        "--profile",
        "ha",
        "--network-policy",
        "--translated-addresses",
    ],
    &["--ca-secret", "mesh-ca", "--trust-domain", "shop.example"],
    &[
        "--image-registry",
        "registry.example:5000/mesh",
        "--image-tag",
        "1.2.3",
        "--image-pull-policy",
        "Always",
        "--image-pull-secret",
        "registry",
    ],
];

#[test]
fn what_is_printed_is_read_back() {
    for options in OPTIONS {
        let objects = printed(options);
        let text = install::yaml::documents(&objects).unwrap();
        let documents: Vec<Value> = text
            .split("\n---\n")
            .map(|document| serde_saphyr::from_str(document).unwrap())
            .collect();
        assert_eq!(documents, objects, "{options:?}");
    }
}

#[test]
fn every_object_says_what_it_is() {
    for options in OPTIONS {
        for object in printed(options) {
            let metadata = &object["metadata"];
            assert!(object["apiVersion"].is_string(), "{object}");
            assert!(object["kind"].is_string(), "{object}");
            assert!(metadata["name"].is_string(), "{object}");
            assert_eq!(
                metadata["labels"]["app.kubernetes.io/part-of"], "outrider",
                "{metadata}"
            );
            assert_eq!(object.get("status"), None, "{metadata}");
        }
    }
}

#[test]
fn definitions_are_printed_as_asked() {
    let kinds = |options: &[&str]| -> (usize, usize) {
        let objects = printed(options);
        let (definitions, rest): (Vec<_>, Vec<_>) = objects
            .iter()
            .partition(|object| object["kind"] == "CustomResourceDefinition");
        (definitions.len(), rest.len())
    };
    let (definitions, rest) = kinds(&[]);
    assert_eq!(definitions, 5);
    assert_eq!(kinds(&["--crds", "none"]), (0, rest));
    assert_eq!(kinds(&["--crds", "only"]), (5, 0));
    assert_eq!(parsed(&[]).crds, Crds::Include);
}

#[test]
fn images_are_where_they_are_said_to_be() {
    let pod = |options: &[&str]| {
        let objects = printed(options);
        find(&objects, "Deployment", "outrider-control-plane")["spec"]["template"]["spec"].clone()
    };
    let plain = pod(&[]);
    let version = env!("CARGO_PKG_VERSION");
    let container = &plain["containers"][0];
    assert_eq!(
        container["image"],
        format!("outrider-control-plane:{version}")
    );
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    let sidecar = format!("--proxy-image=outrider-proxy:{version}");
    assert!(
        container["args"]
            .as_array()
            .unwrap()
            .contains(&sidecar.into())
    );

    let given = pod(OPTIONS[4]);
    let container = &given["containers"][0];
    let folder = "registry.example:5000/mesh";
    assert_eq!(
        container["image"],
        format!("{folder}/outrider-control-plane:1.2.3")
    );
    assert_eq!(container["imagePullPolicy"], "Always");
    let sidecar = format!("--proxy-image={folder}/outrider-proxy:1.2.3");
    assert!(
        container["args"]
            .as_array()
            .unwrap()
            .contains(&sidecar.into())
    );
    assert_eq!(given["imagePullSecrets"][0]["name"], "registry");
}

#[test]
fn what_cannot_be_an_image_or_a_secret_is_refused() {
    let table: &[&[&str]] = &[
        &["--image-registry", "registry.example/"],
        &["--image-registry", "https://registry.example"],
        &["--image-registry", ""],
        &["--image-tag", "a b"],
        &["--image-tag", ""],
        &["--image-tag", ".1"],
        &["--ca-secret", "Mesh_CA"],
        &["--trust-domain", "Shop.example"],
        &["--profile", "huge"],
    ];
    for options in table {
        let line = ["outrider", "install"].iter().chain(*options);
        assert!(Cli::try_parse_from(line).is_err(), "{options:?}");
    }
}

#[test]
fn uninstall_names_all_that_install_made() {
    let found = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "outrider-trust-bundle", "namespace": "shop", "uid": "1"},
    });
    let removed = install::removed(vec![found]).unwrap();
    let id = |object: &Value| {
        let metadata = &object["metadata"];
        let names = ["name", "namespace"].map(|field| metadata[field].to_string());
        format!(
            "{} {} {}",
            object["apiVersion"],
            object["kind"],
            names.join(" ")
        )
    };
    let ids: Vec<String> = removed.iter().map(id).collect();
    for options in OPTIONS {
        for object in printed(options) {
            assert!(ids.contains(&id(&object)), "{} is not removed", id(&object));
        }
    }
    let place = |kind: &str| {
        let mut kinds = removed
            .iter()
            .map(|object| object["kind"].as_str().unwrap());
        kinds.position(|one| one == kind).unwrap()
    };
    // Who would refuse, who would make things anew, what was made, what it is made of.
    let order = [
        "MutatingWebhookConfiguration",
        "Deployment",
        "ClusterRoleBinding",
        "ConfigMap",
        "Secret",
        "Lease",
        "CustomResourceDefinition",
        "Namespace",
    ];
    assert!(order.map(place).is_sorted());
    assert_eq!(place("Namespace"), removed.len() - 1);
    // Names only: whoever reads it sees what goes.
    let shop = removed
        .iter()
        .find(|one| one["metadata"]["namespace"] == "shop");
    let expected = serde_json::json!({"name": "outrider-trust-bundle", "namespace": "shop"});
    assert_eq!(shop.unwrap()["metadata"], expected);
}
