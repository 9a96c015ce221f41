//! What the control plane makes of what an API server says, and of one that is not well. It has the rights
//! that are installed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::faulty_server::Fault;
use mesh_tests::http::local;
use mesh_tests::metrics::Metrics;
use mesh_tests::pki::seconds;
use mesh_tests::wait::{eventually, eventually_every, holds, until};
use serde_json::{Value, json};

use crate::kubernetes_watched::{ALLOW, RECOVERED, SEEN, Watched, policy};

#[test]
fn a_policy_says_what_became_of_it() -> Result<()> {
    let watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    let programmed = |message: &str| {
        eventually("its status says so", SEEN, || {
            let conditions = watched.conditions("authorizationpolicy", "allow")?;
            let is_it = |one: &&Value| one["type"] == "Programmed" && one["message"] == message;
            Ok(conditions
                .iter()
                .any(|one| is_it(&one))
                .then_some(conditions))
        })
    };
    let conditions = programmed("0 of 1 sidecars at generation 1")?;
    let accepted = conditions.iter().find(|one| one["type"] == "Accepted");
    let accepted = accepted.context("Accepted")?;
    assert_eq!(
        (&accepted["status"], &accepted["reason"]),
        (&json!("True"), &json!("Accepted"))
    );

    // A policy about what is not there; then it is.
    let mut early = policy("early");
    early["spec"]["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "later"}]);
    watched.apply(&[early])?;
    let reason = |expected: &str| {
        until(expected, SEEN, || {
            let conditions = watched.conditions("authorizationpolicy", "early")?;
            Ok(conditions.iter().any(|one| one["reason"] == expected))
        })
    };
    reason("TargetNotFound")?;
    watched.apply(&[json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "later", "namespace": "shop"},
        "spec": {"selector": {"app": "billing"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })])?;
    reason("Accepted")
}

#[test]
fn an_api_server_that_is_not_well_changes_nothing_until_it_is() -> Result<()> {
    let mut watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    let faults = [
        Fault::Expired,
        Fault::ExpiredWithin,
        Fault::Answer(429),
        Fault::Answer(500),
        Fault::Closed,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let (before, met) = (watched.errors()?, watched.faults.met());
        watched.faults.set(fault);
        let what = format!("watches meet {fault:?}");
        until(&what, RECOVERED, || Ok(watched.faults.met() >= met + 10))?;
        // To wait and try again is the client's own answer to 429.
        if fault != Fault::Answer(429) {
            until("they are counted", RECOVERED, || {
                Ok(watched.errors()? > before)
            })?;
        }
        let name = format!("during-{number}");
        watched.apply(&[policy(&name)])?;
        // What was known stays.
        holds(
            "it is ready, and knows its pod",
            Duration::from_secs(2),
            || Ok(watched.get("/ready")?.0 == 200 && watched.concerned(ALLOW)? == Some(1)),
        )?;
        ensure!(watched.process.running(), "it has ended: {fault:?}");
        watched.faults.set(Fault::None);
        let id = format!("AuthorizationPolicy/shop/{name}");
        let what = format!("what came during {fault:?} is seen");
        until(&what, RECOVERED, || Ok(watched.concerned(&id)? == Some(1)))?;
    }
    // Cut in the middle, with nothing wrong otherwise.
    watched.faults.cut();
    watched
        .api
        .kubectl("--namespace shop delete authorizationpolicy during-0", "")?;
    let gone = "AuthorizationPolicy/shop/during-0";
    until("a deletion is seen", RECOVERED, || {
        Ok(watched.programmed(gone)?.is_none())
    })
}

#[test]
fn an_api_server_that_refuses_takes_the_lead_only_while_it_does() -> Result<()> {
    let mut watched = Watched::start()?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    watched.leads(true)?;
    for status in [429, 500] {
        watched.faults.set(Fault::Answer(status));
        let name = format!("during-{status}");
        watched.apply(&[policy(&name)])?;
        watched.leads(false)?;
        ensure!(watched.process.running(), "it has ended: {status}");
        watched.faults.set(Fault::None);
        watched.leads(true)?;
        // What a leader does it does again.
        let what = format!("the status of what came during {status} is written");
        until(&what, RECOVERED, || {
            let conditions = watched.conditions("authorizationpolicy", &name)?;
            let mut accepted = conditions.iter().filter(|one| one["type"] == "Accepted");
            Ok(accepted.any(|one| one["status"] == "True" && one["reason"] == "Accepted"))
        })?;
    }
    Ok(())
}

#[test]
fn a_thousand_policies_at_once_are_judged_and_are_a_few_versions() -> Result<()> {
    let watched = Watched::start()?;
    watched.api.register_validator(local(watched.webhook))?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    let applied = || -> Result<f64> {
        let name = "outrider_control_plane_config_reloads_total";
        Ok(Metrics::scrape(watched.admin)?.sum(name, &[("result", "applied")]))
    };
    let judged = || -> Result<f64> {
        let name = "outrider_control_plane_webhook_reviews_total";
        let labels = [("webhook", "validate"), ("result", "allowed")];
        Ok(Metrics::scrape(watched.admin)?.sum(name, &labels))
    };
    let judged_before = judged()?;
    let (before, start) = (applied()?, std::time::Instant::now());
    let policies: Vec<Value> = (0..1000)
        .map(|number| policy(&format!("p-{number}")))
        .collect();
    watched.apply(&policies)?;
    let last = "AuthorizationPolicy/shop/p-999";
    until("the last is seen", RECOVERED, || {
        Ok(watched.concerned(last)? == Some(1))
    })?;
    let (_, body) = watched.get("/programmed")?;
    let all: Value = serde_json::from_str(&body)?;
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(1000));
    ensure!(judged()? - judged_before >= 1000.0, "some were not judged");
    // At most one in 100 ms.
    let most = start.elapsed().as_secs_f64() * 10.0 + 2.0;
    let reloads = applied()? - before;
    ensure!(
        reloads <= most,
        "{reloads} reloads, expected at most {most}"
    );
    // The leader writes the status of 20 in a second.
    eventually_every(
        Duration::from_secs(2),
        "each has its status",
        2 * RECOVERED,
        || {
            let list = watched.api.read("--namespace shop authorizationpolicies")?;
            let policies = list["items"].as_array().context("a list")?;
            Ok((policies.len() == 1000 && policies.iter().all(is_accepted)).then_some(()))
        },
    )?;
    let least = Duration::from_secs(1000 / 20 - 5);
    ensure!(start.elapsed() >= least, "after {:?}", start.elapsed());
    Ok(())
}

/// As it is written now.
fn is_accepted(policy: &Value) -> bool {
    let conditions = policy["status"]["ancestors"][0]["conditions"].as_array();
    let mut accepted = conditions
        .into_iter()
        .flatten()
        .filter(|one| one["type"] == "Accepted");
    accepted.any(|one| {
        one["status"] == "True"
            && one["reason"] == "Accepted"
            && one["observedGeneration"] == policy["metadata"]["generation"]
    })
}

#[test]
fn policy_holds_in_a_namespace_that_is_being_deleted() -> Result<()> {
    let watched = Watched::start()?;
    watched.apply(&[policy("allow")])?;
    watched.run("billing-1", "billing", "10.244.0.7")?;
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    let told = || -> Result<f64> {
        let name = "outrider_control_plane_watch_last_event_timestamp_seconds";
        Ok(Metrics::scrape(watched.admin)?.sum(name, &[("kind", "Namespace")]))
    };
    let before = told()?;
    // Without a controller it stays so.
    watched
        .api
        .kubectl("delete namespace shop --wait=false", "")?;
    until("the namespace is known to be on its way", SEEN, || {
        Ok(told()? > before)
    })?;
    watched
        .api
        .kubectl("--namespace shop delete authorizationpolicy allow", "")?;
    holds("the policy holds", Duration::from_secs(3), || {
        Ok(watched.concerned(ALLOW)? == Some(1))
    })?;
    // With its pods gone and the namespace too, so is the policy.
    let now = "--namespace shop delete pod billing-1 --force --grace-period=0";
    watched.api.kubectl(now, "")?;
    let finalize = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
        "spec": {"finalizers": []}});
    let file = watched.folder.path().join("finalize.json");
    std::fs::write(&file, finalize.to_string())?;
    let path = "/api/v1/namespaces/shop/finalize";
    let replace = format!("replace --raw {path} --filename {}", file.display());
    watched.api.kubectl(&replace, "")?;
    until("the policy is gone", SEEN, || {
        Ok(watched.programmed(ALLOW)?.is_none())
    })
}

#[test]
fn an_address_that_is_used_again_is_its_new_pods() -> Result<()> {
    let watched = Watched::start()?;
    let of = |account: &str| {
        let mut policy = policy(account);
        policy["spec"]["targetRefs"] =
            json!([{"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": account}}}]);
        policy
    };
    watched.apply(&[of("old"), of("new")])?;
    watched.run("old", "old", "10.244.0.7")?;
    let (old, new) = (
        "AuthorizationPolicy/shop/old",
        "AuthorizationPolicy/shop/new",
    );
    until("the pod is seen", SEEN, || {
        Ok(watched.concerned(old)? == Some(1) && watched.concerned(new)? == Some(0))
    })?;
    // A pod counts in seconds when it was made.
    let second = seconds();
    until("the next second", SEEN, || Ok(seconds() > second))?;
    watched.run("new", "new", "10.244.0.7")?;
    until("the address is the new pod's", SEEN, || {
        Ok(watched.concerned(old)? == Some(0) && watched.concerned(new)? == Some(1))
    })
}
