//! What people write: the good file whole, and each way of getting it wrong with its place.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use outrider_api::authorization::{Action, Source};
use outrider_api::kinds::{TargetPort, TargetRef};
use outrider_api::manifest::{Object, Problem, parse, parse_bytes};

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
    assert!(mesh.spec.default_deny);
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
    assert_eq!(workload.spec.app_address, IpAddr::from([127, 0, 0, 1]));
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

/// A policy with `spec` below it, from line 4 on.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n{spec}"
    )
}

/// A policy with one rule, in line 6.
fn rule(rule: &str) -> String {
    policy(&format!(
        "spec:\n  targetRefs: [{{group: '', kind: Service, name: a}}]\n  rules: [{{{rule}}}]\n"
    ))
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
            "2:7: kind: unknown kind \"Servise\", expected Service, ServiceAccount, Workload, AuthorizationPolicy or MeshConfig; did you mean \"Service\"?",
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
            "apiVersion: v1\nkind: AuthorizationPolicy\n",
            "1:13: apiVersion: unknown apiVersion \"v1\"",
        ),
    ];
    for (text, expected) in table {
        assert_problem(text, expected);
    }
}

#[test]
fn fields_that_are_wrong() {
    let table = [
        (
            policy("spec:\n  targetRefs: []\n"),
            "5:15: spec.targetRefs: has 0 entries, expected 1 to 16",
        ),
        (policy("spec: {}\n"), "4:7: spec.targetRefs: is missing"),
        (policy("status: {}\n"), "1:1: spec: is missing"),
        (
            policy("spec:\n  rulez: []\n"),
            "5:3: spec.rulez: unknown field \"rulez\", expected targetRefs, action or rules; did you mean \"rules\"?",
        ),
        (
            policy("spec: {}\nspec: {}\n"),
            "5:1: spec: duplicate key \"spec\", first given in line 4",
        ),
        (
            policy("kind: x\n"),
            "4:1: kind: duplicate key \"kind\", first given in line 2",
        ),
        (
            policy("spec:\n  targetRefs: [{group: '', kind: Service, name: a}]\n  action: Allow\n"),
            "6:11: spec.action: is \"Allow\", expected ALLOW, DENY or AUDIT; did you mean \"ALLOW\"?",
        ),
        (
            policy("spec:\n  targetRefs: [{group: '', kind: Service, name: a}]\n  action: DENY\n"),
            "5:3: spec: is a DENY policy without rules",
        ),
        (
            policy("spec:\n  targetRefs: [{group: '', kind: Service, name: a}]\n  rules:\n"),
            "6:8: spec.rules: is nothing, expected a list",
        ),
        (
            policy("spec:\n  targetRefs:\n  - {group: '', kind: Pod, name: a}\n"),
            "6:5: spec.targetRefs[0]: expected \"selector\" and no \"name\" beside kind Pod",
        ),
        (
            policy("spec:\n  targetRefs:\n  - {group: apps, kind: Service, name: a}\n"),
            "6:5: spec.targetRefs[0]: cannot target group \"apps\"",
        ),
        (
            policy("spec:\n  targetRefs:\n  - {kind: Service, name: a}\n"),
            "6:5: spec.targetRefs[0].group: is missing",
        ),
        (
            policy("spec:\n  targetRefs:\n  - {group: '', kind: Service, name: 8}\n"),
            "6:38: spec.targetRefs[0].name: is the number 8, expected text (in quotes)",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}

#[test]
fn rules_that_are_wrong() {
    let table = [
        ("sources: ", "is nothing, expected a list", "sources"),
        ("http: ", "is nothing, expected a list", "http"),
        (
            "http: []",
            "is an empty list, expected at least one entry",
            "http",
        ),
        (
            "http: [{methods: []}]",
            "is an empty list",
            "http[0].methods",
        ),
        (
            "http: [{methods: [post]}]",
            "\"post\" is not an HTTP method, expected uppercase",
            "http[0].methods[0]",
        ),
        (
            "http: [{paths: [{type: Exact, value: charges}]}]",
            "path \"charges\" does not begin with \"/\"",
            "http[0].paths[0]",
        ),
        (
            "http: [{paths: [{type: Exact, value: /a/../b}]}]",
            "path \"/a/../b\" has a segment",
            "http[0].paths[0]",
        ),
        (
            "http: [{paths: [{type: Exact, value: '/a?b'}]}]",
            "\"/a?b\" contains a query",
            "http[0].paths[0]",
        ),
        (
            "http: [{paths: [{type: Regex, value: /a}]}]",
            "is \"Regex\", expected Exact or PathPrefix",
            "http[0].paths[0].type",
        ),
        (
            "http: [{hosts: ['a:80']}]",
            "\"a:80\" is not a host",
            "http[0].hosts[0]",
        ),
        (
            "http: [{hosts: ['*']}]",
            "\"*\" is not a host",
            "http[0].hosts[0]",
        ),
        (
            "http: [{headers: [{name: host, value: a}]}]",
            "header \"host\" cannot be matched here",
            "http[0].headers[0]",
        ),
        (
            "http: [{headers: [{name: 'a b', value: a}]}]",
            "\"a b\" is not the name of a header",
            "http[0].headers[0]",
        ),
        (
            "http: [{headers: [{name: a}]}]",
            "expected \"value\"",
            "http[0].headers[0]",
        ),
        ("grpc: [{method: Charge}]", "is missing", "grpc[0].service"),
        (
            "grpc: [{service: a/b}]",
            "\"a/b\" is not the full name of a gRPC service",
            "grpc[0]",
        ),
        (
            "grpc: [{service: a.B, method: '*'}]",
            "\"*\" is not the name of a gRPC method",
            "grpc[0]",
        ),
        (
            "networkAttributes: {}",
            "is missing",
            "networkAttributes.ports",
        ),
        (
            "networkAttributes: {ports: [0]}",
            "0 is not a port, expected 1 to 65535",
            "networkAttributes.ports[0]",
        ),
        (
            "networkAttributes: {ports: [65536]}",
            "65536 is not a port",
            "networkAttributes.ports[0]",
        ),
        (
            "networkAttributes: {ports: [-1]}",
            "-1 is not a port",
            "networkAttributes.ports[0]",
        ),
        (
            "networkAttributes: {ports: ['80']}",
            "is \"80\", expected a whole number",
            "networkAttributes.ports[0]",
        ),
        (
            "sources: [{type: User}]",
            "is \"User\", expected ServiceAccount, Namespace, SPIFFE or IPBlock",
            "sources[0].type",
        ),
        ("sources: [{namespace: a}]", "is missing", "sources[0].type"),
        (
            "sources: [{type: SPIFFE, namespace: a}]",
            "expected exactly the field \"spiffe\"",
            "sources[0]",
        ),
        (
            "sources: [{type: Namespace, namespace: a, spiffe: 'spiffe://t/ns/a/sa/b'}]",
            "expected exactly the field \"namespace\"",
            "sources[0]",
        ),
        (
            "sources: [{type: Namespace, namespace: '*'}]",
            "\"*\" is not a name",
            "sources[0].namespace",
        ),
        (
            "sources: [{type: ServiceAccount, serviceAccount: {name: 'ord*'}}]",
            "\"ord*\" contains '*'",
            "sources[0].serviceAccount.name",
        ),
        (
            "sources: [{type: SPIFFE, spiffe: 'spiffe://t/ns/a/sa/../b'}]",
            "",
            "sources[0].spiffe",
        ),
        (
            "sources: [{type: IPBlock, ipBlock: {cidr: 10.0.0.0/33}}]",
            "",
            "sources[0].ipBlock.cidr",
        ),
        (
            "sources: [{type: IPBlock, ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]",
            "the exception 11.0.0.0/16 is not within 10.0.0.0/8",
            "sources[0]",
        ),
        (
            "sources: [{type: IPBlock, ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]",
            "::ffff:10.0.0.0/104 holds IPv4",
            "sources[0]",
        ),
        ("name: A rule", "\"A rule\" is not a name", "name"),
    ];
    for (written, message, field) in table {
        let got = problem(&rule(written));
        let found = format!(": spec.rules[0].{field}: {message}");
        assert!(
            got.starts_with("6:") && got.contains(&found),
            "{written}\n{got}\n{found}"
        );
    }
}

#[test]
fn workloads_and_mesh_settings_that_are_wrong() {
    let workload = |spec: &str| {
        format!(
            "apiVersion: outrider.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec:\n  serviceAccount: a\n  address: 10.0.0.1\n  {spec}\n"
        )
    };
    let mesh = |spec: &str| {
        format!(
            "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: a}}\nspec:\n  {spec}\n"
        )
    };
    let table = [
        (
            workload("appAddress: localhost"),
            "7:15: spec.appAddress: invalid IP address syntax",
        ),
        (
            workload("command: outrider"),
            "7:12: spec.command: is \"outrider\", expected a list",
        ),
        (
            workload("command: [sleep, 10]"),
            "7:20: spec.command[1]: is the number 10, expected text",
        ),
        (
            workload("env: {A: 1}"),
            "7:12: spec.env.A: is the number 1, expected text (in quotes)",
        ),
        (
            workload("env: {A: true}"),
            "7:12: spec.env.A: is true, expected text (in quotes)",
        ),
        (
            workload("port: 80"),
            "7:3: spec.port: unknown field \"port\", expected serviceAccount",
        ),
        (
            workload("ports: [{port: 0}]"),
            "7:18: spec.ports[0].port: 0 is not a port",
        ),
        (
            workload("outbound: {upstreams: [{service: a, port: 80}]}"),
            "7:26: spec.outbound.upstreams[0].localPort: is missing",
        ),
        (
            mesh("drainTimeout: 10"),
            "5:17: spec.drainTimeout: is the number 10, expected text",
        ),
        (
            mesh("drainTimeout: 10 s"),
            "5:17: spec.drainTimeout: \"10 s\" is not a duration",
        ),
        (
            mesh("drainTimeout: 2h"),
            "5:17: spec.drainTimeout: is 2h, expected 0s to 1h",
        ),
        (
            mesh("detectTimeout: 0s"),
            "5:18: spec.detectTimeout: is 0s, expected 1ms to 10s",
        ),
        (
            mesh("certificateLifetime: 0s"),
            "5:24: spec.certificateLifetime: is 0s",
        ),
        (mesh("trustDomain: Shop"), "5:16: spec.trustDomain: "),
        (
            mesh("defaultDeny: yes"),
            "5:16: spec.defaultDeny: is \"yes\", expected true or false",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}

#[test]
fn services_that_are_wrong() {
    let service = |text: &str| format!("apiVersion: v1\nkind: Service\n{text}\n");
    let table = [
        (
            service("metadata: {name: a.b}\nspec: {}"),
            "3:18: metadata.name: of a Service contains '.'",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, targetPort: 0}]}"),
            "4:39: spec.ports[0].targetPort: invalid value: integer `0`, expected a port from 1 to 65535 or the name",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, targetPort: '80'}]}"),
            "4:39: spec.ports[0].targetPort: invalid value: string \"80\"",
        ),
        (
            service("metadata: {name: a}\nspec: {ports: [{port: 80, protocol: TPC}]}"),
            "4:37: spec.ports[0].protocol: is \"TPC\", expected TCP, UDP or SCTP",
        ),
        (
            service("metadata: {name: a, labels: {a: 'b c'}}\nspec: {}"),
            "3:29: metadata.labels: \"b c\" is not the value of a label, at \"a\"",
        ),
        (
            service("metadata: {name: a, labels: {a/b/c: b}}\nspec: {}"),
            "3:29: metadata.labels: \"a/b/c\" is not the key",
        ),
        (
            service("metadata: {name: a, namspace: b}\nspec: {}"),
            "3:21: metadata.namspace: unknown field \"namspace\", expected name, namespace",
        ),
        (
            service("metadata: {name: a}\nspec: {sessionAffinityConfig: {a: 1, a: 2}}"),
            "4:38: spec.sessionAffinityConfig.a: duplicate key \"a\", first given in line 4",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
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
