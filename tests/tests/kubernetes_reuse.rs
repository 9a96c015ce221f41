//! An address that another pod has got meanwhile, while who calls it still knows the last one.

use anyhow::{Context, Result, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Namespace, PATIENCE, TOOLS};
use mesh_tests::metrics::Metrics;
use mesh_tests::wait::{becomes, eventually};
use serde_json::{Value, json};

use crate::kubernetes_common::{
    allow_friend_to_call, assert_refused, client_beside, cut_off, documents, enforced, get, knife,
    mend, nginx,
};

/// Where the node's plugin `host-local` keeps which address it has given last (tests/kubernetes/lib).
const LAST_ADDRESS: &str = "/run/cni/outrider/last_reserved_ip.0";
const TELEMETRY: u16 = 15020;
/// Another pod may have been quicker to ask for an address.
const ATTEMPTS: usize = 5;

/// What was of one identity, and is now of another, answers nobody who means the first.
#[test]
fn an_address_that_another_identity_has_got_does_not_answer_for_the_last_one() -> Result<()> {
    let outrider = Outrider::installed()?;
    let namespace = outrider.meshed_namespace("reuse")?;
    let node = Node::open(&outrider)?;
    namespace.apply(&client_beside("friend", &[knife()]))?;
    for name in ["before", "after"] {
        namespace.apply(&service(name))?;
        namespace.apply(&allow_friend_to_call(name))?;
    }
    namespace.apply(&server("before"))?;
    for pod in ["pod/friend", "pod/before"] {
        namespace.wait(pod, "Ready")?;
    }
    enforced(&namespace, "before", 1)?;
    let address = address(&namespace, "before")?;
    // It is known by both: the Service, and the address.
    let places = [
        "http://before/".to_owned(),
        format!("http://{address}:8080/"),
    ];
    for url in &places {
        said(&get(&namespace, "friend", &[url])?, "before");
    }

    cut_off(&namespace, "friend")?;
    namespace.kubectl(&["delete", "pod", "before"])?;
    take_over(&node, &namespace, &address)?;
    enforced(&namespace, "after", 1)?;
    for url in &places {
        let refused = get(&namespace, "friend", &[url])?;
        assert_refused(&refused, 503, "tls_protocol_error", "tls_handshake_failed");
    }
    let told = metrics(&namespace, "friend")?;
    let labels = [("direction", "outbound"), ("result", "wrong_identity")];
    let refused = told.sum("outrider_tls_handshakes_total", &labels);
    assert!(refused >= 2.0, "{refused} handshakes");
    assert_eq!(asked(&namespace)?, 0, "its app was asked");

    // As soon as the caller knows, the address is the other's, who lets it in.
    mend(&namespace, "friend")?;
    let answer = eventually("the caller knows", PATIENCE, || {
        let answer = get(&namespace, "friend", &[&places[1]])?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(Some(answer))
    })?;
    said(&answer, "after");
    becomes("its app was asked once", &1, || asked(&namespace))?;
    let refused = eventually("the Service has nobody", PATIENCE, || {
        let answer = get(&namespace, "friend", &[&places[0]])?;
        Ok((!answer.contains("tls_handshake_failed")).then_some(answer))
    })?;
    assert_refused(&refused, 503, "destination_unavailable", "no_endpoints");
    Ok(())
}

/// A pod with the ServiceAccount of its name, which says that name, and logs who asks for it.
fn server(name: &str) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    let mut nginx = nginx(&format!(
        "location / {{ access_log /dev/stdout; return 200 '{name}'; }} \
         location = /ready {{ return 200; }}"
    ));
    nginx["readinessProbe"]["httpGet"]["path"] = json!("/ready");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"serviceAccountName": name, "containers": [nginx]},
    });
    documents(&[account, pod])
}

fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        },
    })
    .to_string()
}

fn said(answer: &str, name: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(answer.lines().last(), Some(name), "{answer}");
}

fn address(namespace: &Namespace, pod: &str) -> Result<String> {
    let found = |pod: &Value| pod["status"]["podIP"].as_str().map(str::to_owned);
    namespace.eventually("the pod has an address", &["pod", pod], found)
}

fn metrics(namespace: &Namespace, pod: &str) -> Result<Metrics> {
    let forward = namespace.port_forward(&format!("pod/{pod}"), TELEMETRY)?;
    Metrics::scrape(forward.port())
}

/// How many requests the app of `after` has had, but for its probe's.
fn asked(namespace: &Namespace) -> Result<usize> {
    let log = namespace.kubectl(&["logs", "after", "--container", "web"])?;
    Ok(log.lines().count())
}

/// Has a pod of another identity get this address.
fn take_over(node: &Node, namespace: &Namespace, wanted: &str) -> Result<()> {
    let mut got = String::new();
    for _ in 0..ATTEMPTS {
        node.give_next(wanted)?;
        namespace.apply(&server("after"))?;
        got = address(namespace, "after")?;
        if got == wanted {
            return namespace.wait("pod/after", "Ready");
        }
        namespace.kubectl(&["delete", "pod", "after", "--now"])?;
    }
    anyhow::bail!(
        "no pod has got {wanted} in {ATTEMPTS} attempts, which somebody else may have; the last one has {got}"
    )
}

/// A pod that sees how its node gives out addresses.
struct Node {
    namespace: Namespace,
}

impl Node {
    fn open(outrider: &Outrider) -> Result<Self> {
        let namespace = outrider.cluster().namespace("node")?;
        let folder = "/run/cni";
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "node"},
            "spec": {
                "hostNetwork": true,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "node",
                    "image": TOOLS,
                    "imagePullPolicy": "Never",
                    "command": ["/bin/sleep", "1000000"],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "addresses", "mountPath": folder}],
                }],
                "volumes": [{"name": "addresses", "hostPath": {"path": folder}}],
            },
        });
        namespace.apply(&pod.to_string())?;
        namespace.wait("pod/node", "Ready")?;
        let node = Self { namespace };
        let last = node.namespace.try_exec("node", &["cat", LAST_ADDRESS])?;
        ensure!(
            last.status.success(),
            "this node does not give out addresses as that of tests/kubernetes/cluster does: unset \
             KUBECONFIG: {}",
            last.output()
        );
        Ok(node)
    }

    /// `host-local` looks for a free address from the one after the last that it gave.
    fn give_next(&self, address: &str) -> Result<()> {
        let address: std::net::Ipv4Addr = address.parse().context("an address of IPv4")?;
        let before = std::net::Ipv4Addr::from_bits(address.to_bits() - 1);
        let write = format!("printf {before} >{LAST_ADDRESS}");
        self.namespace.exec("node", &["/bin/sh", "-ec", &write])?;
        Ok(())
    }
}
