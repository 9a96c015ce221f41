//! What the filters of routes do: headers, redirects, rewrites, mirrors and CORS. Redirects are
//! judged by their exact `Location`, rewrites by what the app was sent.

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{Response, exchange};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::wait::{PATIENCE, until};

use crate::common::{assert_refused, get};
use crate::routes::{Versions, http_route};

fn send(versions: &Versions, request: &str) -> Result<Response> {
    exchange(
        versions.mesh.http("order-1")?,
        request.replace('\n', "\r\n"),
    )
}

const HEADERS: &str = r#"
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Set, value: new}]
      add: [{name: X-Add, value: second}]
      remove: [X-Remove]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: X-Case-Kept, value: changed}]
      add: [{name: X-From, value: rule}]
      remove: [X-Odd-Case]
  backendRefs:
  - name: v1
    port: 80
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Backend, value: v1}]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        add: [{name: X-From, value: backend}]
"#;

#[test]
fn headers_are_edited_on_the_way_there_and_back() -> Result<()> {
    let versions = Versions::start(&[http_route(HEADERS)])?;
    let response = send(
        &versions,
        "GET /edit HTTP/1.1\nHost: billing\nX-Set: old\nx-set: older\nX-Add: first\nX-Remove: gone\n\n",
    )?;
    assert_eq!(response.status, 200, "{}", response.head);
    let request = versions.v1.last().context("a request")?;
    assert_eq!(request.headers("x-set"), ["new"]);
    assert_eq!(request.headers("x-add"), ["first", "second"]);
    assert_eq!(request.headers("x-remove"), [""; 0]);
    assert_eq!(request.headers("x-backend"), ["v1"]);
    assert_eq!(response.header("x-case-kept"), Some("changed"));
    assert_eq!(response.header("x-odd-case"), None);
    let from = response.headers.iter();
    let mut from: Vec<&str> = from
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-from"))
        .map(|(_, value)| value.as_str())
        .collect();
    from.sort_unstable();
    assert_eq!(from, ["backend", "rule"]);
    Ok(())
}

#[test]
fn a_redirect_says_exactly_where() -> Result<()> {
    let redirect = |path: &str, fields: &str| {
        format!(
            "- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n  filters:\n  \
             - {{type: RequestRedirect, requestRedirect: {{{fields}}}}}\n"
        )
    };
    let rules = [
        redirect("/scheme", "scheme: https"),
        redirect("/host", "hostname: example.org, statusCode: 301"),
        redirect("/port", "port: 8443"),
        redirect("/known", "scheme: http, port: 80"),
        redirect(
            "/full",
            "path: {type: ReplaceFullPath, replaceFullPath: /new}",
        ),
        redirect(
            "/old/prefix",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308",
        ),
        redirect(
            "/strip",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}, statusCode: 307",
        ),
        redirect(
            "/all",
            "scheme: https, hostname: example.org, port: 444, statusCode: 303, \
             path: {type: ReplaceFullPath, replaceFullPath: /done}",
        ),
    ]
    .concat();
    let versions = Versions::start(&[http_route(&rules)])?;
    for (target, status, location) in [
        ("/scheme/a?b=c", 302, "https://billing/scheme/a?b=c"),
        ("/host/a", 301, "http://example.org/host/a"),
        ("/port", 302, "http://billing:8443/port"),
        ("/known", 302, "http://billing/known"),
        ("/full/a?b=c", 302, "http://billing/new?b=c"),
        ("/old/prefix/a/b?c", 308, "http://billing/new/a/b?c"),
        ("/old/prefix", 308, "http://billing/new"),
        ("/strip/a", 307, "http://billing/a"),
        ("/strip", 307, "http://billing/"),
        ("/all/x?y=z", 303, "https://example.org:444/done?y=z"),
    ] {
        let response = get(&versions.mesh, target)?;
        assert_eq!(response.status, status, "{target}: {}", response.head);
        assert_eq!(response.header("location"), Some(location), "{target}");
    }
    assert_eq!(versions.own.requests().len(), 0);
    Ok(())
}

#[test]
fn a_rewritten_path_is_what_the_app_sees() -> Result<()> {
    let rewrite = |path: &str, fields: &str| {
        format!(
            "- matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n  filters:\n  \
             - {{type: URLRewrite, urlRewrite: {{{fields}}}}}\n  backendRefs: [{{name: v1, port: 80}}]\n"
        )
    };
    let rules = [
        rewrite(
            "/full",
            "path: {type: ReplaceFullPath, replaceFullPath: /one}",
        ),
        rewrite(
            "/a/b",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}",
        ),
        rewrite(
            "/strip",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}",
        ),
        rewrite(
            "/slash",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /s/}",
        ),
        rewrite("/host", "hostname: other.example"),
    ]
    .concat();
    let versions = Versions::start(&[http_route(&rules)])?;
    for (target, seen, host) in [
        ("/full/a/b?c=d", "/one?c=d", "billing"),
        ("/a/b/c?d", "/x/c?d", "billing"),
        ("/a/b", "/x", "billing"),
        ("/strip/a", "/a", "billing"),
        ("/strip", "/", "billing"),
        ("/slash/a", "/s/a", "billing"),
        ("/host/a", "/host/a", "other.example"),
    ] {
        let response = get(&versions.mesh, target)?;
        assert_eq!(response.status, 200, "{target}: {}", response.head);
        let request = versions.v1.last().context("a request")?;
        assert_eq!(request.path, seen, "{target}");
        assert_eq!(request.header("host"), Some(host), "{target}");
    }
    Ok(())
}

#[test]
fn a_mirror_gets_a_copy_whose_answer_nobody_sees() -> Result<()> {
    const CALLS: usize = 200;
    let rules = "- matches: [{path: {value: /half}}]\n  filters:\n  \
                 - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 50}}\n  \
                 backendRefs: [{name: v1, port: 80}]\n\
                 - filters:\n  \
                 - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}\n  \
                 backendRefs: [{name: v1, port: 80}]";
    let versions = Versions::start(&[http_route(rules)])?;
    versions.v2.behave(mesh_tests::app::Behaviour::Status(500));
    let response = send(
        &versions,
        "POST /echo HTTP/1.1\nHost: billing\nContent-Length: 5\n\nhello",
    )?;
    assert_eq!(
        (response.status, response.text()),
        (200, "hello".to_owned())
    );
    until("the mirror has its copy", PATIENCE, || {
        Ok(versions.v2.count("/echo") == 1)
    })?;
    let copy = versions.v2.last().context("a copy")?;
    assert_eq!(
        (copy.method.as_str(), copy.body.as_slice()),
        ("POST", &b"hello"[..])
    );
    for _ in 0..CALLS {
        assert_eq!(get(&versions.mesh, "/half")?.status, 200);
    }
    // 100 expected, with a standard deviation of 7.
    until("the mirror has its share", PATIENCE, || {
        Ok(versions.v2.count("/half") >= 60)
    })?;
    assert!(
        versions.v2.count("/half") <= 140,
        "{}",
        versions.v2.count("/half")
    );
    assert_eq!(versions.v1.count("/half"), CALLS);
    Ok(())
}

const CORS: &str = r#"
- filters:
  - type: CORS
    cors:
      allowOrigins: ["https://shop.example", "https://*.trusted.example"]
      allowMethods: [GET, PUT]
      allowHeaders: [X-Token]
      exposeHeaders: [X-Odd-Case]
      allowCredentials: true
      maxAge: 600
  backendRefs: [{name: v1, port: 80}]
"#;

#[test]
fn cors_is_answered_for_the_app() -> Result<()> {
    let versions = Versions::start(&[http_route(CORS)])?;
    let preflight = |origin: &str, method: &str| {
        let head = format!(
            "OPTIONS /cors HTTP/1.1\nHost: billing\nOrigin: {origin}\n\
             Access-Control-Request-Method: {method}\nAccess-Control-Request-Headers: x-token\n\n"
        );
        send(&versions, &head)
    };
    for origin in ["https://shop.example", "https://a.trusted.example"] {
        let response = preflight(origin, "PUT")?;
        assert!(matches!(response.status, 200 | 204), "{}", response.head);
        let header = |name: &str| response.header(name).map(str::to_owned);
        assert_eq!(
            header("access-control-allow-origin").as_deref(),
            Some(origin)
        );
        assert_eq!(
            header("access-control-allow-credentials").as_deref(),
            Some("true")
        );
        assert_eq!(header("access-control-max-age").as_deref(), Some("600"));
        let methods = header("access-control-allow-methods").context("methods")?;
        assert!(methods.contains("PUT"), "{methods}");
        let headers = header("access-control-allow-headers").context("headers")?;
        assert!(headers.eq_ignore_ascii_case("x-token"), "{headers}");
    }
    assert_eq!(versions.v1.requests().len(), 0, "the app is not asked");
    for origin in ["https://evil.example", "http://shop.example", "null"] {
        let response = preflight(origin, "PUT")?;
        assert_eq!(
            response.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    let response = send(
        &versions,
        "GET /cors HTTP/1.1\nHost: billing\nOrigin: https://shop.example\n\n",
    )?;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    let exposed = response.header("access-control-expose-headers");
    assert!(exposed.is_some_and(|exposed| exposed.eq_ignore_ascii_case("x-odd-case")));
    let response = send(
        &versions,
        "GET /cors HTTP/1.1\nHost: billing\nOrigin: https://evil.example\n\n",
    )?;
    assert_eq!(response.header("access-control-allow-origin"), None);
    Ok(())
}

/// A browser shows a page only what CORS lets it read, errors included.
#[test]
fn what_the_sidecar_answers_itself_is_edited_as_the_rule_says() -> Result<()> {
    const FILTERS: &str = "- {type: CORS, cors: {allowOrigins: ['https://shop.example']}}\n  \
         - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-From, value: rule}]}}";
    let rule = |path: &str, more: &str| {
        format!("- matches: [{{path: {{value: {path}}}}}]\n  filters:\n  {FILTERS}\n  {more}\n")
    };
    let to_v1 = "backendRefs: [{name: v1, port: 80}]";
    let rules = [
        rule("/ghost", "backendRefs: [{name: ghost, port: 80}]"),
        rule("/late", &format!("timeouts: {{request: 200ms}}\n  {to_v1}")),
        rule(
            "/moved",
            "- {type: RequestRedirect, requestRedirect: {hostname: other.example}}",
        ),
        rule("/", to_v1),
    ];
    let versions = Versions::start(&[http_route(&rules.concat())])?;
    let ask = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\nHost: billing\nOrigin: https://shop.example\n\n");
        send(&versions, &head)
    };
    let is_edited = |response: &Response| {
        assert_eq!(response.header("x-from"), Some("rule"), "{}", response.head);
        let readable = response.header("access-control-allow-origin");
        assert_eq!(readable, Some("https://shop.example"), "{}", response.head);
    };
    let response = ask("/ghost")?;
    assert_refused(&response, 500, "backend_invalid");
    is_edited(&response);
    versions.v1.behave(Behaviour::Hang);
    let response = ask("/late")?;
    assert_refused(&response, 504, "request_timeout");
    is_edited(&response);
    versions.v1.behave(Behaviour::Usual);
    let response = ask("/moved")?;
    assert_eq!(response.status, 302);
    is_edited(&response);
    let abort = traffic_policy("billing", "faults: [{percent: 100, abort: {status: 418}}]");
    versions.mesh.write("faults.yaml", &abort)?;
    until("a fault is injected", PATIENCE, || {
        Ok(ask("/fault")?.status == 418)
    })?;
    let response = ask("/fault")?;
    assert_refused(&response, 418, "fault_injected");
    is_edited(&response);
    Ok(())
}

#[test]
fn a_filter_that_is_not_known_is_500_and_never_left_out() -> Result<()> {
    let rules = "- matches: [{path: {value: /known}}]\n  backendRefs: [{name: v1, port: 80}]\n\
                 - filters:\n  - type: ExtensionRef\n    \
                 extensionRef: {group: example.org, kind: Filter, name: strange}\n  \
                 backendRefs: [{name: v1, port: 80}]";
    let versions = Versions::start(&[http_route(rules)])?;
    assert_eq!(get(&versions.mesh, "/known")?.status, 200);
    assert_refused(&get(&versions.mesh, "/strange")?, 500, "backend_invalid");
    assert_eq!(versions.v1.count("/strange"), 0);
    Ok(())
}
