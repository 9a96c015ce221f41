//! Kinds of ours that are missing, of a version that is not read, or taken away while the mesh runs.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::api_server::ApiServer;
use mesh_tests::programs::root;
use mesh_tests::wait::{becomes, eventually, holds, until};
use serde_json::{Value, json};

use crate::kubernetes_watched::{ALLOW, SEEN, Watched, apply, established, policy};

/// The definition that is taken away.
const POLICIES: &str = "customresourcedefinition authorizationpolicies.outrider.mesh";

/// What is installed.
fn definition(api: &ApiServer, kinds: &str) -> Result<Value> {
    let file = root().join(format!("manifests/crds/{kinds}.yaml"));
    let print = format!(
        "create --dry-run=client --output json --filename {}",
        file.display()
    );
    Ok(serde_json::from_str(&api.kubectl(&print, "")?)?)
}

/// Waits until the kind was looked for twice more, in vain.
fn looked_for(watched: &Watched) -> Result<()> {
    let looks = || watched.errors_of(&[("kind", "AuthorizationPolicy")]);
    let before = looks()?;
    until("the kind is looked for", SEEN, || {
        Ok(looks()? >= before + 2.0)
    })
}

#[test]
fn nothing_is_served_before_every_kind_is_there_in_the_version_that_is_read() -> Result<()> {
    let watched = Watched::of(ApiServer::start()?)?;
    let api = &watched.api;
    let missing = |kinds: &str| {
        let said = format!("not ready: these kinds have not been read yet: {kinds}\n");
        becomes("it says what is missing", &(503, said), || {
            watched.get("/ready")
        })
    };
    missing("MeshConfig, AuthorizationPolicy, TrafficPolicy, RateLimitPolicy")?;
    for kinds in ["meshconfigs", "ratelimitpolicies", "trafficpolicies"] {
        apply(api, &[definition(api, kinds)?])?;
    }
    missing("AuthorizationPolicy")?;

    let newer = definition(api, "authorizationpolicies")?;
    let mut older = newer.clone();
    older["spec"]["versions"][0]["name"] = json!("v1alpha0");
    apply(api, &[older.clone()])?;
    established(api)?;
    looked_for(&watched)?;
    missing("AuthorizationPolicy")?;

    // What was stored is still served, by whoever upgrades.
    let mut both = newer;
    let mut kept = older["spec"]["versions"][0].take();
    kept["storage"] = json!(false);
    let versions = both["spec"]["versions"].as_array_mut();
    versions.into_iter().for_each(|all| all.push(kept.take()));
    apply(api, &[both])?;
    watched.ready()?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    allow(&watched, "allow")
}

/// Applies a policy as soon as the API server takes it, and waits until it is one of the mesh.
fn allow(watched: &Watched, name: &str) -> Result<()> {
    eventually("the kind is served", SEEN, || {
        watched.apply(&[policy(name)])?;
        Ok(Some(()))
    })?;
    let id = format!("AuthorizationPolicy/shop/{name}");
    until("the policy is seen", SEEN, || {
        Ok(watched.concerned(&id)? == Some(1))
    })
}

#[test]
fn a_kind_that_is_taken_away_takes_no_policy_with_it() -> Result<()> {
    let watched = Watched::start()?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    allow(&watched, "allow")?;
    let stays = || {
        looked_for(&watched)?;
        holds(
            "it is ready, and the policy holds",
            Duration::from_secs(3),
            || Ok(watched.get("/ready")?.0 == 200 && watched.concerned(ALLOW)? == Some(1)),
        )
    };
    let serve = |served: bool| {
        let path = "/spec/versions/0/served";
        let patch = json!([{"op": "replace", "path": path, "value": served}]);
        let line = format!("patch {POLICIES} --type json --patch {patch}");
        watched.api.kubectl(&line, "")
    };
    serve(false)?;
    stays()?;
    serve(true)?;
    allow(&watched, "later")?;
    // Objects may go as long as their kind stays.
    let delete = "--namespace shop delete authorizationpolicy later";
    watched.api.kubectl(delete, "")?;
    until("a deletion is seen", SEEN, || {
        Ok(watched
            .programmed("AuthorizationPolicy/shop/later")?
            .is_none())
    })?;

    // With a kind Kubernetes deletes its objects.
    let installed = definition(&watched.api, "authorizationpolicies")?;
    watched.api.kubectl(&format!("delete {POLICIES}"), "")?;
    stays()?;
    // Once it is back, it is as the API server says.
    apply(&watched.api, &[installed])?;
    allow(&watched, "new")?;
    assert_eq!(watched.programmed(ALLOW)?, None);
    Ok(())
}
