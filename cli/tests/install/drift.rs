//! `manifests` holds what the command prints.
//!
//! Where this fails, the objects have changed: `UPDATE_MANIFESTS=1 cargo test -p outrider-cli --test
//! install` writes the files anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outrider_cli::install::{Objects, yaml};
use serde_json::Value;

use super::parsed;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
const REMEDY: &str = "UPDATE_MANIFESTS=1 cargo test -p outrider-cli --test install";

#[test]
fn the_manifests_are_what_the_command_prints() {
    let expected = files();
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        for (path, text) in &expected {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
    for (path, text) in &expected {
        let written = fs::read_to_string(path);
        let written =
            written.unwrap_or_else(|error| panic!("{path:?}: {error}; {REMEDY} writes it"));
        let differs = text.lines().zip(written.lines()).find(|(a, b)| a != b);
        assert!(
            *text == written,
            "{path:?} has drifted, first here: {differs:#?}; {REMEDY} writes it anew"
        );
    }
    // A definition that is no more must not stay behind.
    for folder in ["crds", "helm/outrider/crd-files"] {
        for file in fs::read_dir(Path::new(MANIFESTS).join(folder)).unwrap() {
            let path = file.unwrap().path();
            let is_ours = path
                .file_name()
                .is_some_and(|name| name == "kustomization.yaml");
            assert!(
                is_ours || expected.contains_key(&path),
                "{path:?} is no more: remove it"
            );
        }
    }
}

/// Every generated file and its text.
fn files() -> BTreeMap<PathBuf, String> {
    let base = Objects::new(&parsed(&[]).settings()).unwrap();
    let mut files = BTreeMap::new();
    let mut add = |path: String, objects: &[Value]| {
        let head = format!("# Written by: {REMEDY}\n");
        let text = head + &yaml::documents(objects).unwrap();
        files.insert(Path::new(MANIFESTS).join(path), text);
    };
    for definition in &base.crds {
        let name = definition["spec"]["names"]["plural"].as_str().unwrap();
        let one = std::slice::from_ref(definition);
        add(format!("crds/{name}.yaml"), one);
        // Helm reads nothing outside of its chart.
        add(format!("helm/outrider/crd-files/{name}.yaml"), one);
    }
    add("base/namespace.yaml".to_owned(), &base.namespace);
    add("base/rbac.yaml".to_owned(), &base.rbac);
    add("base/control-plane.yaml".to_owned(), &base.control_plane);
    add("base/webhooks.yaml".to_owned(), &base.webhooks);
    files
}
