//! AuthorizationPolicy: each way of getting it wrong.

use super::{assert_problem, problem};

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
