//! Replicas of the control plane that go: the cluster lets go of one at a time.

use std::thread;

use anyhow::{Context, Result, anyhow};
use mesh_tests::kubernetes::Cluster;
use mesh_tests::kubernetes::outrider::{Outrider, SYSTEM};
use mesh_tests::process::Finished;
use serde_json::{Value, json};

const BUDGET: &str = "poddisruptionbudget/outrider-control-plane";
const SELECTOR: &str = "app.kubernetes.io/component=control-plane";

/// The pods of the three replicas, once there are no others.
fn replicas(cluster: &Cluster) -> Result<Vec<Value>> {
    let arguments = ["pods", "--namespace", SYSTEM, "--selector", SELECTOR];
    cluster.eventually("there are three replicas", &arguments, |pods| {
        let pods = pods["items"].as_array()?;
        let ends = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        (pods.len() == 3 && !pods.iter().any(ends)).then(|| pods.clone())
    })
}

fn name(pod: &Value) -> Result<&str> {
    pod["metadata"]["name"].as_str().context("a name")
}

#[test]
fn one_replica_at_a_time_may_be_evicted() -> Result<()> {
    let outrider = Outrider::installed()?;
    let cluster = outrider.cluster();
    let pods = replicas(cluster)?;
    one_may_go(cluster)?;
    let answers = thread::scope(|scope| {
        let asked = pods.iter().map(|pod| scope.spawn(|| evict(cluster, pod)));
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().map(|thread| match thread.join() {
            Ok(answer) => answer,
            Err(_) => Err(anyhow!("a thread panicked")),
        });
        answers.collect::<Result<Vec<Finished>>>()
    })?;
    let (gone, kept): (Vec<_>, Vec<_>) = pods
        .iter()
        .zip(&answers)
        .partition(|(_, answer)| answer.status.success());
    assert_eq!(gone.len(), 1, "{answers:?}");
    for (_, answer) in &kept {
        let refused = "Error from server (TooManyRequests): Cannot evict pod as it would violate \
                       the pod's disruption budget.";
        assert!(answer.stderr.contains(refused), "{}", answer.output());
    }

    // Another comes in its place, and only then the next may go.
    outrider.ready()?;
    let now = replicas(cluster)?;
    for (pod, _) in &kept {
        let uid = &pod["metadata"]["uid"];
        let stayed = now.iter().any(|pod| pod["metadata"]["uid"] == *uid);
        assert!(stayed, "{} has gone", name(pod)?);
    }
    one_may_go(cluster)?;
    let (next, _) = kept.first().context("one that was kept")?;
    evict(cluster, next)?.success()?;
    outrider.ready()
}

/// Waits until the budget knows of three replicas, and that one is too many for now.
fn one_may_go(cluster: &Cluster) -> Result<()> {
    let arguments = [BUDGET, "--namespace", SYSTEM];
    cluster.eventually("one may be evicted", &arguments, |budget| {
        let status = &budget["status"];
        let is = |field: &str, expected: u64| status[field] == expected;
        let all = is("expectedPods", 3) && is("currentHealthy", 3) && is("desiredHealthy", 2);
        (all && is("disruptionsAllowed", 1)).then_some(())
    })
}

/// Asks as `kubectl drain` does.
fn evict(cluster: &Cluster, pod: &Value) -> Result<Finished> {
    let name = name(pod)?;
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": SYSTEM},
    });
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}/eviction");
    let arguments = ["create", "--raw", &path, "--filename", "-"];
    cluster.try_kubectl_with(&eviction.to_string(), &arguments)
}

/// Nodes and zones of which there are several would have one each: what they are kept apart by names the
/// replicas, all of them and nobody else.
#[test]
fn replicas_are_kept_apart_from_each_other() -> Result<()> {
    let outrider = Outrider::installed()?;
    let pods = replicas(outrider.cluster())?;
    for pod in &pods {
        let spec = &pod["spec"];
        let apart = &spec["affinity"]["podAntiAffinity"];
        let apart = &apart["preferredDuringSchedulingIgnoredDuringExecution"][0];
        let node = &apart["podAffinityTerm"];
        let zone = &spec["topologySpreadConstraints"][0];
        assert_eq!(apart["weight"], 100, "{spec:#}");
        assert_eq!(node["topologyKey"], "kubernetes.io/hostname");
        assert_eq!(zone["topologyKey"], "topology.kubernetes.io/zone");
        assert_eq!(zone["maxSkew"], 1);
        assert_eq!(zone["whenUnsatisfiable"], "ScheduleAnyway");
        for term in [node, zone] {
            let labels = term["labelSelector"]["matchLabels"].as_object();
            let labels = labels.with_context(|| format!("labels of {term:#}"))?;
            assert!(!labels.is_empty());
            for pod in &pods {
                let own = &pod["metadata"]["labels"];
                for (label, value) in labels {
                    assert_eq!(&own[label], value, "{term:#}");
                }
            }
        }
    }
    Ok(())
}
