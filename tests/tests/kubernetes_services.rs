//! Services of every form, called by pods that have a sidecar: which of them lead into the mesh, to whom,
//! and under which policy.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::kubernetes::outrider::Outrider;
use mesh_tests::kubernetes::{Namespace, PATIENCE};
use mesh_tests::metrics::Metrics;
use mesh_tests::wait::eventually;
use serde_json::{Value, json};

use crate::kubernetes_common::{
    allow_friend_to_call, assert_denied, client, documents, enforced, get, nginx,
};

/// Says who answers, and who has called: nothing of whoever comes in plaintext.
const WHO: &str = "location / { return 200 '$hostname $http_x_forwarded_client_cert'; }";
const TELEMETRY: u16 = 15020;
/// Each of two has answered by then.
const CALLS: u32 = 100;

/// A namespace of the mesh with two servers, `web-0` and `web-1`, and two pods that call.
struct Place {
    namespace: Namespace,
}

impl Place {
    fn open(outrider: &Outrider, label: &str) -> Result<Self> {
        let namespace = outrider.meshed_namespace(label)?;
        namespace.apply(&servers())?;
        namespace.apply(&client("friend"))?;
        namespace.apply(&client("stranger"))?;
        namespace.rolled_out("statefulset/web")?;
        for pod in ["pod/friend", "pod/stranger"] {
            namespace.wait(pod, "Ready")?;
        }
        Ok(Self { namespace })
    }

    /// A Service that only `friend` may call, once that many servers know.
    fn serve(&self, name: &str, spec: &Value, servers: usize) -> Result<()> {
        self.namespace.apply(&service(name, spec))?;
        self.namespace.apply(&allow_friend_to_call(name))?;
        enforced(&self.namespace, name, servers)
    }

    /// The options of curl for each family that a Service has.
    fn families(&self, service: &str) -> Result<Vec<&'static str>> {
        let service = self.namespace.read(&["service", service])?;
        let families = service["spec"]["ipFamilies"].as_array();
        let families = families.context("families")?.iter();
        let option = |family: &Value| if family == "IPv6" { "-6" } else { "-4" };
        Ok(families.map(option).collect())
    }

    /// The server that answers, which knows who called by its certificate.
    fn reached(&self, arguments: &[&str]) -> Result<String> {
        let (server, caller) = self.answer("friend", arguments)?;
        let principal = format!(
            "URI=spiffe://cluster.local/ns/{}/sa/",
            self.namespace.name()
        );
        assert!(caller.contains(&format!("{principal}friend")), "{caller}");
        Ok(server)
    }

    /// The same, and whom no policy names is told that it is not let in.
    fn policed(&self, arguments: &[&str]) -> Result<String> {
        assert_denied(&get(&self.namespace, "stranger", arguments)?);
        self.reached(arguments)
    }

    /// Calls until both servers have answered, at least so often: who answered, and how many calls it took.
    fn all_policed(&self, least: u32, arguments: &[&str]) -> Result<(BTreeSet<String>, u32)> {
        let mut reached = BTreeSet::new();
        for calls in 1..=CALLS {
            reached.insert(self.policed(arguments)?);
            if calls >= least && reached.len() >= 2 {
                return Ok((reached, calls));
            }
        }
        bail!("only {reached:?} answered {CALLS} calls of {arguments:?}")
    }

    /// Who answers, and what it knows of who called.
    fn answer(&self, pod: &str, arguments: &[&str]) -> Result<(String, String)> {
        let answer = get(&self.namespace, pod, arguments)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let said = answer.lines().last().and_then(|line| line.split_once(' '));
        let (server, caller) = said.with_context(|| format!("two words: {answer}"))?;
        Ok((server.to_owned(), caller.to_owned()))
    }

    /// Connections of a pod's app that led to a `service`, an `instance`, or out of the mesh, `unknown`.
    fn led(&self, pod: &str, to: &str) -> Result<f64> {
        let forward = self
            .namespace
            .port_forward(&format!("pod/{pod}"), TELEMETRY)?;
        let metrics = Metrics::scrape(forward.port())?;
        let labels = [("direction", "outbound"), ("to", to)];
        Ok(metrics.sum("outrider_intercepted_connections_total", &labels))
    }

    fn address(&self, pod: &str) -> Result<String> {
        address(&self.namespace, pod)
    }
}

fn servers() -> String {
    let servers = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web"},
        "spec": {
            "serviceName": "web",
            "replicas": 2,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [nginx(WHO)]},
            },
        },
    });
    servers.to_string()
}

fn service(name: &str, spec: &Value) -> String {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": spec,
    });
    service.to_string()
}

/// Of a Service: port 80, and the app's behind it.
fn ports() -> Value {
    json!([{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}])
}

fn address(namespace: &Namespace, pod: &str) -> Result<String> {
    let pod = namespace.read(&["pod", pod])?;
    let address = pod["status"]["podIP"].as_str();
    Ok(address.context("an address")?.to_owned())
}

/// A server `plain`, and its Service, in a namespace that is not of the mesh.
fn outside(outrider: &Outrider) -> Result<Namespace> {
    let namespace = outrider.cluster().namespace("outside")?;
    let server = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain", "labels": {"app": "plain"}},
        "spec": {"containers": [nginx(WHO)]},
    });
    let selector = json!({"selector": {"app": "plain"}, "ports": ports()});
    let service: Value = serde_json::from_str(&service("plain", &selector))?;
    namespace.apply(&documents(&[server, service]))?;
    namespace.wait("pod/plain", "Ready")?;
    Ok(namespace)
}

/// Each of the two has answered, and nobody else.
fn both(reached: &BTreeSet<String>) -> bool {
    reached.iter().eq(["web-0", "web-1"])
}

#[test]
fn a_headless_service_is_called_by_its_name_and_by_that_of_each_pod() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider, "headless")?;
    let spec = json!({
        "clusterIP": "None",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"app": "web"},
        // It has no address, so who calls it names the app's own port.
        "ports": [{"name": "http", "port": 8080}],
    });
    place.serve("web", &spec, 2)?;
    let mut calls = 0;
    for family in place.families("web")? {
        // DNS tells the addresses of both, of which the client takes whichever it likes.
        let server = place.policed(&[family, "http://web:8080/"])?;
        assert!(["web-0", "web-1"].contains(&&*server), "{server}");
        calls += 1;
        for pod in ["web-0", "web-1"] {
            let long = format!("{pod}.web.{}.svc.cluster.local", place.namespace.name());
            for name in [format!("{pod}.web"), long] {
                let url = format!("http://{name}:8080/");
                assert_eq!(place.policed(&[family, &url])?, pod, "{family} {name}");
                calls += 1;
            }
        }
    }
    for pod in ["friend", "stranger"] {
        assert_eq!(place.led(pod, "instance")?, f64::from(calls), "{pod}");
        assert_eq!(place.led(pod, "unknown")?, 0.0, "{pod}");
    }
    Ok(())
}

#[test]
fn a_service_is_called_by_each_family_that_it_has() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider, "dual")?;
    let spec = json!({
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"app": "web"},
        "ports": ports(),
    });
    place.serve("dual", &spec, 2)?;
    let families = place.families("dual")?;
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    ensure!(
        families.len() == if has_v6 { 2 } else { 1 },
        "the cluster has IPv6 where the machine has: {families:?}"
    );
    let mut calls = 0;
    for family in families {
        let (reached, more) = place.all_policed(1, &[family, "http://dual/"])?;
        assert!(both(&reached), "{reached:?}");
        calls += more;
    }
    for pod in ["friend", "stranger"] {
        assert_eq!(place.led(pod, "service")?, f64::from(calls), "{pod}");
        assert_eq!(place.led(pod, "unknown")?, 0.0, "{pod}");
    }
    Ok(())
}

/// As somebody writes it by hand for a Service without a selector.
fn slice(service: &str, endpoints: &Value) -> String {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-by-hand"),
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "tests.outrider.dev",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    slice.to_string()
}

#[test]
fn a_service_without_a_selector_leads_to_whom_its_slices_name() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider, "manual")?;
    let outside = outside(&outrider)?;
    let plain = address(&outside, "plain")?;
    let web = place.namespace.read(&["pod", "web-0"])?;
    let reference = json!({
        "kind": "Pod", "namespace": place.namespace.name(), "name": "web-0",
        "uid": web["metadata"]["uid"],
    });
    // One by a reference, one by its address alone, and one that is nobody's of the mesh.
    let endpoints = json!([
        {"addresses": [place.address("web-0")?], "targetRef": reference},
        {"addresses": [place.address("web-1")?]},
        {"addresses": [plain]},
    ]);
    place.namespace.apply(&slice("manual", &endpoints))?;
    place.serve("manual", &json!({ "ports": ports() }), 2)?;
    // Often enough for whoever is nobody's to have had its turn.
    let (reached, calls) = place.all_policed(12, &["http://manual/"])?;
    assert!(both(&reached), "{reached:?}");
    assert_eq!(place.led("friend", "service")?, f64::from(calls));
    assert_eq!(place.led("friend", "unknown")?, 0.0);

    // Of nobody in the mesh alone: it is not of the mesh, and is called as without one.
    let endpoints = json!([{"addresses": [plain]}]);
    place.namespace.apply(&slice("foreign", &endpoints))?;
    place
        .namespace
        .apply(&service("foreign", &json!({ "ports": ports() })))?;
    for pod in ["friend", "stranger"] {
        passes(&place, pod, "http://foreign/")?;
    }
    Ok(())
}

#[test]
fn a_service_without_a_selector_is_called_at_the_port_that_its_slices_say() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider, "ported")?;
    let endpoints = json!([
        {"addresses": [place.address("web-0")?]},
        {"addresses": [place.address("web-1")?]},
    ]);
    place.namespace.apply(&slice("ported", &endpoints))?;
    // Where nobody listens.
    let port = json!({"name": "http", "port": 80, "targetPort": 9999, "appProtocol": "http"});
    place.serve("ported", &json!({ "ports": [port] }), 2)?;
    let (reached, _) = place.all_policed(1, &["http://ported/"])?;
    assert!(both(&reached), "{reached:?}");
    assert_eq!(place.led("friend", "unknown")?, 0.0);
    Ok(())
}

/// A call leaves the mesh as it is, once kube-proxy knows the way.
fn passes(place: &Place, pod: &str, url: &str) -> Result<()> {
    let before = place.led(pod, "unknown")?;
    let mut tried = 0;
    let answer = eventually("it is answered", PATIENCE, || {
        tried += 1;
        get(&place.namespace, pod, &[url]).map(Some)
    })?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.contains("Proxy-Status"), "{answer}");
    assert_eq!(answer.lines().last(), Some("plain "), "{answer}");
    assert_eq!(place.led(pod, "unknown")? - before, f64::from(tried));
    Ok(())
}

#[test]
fn an_external_name_leads_to_what_it_names() -> Result<()> {
    let outrider = Outrider::installed()?;
    let place = Place::open(&outrider, "alias")?;
    let outside = outside(&outrider)?;
    let alias = |name: &str, of: &str, namespace: &Namespace| {
        let long = format!("{of}.{}.svc.cluster.local", namespace.name());
        let spec = json!({"type": "ExternalName", "externalName": long});
        place.namespace.apply(&service(name, &spec))
    };
    alias("far", "plain", &outside)?;
    for pod in ["friend", "stranger"] {
        passes(&place, pod, "http://far/")?;
    }

    // It is a name, and no more: a Service of the mesh has its identity and its policy by any name.
    let spec = json!({"selector": {"app": "web"}, "ports": ports()});
    place.serve("web", &spec, 2)?;
    alias("near", "web", &place.namespace)?;
    let passed = place.led("friend", "unknown")?;
    let server = place.policed(&["http://near/"])?;
    assert!(["web-0", "web-1"].contains(&&*server), "{server}");
    assert_eq!(place.led("friend", "service")?, 1.0);
    assert_eq!(place.led("friend", "unknown")?, passed);
    Ok(())
}
