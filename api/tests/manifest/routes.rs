//! The Gateway API's routes: their shape, and fields that nobody knows.

use outrider_api::manifest::Object;

use super::{assert_problem, read};

/// An HTTPRoute with one rule, in line 6.
fn route(kind: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules: [{{{rule}}}]\nstatus: {{parents: []}}\n"
    )
}

#[test]
fn routes_of_every_kind() {
    let backend = "backendRefs: [{name: a, port: 80, weight: 1}]";
    let kinds = ["HTTPRoute", "GRPCRoute", "TCPRoute"];
    for kind in kinds {
        let objects = read(&route(kind, backend)).unwrap();
        assert_eq!(objects[0].kind(), kind);
        assert_eq!(objects[0].metadata().name, "r");
    }
    let old = route("TCPRoute", backend).replace("k8s.io/v1", "k8s.io/v1alpha2");
    assert!(matches!(read(&old).unwrap()[0], Object::TcpRoute(_)));
}

#[test]
fn fields_that_are_wrong() {
    let table = [
        (
            route("HTTPRoute", "backendRef: []"),
            "6:12: spec.rules[0].backendRef: unknown field \"backendRef\", expected backendRefs, filters, matches, name, retry, sessionPersistence or timeouts; did you mean \"backendRefs\"?",
        ),
        (
            route("HTTPRoute", "timeouts: {reqest: 1s}"),
            "6:23: spec.rules[0].timeouts.reqest: unknown field \"reqest\", expected backendRequest or request; did you mean \"request\"?",
        ),
        (
            route("HTTPRoute", "backendRefs: [{name: a, prot: 80}]"),
            "6:36: spec.rules[0].backendRefs[0].prot: unknown field \"prot\"",
        ),
        (
            route("GRPCRoute", "timeouts: {request: 1s}"),
            "6:12: spec.rules[0].timeouts: unknown field \"timeouts\", expected backendRefs",
        ),
        (
            route("TCPRoute", "backendRefs: [], filters: []"),
            "6:29: spec.rules[0].filters: unknown field \"filters\", expected backendRefs or name",
        ),
        (
            route("TCPRoute", "name: a"),
            "6:11: spec.rules[0].backendRefs: is missing",
        ),
        (
            route("HTTPRoute", "matches: [{method: get}]"),
            "6:31: spec.rules[0].matches[0].method: is \"get\", expected GET, HEAD",
        ),
        (
            route("HTTPRoute", "matches: [{path: {type: Prefix, value: /}}]"),
            "6:36: spec.rules[0].matches[0].path.type: is \"Prefix\", expected Exact, PathPrefix or RegularExpression; did you mean \"PathPrefix\"?",
        ),
        (
            route("HTTPRoute", "filters: [{type: Rewrite}]"),
            "6:29: spec.rules[0].filters[0].type: is \"Rewrite\", expected RequestHeaderModifier",
        ),
        (
            route("HTTPRoute", "backendRefs: [{name: a, port: '80'}]"),
            "6:42: spec.rules[0].backendRefs[0].port: invalid type: string \"80\"",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}
