//! Manifests, chart and definitions, given to an API server that enforces its rules: installed, applied
//! again, upgraded and removed. What runs then is tested elsewhere.

mod alerts;
mod definitions;
mod helm;
mod images;
mod objects;
mod rights;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use mesh_tests::api_server::ApiServer;
use mesh_tests::process::{command, run};
use mesh_tests::programs;
use mesh_tests::wait::PATIENCE;
use serde_json::Value;

/// Apply what is on standard input.
const APPLY: &str = "apply --filename -";
/// The same, by the API server.
const APPLY_THERE: &str = "apply --server-side --filename -";
/// Create what is on standard input.
const CREATE: &str = "create --filename -";
/// Waits for definitions.
const ESTABLISHED: &str = "wait --for=condition=Established customresourcedefinition --all";

/// Kind, namespace and name.
type Id = (String, String, String);

/// What `outrider install` prints with these options, which takes no cluster.
fn install(options: &str) -> Result<String> {
    let mut install = command(&programs::outrider()?)?;
    install.arg("install").args(options.split_whitespace());
    Ok(run(&mut install, PATIENCE)?.success()?.stdout)
}

/// Documents by kind, namespace and name.
fn objects(yaml: &str) -> Result<BTreeMap<Id, Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    let mut objects = BTreeMap::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let id = id(&object);
        let first = objects.insert(id.clone(), object).is_none();
        ensure!(first, "twice: {id:?}");
    }
    Ok(objects)
}

fn id(object: &Value) -> Id {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

/// The webhooks have no control plane behind them here.
fn without_webhooks(server: &ApiServer) -> Result<()> {
    for webhooks in [
        "mutatingwebhookconfiguration/outrider-injector",
        "validatingwebhookconfiguration/outrider-validator",
    ] {
        server.kubectl(&format!("delete {webhooks}"), "")?;
    }
    Ok(())
}

/// Everything of ours that the server holds and does not remove.
fn ours(server: &ApiServer) -> Result<BTreeSet<Id>> {
    let kinds = "namespaces,customresourcedefinitions,serviceaccounts,clusterroles,clusterrolebindings,\
                 roles,rolebindings,services,deployments,poddisruptionbudgets,networkpolicies,\
                 mutatingwebhookconfigurations,validatingwebhookconfigurations,configmaps,leases";
    let found = server.read(&format!("{kinds} --all-namespaces"))?;
    // Helm keeps its releases in Secrets, too: ours are named.
    let secrets = "secrets --all-namespaces --field-selector metadata.name=outrider-ca";
    let secrets = server.read(secrets)?;
    let lists = [&found, &secrets].map(|list| list["items"].as_array().context("a list"));
    let mut all = BTreeSet::new();
    for list in lists {
        let kept = list?
            .iter()
            .filter(|item| item["metadata"].get("deletionTimestamp").is_none());
        all.extend(kept.map(id));
    }
    all.retain(|(_, namespace, name)| namespace == "outrider-system" || name.contains("outrider"));
    Ok(all)
}
