//! The evaluator against a second model, written as naively as its documentation reads: with
//! tables for what is ambiguous, three-valued logic for doubt, and a copy for everything.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_api::authorization::{
    Action, Call, GrpcMatch, HeaderMatch, HeaderValueMatch, HostMatch, HttpCall, HttpMatch,
    IpBlock, Method, PathMatch, PathMatchKind, Policy, PolicySet, Rule, Source,
};
use outrider_certs::spiffe::SpiffeId;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// As on the wire, and decoded without the query; `None`: apps read it differently.
const PATHS: [(&str, Option<&str>); 20] = [
    ("/", Some("/")),
    ("*", Some("*")),
    ("/a", Some("/a")),
    ("/a/", Some("/a/")),
    ("/a?b=/c", Some("/a")),
    ("/a?//", Some("/a")),
    ("/ab", Some("/ab")),
    ("/a/b", Some("/a/b")),
    ("/a/b/c", Some("/a/b/c")),
    ("/a%40b", Some("/a@b")),
    ("/caf%c3%a9/x", Some("/café/x")),
    ("/s.S/M", Some("/s.S/M")),
    ("/s.S/N", Some("/s.S/N")),
    ("/s.S/", Some("/s.S/")),
    ("//a", None),
    ("/x/../a", None),
    ("/%61", None),
    ("/a;x", None),
    ("/s.S/%4d", None),
    ("a", None),
];
/// What a rule may hold, decoded.
const RULE_PATHS: [(&str, &str); 6] = [
    ("/", "/"),
    ("/a", "/a"),
    ("/a/", "/a/"),
    ("/a/b", "/a/b"),
    ("/a@b", "/a@b"),
    ("/caf%C3%A9", "/café"),
];
/// As on the wire, and the host; `None`: malformed.
const AUTHORITIES: [(&str, Option<&str>); 9] = [
    ("billing", Some("billing")),
    ("Billing:80", Some("billing")),
    ("billing.", Some("billing")),
    ("a.shop.example", Some("a.shop.example")),
    ("shop.example", Some("shop.example")),
    ("xshop.example", Some("xshop.example")),
    ("user@billing", None),
    ("billing:80:80", None),
    ("", None),
];
const HOSTS: [&str; 3] = ["billing", "shop.example", "*.shop.example"];
const METHODS: [&str; 6] = ["GET", "POST", "get", "Post", "PURGE", "purge"];
const RULE_METHODS: [&str; 3] = ["GET", "POST", "PURGE"];
const HEADERS: [(&str, &[u8]); 8] = [
    ("x-team", b"a"),
    ("x-team", b"ab"),
    ("x-team", b"b, a"),
    ("x-team", b"A"),
    ("x-team", b"\xff"),
    ("x_team", b"a"),
    ("content-type", b"application/grpc+proto"),
    ("content-type", b"application/json"),
];
const ACCOUNTS: [(&str, &str); 4] = [
    ("shop", "order"),
    ("shop", "order.v1"),
    ("shop", "user"),
    ("other", "order"),
];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "::ffff:10.0.0.1", "10.1.0.1", "::1"];

#[derive(Clone, Debug)]
enum Who {
    Account(&'static str, &'static str),
    Namespace(&'static str),
    Id(&'static str, &'static str),
    /// 10.0.0.0/8 except 10.1.0.0/16.
    Block,
}

#[derive(Clone, Debug)]
struct Http {
    methods: Vec<&'static str>,
    /// Prefix or exact; as written; decoded.
    paths: Vec<(bool, (&'static str, &'static str))>,
    hosts: Vec<&'static str>,
    /// 0: exact, 1: prefix, 2: present.
    headers: Vec<(u8, &'static str)>,
}

#[derive(Clone, Debug)]
struct Clause {
    sources: Option<Vec<Who>>,
    ports: Vec<u16>,
    http: Vec<Http>,
    grpc: Vec<Option<&'static str>>,
}

#[derive(Clone, Debug)]
struct Request {
    peer: Option<(&'static str, &'static str)>,
    source: &'static str,
    port: u16,
    http: Option<Sent>,
}

#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    path: (&'static str, Option<&'static str>),
    authority: (&'static str, Option<&'static str>),
    headers: Vec<(&'static str, &'static [u8])>,
}

type Written = Vec<(Action, Vec<Clause>)>;

// ---- The naive model.

fn and(all: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let all: Vec<_> = all.into_iter().collect();
    match all.contains(&Some(false)) {
        true => Some(false),
        false => (!all.contains(&None)).then_some(true),
    }
}

fn or(any: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    and(any.into_iter().map(|one| one.map(|b| !b))).map(|b| !b)
}

fn any_or_empty<T>(list: &[T], one: impl Fn(&T) -> Option<bool>) -> Option<bool> {
    if list.is_empty() {
        Some(true)
    } else {
        or(list.iter().map(one))
    }
}

fn could_apply(clause: &Clause, request: &Request) -> bool {
    let source = match &clause.sources {
        None => true,
        Some(sources) => sources.iter().any(|who| match who {
            Who::Account(ns, name) | Who::Id(ns, name) => request.peer == Some((ns, name)),
            Who::Namespace(ns) => request.peer.is_some_and(|(peer, _)| peer == *ns),
            Who::Block => request
                .source
                .trim_start_matches("::ffff:")
                .starts_with("10.0."),
        }),
    };
    source && (clause.ports.is_empty() || clause.ports.contains(&request.port))
}

fn header(kind: u8, text: &str, sent: &Sent, refuses: bool) -> bool {
    let is = |value: &[u8]| match kind {
        0 => value == text.as_bytes(),
        1 => value.starts_with(text.as_bytes()),
        _ => true,
    };
    let like: Vec<_> = sent
        .headers
        .iter()
        .filter(|(name, _)| name.replace('_', "-") == "x-team")
        .collect();
    if refuses {
        return like.iter().any(|(_, value)| {
            let text = String::from_utf8_lossy(value).into_owned();
            is(value) || text.split(',').any(|element| is(element.trim().as_bytes()))
        });
    }
    sent.headers.iter().any(|(name, _)| *name == "x-team")
        && like.iter().all(|(_, value)| is(value))
}

fn http(http: &Http, sent: &Sent, refuses: bool) -> Option<bool> {
    and([
        any_or_empty(&http.methods, |method| Some(*method == sent.method)),
        any_or_empty(&http.paths, |(prefix, (_, rule))| {
            let path = sent.path.1?;
            let segments = |text: &str| {
                text.trim_end_matches('/')
                    .split('/')
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            Some(if *prefix {
                path != "*" && segments(path).starts_with(&segments(rule))
            } else {
                path == *rule
            })
        }),
        any_or_empty(&http.hosts, |rule| {
            let host = sent.authority.1?;
            Some(match rule.strip_prefix('*') {
                Some(suffix) => host.ends_with(suffix) && host != suffix,
                None => host == *rule,
            })
        }),
        and(http
            .headers
            .iter()
            .map(|(kind, text)| Some(header(*kind, text, sent, refuses)))),
    ])
}

fn grpc(method: Option<&str>, sent: &Sent, refuses: bool) -> Option<bool> {
    let path = sent.path.1?;
    let named = match method {
        Some(method) => path == format!("/s.S/{method}"),
        None => path.starts_with("/s.S/") && path != "/s.S/",
    };
    let types: Vec<_> = sent
        .headers
        .iter()
        .filter(|(name, _)| *name == "content-type")
        .collect();
    let is_grpc = types.len() == 1 && types[0].1.starts_with(b"application/grpc");
    Some(named && (refuses || (sent.method == "POST" && is_grpc)))
}

fn matches(clause: &Clause, request: &Request, refuses: bool) -> bool {
    if !could_apply(clause, request) {
        return false;
    }
    if clause.http.is_empty() && clause.grpc.is_empty() {
        return true;
    }
    let Some(sent) = &request.http else {
        return refuses;
    };
    let http = clause.http.iter().map(|one| http(one, sent, refuses));
    let grpc = clause.grpc.iter().map(|one| grpc(*one, sent, refuses));
    or(http.chain(grpc)).unwrap_or(refuses)
}

/// The verdict as it displays, and the policy that audits.
fn naive(default_deny: bool, written: &Written, request: &Request) -> (String, Option<String>) {
    let of = |action| {
        written
            .iter()
            .enumerate()
            .filter(move |(_, (is, _))| *is == action)
    };
    let rules = |action| {
        of(action)
            .flat_map(|(p, (_, rules))| rules.iter().enumerate().map(move |(r, rule)| (p, r, rule)))
    };
    if let Some(sent) = &request.http {
        let enforced = || {
            rules(Action::Deny)
                .chain(rules(Action::Allow))
                .filter(|(_, _, rule)| could_apply(rule, request))
        };
        let paths = |rule: &Clause| {
            !rule.grpc.is_empty() || rule.http.iter().any(|http| !http.paths.is_empty())
        };
        if sent.path.1.is_none() && enforced().any(|(_, _, rule)| paths(rule)) {
            return ("refused (ambiguous_path)".into(), None);
        }
        let upper = sent.method.to_uppercase();
        let odd = |rule: &Clause| {
            let mut methods = rule
                .http
                .iter()
                .flat_map(|http| http.methods.clone())
                .peekable();
            methods.peek().is_some() && (upper != "PURGE" || methods.any(|method| method == upper))
        };
        if upper != sent.method && enforced().any(|(_, _, rule)| odd(rule)) {
            return ("refused (ambiguous_method)".into(), None);
        }
    }
    let first =
        |action, refuses| rules(action).find(|(_, _, rule)| matches(rule, request, refuses));
    if let Some((p, r, _)) = first(Action::Deny, true) {
        return (
            format!("refused (authorization_denied) by shop/p{p} rule {r}"),
            None,
        );
    }
    let verdict = match first(Action::Allow, false) {
        Some((p, r, _)) => format!("allowed by shop/p{p} rule {r}"),
        None if of(Action::Allow).count() > 0 => {
            return ("refused (authorization_denied): no rule".into(), None);
        }
        None if default_deny => {
            return (
                "refused (authorization_denied): no ALLOW policy".into(),
                None,
            );
        }
        None => "allowed by default".into(),
    };
    let audit = of(Action::Audit)
        .next()
        .filter(|_| first(Action::Audit, false).is_none());
    (verdict, audit.map(|(p, _)| format!("shop/p{p}")))
}

// ---- What is under test, made of the same.

fn compile(default_deny: bool, written: &Written) -> PolicySet {
    let policy = |(p, (action, clauses)): (usize, &(Action, Vec<Clause>))| Policy {
        namespace: "shop".into(),
        name: format!("p{p}"),
        action: *action,
        rules: clauses.iter().map(compile_rule).collect(),
    };
    PolicySet::new(
        default_deny,
        written.iter().enumerate().map(policy).collect(),
    )
}

fn id(namespace: &str, name: &str) -> SpiffeId {
    format!("spiffe://mesh/ns/{namespace}/sa/{name}")
        .parse()
        .unwrap()
}

fn compile_rule(clause: &Clause) -> Rule {
    let source = |who: &Who| match *who {
        Who::Account(namespace, name) => Source::ServiceAccount {
            namespace: namespace.into(),
            name: name.into(),
        },
        Who::Namespace(namespace) => Source::Namespace(namespace.into()),
        Who::Id(namespace, name) => Source::Spiffe(id(namespace, name)),
        Who::Block => {
            let except = vec!["10.1.0.0/16".parse().unwrap()];
            Source::IpBlock(IpBlock::new("10.0.0.0/8".parse().unwrap(), except).unwrap())
        }
    };
    Rule {
        name: None,
        sources: clause
            .sources
            .as_ref()
            .map(|sources| sources.iter().map(source).collect()),
        ports: clause.ports.clone(),
        http: clause.http.iter().map(compile_http).collect(),
        grpc: clause
            .grpc
            .iter()
            .map(|method| GrpcMatch::new("s.S", *method).unwrap())
            .collect(),
    }
}

fn compile_http(http: &Http) -> HttpMatch {
    let path = |(prefix, (text, _)): &(bool, (&str, &str))| {
        let kind = if *prefix {
            PathMatchKind::Prefix
        } else {
            PathMatchKind::Exact
        };
        PathMatch::new(kind, text).unwrap()
    };
    let header = |(kind, text): &(u8, &str)| {
        let value = match kind {
            0 => HeaderValueMatch::Exact(text.as_bytes().into()),
            1 => HeaderValueMatch::Prefix(text.as_bytes().into()),
            _ => HeaderValueMatch::Present,
        };
        HeaderMatch::new("X-Team", value).unwrap()
    };
    HttpMatch {
        methods: http
            .methods
            .iter()
            .map(|text| Method::new(text).unwrap())
            .collect(),
        paths: http.paths.iter().map(path).collect(),
        hosts: http
            .hosts
            .iter()
            .map(|text| HostMatch::new(text).unwrap())
            .collect(),
        headers: http.headers.iter().map(header).collect(),
    }
}

fn authorize(set: &PolicySet, request: &Request) -> (String, Option<String>) {
    let peer = request.peer.map(|(namespace, name)| id(namespace, name));
    let mut headers = HeaderMap::new();
    for (name, value) in request.http.iter().flat_map(|sent| &sent.headers) {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).unwrap(),
        );
    }
    let http = request.http.as_ref().map(|sent| HttpCall {
        method: sent.method,
        path: sent.path.0,
        authority: sent.authority.0,
        headers: &headers,
    });
    let source: IpAddr = request.source.parse().unwrap();
    let decision = set.authorize(&Call {
        peer: peer.as_ref(),
        source,
        port: request.port,
        http,
    });
    (
        decision.verdict.to_string(),
        decision.audit.map(|audit| audit.to_string()),
    )
}

// ---- What is tried.

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        select(&ACCOUNTS[..]).prop_map(|(namespace, name)| Who::Account(namespace, name)),
        select(&["shop", "other"][..]).prop_map(Who::Namespace),
        select(&ACCOUNTS[..]).prop_map(|(namespace, name)| Who::Id(namespace, name)),
        Just(Who::Block),
    ]
}

fn http_match() -> impl Strategy<Value = Http> {
    let header = (0u8..3, select(&["a", "b"][..]));
    (
        vec(select(&RULE_METHODS[..]), 0..3),
        vec((any::<bool>(), select(&RULE_PATHS[..])), 0..3),
        vec(select(&HOSTS[..]), 0..2),
        vec(header, 0..2),
    )
        .prop_map(|(methods, paths, hosts, headers)| Http {
            methods,
            paths,
            hosts,
            headers,
        })
}

fn clause() -> impl Strategy<Value = Clause> {
    (
        option::of(vec(who(), 0..3)),
        vec(select(&[80u16, 81][..]), 0..2),
        vec(http_match(), 0..3),
        vec(option::of(select(&["M", "N"][..])), 0..2),
    )
        .prop_map(|(sources, ports, http, grpc)| Clause {
            sources,
            ports,
            http,
            grpc,
        })
}

fn written() -> impl Strategy<Value = Written> {
    let action = select(&[Action::Allow, Action::Deny, Action::Audit][..]);
    vec((action, vec(clause(), 0..4)), 0..5)
}

fn request() -> impl Strategy<Value = Request> {
    let sent = (
        select(&METHODS[..]),
        select(&PATHS[..]),
        select(&AUTHORITIES[..]),
        vec(select(&HEADERS[..]), 0..4),
    )
        .prop_map(|(method, path, authority, headers)| Sent {
            method,
            path,
            authority,
            headers,
        });
    (
        option::weighted(0.9, select(&ACCOUNTS[..])),
        select(&ADDRESSES[..]),
        select(&[80u16, 81][..]),
        option::weighted(0.8, sent),
    )
        .prop_map(|(peer, source, port, http)| Request {
            peer,
            source,
            port,
            http,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn decides_as_the_naive_model_does(
        default_deny: bool,
        written in written(),
        requests in vec(request(), 1..12),
    ) {
        let set = compile(default_deny, &written);
        for request in &requests {
            let (expected, audit) = naive(default_deny, &written, request);
            let (got, got_audit) = authorize(&set, request);
            prop_assert!(got.starts_with(&expected), "{got}\n{expected}\n{request:?}");
            prop_assert_eq!(got_audit, audit, "{:?}", request);
        }
    }
}
