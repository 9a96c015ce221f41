//! Replicas of the control plane that go: evicted, of which the cluster allows one at a time, and killed where
//! they are. No order fails.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::kubernetes::outrider::{Outrider, SYSTEM};
use mesh_tests::kubernetes::shop::Shop;
use mesh_tests::kubernetes::{Cluster, Namespace, TOOLS};
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
    // As many more as have been replaced already: on a busy machine the three are not asked at once.
    let most = 1 + replaced(cluster, &pods)?;
    assert!((1..=most).contains(&gone.len()), "{answers:?}");
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

/// How many replicas are ready that are not among these.
fn replaced(cluster: &Cluster, before: &[Value]) -> Result<usize> {
    let now = cluster.read(&["pods", "--namespace", SYSTEM, "--selector", SELECTOR])?;
    let now = now["items"].as_array().context("a list")?;
    let is_new = |pod: &&Value| {
        let mut before = before.iter();
        before.all(|old| old["metadata"]["uid"] != pod["metadata"]["uid"])
    };
    let is_ready = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    Ok(now.iter().filter(is_new).filter(is_ready).count())
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

#[test]
fn no_order_fails_while_control_planes_are_killed_where_they_are() -> Result<()> {
    let outrider = Outrider::installed()?;
    let shop = Shop::open(&outrider)?;
    let killer = Killer::start(outrider.cluster())?;
    let before = shop.totals()?;
    let pods = replicas(outrider.cluster())?;
    killer.kill(&pods[..1])?;
    shop.more_orders(before.placed + 20)?;
    started_again(&outrider, &pods[..1])?;

    // All of them at once: nobody takes over.
    let pods = replicas(outrider.cluster())?;
    killer.kill(&pods)?;
    let then = shop.totals()?;
    shop.more_orders(then.placed + 20)?;
    started_again(&outrider, &pods)?;
    outrider.ready()?;
    // They serve again: a new pod gets its certificate.
    shop.namespace()
        .kubectl(&["rollout", "restart", "deployment/user"])?;
    shop.namespace().rolled_out("deployment/user")?;
    shop.no_more_failed_than(&before)
}

/// Waits until the kubelet has started what ran in these pods once more, since it was killed; the pods are
/// the same.
fn started_again(outrider: &Outrider, before: &[Value]) -> Result<()> {
    for old in before {
        let name = name(old)?;
        let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
        let count = status(old)["restartCount"].as_u64().context("a count")?;
        let arguments = ["pod", name, "--namespace", SYSTEM];
        outrider
            .cluster()
            .eventually("it runs and is ready again", &arguments, |pod| {
                let now = status(pod);
                let again = now["restartCount"] == count + 1 && now["ready"] == true;
                // 128 and the number of SIGKILL.
                let killed = now["lastState"]["terminated"]["exitCode"] == 137;
                let same = pod["metadata"]["uid"] == old["metadata"]["uid"];
                (again && killed && same).then_some(())
            })?;
    }
    Ok(())
}

/// A pod that sees the processes of its node.
struct Killer {
    namespace: Namespace,
}

impl Killer {
    fn start(cluster: &'static Cluster) -> Result<Self> {
        let namespace = cluster.namespace("killer")?;
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "killer"},
            "spec": {
                "hostPID": true,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "killer",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sleep", "1000000"],
                    "securityContext": {"privileged": true, "runAsUser": 0},
                }],
            },
        });
        namespace.apply(&pod.to_string())?;
        namespace.wait("pod/killer", "Ready")?;
        Ok(Self { namespace })
    }

    /// Sends SIGKILL to what runs in these pods, one process in each. A container is a control group that
    /// has its name.
    fn kill(&self, pods: &[Value]) -> Result<()> {
        let script = "for container; do for process in /proc/[0-9]*; do \
                      if /bin/busybox grep -qs \"$container\" $process/cgroup; then \
                      kill -KILL ${process#/proc/} && echo killed; fi; done; done";
        let mut program = vec!["/bin/sh", "-c", script, "sh"];
        for pod in pods {
            let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
            let (_, id) = id
                .and_then(|id| id.split_once("://"))
                .context("the name of a container")?;
            program.push(id);
        }
        let said = self.namespace.exec("killer", &program)?;
        let killed = said.lines().filter(|line| *line == "killed").count();
        ensure!(
            killed == pods.len(),
            "{killed} killed: {said} (those of other nodes cannot be: unset KUBECONFIG)"
        );
        Ok(())
    }
}
