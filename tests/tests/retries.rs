//! What is sent again, what is not, and that it happens once in a chain.

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{self, Response, exchange};
use mesh_tests::manifest::traffic_policy;
use mesh_tests::metrics::reaches;
use mesh_tests::peers::Language::Go;
use mesh_tests::peers::{grpc_behave, grpc_calls, grpc_seen, grpc_server};
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::get;
use crate::traffic::{Chain, NO_BREAKER, instances, not_retried, retries};

const CALLS: usize = 40;

/// In turn: every other call meets the instance that fails, which the default balancer would avoid.
fn policy(more: &str) -> String {
    format!(
        "{NO_BREAKER}\nloadBalancing: {{algorithm: RoundRobin}}\nretryBudget: {{budget: {{percent: 100}}, minRetryRate: {{count: 1000}}}}\n{more}"
    )
}

fn post(mesh: &Mesh, path: &str, size: usize) -> Result<Response> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: {size}\r\n\r\n");
    let request = [head.into_bytes(), vec![b'x'; size]].concat();
    exchange(mesh.http("order-1")?, request)
}

/// The statuses of many calls, each once.
fn statuses(call: impl Fn() -> Result<Response>) -> Result<Vec<u16>> {
    let mut statuses: Vec<u16> = (0..CALLS)
        .map(|_| Ok(call()?.status))
        .collect::<Result<_>>()?;
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

#[test]
fn a_503_is_tried_again_on_another_instance() -> Result<()> {
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1}"))?;
    apps[0].behave(Behaviour::Status(503));
    assert_eq!(statuses(|| get(&mesh, "/get"))?, [200]);
    let failed = apps[0].count("/get");
    assert!(failed >= 1, "no call met the instance that fails");
    assert_eq!(apps[1].count("/get"), CALLS);
    assert_eq!(retries(&mesh, "status")?, failed as f64);
    // Each call is one for the caller's telemetry.
    let labels = [("reporter", "source"), ("response_code", "200")];
    let port = mesh.sidecar("order-1")?.workload.telemetry_port;
    reaches(port, "istio_requests_total", &labels, CALLS as f64)
}

#[test]
fn where_there_is_no_other_instance_the_same_one_is_tried_again() -> Result<()> {
    let (apps, mesh) = instances(1, &policy("retry: {attempts: 1}"))?;
    apps[0].behave(Behaviour::Status(503));
    let response = get(&mesh, "/get")?;
    assert_eq!(
        (response.status, response.reason()),
        (503, None),
        "the app's own"
    );
    assert_eq!(apps[0].count("/get"), 2);
    assert_eq!(retries(&mesh, "status")?, 1.0);
    Ok(())
}

#[test]
fn a_reset_before_the_head_is_tried_again_and_one_after_it_is_not() -> Result<()> {
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1}"))?;
    apps[0].behave(Behaviour::ResetBeforeHead);
    assert_eq!(statuses(|| get(&mesh, "/get"))?, [200]);
    let failed = apps[0].count("/get");
    assert!(failed >= 1, "no call met the instance that fails");
    apps[0].behave(Behaviour::ResetMidBody);
    let broken = (0..CALLS).filter(|_| get(&mesh, "/cut").is_err()).count();
    assert_eq!(broken, apps[0].count("/cut"));
    assert!(broken >= 1, "no call met the instance that fails");
    assert_eq!(apps[1].count("/cut"), CALLS - broken);
    Ok(())
}

#[test]
fn what_the_policy_does_not_name_stands() -> Result<()> {
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1, codes: [502, 503]}"))?;
    for app in &apps {
        app.behave(Behaviour::Status(500));
    }
    assert_eq!(statuses(|| get(&mesh, "/get"))?, [500]);
    assert_eq!(apps[0].count("/get") + apps[1].count("/get"), CALLS);
    for app in &apps {
        app.behave(Behaviour::Status(502));
    }
    assert_eq!(
        get(&mesh, "/twice")?.status,
        502,
        "the last failure is told"
    );
    assert_eq!(apps[0].count("/twice") + apps[1].count("/twice"), 2);
    Ok(())
}

#[test]
fn only_idempotent_methods_are_tried_again() -> Result<()> {
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1}"))?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    for (index, (method, attempts)) in [
        ("GET", 2),
        ("HEAD", 2),
        ("OPTIONS", 2),
        ("PUT", 2),
        ("DELETE", 2),
        ("POST", 1),
        ("PATCH", 1),
        ("BREW", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{index}");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: 0\r\n\r\n");
        let mut connection = http::Connection::open(mesh.http("order-1")?)?;
        connection.send(request)?;
        assert_eq!(connection.head()?.status, 503, "{method}");
        let seen = apps[0].count(&path) + apps[1].count(&path);
        assert_eq!(seen, attempts, "{method}");
    }
    assert_eq!(not_retried(&mesh, "not_idempotent")?, 3.0);
    Ok(())
}

#[test]
fn a_body_of_64_kib_is_replayed_and_a_larger_one_is_not() -> Result<()> {
    const LIMIT: usize = 64 * 1024;
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1, nonIdempotent: true}"))?;
    apps[0].behave(Behaviour::Status(503));
    for _ in 0..CALLS {
        let response = post(&mesh, "/sink", LIMIT)?;
        assert_eq!((response.status, response.text()), (200, LIMIT.to_string()));
    }
    assert!(
        apps[0].count("/sink") >= 1,
        "no call met the instance that fails"
    );
    let last = apps[1].last().context("a request")?;
    assert!(last.body.len() == LIMIT && last.body.iter().all(|byte| *byte == b'x'));

    assert_eq!(statuses(|| post(&mesh, "/large", LIMIT + 1))?, [200, 503]);
    let failed = apps[0].count("/large");
    assert_eq!(
        apps[1].count("/large"),
        CALLS - failed,
        "none was sent twice"
    );
    assert_eq!(not_retried(&mesh, "body_not_kept")?, failed as f64);
    Ok(())
}

#[test]
fn a_retry_happens_once_in_a_chain() -> Result<()> {
    let retry = policy("retry: {attempts: 1}");
    let chain = Chain::start(&retry, &retry)?;
    let at = chain.mesh.http("shopper-1")?;
    for app in &chain.billing {
        app.behave(Behaviour::Status(503));
    }
    assert_eq!(http::get(at, "order", "/chain")?.status, 503);
    assert_eq!(chain.attempts("/chain"), 2, "nearest the failure");
    assert_eq!(chain.order.count("/chain"), 1, "and not again before it");
    let labels = [("service", "shop/order"), ("reason", "retried_downstream")];
    let port = chain.mesh.sidecar("shopper-1")?.workload.telemetry_port;
    reaches(port, "outrider_retries_not_made_total", &labels, 1.0)
}

#[test]
fn a_request_that_is_a_retry_is_not_retried_further_on() -> Result<()> {
    let (apps, mesh) = instances(2, &policy("retry: {attempts: 1}"))?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    let head = "GET /again HTTP/1.1\r\nHost: billing\r\ntracestate: outrider=t5000.a2\r\n\r\n";
    assert_eq!(exchange(mesh.http("order-1")?, head)?.status, 503);
    assert_eq!(apps[0].count("/again") + apps[1].count("/again"), 1);
    assert_eq!(not_retried(&mesh, "already_a_retry")?, 1.0);
    Ok(())
}

#[test]
fn an_exhausted_budget_lets_the_failure_stand() -> Result<()> {
    let spec = format!(
        "{NO_BREAKER}\nretry: {{attempts: 1}}\n\
         retryBudget: {{budget: {{percent: 0}}, minRetryRate: {{count: 3, interval: 1h}}}}"
    );
    let (apps, mesh) = instances(2, &spec)?;
    for app in &apps {
        app.behave(Behaviour::Status(503));
    }
    for _ in 0..10 {
        assert_eq!(get(&mesh, "/get")?.status, 503);
    }
    assert_eq!(retries(&mesh, "status")?, 3.0);
    assert_eq!(not_retried(&mesh, "budget_exhausted")?, 7.0);
    assert_eq!(apps[0].count("/get") + apps[1].count("/get"), 13);
    Ok(())
}

#[test]
fn a_grpc_call_is_tried_again_only_if_the_policy_opts_in() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let servers = [
        grpc_server(Go, folder.path())?,
        grpc_server(Go, folder.path())?,
    ];
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("grpc")))
        .workload(Workload::new("order-1")?)
        .workload(Workload::new("billing-1")?.port("app", servers[0].port, Some("grpc")))
        .workload(Workload::new("billing-2")?.port("app", servers[1].port, Some("grpc")))
        .file(
            "traffic.yaml",
            traffic_policy("billing", &policy("retry: {attempts: 1}")),
        )
        .start()?;
    let port = mesh.http("order-1")?.port();
    let seen = || Ok::<_, anyhow::Error>(grpc_seen(&servers[0])? + grpc_seen(&servers[1])?);
    for server in &servers {
        grpc_behave(server, "status 14")?;
    }
    assert_eq!(
        grpc_calls(Go, port, "billing", &["unary:x"])?[0]["code"],
        14
    );
    assert_eq!(seen()?, 1);
    assert_eq!(not_retried(&mesh, "not_idempotent")?, 1.0);

    let opted_in = policy("retry: {attempts: 1, nonIdempotent: true}");
    mesh.write("traffic.yaml", &traffic_policy("billing", &opted_in))?;
    mesh_tests::wait::until("the policy holds", mesh_tests::wait::PATIENCE, || {
        let before = seen()?;
        grpc_calls(Go, port, "billing", &["unary:x"])?;
        Ok(seen()? == before + 2)
    })?;
    grpc_behave(&servers[1], "ok")?;
    let answers = grpc_calls(Go, port, "billing", &["unary:x"; CALLS])?;
    assert!(
        answers.iter().all(|answer| answer["code"] == 0),
        "{answers:?}"
    );
    assert!(retries(&mesh, "grpc_status")? >= 1.0);
    Ok(())
}

#[test]
fn a_connection_that_an_idle_app_closed_is_replaced_unseen() -> Result<()> {
    let (apps, mesh) = instances(1, &policy("retry: {attempts: 0}"))?;
    for _ in 0..CALLS {
        assert_eq!(get(&mesh, "/close")?.status, 200);
    }
    assert_eq!(App::count(&apps[0], "/close"), CALLS);
    Ok(())
}
