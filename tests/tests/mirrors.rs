//! Mirrors: several of them, with bodies of any size, and none that does harm by failing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::http::{Response, exchange};
use mesh_tests::metrics::reaches;
use mesh_tests::quiet;
use mesh_tests::wait::{PATIENCE, becomes, until};
use rustix::process::Signal;

use crate::common::get;
use crate::routes::{Versions, http_route};
use crate::traffic::counted;

/// To billing's own instance, with copies to `v1` and `v2`.
const BOTH: &str = "\
- filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
  backendRefs: [{name: billing, port: 80}]";

fn post(versions: &Versions, path: &str, body: &[u8]) -> Result<Response> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: {length}\r\n\r\n");
    let request = [head.as_bytes(), body].concat();
    exchange(versions.mesh.http("order-1")?, request)
}

fn mirrored(versions: &Versions, result: &str) -> Result<f64> {
    let labels = [("result", result)];
    counted(
        &versions.mesh,
        "order-1",
        "outrider_mirrored_total",
        &labels,
    )
}

#[test]
fn each_of_several_mirrors_gets_the_whole_body() -> Result<()> {
    let versions = Versions::start(&[http_route(BOTH)])?;
    let body: Vec<u8> = (0..60_000u32).map(|byte| byte as u8).collect();
    let response = post(&versions, "/echo", &body)?;
    assert_eq!(response.status, 200, "{}", response.head);
    assert!(response.body == body, "the app's answer is the answer");
    for mirror in [&versions.v1, &versions.v2] {
        becomes("a copy", &1, || Ok(mirror.count("/echo")))?;
        let copy = mirror.last().context("a copy")?;
        assert_eq!(copy.method, "POST");
        assert!(copy.body == body, "{} bytes", copy.body.len());
    }
    assert_eq!(versions.own.count("/echo"), 1);
    let port = versions.mesh.sidecar("order-1")?.workload.telemetry_port;
    let answered = [("result", "answered")];
    reaches(port, "outrider_mirrored_total", &answered, 2.0)
}

#[test]
fn a_chunked_body_and_its_trailers_are_copied() -> Result<()> {
    let versions = Versions::start(&[http_route(BOTH)])?;
    let request = "POST /echo HTTP/1.1\r\nHost: billing\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   5\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 42\r\n\r\n";
    let response = exchange(versions.mesh.http("order-1")?, request)?;
    assert_eq!(response.text(), "hello, world");
    for mirror in [&versions.v1, &versions.v2] {
        becomes("a copy", &1, || Ok(mirror.count("/echo")))?;
        let copy = mirror.last().context("a copy")?;
        assert_eq!(copy.body, b"hello, world");
        assert!(
            copy.trailers.to_lowercase().contains("x-sum: 42"),
            "{copy:?}"
        );
    }
    Ok(())
}

#[test]
fn a_body_that_is_too_large_to_be_kept_is_not_copied() -> Result<()> {
    let versions = Versions::start(&[http_route(BOTH)])?;
    let body = vec![b'x'; 10 * 64 * 1024];
    let response = post(&versions, "/sink", &body)?;
    assert_eq!(response.text(), body.len().to_string());
    assert_eq!(mirrored(&versions, "skipped")?, 2.0);
    assert_eq!(get(&versions.mesh, "/small")?.status, 200);
    for mirror in [&versions.v1, &versions.v2] {
        becomes("the next one is", &1, || Ok(mirror.count("/small")))?;
        assert_eq!(mirror.count("/sink"), 0);
    }
    Ok(())
}

#[test]
fn a_copy_is_of_what_is_sent_on() -> Result<()> {
    let rules = "\
- filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
  backendRefs:
  - name: v1
    port: 80
- matches: [{path: {value: /old}}]
  filters:
  - {type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}
  - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
  backendRefs: [{name: v1, port: 80}]";
    let versions = Versions::start(&[http_route(rules)])?;
    assert_eq!(get(&versions.mesh, "/plain?query=kept")?.status, 200);
    until("a copy with its query", PATIENCE, || {
        Ok(versions.v2.count("/plain?query=kept") == 1)
    })?;
    assert_eq!(get(&versions.mesh, "/old/path")?.status, 200);
    assert_eq!(versions.v1.count("/new/path"), 1);
    until("a copy of what is sent", PATIENCE, || {
        Ok(versions.v2.count("/new/path") == 1)
    })
}

/// Requests pass as well as ever, whatever the mirror does.
fn unharmed(versions: &Versions) -> Result<()> {
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(get(&versions.mesh, "/get")?.status, 200);
        let response = post(versions, "/echo", b"hello")?;
        assert_eq!((response.status, response.body), (200, b"hello".to_vec()));
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    Ok(())
}

#[test]
fn a_mirror_that_fails_harms_nobody() -> Result<()> {
    let _alone = quiet::alone();
    let mut versions = Versions::start(&[http_route(BOTH)])?;
    unharmed(&versions)?;
    for behaviour in [
        Behaviour::Status(503),
        Behaviour::ResetBeforeHead,
        Behaviour::ResetMidBody,
        Behaviour::Hang,
    ] {
        versions.v1.behave(behaviour);
        unharmed(&versions)?;
    }
    versions.v1.behave(Behaviour::Usual);
    versions.mesh.process("v1-1")?.signal(Signal::STOP)?;
    unharmed(&versions)?;
    versions.mesh.process("v1-1")?.kill()?;
    unharmed(&versions)?;
    until("its failures are counted", PATIENCE, || {
        Ok(mirrored(&versions, "failed")? >= 1.0)
    })?;
    assert_eq!(versions.own.count("/get"), 7 * 20);
    becomes("the other mirror has all", &(7 * 20), || {
        Ok(versions.v2.count("/get"))
    })?;
    let metrics = versions.mesh.metrics("order-1")?;
    assert_eq!(metrics.sum("outrider_refusals_total", &[]), 0.0);
    assert_eq!(metrics.sum("outrider_retries_total", &[]), 0.0);
    Ok(())
}

#[test]
fn a_mirror_that_does_not_exist_harms_nobody() -> Result<()> {
    let rules = BOTH.replace("name: v1", "name: ghost");
    let versions = Versions::start(&[http_route(&rules)])?;
    unharmed(&versions)?;
    becomes("the other one has its copies", &20, || {
        Ok(versions.v2.count("/get"))
    })
}

#[test]
fn a_retry_is_not_mirrored_again() -> Result<()> {
    let policy = mesh_tests::manifest::traffic_policy("billing", "retry: {attempts: 1}");
    let versions = Versions::start(&[http_route(BOTH), ("traffic.yaml", policy)])?;
    versions.own.behave(Behaviour::Status(503));
    let put = "PUT /again HTTP/1.1\r\nHost: billing\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(exchange(versions.mesh.http("order-1")?, put)?.status, 503);
    assert_eq!(versions.own.count("/again"), 2);
    for mirror in [&versions.v1, &versions.v2] {
        becomes("a copy", &1, || Ok(mirror.count("/again")))?;
        assert_eq!(mirror.last().context("a copy")?.body, b"hello");
    }
    Ok(())
}
