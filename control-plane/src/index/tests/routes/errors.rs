//! What is refused, and where it is said to be wrong.

use super::*;

#[test]
fn parents_that_do_not_exist_are_errors() {
    let rules = format!("[{{{TO_B}}}]");
    let table = [
        (
            "name: x",
            "spec.parentRefs[0].name: there is no Service shop/x",
        ),
        (
            "name: a, port: 82",
            "spec.parentRefs[0].port: Service shop/a has no port 82, expected 80, 81",
        ),
        (
            "name: a, port: 0",
            "spec.parentRefs[0].port: 0 is not a port",
        ),
        (
            "name: a}, {group: '', kind: Service, name: a",
            "spec.parentRefs[1]: is given twice",
        ),
    ];
    for (parent, expected) in table {
        let problems = problems(&format!(
            "{SERVICES}{}",
            route("HTTPRoute", "r", "shop", parent, &rules)
        ));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}

/// The one error of an HTTPRoute with a rule that is good but for `rule`.
#[track_caller]
fn assert_error(rule: &str, expected: &str) {
    let text = format!("{SERVICES}{}", http("r", &format!("[{{{rule}}}]")));
    let problems = problems(&text);
    let at = format!("mesh.yaml:{}:", line(&text, "  rules: "));
    assert!(problems[0].starts_with(&at), "{problems:?}");
    let full = format!(": spec.rules[0]{expected}");
    assert!(
        problems[0].contains(&full),
        "\n   got: {problems:?}\nexpect: {full}"
    );
}

#[test]
fn rules_that_are_wrong() {
    let huge = "a".repeat(2000);
    let regex = |text: &str| {
        format!("matches: [{{path: {{type: RegularExpression, value: '{text}'}}}}], {TO_B}")
    };
    let path = ".matches[0].path.value: ";
    assert_error(
        &regex(&huge),
        &format!("{path}is a pattern of 2000 bytes, expected at most 1024"),
    );
    assert_error(
        &regex("(a{1000}){1000}"),
        &format!("{path}is a pattern that takes more than"),
    );
    assert_error(&regex("/a("), &format!("{path}is no regular expression"));
    let table = [
        (
            "matches: [{path: {value: a}}]",
            ".matches[0].path.value: path \"a\" does not begin with",
        ),
        (
            "matches: [{path: {type: Exact, value: /a//b}}]",
            ".matches[0].path.value: path \"/a//b\" has an empty",
        ),
        (
            "matches: [{path: {type: Exact, value: '/a?b'}}]",
            ".matches[0].path.value: \"/a?b\" contains a query",
        ),
        (
            "matches: [{headers: [{name: 'a b', value: c}]}]",
            ".matches[0].headers[0].name: \"a b\" is not the name of a header",
        ),
        (
            "matches: [{headers: [{name: A, value: b}, {name: A, value: c}]}]",
            ".matches[0].headers[1].name: header \"A\" is given twice",
        ),
        (
            "matches: [{queryParams: [{name: a, type: RegularExpression, value: '('}]}]",
            ".matches[0].queryParams[0].value: is no regular",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: -1}]",
            ".backendRefs[0].weight: is -1, expected 0 to 1000000",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: 1000001}]",
            ".backendRefs[0].weight: is 1000001",
        ),
        (
            "backendRefs: [{name: b, port: 80, weight: 0}]",
            ".backendRefs: has only weights of 0",
        ),
        (
            "backendRefs: [{name: b}]",
            ".backendRefs[0].port: is missing, expected a port of Service shop/b: 80",
        ),
        (
            "timeouts: {request: -1s}",
            ".timeouts.request: \"-1s\" is not a duration",
        ),
        (
            "timeouts: {request: 25h}",
            ".timeouts.request: is 25h, expected at most 24h",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            ".timeouts.backendRequest: is 2s, longer than request, which is 1s",
        ),
        (
            "retry: {codes: [200]}",
            ".retry.codes[0]: is 200, expected 400 to 599",
        ),
        (
            "retry: {codes: [500, 500]}",
            ".retry.codes[1]: code \"500\" is given twice",
        ),
        (
            "retry: {attempts: -1}",
            ".retry.attempts: is -1, expected 0 to 10",
        ),
        (
            "retry: {backoff: 2h}",
            ".retry.backoff: is 2h, expected at most 1m",
        ),
    ];
    for (rule, expected) in table {
        assert_error(rule, expected);
    }
    let many = format!(
        "[{}]",
        ["{backendRefs: [{name: b, port: 80}]}"; 17].join(", ")
    );
    let problems = problems(&format!("{SERVICES}{}", http("r", &many)));
    assert!(
        problems[0].ends_with("spec.rules: has 17 entries, expected at most 16"),
        "{problems:?}"
    );
}

#[test]
fn filters_that_are_wrong() {
    let redirect = |payload: &str| {
        format!("filters: [{{type: RequestRedirect, requestRedirect: {{{payload}}}}}]")
    };
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}";
    let exact = "matches: [{path: {type: Exact, value: /a}}]";
    let table = [
        (redirect("statusCode: 304"), ".filters[0].requestRedirect.statusCode: is 304, expected 301"),
        (redirect("port: 70000"), ".filters[0].requestRedirect.port: 70000 is not a port"),
        (redirect("hostname: 'a_b'"), ".filters[0].requestRedirect.hostname: \"a_b\" contains"),
        (redirect("path: {type: ReplaceFullPath, replaceFullPath: x}"), ".filters[0].requestRedirect.path.replaceFullPath: \"x\" is not a path"),
        (redirect("path: {type: ReplaceFullPath, replacePrefixMatch: /x}"), ".filters[0].requestRedirect.path: expected exactly the field \"replaceFullPath\""),
        (format!("{exact}, {}", redirect(prefix)), ".filters: has ReplacePrefixMatch, expected exactly one match"),
        (format!("{}, {TO_B}", redirect("scheme: https")), ".filters: has RequestRedirect, which answers itself"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: b}}]".to_owned(),
            ".filters: has RequestRedirect and URLRewrite",
        ),
        ("filters: [{type: URLRewrite}]".to_owned(), ".filters[0]: expected exactly the field \"urlRewrite\" beside type \"URLRewrite\""),
        ("filters: [{type: URLRewrite, urlRewrite: {}}]".to_owned(), ".filters[0].urlRewrite: is empty"),
        ("filters: [{type: URLRewrite, requestRedirect: {}}]".to_owned(), ".filters[0]: expected exactly"),
        (
            "filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]".to_owned(),
            ".filters[1].type: filter \"CORS\" is given twice",
        ),
        ("filters: [{type: CORS, cors: {allowOrigins: [shop.example]}}]".to_owned(), ".filters[0].cors.allowOrigins[0]: \"shop.example\" is none"),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}, percent: 101}}]".to_owned(),
            ".filters[0].requestMirror.percent: is 101 of 100",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Host]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.remove[0]: header \"host\" is the connection's",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a:', value: b}]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.set[0].name: \"a:\" is not the name of a header",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"x\\ny\"}]}}]".to_owned(),
            ".filters[0].requestHeaderModifier.set[0].value: is not the value of a header",
        ),
    ];
    for (rule, expected) in table {
        assert_error(&rule, expected);
    }
}
