//! Who may call whom, over HTTP: every condition of a rule, each with the exact answer.

use anyhow::Result;
use mesh_tests::http::{self, exchange};
use mesh_tests::manifest::{account, policy, spiffe_id};
use mesh_tests::{App, Mesh, Service, Workload, metrics};

use crate::common::{assert_refused, get, healthy, refusals};

/// `order-1` and `mallory-1` call `billing-1`, under these rules of an ALLOW policy.
fn allowing(rules: &str) -> Result<(App, Mesh)> {
    with_policies(&[policy("billing", "billing", "ALLOW", rules)], true)
}

fn with_policies(policies: &[String], default_deny: bool) -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mut builder = Mesh::pair(app.port(), Some("http"))?
        .workload(Workload::new("mallory-1")?.upstream("billing", 80)?)
        .setting("defaultDeny", default_deny);
    for (index, policy) in policies.iter().enumerate() {
        builder = builder.file(&format!("policy-{index}.yaml"), policy);
    }
    Ok((app, builder.start()?))
}

fn request(mesh: &Mesh, from: &str, request: &str) -> Result<http::Response> {
    exchange(
        mesh.http(from)?,
        format!("{request}\r\nContent-Length: 0\r\n\r\n"),
    )
}

fn allowed(mesh: &Mesh, from: &str, line: &str) -> Result<()> {
    let response = request(mesh, from, line)?;
    assert_eq!(response.status, 200, "{from}: {line}: {}", response.head);
    Ok(())
}

fn denied(mesh: &Mesh, from: &str, line: &str) -> Result<()> {
    assert_refused(&request(mesh, from, line)?, 403, "authorization_denied");
    Ok(())
}

#[test]
fn a_refusal_says_why_on_the_answer_and_in_the_metric() -> Result<()> {
    let (app, mesh) = allowing(&format!("- sources: [{}]", account("order")))?;
    allowed(&mesh, "order-1", "POST /charges HTTP/1.1\r\nHost: billing")?;
    let response = request(
        &mesh,
        "mallory-1",
        "POST /charges HTTP/1.1\r\nHost: billing",
    )?;
    assert_eq!(response.status, 403);
    assert_eq!(
        response.header("proxy-status"),
        Some("outrider; error=http_request_denied; details=\"authorization_denied\"")
    );
    assert_eq!(
        app.requests().len(),
        1,
        "what was refused never reached the app"
    );

    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    let mallory = spiffe_id("mallory");
    let labels = [
        ("direction", "inbound"),
        ("reason", "authorization_denied"),
        ("peer", mallory.as_str()),
    ];
    metrics::reaches(port, "outrider_refusals_total", &labels, 1.0)?;
    let metrics = mesh.metrics("billing-1")?;
    assert_eq!(metrics.sum("outrider_refusals_total", &[]), 1.0);
    let refused = [
        ("response_code", "403"),
        ("source_principal", mallory.as_str()),
    ];
    metrics::reaches(port, "istio_requests_total", &refused, 1.0)
}

#[test]
fn sources_by_account_namespace_identity_and_address() -> Result<()> {
    let order = format!("{{type: SPIFFE, spiffe: \"{}\"}}", spiffe_id("order"));
    let cases = [
        (account("order"), true, false),
        (account("*"), true, true),
        ("{type: Namespace, namespace: shop}".into(), true, true),
        ("{type: Namespace, namespace: other}".into(), false, false),
        (order, true, false),
        (
            "{type: SPIFFE, spiffe: \"spiffe://other.example/ns/shop/sa/order\"}".into(),
            false,
            false,
        ),
        (
            "{type: IPBlock, ipBlock: {cidr: 127.0.0.0/8}}".into(),
            true,
            true,
        ),
        (
            "{type: IPBlock, ipBlock: {cidr: 10.0.0.0/8}}".into(),
            false,
            false,
        ),
        (
            "{type: IPBlock, ipBlock: {cidr: 127.0.0.0/8, except: [127.0.0.0/24]}}".into(),
            false,
            false,
        ),
    ];
    let (_app, mesh) = allowing("")?;
    for (source, order, mallory) in cases {
        let rules = format!("- sources: [{source}]");
        mesh.write(
            "policy-0.yaml",
            &policy("billing", "billing", "ALLOW", &rules),
        )?;
        for (from, expected) in [("order-1", order), ("mallory-1", mallory)] {
            let status = if expected { 200 } else { 403 };
            mesh_tests::wait::becomes(&format!("{from} under {source}"), &status, || {
                Ok(http::get(mesh.http(from)?, "billing", "/")?.status)
            })?;
        }
    }
    Ok(())
}

#[test]
fn no_sources_is_anyone_and_an_empty_list_is_nobody() -> Result<()> {
    let (_app, mesh) = allowing("- sources: []")?;
    denied(&mesh, "order-1", "GET / HTTP/1.1\r\nHost: billing")?;
    let (_app, mesh) = allowing("- name: anyone")?;
    allowed(&mesh, "mallory-1", "GET / HTTP/1.1\r\nHost: billing")?;
    let (_app, mesh) = allowing("")?;
    denied(&mesh, "order-1", "GET / HTTP/1.1\r\nHost: billing")
}

#[test]
fn methods_paths_hosts_and_headers() -> Result<()> {
    let (_app, mesh) = allowing(
        "- http:
  - {methods: [POST, PUT], paths: [{type: Exact, value: /charges}, {type: PathPrefix, value: /v1}]}
  - {hosts: [billing.shop], paths: [{type: Exact, value: /host}]}
  - {hosts: ['*.cluster.local'], paths: [{type: Exact, value: /wild}]}
  - {headers: [{name: X-Team, type: Exact, value: a}], paths: [{type: Exact, value: /exact}]}
  - {headers: [{name: x-team, type: Prefix, value: pay}], paths: [{type: Exact, value: /prefix}]}
  - {headers: [{name: x-team, type: Present}], paths: [{type: Exact, value: /present}]}",
    )?;
    let cases = [
        ("POST /charges HTTP/1.1\r\nHost: billing", true),
        ("POST /charges?amount=1 HTTP/1.1\r\nHost: billing", true),
        ("PUT /charges HTTP/1.1\r\nHost: billing", true),
        ("GET /charges HTTP/1.1\r\nHost: billing", false),
        ("POST /charges/ HTTP/1.1\r\nHost: billing", false),
        ("POST /Charges HTTP/1.1\r\nHost: billing", false),
        ("POST /chargesx HTTP/1.1\r\nHost: billing", false),
        ("POST /v1 HTTP/1.1\r\nHost: billing", true),
        ("POST /v1/ HTTP/1.1\r\nHost: billing", true),
        ("POST /v1/a/b HTTP/1.1\r\nHost: billing", true),
        ("POST /v1x HTTP/1.1\r\nHost: billing", false),
        ("GET /host HTTP/1.1\r\nHost: billing.shop", true),
        ("GET /host HTTP/1.1\r\nHost: BILLING.shop:80", true),
        ("GET /host HTTP/1.1\r\nHost: billing", false),
        (
            "GET /wild HTTP/1.1\r\nHost: billing.shop.svc.cluster.local",
            true,
        ),
        ("GET /wild HTTP/1.1\r\nHost: billing.shop", false),
        ("GET /exact HTTP/1.1\r\nHost: billing\r\nx-team: a", true),
        ("GET /exact HTTP/1.1\r\nHost: billing\r\nx-team: ab", false),
        (
            "GET /exact HTTP/1.1\r\nHost: billing\r\nx-team: a\r\nx-team: b",
            false,
        ),
        (
            "GET /exact HTTP/1.1\r\nHost: billing\r\nx-team: a, b",
            false,
        ),
        ("GET /exact HTTP/1.1\r\nHost: billing", false),
        (
            "GET /prefix HTTP/1.1\r\nHost: billing\r\nx-team: payments",
            true,
        ),
        ("GET /prefix HTTP/1.1\r\nHost: billing\r\nx-team: a", false),
        ("GET /present HTTP/1.1\r\nHost: billing\r\nX-TEAM:", true),
        ("GET /present HTTP/1.1\r\nHost: billing", false),
    ];
    for (line, expected) in cases {
        if expected {
            allowed(&mesh, "order-1", line)?;
        } else {
            denied(&mesh, "order-1", line)?;
        }
    }
    Ok(())
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() -> Result<()> {
    let rules = "- http: [{methods: [POST], paths: [{type: PathPrefix, value: /public}]}]";
    let (app, mesh) = allowing(rules)?;
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/%2E./admin",
        "//public",
        "/public//admin",
        "/public/./admin",
        "/public%2fadmin",
        "/public%5cadmin",
        "/public\\admin",
        "/public/a;param",
        "/public/%00",
        "/p%75blic",
        "/public/%zz",
        "/public/%",
    ] {
        let response = request(
            &mesh,
            "order-1",
            &format!("POST {path} HTTP/1.1\r\nHost: billing"),
        )?;
        // Malformed for the sidecar of the caller, or ambiguous for that of the app.
        assert_eq!(response.status, 400, "{path}: {}", response.head);
        assert!(
            matches!(response.reason(), Some("ambiguous_path" | "bad_request")),
            "{path}: {}",
            response.head
        );
    }
    let response = request(&mesh, "order-1", "post /public HTTP/1.1\r\nHost: billing")?;
    assert_refused(&response, 400, "ambiguous_method");
    assert!(app.requests().is_empty(), "{:?}", app.requests());
    refusals(&mesh, "billing-1", "inbound", "ambiguous_path", 8.0)?;
    refusals(&mesh, "billing-1", "inbound", "ambiguous_method", 1.0)?;
    allowed(
        &mesh,
        "order-1",
        "POST /public/a%20b?c=../d HTTP/1.1\r\nHost: billing",
    )
}

#[test]
fn deny_beats_allow() -> Result<()> {
    let allow = policy("allow", "billing", "ALLOW", "- name: anyone");
    let deny = policy(
        "deny",
        "billing",
        "DENY",
        "- http: [{paths: [{type: PathPrefix, value: /admin}]}]\n\
         - http: [{headers: [{name: x-debug, type: Exact, value: 'on'}]}]",
    );
    let (_app, mesh) = with_policies(&[allow, deny], true)?;
    allowed(&mesh, "order-1", "GET /charges HTTP/1.1\r\nHost: billing")?;
    denied(
        &mesh,
        "order-1",
        "GET /admin/users HTTP/1.1\r\nHost: billing",
    )?;
    denied(
        &mesh,
        "order-1",
        "GET / HTTP/1.1\r\nHost: billing\r\nX-Debug: on",
    )?;
    // Any one of the values is enough to deny.
    denied(
        &mesh,
        "order-1",
        "GET / HTTP/1.1\r\nHost: billing\r\nX-Debug: off\r\nX-Debug: on",
    )?;
    denied(
        &mesh,
        "order-1",
        "GET / HTTP/1.1\r\nHost: billing\r\nX-Debug: off, on",
    )?;
    allowed(
        &mesh,
        "order-1",
        "GET / HTTP/1.1\r\nHost: billing\r\nX-Debug: off",
    )
}

#[test]
fn audit_counts_what_it_would_refuse_and_refuses_nothing() -> Result<()> {
    let audit = policy(
        "audit",
        "billing",
        "AUDIT",
        &format!("- sources: [{}]", account("order")),
    );
    let (_app, mesh) = with_policies(&[audit], false)?;
    allowed(&mesh, "order-1", "GET / HTTP/1.1\r\nHost: billing")?;
    for _ in 0..3 {
        allowed(&mesh, "mallory-1", "GET / HTTP/1.1\r\nHost: billing")?;
    }
    let port = mesh.sidecar("billing-1")?.workload.telemetry_port;
    let (mallory, order) = (spiffe_id("mallory"), spiffe_id("order"));
    metrics::reaches(port, "outrider_audit_total", &[("peer", &mallory)], 3.0)?;
    let metrics = mesh.metrics("billing-1")?;
    assert_eq!(
        metrics.sum("outrider_audit_total", &[("peer", &order)]),
        0.0
    );
    assert_eq!(
        metrics.sum("outrider_audit_total", &[("policy", "shop/audit")]),
        3.0
    );
    Ok(())
}

#[test]
fn without_a_policy_the_default_decides() -> Result<()> {
    let (_app, mesh) = with_policies(&[], true)?;
    denied(&mesh, "order-1", "GET / HTTP/1.1\r\nHost: billing")?;
    let (_app, mesh) = with_policies(&[], false)?;
    allowed(&mesh, "order-1", "GET / HTTP/1.1\r\nHost: billing")?;
    // A policy on another Service changes nothing here.
    let other = policy("other", "order", "ALLOW", "- sources: []");
    let app = App::start()?;
    let mesh = Mesh::pair(app.port(), Some("http"))?
        .service(Service::new("order").port(80, 8080, Some("http")))
        .setting("defaultDeny", false)
        .file("policy.yaml", other)
        .start()?;
    healthy(&mesh)
}

#[test]
fn ports_are_those_of_the_app() -> Result<()> {
    let (app, other) = (App::start()?, App::start()?);
    let rules = format!("- networkAttributes: {{ports: [{}]}}", app.port());
    let mesh = Mesh::builder()
        .setting("defaultDeny", true)
        .service(
            Service::new("billing")
                .port(80, app.port(), Some("http"))
                .port(81, other.port(), Some("http")),
        )
        .workload(
            Workload::new("billing-1")?
                .port("app", app.port(), Some("http"))
                .port("other", other.port(), Some("http")),
        )
        .workload(Workload::new("order-1")?)
        .file("policy.yaml", policy("billing", "billing", "ALLOW", &rules))
        .start()?;
    assert_eq!(
        http::get(mesh.http("order-1")?, "billing:80", "/")?.status,
        200
    );
    let refused = http::get(mesh.http("order-1")?, "billing:81", "/")?;
    assert_refused(&refused, 403, "authorization_denied");
    assert!(other.requests().is_empty());
    Ok(())
}

#[test]
fn targets_by_labels_and_by_workload() -> Result<()> {
    let by = |target: &str| {
        policy("billing", "billing", "ALLOW", "- sources: []")
            .replace("{group: \"\", kind: Service, name: billing}", target)
    };
    for (target, refused) in [
        (
            "{group: \"\", kind: Pod, selector: {matchLabels: {app: billing}}}",
            true,
        ),
        (
            "{group: \"\", kind: Pod, selector: {matchLabels: {}}}",
            true,
        ),
        (
            "{group: \"\", kind: Pod, selector: {matchLabels: {app: order}}}",
            false,
        ),
        (
            "{group: outrider.mesh, kind: Workload, name: billing-1}",
            true,
        ),
        (
            "{group: outrider.mesh, kind: Workload, name: order-1}",
            false,
        ),
    ] {
        let (_app, mesh) = with_policies(&[by(target)], false)?;
        let response = get(&mesh, "/")?;
        assert_eq!(
            response.status == 403,
            refused,
            "{target}: {}",
            response.head
        );
    }
    Ok(())
}
