//! Namespaces that are deleted while their pods run on. Their policies may go first: Kubernetes before 1.33
//! deletes what is in a namespace in any order, and so does whoever deletes all of it by name.

use anyhow::{Context, Result, ensure};
use mesh_tests::http::fetch;
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Namespace, PATIENCE, PortForward};
use mesh_tests::process::Process;
use mesh_tests::wait::until;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kubernetes_common::{client_beside, cut_off, documents, enforced, knife, nginx};

/// In the container of the app, that it may end.
const MAY_END: &str = "/tmp/may-end";
/// So many answers of each kind are enough for a sidecar to have heard of what every replica knows.
const ENOUGH: usize = 30;
const CALLERS: [&str; 3] = ["friend", "neighbour", "stranger"];
const LET_IN: &str = "200 ";
const DENIED: &str = "403 outrider; error=http_request_denied; details=\"authorization_denied\"";
/// Its own sidecar may say so to whoever has heard that the pod goes, and does for good.
const NOBODY: &str = "503 outrider; error=destination_unavailable; details=\"no_endpoints\"";
/// One connection for all calls, and one for each: further arguments of curl's.
const KEPT: &[&str] = &[];
const CLOSED: &[&str] = &["--header", "Connection: close"];

#[test]
fn policy_holds_in_a_namespace_that_is_being_deleted_while_its_pods_run() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider)?;
    let (ending, callers) = (&place.ending, &place.callers);
    let unheard = place.calls(&[
        ("friend", KEPT, "/public", &[LET_IN]),
        ("friend", CLOSED, "/public", &[LET_IN]),
        ("friend", KEPT, "/private", &[DENIED]),
        ("friend", CLOSED, "/private", &[DENIED]),
        ("stranger", KEPT, "/public", &[DENIED]),
    ])?;
    let informed = place.calls(&[
        ("neighbour", KEPT, "/public", &[LET_IN, NOBODY]),
        ("neighbour", CLOSED, "/private", &[DENIED, NOBODY]),
    ])?;
    let all: Vec<&Calls> = unheard.iter().chain(&informed).collect();
    more(&all)?;
    // Whoever hears that the pod goes may call it no more: who does not finds its sidecar as it was.
    for pod in ["friend", "stranger"] {
        cut_off(callers, pod)?;
    }

    ending.delete()?;
    place.is_ending()?;
    more(&all)?;
    // Whatever Kubernetes' own order is: what keeps callers from the pod goes first, what lets them in next.
    for policy in ["deny", "allow"] {
        ending.kubectl(&["delete", "authorizationpolicy", policy])?;
        place.policies_were_heard_of(policy)?;
        place.holds()?;
        more(&all)?;
    }
    ending.kubectl(&["delete", "service", "web"])?;
    place.services_were_heard_of()?;
    place.holds()?;
    more(&all)?;
    let none = ending.read(&["authorizationpolicies,services"])?;
    assert_eq!(none["items"], json!([]), "{none:#}");
    place.is_ending()?;

    ending.exec("web/web", &["/bin/touch", MAY_END])?;
    let anew = ending.anew()?;
    place.are_forgotten()?;
    // Who was let in there is not let in here.
    outrider.take_in(&anew)?;
    anew.apply(&server())?;
    anew.wait("pod/web", "Ready")?;
    let stranger = place.calls(&[("neighbour", CLOSED, "/public", &[DENIED])])?;
    more(&stranger.iter().collect::<Vec<_>>())?;
    anew.exec("web/web", &["/bin/touch", MAY_END])?;
    Ok(())
}

/// Two namespaces of the mesh: one that will end, with the pod `web`, of which `friend` and `neighbour` may read all
/// that is not private; and one with those that call it.
struct Place {
    ending: Namespace,
    callers: Namespace,
    /// Of each replica of the control plane.
    replicas: Vec<PortForward>,
}

impl Place {
    fn open(outrider: &Outrider) -> Result<Self> {
        let place = Self {
            ending: outrider.meshed_namespace("ending")?,
            callers: outrider.meshed_namespace("calling")?,
            replicas: outrider.admins()?,
        };
        ensure!(place.replicas.len() == 3, "three replicas");
        place.ending.apply(&server())?;
        for name in CALLERS {
            place.callers.apply(&client_beside(name, &[knife()]))?;
        }
        place.ending.wait("pod/web", "Ready")?;
        for name in CALLERS {
            place.callers.wait(&format!("pod/{name}"), "Ready")?;
        }
        place.ending.apply(&policies(place.callers.name()))?;
        for name in ["allow", "deny"] {
            enforced(&place.ending, name, 1)?;
        }
        place.callers.apply(&marks())?;
        for (name, sidecars) in [("mark-deny", 3), ("mark-allow", 3), ("mark", 1)] {
            enforced(&place.callers, name, sidecars)?;
        }
        Ok(place)
    }

    /// From these pods, with these options, of these paths; answered so, one after the other.
    fn calls(&self, calls: &[Called<'_>]) -> Result<Vec<Calls>> {
        let web = self.ending.read(&["pod", "web"])?;
        let address = web["status"]["podIP"].as_str().context("an address")?;
        let calls = calls.iter().map(|(pod, options, path, expected)| {
            let url = format!("http://{address}:8080{path}");
            Calls::start(&self.callers, pod, &url, options, expected)
        });
        calls.collect()
    }

    /// The namespace and its pod are being deleted, and the app runs.
    fn is_ending(&self) -> Result<()> {
        self.ending
            .eventually("it is ending", &["pod", "web"], |pod| {
                let runs = &pod["status"]["containerStatuses"][0]["state"]["running"];
                let ends = &pod["metadata"]["deletionTimestamp"];
                (!runs.is_null() && !ends.is_null()).then_some(())
            })?;
        let namespace = self.ending.read(&["namespace", self.ending.name()])?;
        assert_eq!(namespace["status"]["phase"], "Terminating", "{namespace:#}");
        Ok(())
    }

    /// Every replica has been told that this policy was deleted: they are told in the order in which it was done.
    fn policies_were_heard_of(&self, policy: &str) -> Result<()> {
        let mark = format!("mark-{policy}");
        self.callers
            .kubectl(&["delete", "authorizationpolicy", &mark])?;
        self.all_say("they have heard", &self.callers, &mark, None)
    }

    /// The same of Services.
    fn services_were_heard_of(&self) -> Result<()> {
        self.callers.kubectl(&["delete", "service", "mark"])?;
        self.all_say("they have heard", &self.callers, "mark", Some(0))
    }

    /// For every replica both policies are about the pod.
    fn holds(&self) -> Result<()> {
        for policy in ["deny", "allow"] {
            for replica in &self.replicas {
                let concerned = concerned(replica, &self.ending, policy)?;
                assert_eq!(concerned, Some(1), "{policy}");
            }
        }
        Ok(())
    }

    fn are_forgotten(&self) -> Result<()> {
        for policy in ["deny", "allow"] {
            self.all_say("they have forgotten", &self.ending, policy, None)?;
        }
        Ok(())
    }

    /// Waits until every replica says of a policy that it is about so many.
    fn all_say(
        &self,
        what: &str,
        namespace: &Namespace,
        policy: &str,
        expected: Option<u64>,
    ) -> Result<()> {
        until(what, PATIENCE, || {
            let said = self.replicas.iter();
            let said = said.map(|replica| concerned(replica, namespace, policy));
            let said = said.collect::<Result<Vec<_>>>()?;
            Ok(said.iter().all(|said| *said == expected))
        })
    }
}

/// How many a policy is about, as a replica says; `None`: there is no such policy.
fn concerned(replica: &PortForward, namespace: &Namespace, policy: &str) -> Result<Option<u64>> {
    let programmed: Value = serde_json::from_str(&fetch(replica.port(), "/programmed")?.text())?;
    let id = format!("AuthorizationPolicy/{}/{policy}", namespace.name());
    Ok(programmed.get(&id).and_then(|it| it["concerned"].as_u64()))
}

/// A pod whose app goes on until it may end, and its Service.
fn server() -> String {
    let mut app = nginx("location / { return 200 'hello'; }");
    let hook = format!("until [ -e {MAY_END} ]; do sleep 0.2; done");
    app["lifecycle"] = json!({"preStop": {"exec": {"command": ["/bin/sh", "-ec", hook]}}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 100, "containers": [app]},
    });
    documents(&[pod, service("web", &json!({"app": "web"}))])
}

fn service(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// Whoever is let in is so by the pod, and refused by the Service.
fn policies(callers: &str) -> String {
    let account = |name: &str| {
        let account = json!({"name": name, "namespace": callers});
        json!({"type": "ServiceAccount", "serviceAccount": account})
    };
    let allow = json!({
        "targetRefs": [{"group": "", "kind": "Pod", "selector": {}}],
        "rules": [{"sources": [account("friend"), account("neighbour")]}],
    });
    let deny = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "action": "DENY",
        "rules": [{"http": [{"paths": [{"type": "PathPrefix", "value": "/private"}]}]}],
    });
    documents(&[policy("allow", &allow), policy("deny", &deny)])
}

/// By which it is known what replicas have heard of: about those that call, whom nobody calls.
fn marks() -> String {
    let of_pods = json!({"targetRefs": [{"group": "", "kind": "Pod", "selector": {}}]});
    let of_service = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "mark"}]});
    documents(&[
        service("mark", &json!({"app": "friend"})),
        policy("mark-deny", &of_pods),
        policy("mark-allow", &of_pods),
        policy("mark", &of_service),
    ])
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// The pod, options of curl's, the path, and the answers that are expected.
type Called<'a> = (&'a str, &'a [&'a str], &'a str, &'static [&'static str]);

/// Calls from a pod, 20 in a second, until it is dropped.
struct Calls {
    process: Process,
    expected: &'static [&'static str],
    _folder: TempDir,
}

impl Calls {
    fn start(
        namespace: &Namespace,
        pod: &str,
        url: &str,
        options: &[&str],
        expected: &'static [&'static str],
    ) -> Result<Self> {
        // More than are ever made.
        let url = format!("{url}?[1-100000]");
        let exec = [
            "exec",
            "--namespace",
            namespace.name(),
            pod,
            "--container",
            "client",
            "--",
        ];
        let curl = [
            "/usr/bin/curl",
            "--silent",
            "--max-time",
            "5",
            "--rate",
            "20/s",
        ];
        // Written at once, unlike what goes to standard output.
        let told = "%{stderr}%{http_code} %header{proxy-status}%{errormsg}\n";
        let output = ["--output", "/dev/null", "--write-out", told];
        let command = [&exec[..], &curl, &output, options, &[&url]].concat();
        let folder = tempfile::tempdir()?;
        let mut start = namespace.cluster().command(&command)?;
        Ok(Self {
            process: Process::start(pod, folder.path(), &mut start)?,
            expected,
            _folder: folder,
        })
    }

    fn answers(&self) -> Vec<String> {
        let log = self.process.log();
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        whole.lines().map(str::to_owned).collect()
    }

    /// Every single one is as expected.
    fn judge(&self) -> Result<()> {
        let mut left = self.expected;
        for (number, answer) in self.answers().iter().enumerate() {
            let place = left.iter().position(|expected| answer == expected);
            let place = place.with_context(|| {
                format!("answer {number} is {answer:?}: expected one of {left:?}")
            })?;
            left = &left[place..];
        }
        Ok(())
    }
}

/// Waits until each has had [`ENOUGH`] more answers. Every single one so far is as expected.
fn more(all: &[&Calls]) -> Result<()> {
    let before: Vec<usize> = all.iter().map(|calls| calls.answers().len()).collect();
    let had = until("there are more answers", PATIENCE, || {
        let mut both = all.iter().zip(&before);
        Ok(both.all(|(calls, before)| calls.answers().len() >= before + ENOUGH))
    });
    all.iter().try_for_each(|calls| calls.judge())?;
    had
}
