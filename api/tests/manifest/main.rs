//! What people write: the good file whole, and each way of getting it wrong with its place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use outrider_api::authorization::{Action, Source};
use outrider_api::kinds::{ClusterIp, TargetPort, TargetRef};
use outrider_api::manifest::{Object, Problem, parse, parse_bytes};

mod authorization;
mod objects;
mod routes;
mod traffic;

const SHOP: &str = r#"# The mesh.
apiVersion: outrider.mesh/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {trustDomain: shop.example, defaultDeny: true, certificateLifetime: 24h, accessLog: false, drainTimeout: 10s, detectTimeout: 50ms}
---
apiVersion: v1
kind: Service
metadata: {name: billing, namespace: shop, creationTimestamp: null}
spec:
  type: ClusterIP
  clusterIP: None
  sessionAffinity: None
  selector: {app: billing}
  ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}, {name: db, port: 5432, targetPort: db}]
status: {loadBalancer: {}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: order.v1, namespace: shop}
---
apiVersion: outrider.mesh/v1alpha1
kind: Workload
metadata: {name: order-1, namespace: shop, labels: {app: order}}
spec:
  serviceAccount: order.v1
  address: 127.0.0.1
  ports: [{name: http, port: 8080, appProtocol: http}]
  outbound: {httpPort: 18101, upstreams: [{service: billing, port: 80, localPort: 18102}]}
  command: [outrider, shop, order]
  env: {KEY: value}
---
apiVersion: outrider.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: billing, namespace: shop}
spec:
  targetRefs:
  - {group: "", kind: Service, name: billing}
  - {group: "", kind: Pod, selector: {}}
  - {group: outrider.mesh, kind: Workload, name: order-1}
  rules:
  - name: order-charges
    sources:
    - {type: ServiceAccount, serviceAccount: {name: order.v1}}
    - {type: ServiceAccount, serviceAccount: {namespace: other, name: "*"}}
    - {type: Namespace, namespace: shop}
    - {type: SPIFFE, spiffe: "spiffe://shop.example/ns/shop/sa/order.v1"}
    - {type: IPBlock, ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}
    networkAttributes: {ports: [8080]}
    http:
    - methods: [POST]
      paths: [{type: Exact, value: /charges}, {type: PathPrefix, value: /v1}]
      hosts: [billing, "*.example"]
      headers: [{name: x-team, value: a}, {name: x-a, type: Prefix, value: a}, {name: x-b, type: Present}]
    grpc: [{service: shop.Billing, method: Charge}, {service: shop.Health}]
---
"#;

fn read(text: &str) -> Result<Vec<Object>, Vec<Problem>> {
    parse(Path::new("shop.yaml"), text)
}

#[test]
fn a_whole_file() {
    let objects = read(SHOP).unwrap();
    let kinds: Vec<&str> = objects.iter().map(Object::kind).collect();
    let expected = [
        "MeshConfig",
        "Service",
        "ServiceAccount",
        "Workload",
        "AuthorizationPolicy",
    ];
    assert_eq!(kinds, expected);
    let [
        Object::MeshConfig(mesh),
        Object::Service(service),
        _,
        Object::Workload(workload),
        Object::AuthorizationPolicy(policy),
    ] = objects.as_slice()
    else {
        panic!("{objects:?}");
    };
    assert_eq!(
        mesh.spec.trust_domain.as_ref().unwrap().as_ref(),
        "shop.example"
    );
    assert_eq!(mesh.spec.default_deny, Some(true));
    assert_eq!(mesh.spec.detect_timeout, Duration::from_millis(50));
    assert_eq!(
        service.spec.ports[0].target_port,
        Some(TargetPort::Number(8080))
    );
    assert_eq!(
        service.spec.ports[1].target_port,
        Some(TargetPort::Name("db".into()))
    );
    assert_eq!(workload.spec.mesh_port, 15008);
    assert_eq!(workload.spec.address, Some(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(workload.spec.app_address, None);
    assert_eq!(service.spec.cluster_ip, Some(ClusterIp::Headless));
    assert_eq!(workload.spec.outbound.upstreams[0].namespace, None);
    assert_eq!(policy.spec.action, Action::Allow);
    assert_eq!(
        policy.spec.target_refs[0],
        TargetRef::Service {
            name: "billing".into()
        }
    );
    let rule = &policy.to_policy().rules[0];
    let sources = rule.sources.as_ref().unwrap();
    let account = Source::ServiceAccount {
        namespace: "shop".into(),
        name: "order.v1".into(),
    };
    assert_eq!(sources[0], account);
    assert_eq!(sources[1], Source::Namespace("other".into()));
    assert_eq!(
        (rule.http.len(), rule.grpc.len(), rule.ports.as_slice()),
        (1, 2, &[8080][..])
    );
}

#[test]
fn every_field_has_its_place() {
    let objects = read(SHOP).unwrap();
    let policy = objects.last().unwrap();
    let place = |field| {
        let at = policy.location(field);
        (at.line, at.column)
    };
    assert_eq!(place(""), (33, 1));
    assert_eq!(place("spec.targetRefs[1].kind"), (39, 23));
    assert_eq!(place("spec.rules[0].http[0].hosts[1]"), (53, 24));
    // Not there: the innermost that is.
    assert_eq!(place("spec.rules[0].http[0].hosts[9]"), (53, 14));
    assert_eq!(place("spec.rules[7].name"), (42, 5));
    let problem = policy.problem("spec.targetRefs[0].name", "there is no such Service");
    let expected = "shop.yaml:38:38: spec.targetRefs[0].name: there is no such Service";
    assert_eq!(problem.to_string(), expected);
}

/// The one problem of `text`, as `LINE:COLUMN: FIELD: MESSAGE`; found in time.
fn problem(text: &str) -> String {
    let begin = Instant::now();
    let problems = read(text).expect_err(text);
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0]
        .to_string()
        .strip_prefix("shop.yaml:")
        .unwrap()
        .to_owned()
}

#[track_caller]
fn assert_problem(text: &str, expected: &str) {
    let got = problem(text);
    assert!(
        got.starts_with(expected),
        "\n   got: {got}\nexpect: {expected}\n{text:.400}"
    );
}

#[test]
fn text_that_is_no_object() {
    let table = [
        ("", "1:1: has no object, expected at least one document"),
        ("# nothing\n---\n---\n", "1:1: has no object"),
        (
            "hello",
            "1:1: is not an object, expected the fields apiVersion, kind",
        ),
        ("\n\n- 1\n", "3:1: is not an object"),
        ("{}", "1:1: apiVersion: is missing"),
        ("apiVersion: v1\n", "1:1: kind: is missing"),
        (
            "apiVersion: 1\nkind: Service\n",
            "1:13: apiVersion: is not text",
        ),
        (
            "a: b\n\tc: d\n",
            "1:4: is not YAML: while scanning a plain scalar, found a tab",
        ),
        ("a:\n\t- b\n", "2:"),
        ("a: [1\n", "1:4: is not YAML: unclosed bracket"),
        ("a: 'x\n\n", "1:4: is not YAML"),
        (
            "a: *nobody\n",
            "1:4: anchors, aliases and merge keys are not accepted",
        ),
        (
            "a: {<<: {b: c}}\n",
            "1:5: anchors, aliases and merge keys are not accepted",
        ),
        ("a: b: c\n", "1:5: is not YAML"),
        ("a: \u{0}\n", "1:4: is not YAML"),
    ];
    for (text, expected) in table {
        assert_problem(text, expected);
    }
}

#[test]
fn kinds_that_are_not_known() {
    let table = [
        (
            "apiVersion: v1\nkind: Servise\n",
            "2:7: kind: unknown kind \"Servise\", expected Service, ServiceAccount, Workload, AuthorizationPolicy, TrafficPolicy, RateLimitPolicy, HTTPRoute, GRPCRoute, TCPRoute or MeshConfig; did you mean \"Service\"?",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\n",
            "2:7: kind: unknown kind \"Deployment\", expected Service",
        ),
        (
            "apiVersion: outrider.mesh/v1\nkind: Workload\n",
            "1:13: apiVersion: unknown apiVersion \"outrider.mesh/v1\" of Workload, expected outrider.mesh/v1alpha1",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: TCPRoute\n",
            "1:13: apiVersion: unknown apiVersion \"gateway.networking.k8s.io/v1beta1\" of TCPRoute, expected gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1alpha2",
        ),
        (
            "apiVersion: v1\nkind: AuthorizationPolicy\n",
            "1:13: apiVersion: unknown apiVersion \"v1\"",
        ),
    ];
    for (text, expected) in table {
        assert_problem(text, expected);
    }
}

#[test]
fn look_alikes_are_shown_by_their_code() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: bil\u{456}ing}\nspec: {}\n";
    assert_problem(
        text,
        "3:18: metadata.name: \"bil\u{456}ing\" is not a name: it contains '\u{456}' (U+0456), expected only",
    );
    let zero_width = "apiVersion: v1\nkind: Service\nmetadata: {name: \"a\u{200b}b\"}\nspec: {}\n";
    assert_problem(
        zero_width,
        "3:18: metadata.name: \"a\\u{200b}b\" is not a name: it contains '\\u{200b}' (U+200B)",
    );
    let key = "apiVersion: v1\nk\u{456}nd: Service\n";
    assert_problem(key, "1:1: kind: is missing");
}

#[test]
fn bombs() {
    let mut anchors = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        anchors.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_problem(
        &anchors,
        "1:9: anchors, aliases and merge keys are not accepted, expected",
    );
    assert_problem("a: &a [*a]\n", "1:7: anchors");

    let levels = "is too much YAML, expected at most 24 levels and 20000 nodes";
    for (open, column) in [
        ("[", 25),
        ("- ", 49),
        ("? ", 49),
        ("{a: ", 97),
        ("[{a: ", 61),
    ] {
        assert_problem(&open.repeat(10_000), &format!("1:{column}: {levels}"));
    }
    let mut block = String::new();
    for level in 0..1_400 {
        block.push_str(&" ".repeat(level));
        block.push_str("a:\n");
    }
    assert_problem(&block, &format!("25:25: {levels}"));

    let long = format!("a: {}", "x".repeat(10 << 20));
    assert_problem(
        &long,
        "1:1: is 10485763 bytes long, expected at most 1048576",
    );
}

/// Not in time: what is refused late takes some seconds to parse unoptimized.
#[test]
fn as_much_as_fits_into_the_bounds() {
    let keys: String = (0..12_000).map(|n| format!("k{n}: 1\n")).collect();
    let table = [
        ("---\n{}\n".repeat(2_000), "2049:1: is too much YAML"),
        (
            format!("a: [{}]", "1,".repeat(400_000)),
            "1:39999: is too much YAML",
        ),
        (keys, "10000:8: is too much YAML"),
        (" ".repeat(1 << 20), "1:1: has no object"),
    ];
    for (text, expected) in table {
        let problems = read(&text).unwrap_err();
        let got = problems[0].to_string();
        assert!(got.contains(&format!("shop.yaml:{expected}")), "{got}");
    }
}

#[test]
fn each_document_has_its_problem() {
    let text = "apiVersion: v1\nkind: Servic\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n---\n- x\n";
    let problems = read(text).unwrap_err();
    let lines: Vec<u32> = problems
        .iter()
        .map(|problem| problem.location.line)
        .collect();
    assert_eq!(lines, [2, 9]);
}

#[test]
fn bytes_that_are_not_utf_8() {
    let problems = parse_bytes(Path::new("a.yaml"), b"a: b\nc: \xc3\xa9\xff\n").unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "a.yaml:2:5: is not UTF-8 from here on"
    );
    assert_eq!(
        parse_bytes(Path::new("shop.yaml"), SHOP.as_bytes())
            .unwrap()
            .len(),
        5
    );
}

#[test]
fn problems_as_json() {
    let problems = read("apiVersion: v1\nkind: X\n").unwrap_err();
    let json = serde_json::to_value(&problems[0]).unwrap();
    assert_eq!(json["file"], "shop.yaml");
    assert_eq!(
        (json["line"].as_u64(), json["column"].as_u64()),
        (Some(2), Some(7))
    );
    assert_eq!(json["field"], "kind");
    assert_eq!(json["severity"], "error");
}

proptest::proptest! {
    #[test]
    fn whatever_comes_is_parsed_or_refused(text in "[a-z:{}\\[\\],&*<\"' \\n\\t\\-#|>!%0-9\\x00-\\x1f\u{80}-\u{2030}]{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn a_good_file_with_one_byte_changed_is_parsed_or_refused(at in 0..SHOP.len(), byte in 0u8..128) {
        let mut bytes = SHOP.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse_bytes(Path::new("a.yaml"), &bytes);
    }
}
