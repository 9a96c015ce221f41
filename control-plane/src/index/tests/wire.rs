//! What is accepted here, every sidecar takes: a message that it refused would leave it with the
//! mesh of before.

use outrider_api::{model, proto};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The mesh, if it is one, message by message and back.
#[track_caller]
fn assert_survives(text: &str) -> bool {
    let Ok(objects) = manifest::parse(Path::new("mesh.yaml"), text) else {
        return false;
    };
    let Ok(mesh) = build(&objects, None) else {
        return false;
    };
    for destination in mesh.destinations().values() {
        let wire = proto::Destination::from(&**destination);
        let read = model::Destination::try_from(wire);
        assert_eq!(&read.expect(text), &**destination);
    }
    for (address, target) in mesh.addresses() {
        let target = model::address::AddressTarget::clone(target);
        let address = *address;
        let address = model::address::Address { address, target };
        let read = model::address::Address::try_from(proto::Address::from(&address));
        assert_eq!(read.expect(text), address);
    }
    for workload in mesh.workloads().values() {
        let wire = proto::Workload::from(&**workload);
        let read = Workload::try_from(wire);
        assert_eq!(&read.expect(text), &**workload);
    }
    true
}

/// A Service and its Workload, which the objects below are about.
const BILLING: &str = "
{apiVersion: v1, kind: Service, metadata: {name: billing}, spec: {selector: {app: b}, ports: [{port: 80}]}}
---
{apiVersion: outrider.mesh/v1alpha1, kind: Workload, metadata: {name: b, labels: {app: b}}, spec: {serviceAccount: b, address: 127.0.0.1}}
";

/// [`BILLING`] with a route of this kind that has this rule.
fn with_rule(kind: &str, rule: &Value) -> String {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "r"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "billing"}],
            "rules": [rule],
        },
    });
    format!("{BILLING}---\n{route}\n")
}

/// [`BILLING`] with a policy of this kind for its Service billing.
fn with_policy(kind: &str, mut spec: Value) -> String {
    let target = json!({"group": "", "kind": "Service", "name": "billing"});
    spec["targetRefs"] = json!([target]);
    let policy = json!({
        "apiVersion": "outrider.mesh/v1alpha1",
        "kind": kind,
        "metadata": {"name": "p"},
        "spec": spec,
    });
    format!("{BILLING}---\n{policy}\n")
}

/// `filter` in a rule of its own, with backends if it does not answer itself, below a match of `path`.
fn with_filter(kind: &str, field: &str, payload: &Value, path: &Value) -> String {
    let backends = match kind {
        "RequestRedirect" => json!([]),
        _ => json!([{"name": "billing", "port": 80}]),
    };
    with_rule(
        "HTTPRoute",
        &json!({
            "matches": [{"path": path}],
            "filters": [{"type": kind, field: payload}],
            "backendRefs": backends,
        }),
    )
}

/// Every place where somebody writes text that reaches a sidecar.
fn texts(text: &str) -> Vec<String> {
    let rule = |rule| with_rule("HTTPRoute", &rule);
    let one = |one: Value| rule(json!({"matches": [one]}));
    let mut all = Vec::new();
    for kind in ["Exact", "PathPrefix", "RegularExpression"] {
        all.push(one(json!({"path": {"type": kind, "value": text}})));
    }
    for kind in ["Exact", "RegularExpression"] {
        for (name, value) in [(text, "a"), ("x-a", text)] {
            let condition = json!([{"type": kind, "name": name, "value": value}]);
            all.push(one(json!({"headers": condition})));
            all.push(one(json!({"queryParams": condition})));
        }
        for (service, method) in [
            (Some(text), None),
            (None, Some(text)),
            (Some("a.B"), Some(text)),
        ] {
            let method = json!({"type": kind, "service": service, "method": method});
            all.push(with_rule(
                "GRPCRoute",
                &json!({"matches": [{"method": method}]}),
            ));
        }
    }
    let any = json!({"value": "/a"});
    for (name, value) in [(text, "a"), ("x-a", text)] {
        let header = json!([{"name": name, "value": value}]);
        let edit = json!({"set": header, "add": header, "remove": [name]});
        all.push(with_filter(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            &edit,
            &any,
        ));
        all.push(with_filter(
            "ResponseHeaderModifier",
            "responseHeaderModifier",
            &edit,
            &any,
        ));
    }
    for path in [
        any.clone(),
        json!({"type": "Exact", "value": "/a"}),
        json!({}),
    ] {
        for edit in [
            json!({"hostname": text}),
            json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": text}}),
            json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": text}}),
        ] {
            all.push(with_filter(
                "RequestRedirect",
                "requestRedirect",
                &edit,
                &path,
            ));
            all.push(with_filter("URLRewrite", "urlRewrite", &edit, &path));
        }
    }
    for list in [
        "allowOrigins",
        "allowMethods",
        "allowHeaders",
        "exposeHeaders",
    ] {
        for entry in [text.to_owned(), format!("https://{text}")] {
            all.push(with_filter("CORS", "cors", &json!({list: [entry]}), &any));
        }
    }
    all.push(rule(json!({"name": text})));
    all.push(rule(json!({"backendRefs": [{"name": text, "port": 80}]})));
    all.push(rule(
        json!({"backendRefs": [{"name": "billing", "namespace": text, "port": 80}]}),
    ));
    for spec in [
        json!({"healthCheck": {"path": text}}),
        json!({"loadBalancing": {"algorithm": "ConsistentHash", "hashOn": {"cookie": text}}}),
        json!({"loadBalancing": {"algorithm": "ConsistentHash", "hashOn": {"header": text}}}),
    ] {
        all.push(with_policy("TrafficPolicy", spec));
    }
    all.push(with_policy(
        "RateLimitPolicy",
        json!({"limits": [{"name": text, "requests": 1}]}),
    ));
    all
}

/// Every place for a number, or for a duration with that many milliseconds.
fn numbers(number: i64) -> Vec<String> {
    let span = format!("{number}ms");
    let mut all = numbers_of_routes(number, &span);
    let traffic = numbers_of_traffic(number, &span).into_iter();
    all.extend(traffic.map(|spec| with_policy("TrafficPolicy", spec)));
    let limits = [
        json!({"limits": [{"name": "a", "requests": number}]}),
        json!({"limits": [{"name": "a", "requests": 1, "burst": number}]}),
        json!({"limits": [{"name": "a", "requests": 1, "interval": span}]}),
        json!({"limits": [{"name": "a", "requests": 1, "ports": [number]}]}),
        json!({"concurrency": {"maxRequests": number}}),
        json!({"concurrency": {"maxRequests": 1, "maxQueued": number}}),
        json!({"concurrency": {"maxRequests": 1, "maxWait": span}}),
    ];
    all.extend(limits.map(|spec| with_policy("RateLimitPolicy", spec)));
    all
}

fn numbers_of_routes(number: i64, span: &str) -> Vec<String> {
    let any = json!({"value": "/a"});
    let backend = json!({"name": "billing", "port": 80});
    let rules = [
        json!({"backendRefs": [{"name": "billing", "port": number}]}),
        json!({"backendRefs": [{"name": "billing", "port": 80, "weight": number}, backend]}),
        json!({"timeouts": {"request": span}}),
        json!({"timeouts": {"request": "1s", "backendRequest": span}}),
        json!({"retry": {"attempts": number}}),
        json!({"retry": {"codes": [number]}}),
        json!({"retry": {"backoff": span}}),
    ];
    let mut all: Vec<String> = rules.map(|rule| with_rule("HTTPRoute", &rule)).into();
    for payload in [json!({"port": number}), json!({"statusCode": number})] {
        all.push(with_filter(
            "RequestRedirect",
            "requestRedirect",
            &payload,
            &any,
        ));
    }
    all.push(with_filter(
        "CORS",
        "cors",
        &json!({"maxAge": number}),
        &any,
    ));
    for mut mirror in [
        json!({"percent": number}),
        json!({"fraction": {"numerator": number}}),
        json!({"fraction": {"numerator": 1, "denominator": number}}),
    ] {
        mirror["backendRef"] = backend.clone();
        all.push(with_filter("RequestMirror", "requestMirror", &mirror, &any));
    }
    all
}

fn numbers_of_traffic(number: i64, span: &str) -> Vec<Value> {
    let mut specs = vec![
        json!({"retry": {"codes": [number]}}),
        json!({"retry": {"grpcCodes": [number]}}),
        json!({"loadBalancing": {"locality": {"minAvailablePercent": number}}}),
        json!({"faults": [{"percent": number, "delay": "1s"}]}),
        json!({"faults": [{"percent": 1, "delay": span}]}),
        json!({"faults": [{"percent": 1, "abort": {"status": number}}]}),
        json!({"faults": [{"percent": 1, "abort": {"grpcStatus": number}}]}),
        json!({"retryBudget": {"budget": {"percent": number}}}),
        json!({"retryBudget": {"budget": {"interval": span}}}),
        json!({"retryBudget": {"minRetryRate": {"count": number}}}),
        json!({"retryBudget": {"minRetryRate": {"interval": span}}}),
    ];
    let spans = [
        (
            "timeouts",
            "request backendRequest connect streamIdle tcpIdle",
        ),
        ("retry", "backoff maxBackoff"),
        (
            "outlierDetection",
            "latency window baseEjection maxEjection",
        ),
        ("healthCheck", "interval timeout"),
        ("loadBalancing", "slowStart"),
    ];
    let counts = [
        ("retry", "attempts"),
        ("limits", "maxConnections maxPendingRequests maxRequests"),
        (
            "outlierDetection",
            "consecutiveErrors consecutiveGatewayErrors failurePercent",
        ),
        ("outlierDetection", "minimumRequests maxEjectedPercent"),
        ("healthCheck", "port unhealthyThreshold healthyThreshold"),
    ];
    let spans = spans.map(|(section, fields)| (section, fields, json!(span)));
    let counts = counts.map(|(section, fields)| (section, fields, json!(number)));
    for (section, fields, value) in spans.into_iter().chain(counts) {
        for field in fields.split(' ') {
            let mut settings = json!({field: value});
            if section == "healthCheck" {
                settings["path"] = json!("/");
            }
            specs.push(json!({section: settings}));
        }
    }
    specs
}

/// How many of them are a mesh.
#[track_caller]
fn accepted(texts: Vec<String>) -> usize {
    texts.iter().filter(|text| assert_survives(text)).count()
}

#[test]
fn numbers_that_are_accepted_are_taken() {
    assert!(accepted(numbers(1)) > 40, "most of them can be 1");
    assert_eq!(accepted(numbers(-1)), 0, "none of them can be negative");
    for number in [
        0,
        100,
        101,
        503,
        1_000,
        65_536,
        1_000_000,
        i64::from(u32::MAX),
        i64::MAX,
    ] {
        accepted(numbers(number));
    }
}

#[test]
fn texts_that_are_accepted_are_taken() {
    assert!(accepted(texts("/a")) > 10 && accepted(texts("a")) > 20);
    for text in [
        "", "*", "/", "/a/", "é", "a.B", "[::1]", "host", "a)(b", "(?x)a#", "/%zz",
    ] {
        accepted(texts(text));
    }
    for byte in (0..=0x7f_u8).filter(u8::is_ascii_punctuation) {
        accepted(texts(&format!("/a{}b", char::from(byte))));
    }
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_taken(
        text in "/?\\PC{0,6}",
        number: i64,
        small in -1..70_000_i64,
        place: prop::sample::Index,
    ) {
        assert_survives(place.get::<String>(&texts(&text)));
        assert_survives(place.get::<String>(&numbers(number)));
        assert_survives(place.get::<String>(&numbers(small)));
    }
}
