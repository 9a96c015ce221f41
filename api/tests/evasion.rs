//! Ways around a policy, one by one (hardening item 36): allow and deny see what the app sees.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::authorization::{Call, HttpCall, PolicySet};
use outrider_api::manifest::{Object, parse};
use outrider_certs::spiffe::SpiffeId;

/// Two policies: the same `condition` allowed for shop/order, or denied to it.
struct Pair {
    allow: PolicySet,
    deny: PolicySet,
}

impl Pair {
    fn new(condition: &str) -> Self {
        let set = |action: &str| {
            let text = format!(
                "apiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: billing, namespace: shop}}\nspec:\n  action: {action}\n  \
                 targetRefs: [{{group: '', kind: Service, name: billing}}]\n  rules:\n  - name: it\n    \
                 sources: [{{type: ServiceAccount, serviceAccount: {{name: order}}}}]\n    {condition}\n"
            );
            let objects = parse("policy.yaml".as_ref(), &text).unwrap();
            let [Object::AuthorizationPolicy(policy)] = objects.as_slice() else {
                panic!()
            };
            PolicySet::new(false, vec![policy.to_policy()])
        };
        Self {
            allow: set("ALLOW"),
            deny: set("DENY"),
        }
    }

    /// The verdicts of both, by their beginning.
    #[track_caller]
    fn expect(&self, request: &Request<'_>, allow: &str, deny: &str) {
        for (set, expected) in [(&self.allow, allow), (&self.deny, deny)] {
            let got = request.put_to(set);
            assert!(
                got.starts_with(expected),
                "{request:?}\n   got: {got}\nexpect: {expected}"
            );
        }
    }
}

const ALLOWED: &str = "allowed by shop/billing rule it";
const DEFAULT: &str = "allowed by default";
const DENIED: &str = "refused (authorization_denied) by shop/billing rule it";
const NO_RULE: &str = "refused (authorization_denied): no rule";
const PATH: &str = "refused (ambiguous_path)";
const METHOD: &str = "refused (ambiguous_method)";

#[derive(Clone, Debug)]
struct Request<'r> {
    account: &'r str,
    method: &'r str,
    path: &'r str,
    authority: &'r str,
    headers: &'r [(&'r str, &'r [u8])],
}

const GET: Request<'static> = Request {
    account: "order",
    method: "GET",
    path: "/",
    authority: "billing",
    headers: &[],
};

impl Request<'_> {
    fn put_to(&self, set: &PolicySet) -> String {
        let peer: SpiffeId = format!("spiffe://mesh/ns/shop/sa/{}", self.account)
            .parse()
            .unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let Self {
            method,
            path,
            authority,
            ..
        } = *self;
        let http = HttpCall {
            method,
            path,
            authority,
            headers: &headers,
        };
        let source = IpAddr::from([10, 0, 0, 1]);
        let call = Call {
            peer: Some(&peer),
            source,
            port: 8080,
            http: Some(http),
        };
        set.authorize(&call).verdict.to_string()
    }
}

#[test]
fn paths() {
    let pair = Pair::new("http: [{paths: [{type: PathPrefix, value: /admin}]}]");
    let table = [
        ("/admin", ALLOWED, DENIED),
        ("/admin/", ALLOWED, DENIED),
        ("/admin/users", ALLOWED, DENIED),
        ("/admin?x=1", ALLOWED, DENIED),
        ("/admin?/../x", ALLOWED, DENIED),
        ("/administrator", NO_RULE, DEFAULT),
        ("/x?/admin", NO_RULE, DEFAULT),
        ("/x", NO_RULE, DEFAULT),
        ("*", NO_RULE, DEFAULT),
        ("/Admin", NO_RULE, DEFAULT),
        ("//admin", PATH, PATH),
        ("/./admin", PATH, PATH),
        ("/x/../admin", PATH, PATH),
        ("/admin/..", PATH, PATH),
        ("/x/%2e%2e/admin", PATH, PATH),
        ("/%2e/admin", PATH, PATH),
        ("/x%2f..%2fadmin", PATH, PATH),
        ("/x%5c..%5cadmin", PATH, PATH),
        ("/x\\..\\admin", PATH, PATH),
        ("/%61dmin", PATH, PATH),
        ("/%2561dmin", PATH, PATH),
        ("/admin;x=1", PATH, PATH),
        ("/admin;/x", PATH, PATH),
        ("/admin%3bx", PATH, PATH),
        ("/admin#x", PATH, PATH),
        ("/x#/admin", PATH, PATH),
        ("/admin%00", PATH, PATH),
        ("/admin%0a", PATH, PATH),
        ("/admin%c0%af", PATH, PATH),
        ("/admin%", PATH, PATH),
        ("/admin%zz", PATH, PATH),
        ("/\u{430}dmin", PATH, PATH),
        ("admin", PATH, PATH),
        ("http://billing/admin", PATH, PATH),
        ("", PATH, PATH),
    ];
    for (path, allow, deny) in table {
        pair.expect(&Request { path, ..GET }, allow, deny);
    }
    // Who is not asked about learns nothing of the path rules.
    pair.expect(
        &Request {
            account: "user",
            path: "//admin",
            ..GET
        },
        NO_RULE,
        DEFAULT,
    );
}

#[test]
fn paths_are_not_looked_at_without_need() {
    let pair = Pair::new("http: [{methods: [GET]}]");
    pair.expect(
        &Request {
            path: "//a/../b;c%2f",
            ..GET
        },
        ALLOWED,
        DENIED,
    );
}

#[test]
fn methods() {
    let pair = Pair::new("http: [{methods: [DELETE, PURGE]}]");
    let table = [
        ("DELETE", ALLOWED, DENIED),
        ("PURGE", ALLOWED, DENIED),
        ("GET", NO_RULE, DEFAULT),
        ("delete", METHOD, METHOD),
        ("Delete", METHOD, METHOD),
        ("dELETE", METHOD, METHOD),
        ("purge", METHOD, METHOD),
        ("get", METHOD, METHOD),
        ("propfind", NO_RULE, DEFAULT),
        ("DELETE ", NO_RULE, DEFAULT),
        ("", NO_RULE, DEFAULT),
    ];
    for (method, allow, deny) in table {
        pair.expect(&Request { method, ..GET }, allow, deny);
    }
    let pair = Pair::new("http: [{hosts: [billing]}]");
    pair.expect(
        &Request {
            method: "delete",
            ..GET
        },
        ALLOWED,
        DENIED,
    );
}

#[test]
fn headers() {
    let pair = Pair::new("http: [{headers: [{name: x-team, value: a}]}]");
    type Headers = &'static [(&'static str, &'static [u8])];
    let table: [(Headers, &str, &str); 13] = [
        (&[], NO_RULE, DEFAULT),
        (&[("x-team", b"a")], ALLOWED, DENIED),
        (&[("X-Team", b"a")], ALLOWED, DENIED),
        (&[("x-team", b"b")], NO_RULE, DEFAULT),
        (&[("x-team", b"A")], NO_RULE, DEFAULT),
        (&[("x-team", b"a"), ("x-team", b"b")], NO_RULE, DENIED),
        (&[("x-team", b"b"), ("x-team", b"a")], NO_RULE, DENIED),
        (&[("x-team", b"a, b")], NO_RULE, DENIED),
        (&[("x-team", b"b ,\ta")], NO_RULE, DENIED),
        (&[("x-team", b"a,\xff")], NO_RULE, DENIED),
        (&[("x-team", b"\xff")], NO_RULE, DEFAULT),
        (&[("x_team", b"a")], NO_RULE, DENIED),
        (&[("x-team", b"a"), ("x_team", b"b")], NO_RULE, DENIED),
    ];
    for (headers, allow, deny) in table {
        pair.expect(&Request { headers, ..GET }, allow, deny);
    }
}

#[test]
fn headers_with_commas_in_the_rule() {
    let pair = Pair::new("http: [{headers: [{name: x-team, value: 'a, b'}]}]");
    let whole: &[(&str, &[u8])] = &[("x-team", b"a, b")];
    pair.expect(
        &Request {
            headers: whole,
            ..GET
        },
        ALLOWED,
        DENIED,
    );
    let part: &[(&str, &[u8])] = &[("x-team", b"a")];
    pair.expect(
        &Request {
            headers: part,
            ..GET
        },
        NO_RULE,
        DEFAULT,
    );
}

#[test]
fn hosts() {
    let pair = Pair::new("http: [{hosts: [billing, '*.Shop.example']}]");
    let table = [
        ("billing", ALLOWED, DENIED),
        ("BILLING", ALLOWED, DENIED),
        ("billing:8080", ALLOWED, DENIED),
        ("billing.", ALLOWED, DENIED),
        ("billing.:80", ALLOWED, DENIED),
        ("a.shop.example", ALLOWED, DENIED),
        ("a.b.SHOP.example.:80", ALLOWED, DENIED),
        ("shop.example", NO_RULE, DEFAULT),
        ("xshop.example", NO_RULE, DEFAULT),
        ("billing.shop", NO_RULE, DEFAULT),
        ("[::1]:80", NO_RULE, DEFAULT),
        // Malformed: nobody knows which host the app will take.
        ("", NO_RULE, DENIED),
        (":80", NO_RULE, DENIED),
        ("user@billing", NO_RULE, DENIED),
        ("billing:80:80", NO_RULE, DENIED),
        ("billing:", NO_RULE, DENIED),
        ("billing..", NO_RULE, DENIED),
        ("billing, other", NO_RULE, DENIED),
        ("bill%69ng", NO_RULE, DENIED),
        ("billing/x", NO_RULE, DENIED),
        ("bill\u{456}ng", NO_RULE, DENIED),
        ("[::1", NO_RULE, DENIED),
    ];
    for (authority, allow, deny) in table {
        pair.expect(&Request { authority, ..GET }, allow, deny);
    }
}

#[test]
fn grpc() {
    let pair = Pair::new("grpc: [{service: shop.Billing, method: Charge}]");
    let grpc: &[(&str, &[u8])] = &[("content-type", b"application/grpc")];
    let web: &[(&str, &[u8])] = &[("content-type", b"application/grpc-web")];
    let both: &[(&str, &[u8])] = &[
        ("content-type", b"application/grpc"),
        ("content-type", b"text/html"),
    ];
    let table = [
        ("POST", "/shop.Billing/Charge", grpc, ALLOWED, DENIED),
        ("POST", "/shop.Billing/charge", grpc, NO_RULE, DEFAULT),
        ("POST", "/shop.Billing/Refund", grpc, NO_RULE, DEFAULT),
        ("POST", "/shopXBilling/Charge", grpc, NO_RULE, DEFAULT),
        ("POST", "/shop.Billing/Charge/", grpc, NO_RULE, DEFAULT),
        ("POST", "/x/shop.Billing/Charge", grpc, NO_RULE, DEFAULT),
        ("POST", "/shop.Billing/Charg%65", grpc, PATH, PATH),
        ("POST", "//shop.Billing/Charge", grpc, PATH, PATH),
        ("GET", "/shop.Billing/Charge", grpc, NO_RULE, DENIED),
        ("POST", "/shop.Billing/Charge", web, NO_RULE, DENIED),
        ("POST", "/shop.Billing/Charge", both, NO_RULE, DENIED),
        ("POST", "/shop.Billing/Charge", &[], NO_RULE, DENIED),
    ];
    for (method, path, headers, allow, deny) in table {
        pair.expect(
            &Request {
                method,
                path,
                headers,
                ..GET
            },
            allow,
            deny,
        );
    }
}

#[test]
fn names_with_dots_are_not_patterns() {
    let text = "apiVersion: outrider.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  targetRefs: [{group: '', kind: Pod, selector: {}}]\n  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: order.v1}}]}]\n";
    let objects = parse("policy.yaml".as_ref(), text).unwrap();
    let [Object::AuthorizationPolicy(policy)] = objects.as_slice() else {
        panic!()
    };
    let set = PolicySet::new(false, vec![policy.to_policy()]);
    let verdict = |account| Request { account, ..GET }.put_to(&set);
    assert_eq!(verdict("order.v1"), "allowed by shop/p rule 0");
    for account in ["orderxv1", "order-v1", "order", "order.v1.x", "x.order.v1"] {
        assert!(verdict(account).starts_with(NO_RULE), "{account}");
    }
}

#[test]
fn opaque_connections_are_in_doubt() {
    let pair = Pair::new("http: [{methods: [GET]}]");
    let peer: SpiffeId = "spiffe://mesh/ns/shop/sa/order".parse().unwrap();
    let source = IpAddr::from([10, 0, 0, 1]);
    let call = Call {
        peer: Some(&peer),
        source,
        port: 5432,
        http: None,
    };
    assert!(
        pair.allow
            .authorize(&call)
            .verdict
            .to_string()
            .starts_with(NO_RULE)
    );
    assert_eq!(pair.deny.authorize(&call).verdict.to_string(), DENIED);
    let stranger = Call { peer: None, ..call };
    assert!(
        pair.allow
            .authorize(&stranger)
            .verdict
            .to_string()
            .starts_with(NO_RULE)
    );
    assert!(pair.deny.authorize(&stranger).is_allowed());
}

#[test]
fn what_people_read() {
    let set = |deny| PolicySet::new(deny, Vec::new());
    let refused = "refused (authorization_denied): no ALLOW policy selects this workload, and the mesh denies by default";
    assert_eq!(GET.put_to(&set(true)), refused);
    assert_eq!(
        GET.put_to(&set(false)),
        "allowed by default: no ALLOW policy selects this workload"
    );
}
