//! What takes a mesh that runs: one installation for all of it, which is put right again.

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::{Outrider, SYSTEM};
use mesh_tests::kubernetes::{Namespace, PATIENCE, TOOLS};
use mesh_tests::process::run;
use mesh_tests::wait::eventually;
use serde_json::{Value, json};

use super::Findings;
use crate::kubernetes_common::{client, documents, try_apply};

/// An image tag of the same programs.
const ANOTHER: &str = "next";

/// `NS` is the namespace.
const OF_PODS: &str = "
pods-without-sidecar | warning | 1 of NS have no sidecar, and are not of the mesh: early | kubectl -n NS rollout restart deployment
host-network         | warning | cannot have a sidecar: NS/host                          | label them outrider.mesh/inject=false
sidecar-versions     | warning | but not NS/old                                          | kubectl rollout restart deployment
";

const BEHIND: &str = "
sidecars-behind | warning | go by the newest policy, but not NS/still | kubectl logs POD -c outrider-proxy
";

const GONE: &str = "
sidecars-connected | warning | but not NS/still       | kubectl logs POD -c outrider-proxy
sidecars-ready     | warning | but not NS/still       | kubectl describe pod says what is not ready
sidecars-asked     | warning | but not NS/still:15000 | see whether the pods run
";

const WITHOUT_CONTROL_PLANE: &str = "
control-plane        | error   | it is scaled to 0: no sidecar gets policy or certificates | kubectl -n outrider-system scale deployment/outrider-control-plane --replicas=1
leader               | error   | nobody holds the Lease                                    | logs deployment/outrider-control-plane says why nobody takes it
webhook-answers      | error   | the API server gets no answer from the injector           | outrider-system/outrider-control-plane has endpoints
webhook-answers      | error   | the API server gets no answer from the validator          | outrider-system/outrider-control-plane has endpoints
sidecar-certificates | warning | have a certificate that lasts, but not NS/old (           | kubectl logs POD -c outrider-proxy
";

const NOBODY_FINDS_IT: &str = "
control-plane        | ok      | 1 of 1 replicas are ready                        |
leader               | ok      | holds the Lease                                  |
webhook-answers      | error   | the API server gets no answer from the injector  | outrider-system/outrider-control-plane has endpoints
webhook-answers      | error   | the API server gets no answer from the validator | outrider-system/outrider-control-plane has endpoints
sidecars-connected   | warning | are connected to a control plane, but not NS/old | kubectl logs POD -c outrider-proxy
sidecar-certificates | warning | have a certificate that lasts, but not NS/old (  | kubectl logs POD -c outrider-proxy
";

#[test]
fn what_goes_wrong_in_a_mesh_is_found_and_the_remedy_helps() -> Result<()> {
    let outrider = Outrider::installed()?;
    outrider.publish(ANOTHER)?;
    let found = wrong(&outrider);
    // Whatever became of it, the next test finds what it expects.
    let config = [
        "delete",
        "meshconfig",
        "default",
        "--ignore-not-found",
        "--namespace",
        SYSTEM,
    ];
    let restored = outrider.cluster().kubectl(&config);
    outrider.install_version(env!("CARGO_PKG_VERSION"))?;
    restored?;
    found
}

fn wrong(outrider: &Outrider) -> Result<()> {
    let ailing = Ailing::start(outrider)?;
    ailing.check(&[])?.have(&ailing.of(OF_PODS))?;
    ailing.a_sidecar_that_stands_still_is_found()?;
    ailing.a_control_plane_that_is_away_is_found()
}

struct Ailing<'o> {
    outrider: &'o Outrider,
    namespace: Namespace,
}

impl<'o> Ailing<'o> {
    /// A pod from before the label, one of its node's network, one with another sidecar, and one whose sidecar will
    /// stand still. Certificates live for seconds.
    fn start(outrider: &'o Outrider) -> Result<Self> {
        let cluster = outrider.cluster();
        let namespace = cluster.namespace("ailing")?;
        namespace.apply(&client("early"))?;
        let label = [
            "label",
            "namespace",
            namespace.name(),
            "outrider.mesh/inject=enabled",
        ];
        cluster.kubectl(&label)?;
        let config = json!({
            "apiVersion": "outrider.mesh/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "default", "namespace": SYSTEM},
            "spec": {"certificateLifetime": "20s"},
        });
        eventually("the MeshConfig is taken", PATIENCE, || {
            cluster.apply(&config.to_string()).map(Some)
        })?;
        let another = json!({"outrider.mesh/proxy-image": format!("outrider-proxy:{ANOTHER}")});
        namespace.apply(&documents(&[
            pod("host", json!({}), "hostNetwork"),
            pod("old", another, "enableServiceLinks"),
            pod("still", json!({}), "shareProcessNamespace"),
        ]))?;
        for pod in ["pod/early", "pod/old", "pod/still"] {
            namespace.wait(pod, "Ready")?;
        }
        Ok(Self {
            outrider,
            namespace,
        })
    }

    fn of(&self, expected: &str) -> String {
        expected.replace("NS", self.namespace.name())
    }

    /// `outrider check` of its pods.
    fn check(&self, options: &[&str]) -> Result<Findings> {
        let check = [
            "check",
            "--output",
            "json",
            "--namespace",
            self.namespace.name(),
        ];
        let mut check = self.outrider.command(&[&check[..], options].concat())?;
        Findings::read(&run(&mut check, PATIENCE)?)
    }

    /// Checks until all of it is found.
    fn finds(&self, what: &str, options: &[&str], expected: &str) -> Result<Findings> {
        eventually(what, PATIENCE, || {
            let findings = self.check(options)?;
            findings.have(&self.of(expected))?;
            Ok(Some(findings))
        })
    }

    fn a_sidecar_that_stands_still_is_found(&self) -> Result<()> {
        let stop = "/bin/busybox kill -STOP $(/bin/busybox pidof outrider-proxy)";
        self.namespace
            .exec("still/client", &["/bin/sh", "-ec", stop])?;
        let policy = json!({
            "apiVersion": "outrider.mesh/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "all"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Pod", "selector": {}}],
                "rules": [{"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "early"}}]}],
            },
        });
        try_apply(&self.namespace, &policy.to_string(), &[])?.success()?;
        // It counts as connected until it has not answered for some twenty seconds.
        self.finds("it is behind", &[], BEHIND)?;
        self.finds("it is gone", &["--proxy"], GONE)?;
        self.namespace
            .kubectl(&["delete", "pod", "still", "--wait"])?;
        eventually("certificates of seconds are renewed", PATIENCE, || {
            let good = [
                "sidecar-certificates",
                "replica-certificate",
                "webhook-certificate",
            ];
            self.check(&["--proxy"])?.are_good(&good).map(Some)
        })
    }

    fn a_control_plane_that_is_away_is_found(&self) -> Result<()> {
        let cluster = self.outrider.cluster();
        let none = [
            "scale",
            "deployment/outrider-control-plane",
            "--replicas=0",
            "--namespace",
            SYSTEM,
        ];
        cluster.kubectl(&none)?;
        // Connections that there are would outlive the Service's endpoints: both go.
        self.select("nobody")?;
        let findings = self.finds("what it means", &["--proxy"], WITHOUT_CONTROL_PLANE)?;
        // To the letter.
        let deployment = findings.of("control-plane").next();
        let remedy = deployment
            .and_then(|one| one["remedy"].as_str())
            .context("a remedy")?;
        let words: Vec<&str> = remedy.split_whitespace().collect();
        ensure!(words.first() == Some(&"kubectl"), "{remedy}");
        cluster.kubectl(&words[1..])?;
        eventually("nobody finds it", PATIENCE, || {
            let good = [
                "replica-ready",
                "replica-certificate",
                "webhook-certificate",
            ];
            let findings = self.check(&["--proxy"])?;
            findings.have(&self.of(NOBODY_FINDS_IT))?;
            findings.are_good(&good).map(Some)
        })?;
        self.select("control-plane")?;
        eventually("it has helped", PATIENCE, || {
            let good = [
                "webhook-answers",
                "sidecars-connected",
                "sidecars-behind",
                "sidecar-certificates",
            ];
            self.check(&["--proxy"])?.are_good(&good).map(Some)
        })
    }

    /// Whom the control plane's Service is for.
    fn select(&self, component: &str) -> Result<()> {
        let patch = json!({"spec": {"selector": {"app.kubernetes.io/component": component}}});
        let patch = [
            "patch",
            "service",
            "outrider-control-plane",
            "--namespace",
            SYSTEM,
            "--patch",
            &patch.to_string(),
        ];
        self.outrider.cluster().kubectl(&patch)?;
        Ok(())
    }
}

/// One that sleeps, for whom this field of its spec is true.
fn pod(name: &str, annotations: Value, field: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            field: true,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "client", "image": TOOLS, "imagePullPolicy": "Never",
                // Who may stop others.
                "command": ["/bin/sleep", "1000000"], "securityContext": {"runAsUser": 0},
            }],
        },
    })
}
