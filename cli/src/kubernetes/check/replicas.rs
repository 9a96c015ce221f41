//! What each of the control plane's pods says of itself: whether it is ready, its clock, its certificates,
//! and which sidecars it serves at which version.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};

use super::clock::{self, Skew};
use super::finding::Finding;
use super::handshake;
use crate::certs::time;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::forward::{Answer, Door, ForwardError};
use crate::kubernetes::many::ask_each;
use crate::kubernetes::names::{
    CONTROL_PLANE, CONTROL_PLANE_ADMIN_PORT, CONTROL_PLANE_PORT, SYSTEM, WEBHOOK_PORT,
};
use crate::kubernetes::pods::collect;
use crate::kubernetes::sidecars::LIMIT;
use crate::telemetry::exposition::{Exposition, Sample};

const READY: &str = "replica-ready";
const REACHED: &str = "replica-reached";
const CERTIFICATE: &str = "replica-certificate";
const WEBHOOK: &str = "webhook-certificate";
const CONFIGURATION: &str = "configuration";
/// What is on its way to a sidecar has arrived by then.
const SETTLED: Duration = Duration::from_secs(2);

/// What was learnt of all of them.
pub(super) struct Replicas {
    pub(super) fleet: Fleet,
    pub(super) findings: Vec<Finding>,
}

/// The connected sidecars, by `NAMESPACE/POD`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fleet {
    /// Whether every replica was asked: else nobody can say who is connected to none.
    pub(super) complete: bool,
    /// Those that have acknowledged something.
    pub(super) connected: BTreeMap<String, Versions>,
}

/// What one of them was sent, and has acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) acknowledged: u64,
    pub(super) sent: u64,
}

impl Versions {
    pub(super) fn is_behind(self) -> bool {
        self.acknowledged < self.sent
    }
}

/// Asks all of them; `ours` is how far the API server's clock is from this machine's.
pub(super) async fn look(cluster: &Cluster, ours: Option<Skew>) -> Replicas {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let found = collect(cluster, &pods, "pods", |pod: Pod| {
        let running = pod.status.as_ref()?.phase.as_deref() == Some("Running");
        let is_one = pod.name_any().starts_with(&format!("{CONTROL_PLANE}-"));
        (running && is_one && pod.metadata.deletion_timestamp.is_none()).then(|| pod.name_any())
    });
    let names = match found.await {
        Ok(names) => names,
        Err(error) => return Replicas::unknown(Finding::unknown(REACHED, error)),
    };
    let mut replicas = Replicas {
        fleet: Fleet {
            complete: !names.is_empty(),
            connected: BTreeMap::new(),
        },
        findings: Vec::new(),
    };
    let asked = ask_each("control planes", names.clone(), |name| {
        ask(cluster, name, ours)
    })
    .await;
    for (findings, metrics) in asked {
        replicas.findings.extend(findings);
        replicas.fleet.add(metrics.as_ref());
    }
    if replicas.fleet.connected.values().any(|one| one.is_behind()) {
        // Something may have been on its way just then.
        tokio::time::sleep(SETTLED).await;
        let again = ask_each("control planes", names, |name| metrics(cluster, name)).await;
        let mut later = Fleet::default();
        again.iter().for_each(|metrics| later.add(metrics.as_ref()));
        replicas.fleet.settle(&later);
    }
    replicas.findings.sort_by_key(|finding| finding.check);
    replicas
}

impl Replicas {
    fn unknown(finding: Finding) -> Self {
        Self {
            fleet: Fleet::default(),
            findings: vec![finding],
        }
    }
}

impl Fleet {
    fn add(&mut self, metrics: Option<&Exposition>) {
        let Some(metrics) = metrics else {
            self.complete = false;
            return;
        };
        let name =
            |sample: &Sample| format!("{}/{}", sample.label("namespace"), sample.label("workload"));
        for sample in metrics.named("outrider_control_plane_acknowledged_version") {
            let versions = self.connected.entry(name(sample)).or_default();
            versions.acknowledged = versions.acknowledged.max(sample.value as u64);
        }
        for sample in metrics.named("outrider_control_plane_sent_version") {
            let versions = self.connected.entry(name(sample)).or_default();
            versions.sent = versions.sent.max(sample.value as u64);
        }
    }

    /// Who has acknowledged by now what it had been sent then is not behind.
    fn settle(&mut self, later: &Self) {
        for (name, versions) in &mut self.connected {
            let now = later.connected.get(name);
            if let Some(now) = now {
                versions.acknowledged = versions.acknowledged.max(now.acknowledged);
            }
        }
    }
}

async fn ask(
    cluster: &Cluster,
    name: String,
    ours: Option<Skew>,
) -> (Vec<Finding>, Option<Exposition>) {
    let door = Door::new(SYSTEM, &name, CONTROL_PLANE_ADMIN_PORT);
    let asked = SystemTime::now();
    let ready = door.get(cluster, "/ready", LIMIT).await;
    let answered = SystemTime::now();
    let mut findings = vec![judge_ready(&name, &ready)];
    let Ok(ready) = ready else {
        return (findings, None);
    };
    if let Some(theirs) = ready.date {
        let skew = clock::skew(theirs, asked, answered);
        // This machine's own fault is said once.
        if ours != Some(skew) {
            findings.push(clock::judge(&name, skew));
        }
    }
    let metrics = metrics(cluster, name.clone()).await;
    if let Some(metrics) = &metrics {
        findings.extend(problems(&name, metrics));
    }
    let now = time::unix(SystemTime::now());
    for (check, port, of) in [
        (CERTIFICATE, CONTROL_PLANE_PORT, "certificate"),
        (WEBHOOK, WEBHOOK_PORT, "certificate for webhooks"),
    ] {
        let (door, whose) = (Door::new(SYSTEM, &name, port), format!("{name}'s {of}"));
        findings.push(handshake::look(cluster, &door, check, &whose, now).await);
    }
    (findings, metrics)
}

async fn metrics(cluster: &Cluster, name: String) -> Option<Exposition> {
    let door = Door::new(SYSTEM, &name, CONTROL_PLANE_ADMIN_PORT);
    let answer = door.get(cluster, "/metrics", LIMIT).await.ok()?;
    let text = String::from_utf8_lossy(&answer.body);
    answer.status.is_success().then(|| Exposition::parse(&text))
}

fn judge_ready(name: &str, ready: &Result<Answer, ForwardError>) -> Finding {
    match ready {
        Ok(answer) if answer.status.is_success() => {
            Finding::ok(READY, format_args!("{name} serves sidecars"))
        }
        Ok(answer) => Finding::error(
            READY,
            format_args!("{name}: {}", String::from_utf8_lossy(&answer.body).trim()),
            format_args!("kubectl -n {SYSTEM} logs {name}"),
        ),
        Err(error) => Finding::unknown(REACHED, error),
    }
}

fn problems(name: &str, metrics: &Exposition) -> Option<Finding> {
    let problems = metrics.sum("outrider_control_plane_config_problems");
    problems.filter(|problems| *problems > 0.0).map(|problems| {
        Finding::warning(
            CONFIGURATION,
            format_args!("{name} knows of {problems} problems in policy, routes or Services"),
            "the status of each object says what is wrong with it: kubectl get authorizationpolicies,trafficpolicies,\
             ratelimitpolicies,meshconfigs -A",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn metrics(acknowledged: u64, sent: u64) -> Exposition {
        let labels = "{namespace=\"shop\",workload=\"order-1\"}";
        Exposition::parse(&format!(
            "outrider_control_plane_acknowledged_version{labels} {acknowledged}\n\
             outrider_control_plane_sent_version{labels} {sent}\n"
        ))
    }

    fn fleet(acknowledged: u64, sent: u64) -> Fleet {
        let mut fleet = Fleet {
            complete: true,
            ..Fleet::default()
        };
        fleet.add(Some(&metrics(acknowledged, sent)));
        fleet
    }

    #[test]
    fn behind_is_who_has_not_acknowledged_what_was_sent() {
        let is_behind = |fleet: &Fleet| fleet.connected["shop/order-1"].is_behind();
        assert!(!is_behind(&fleet(7, 7)));
        let mut behind = fleet(7, 8);
        assert!(is_behind(&behind));
        behind.settle(&fleet(7, 9));
        assert!(is_behind(&behind));
        behind.settle(&fleet(8, 9));
        assert!(!is_behind(&behind), "what came later is not asked for");
    }

    #[test]
    fn a_replica_that_does_not_answer_leaves_it_open() {
        let mut fleet = fleet(7, 7);
        fleet.add(None);
        assert!(!fleet.complete);
    }

    #[test]
    fn problems_that_a_replica_knows_of_are_told() {
        let of = |count: u32| {
            let text = format!("outrider_control_plane_config_problems {count}\n");
            problems("cp-1", &Exposition::parse(&text))
        };
        assert_eq!(of(0), None);
        let finding = of(2).unwrap();
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.message.contains("2 problems"), "{finding:?}");
        assert_eq!(problems("cp-1", &Exposition::parse("")), None);
    }
}
