//! Pods of meshed namespaces: who has no sidecar, and whose is not as it should be.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Pod;

use super::clock::{self, Skew};
use super::finding::Finding;
use super::handshake::ends_soon;
use super::replicas::Fleet;
use crate::certs::time;
use crate::kubernetes::access::Cluster;
use crate::kubernetes::many::ask_each;
use crate::kubernetes::pods::{
    Membership, Scope, Sidecar, collect, membership, namespaces, versions,
};
use crate::kubernetes::sidecars::{self, Known};

const WITHOUT: &str = "pods-without-sidecar";
const HOST_NETWORK: &str = "host-network";
const NOT_READY: &str = "sidecars-ready";
const VERSION: &str = "sidecar-versions";
const CONNECTED: &str = "sidecars-connected";
const BEHIND: &str = "sidecars-behind";
const CERTIFICATE: &str = "sidecar-certificates";
const ASKED: &str = "sidecars-asked";
/// So many are named; the rest are counted.
const NAMED: usize = 5;

/// Looks at all of `scope`; `expected` is the control plane's version, `ask` whether each sidecar is
/// asked, too.
pub(super) async fn look(
    cluster: &Cluster,
    scope: &Scope,
    fleet: &Fleet,
    expected: &str,
    ask: bool,
) -> Vec<Finding> {
    let namespaces = match namespaces(cluster).await {
        Ok(namespaces) => namespaces,
        Err(error) => return vec![Finding::unknown(WITHOUT, error)],
    };
    let api = scope.api(cluster);
    let of_the_mesh = |pod: Pod| match membership(&pod, &namespaces) {
        Membership::None => None,
        is => Some(is),
    };
    let found = match collect(cluster, &api, "pods", of_the_mesh).await {
        Ok(found) => found,
        Err(error) => return vec![Finding::unknown(WITHOUT, error)],
    };
    let pods = Pods::sort(found);
    let mut findings = pods.without(scope, namespaces.meshed().count());
    findings.extend(pods.sidecars(fleet, expected));
    if ask {
        findings.extend(proxies(cluster, pods.sidecars).await);
    }
    findings
}

#[derive(Debug, Default)]
struct Pods {
    sidecars: Vec<Sidecar>,
    missing: BTreeMap<String, Vec<String>>,
    host_network: Vec<String>,
}

impl Pods {
    fn sort(found: Vec<Membership>) -> Self {
        let mut pods = Self::default();
        for is in found {
            match is {
                Membership::Sidecar(sidecar) => pods.sidecars.push(sidecar),
                Membership::Missing { namespace, pod } => {
                    pods.missing.entry(namespace).or_default().push(pod);
                }
                Membership::HostNetwork { namespace, pod } => {
                    pods.host_network.push(format!("{namespace}/{pod}"));
                }
                Membership::None => {}
            }
        }
        pods.sidecars.sort_by_key(Sidecar::name);
        pods
    }

    fn without(&self, scope: &Scope, meshed: usize) -> Vec<Finding> {
        let mut findings = Vec::new();
        if meshed == 0 {
            findings.push(Finding::warning(
                WITHOUT,
                "no namespace is meshed",
                "kubectl label namespace NAME outrider.mesh/inject=enabled",
            ));
        }
        for (namespace, pods) in &self.missing {
            findings.push(Finding::warning(
                WITHOUT,
                format_args!(
                    "{} of {namespace} have no sidecar, and are not of the mesh: {}",
                    pods.len(),
                    named(pods)
                ),
                format_args!(
                    "they are older than the label, or the injector was away: kubectl -n {namespace} rollout restart deployment"
                ),
            ));
        }
        if findings.is_empty() {
            findings.push(Finding::ok(
                WITHOUT,
                match scope {
                    Scope::All => format!("all pods of {meshed} meshed namespaces have one"),
                    Scope::Namespace(namespace) => {
                        format!("all pods of {namespace} that should have one do")
                    }
                },
            ));
        }
        if !self.host_network.is_empty() {
            findings.push(Finding::warning(
                HOST_NETWORK,
                format_args!("cannot have a sidecar: {}", named(&self.host_network)),
                "take hostNetwork away, or label them outrider.mesh/inject=false to say that it is meant",
            ));
        }
        findings
    }

    fn sidecars(&self, fleet: &Fleet, expected: &str) -> Vec<Finding> {
        let running = || self.sidecars.iter().filter(|sidecar| sidecar.running);
        let count = running().count();
        if count == 0 {
            return Vec::new();
        }
        let mut findings = Vec::new();
        let names = |wanted: &dyn Fn(&Sidecar) -> bool| -> Vec<String> {
            running()
                .filter(|one| wanted(one))
                .map(Sidecar::name)
                .collect()
        };
        let unready = names(&|one| !one.ready);
        findings.push(all_but(NOT_READY, count, "are ready", &unready, || {
            "kubectl describe pod says what is not ready; of a sidecar, `curl POD_IP:15020/ready` says what is missing".to_owned()
        }));
        let other = names(&|one| one.version.as_deref() != Some(expected));
        let counted = versions(running().map(|one| one.version.as_deref()));
        findings.push(all_but(
            VERSION,
            count,
            &format!("are of the control plane's version ({counted})"),
            &other,
            || "restart them to have the new one: kubectl rollout restart deployment".to_owned(),
        ));
        if fleet.complete {
            let alone = names(&|one| !fleet.connected.contains_key(&one.name()));
            findings.push(all_but(CONNECTED, count, "are connected to a control plane", &alone, || {
                "their log says why they are not: kubectl logs POD -c outrider-proxy; they go on with the policy that they have".to_owned()
            }));
        }
        let behind = names(&|one| {
            let versions = fleet.connected.get(&one.name());
            versions.is_some_and(|versions| versions.is_behind())
        });
        findings.push(all_but(BEHIND, count, "go by the newest policy", &behind, || {
            "their log, or the control plane's, says what they rejected: kubectl logs POD -c outrider-proxy".to_owned()
        }));
        findings
    }
}

/// "all 12 sidecars are ready", or which are not.
fn all_but(
    check: &'static str,
    count: usize,
    what: &str,
    exceptions: &[String],
    remedy: impl Fn() -> String,
) -> Finding {
    match exceptions {
        [] => Finding::ok(check, format_args!("all {count} sidecars {what}")),
        some => Finding::warning(
            check,
            format_args!(
                "{} of {count} sidecars {what}, but not {}",
                count - some.len(),
                named(some)
            ),
            remedy(),
        ),
    }
}

fn named(names: &[impl Display]) -> String {
    let some: Vec<String> = names.iter().take(NAMED).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMED) {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// Asks each of them.
async fn proxies(cluster: &Cluster, sidecars: Vec<Sidecar>) -> Vec<Finding> {
    let running: Vec<Sidecar> = sidecars.into_iter().filter(|one| one.running).collect();
    let answers = ask_each("sidecars", running, |sidecar| async move {
        let asked = SystemTime::now();
        let answer = sidecars::ask(cluster, &sidecar).await;
        let answered = SystemTime::now();
        let answer = answer.map(|(known, answer)| Said {
            known,
            at: time::unix(answered),
            skew: answer
                .date
                .map(|theirs| clock::skew(theirs, asked, answered)),
        });
        (sidecar.name(), answer)
    })
    .await;
    judge_proxies(answers)
}

/// What a sidecar says of itself.
#[derive(Debug, Clone)]
struct Said {
    known: Known,
    /// When it said so, seconds since 1970: others may have been waited for since.
    at: i64,
    /// How far its clock is off.
    skew: Option<Skew>,
}

/// Of each what it says, or why it says nothing.
fn judge_proxies(mut answers: Vec<(String, Result<Said, String>)>) -> Vec<Finding> {
    answers.sort_by(|(a, _), (b, _)| a.cmp(b));
    let count = answers.len();
    let (mut findings, mut silent, mut ending) = (Vec::new(), Vec::new(), Vec::new());
    for (name, answer) in answers {
        match answer {
            Err(reason) => silent.push(reason),
            Ok(Said { known, at, skew }) => {
                match known.certificate.map(|one| one.life()) {
                    None => ending.push(format!("{name} (it has none)")),
                    Some(life) if ends_soon(life, at) => {
                        ending.push(format!("{name} ({})", time::left(life.left(at))));
                    }
                    Some(_) => {}
                }
                if let Some(skew) = skew.filter(|skew| *skew != Skew::None) {
                    findings.push(clock::judge(&format!("{name}'s node"), skew));
                }
            }
        }
    }
    findings.push(all_but(ASKED, count, "answer", &silent, || {
        "see whether the pods run, and whether you may port-forward to them".to_owned()
    }));
    findings.push(all_but(
        CERTIFICATE,
        count,
        "have a certificate that lasts",
        &ending,
        || "their log says why it is not renewed: kubectl logs POD -c outrider-proxy".to_owned(),
    ));
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::Level;
    use super::super::replicas::Versions;
    use super::*;
    use crate::kubernetes::sidecars::Certificate;

    fn sidecar(pod: &str, version: &str, ready: bool) -> Membership {
        Membership::Sidecar(Sidecar {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            account: "order".to_owned(),
            trust_domain: None,
            version: Some(version.to_owned()),
            running: true,
            ready,
        })
    }

    fn level(findings: &[Finding], check: &str) -> Option<Level> {
        let finding = findings.iter().find(|finding| finding.check == check);
        finding.map(|finding| finding.level)
    }

    #[test]
    fn who_has_no_sidecar_is_named() {
        let missing = |pod: &str| Membership::Missing {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
        };
        let pods = Pods::sort(vec![missing("order-1"), missing("order-2")]);
        let findings = pods.without(&Scope::All, 1);
        assert_eq!(
            findings[0].message,
            "2 of shop have no sidecar, and are not of the mesh: order-1, order-2"
        );
        assert_eq!(findings[0].level, Level::Warning);
        let nobody = |scope: &Scope, meshed| Pods::default().without(scope, meshed).remove(0);
        let found = nobody(&Scope::All, 2);
        assert_eq!(found.level, Level::Ok);
        assert_eq!(found.message, "all pods of 2 meshed namespaces have one");
        let found = nobody(&Scope::Namespace("shop".to_owned()), 2);
        assert_eq!(found.message, "all pods of shop that should have one do");
        assert_eq!(nobody(&Scope::All, 0).level, Level::Warning);
    }

    #[test]
    fn sidecars_are_compared_with_the_control_plane() {
        let pods = Pods::sort(vec![
            sidecar("order-1", "0.1.0", true),
            sidecar("order-2", "0.0.9", false),
        ]);
        let mut fleet = Fleet {
            complete: true,
            connected: BTreeMap::from([(
                "shop/order-1".to_owned(),
                Versions {
                    acknowledged: 6,
                    sent: 7,
                },
            )]),
        };
        let findings = pods.sidecars(&fleet, "0.1.0");
        for check in [NOT_READY, VERSION, CONNECTED, BEHIND] {
            assert_eq!(level(&findings, check), Some(Level::Warning), "{check}");
        }
        assert!(
            findings[0]
                .message
                .ends_with("1 of 2 sidecars are ready, but not shop/order-2")
        );
        fleet.complete = false;
        let findings = pods.sidecars(&fleet, "0.1.0");
        assert_eq!(level(&findings, CONNECTED), None, "nobody can say");
    }

    #[test]
    fn each_sidecar_is_judged_by_what_it_says() {
        // Of a day, said at noon of it.
        let said = |left: i64, skew| Said {
            known: Known {
                seconds_since_control_plane: Some(1),
                certificate: Some(Certificate {
                    id: "spiffe://a/ns/b/sa/c".to_owned(),
                    not_before: 43_200 + left - 86_400,
                    not_after: 43_200 + left,
                    generation: 1,
                }),
            },
            at: 43_200,
            skew,
        };
        let good = ("a".to_owned(), Ok(said(43_200, Some(Skew::None))));
        let findings = judge_proxies(vec![good.clone()]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok));
        let wrong = Some(Skew::Behind(Duration::from_secs(120)));
        let findings = judge_proxies(vec![
            good,
            ("b".to_owned(), Ok(said(7_200, wrong))),
            ("c".to_owned(), Err("c:15000: refused".to_owned())),
        ]);
        let ending = findings.iter().find(|finding| finding.check == CERTIFICATE);
        assert!(ending.unwrap().message.ends_with("but not b (2h)"));
        assert_eq!(level(&findings, "clock"), Some(Level::Error));
        assert_eq!(level(&findings, ASKED), Some(Level::Warning));
        assert_eq!(level(&findings, CERTIFICATE), Some(Level::Warning));
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (1..=7).map(|number| number.to_string()).collect();
        assert_eq!(named(&names), "1, 2, 3, 4, 5 and 2 more");
    }
}
