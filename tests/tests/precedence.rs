//! Whose settings hold: a route's rule before the Service's TrafficPolicy, that before the mesh's
//! defaults, each field by itself.

use std::ops::RangeInclusive;

use anyhow::{Context, Result};
use mesh_tests::app::Behaviour;
use mesh_tests::manifest::{route, service_ref, traffic_policy};
use mesh_tests::wait::{PATIENCE, until};
use mesh_tests::{App, Mesh};

use crate::common::{assert_refused, get};
use crate::traffic::{NO_BREAKER, time_left};

const DEFAULTS: &str = "{timeouts: {request: 8s}, \
     outlierDetection: {consecutiveGatewayErrors: 0, failurePercent: 0}, \
     retry: {attempts: 1, backoff: 1ms}, \
     retryBudget: {budget: {percent: 100}, minRetryRate: {count: 1000}}}";

const OWN: &str = "timeouts: {request: 4s}\nretry: {attempts: 2}";

const RULES: &str = "\
- matches: [{path: {value: /rule}}]
  timeouts: {request: 2s}
  retry: {attempts: 3}
  backendRefs: [{name: billing, port: 80}]
- matches: [{path: {value: /half}}]
  timeouts: {request: 2s}
  backendRefs: [{name: billing, port: 80}]
- backendRefs: [{name: billing, port: 80}]";

/// The mesh's defaults, besides which files may say otherwise.
fn mesh(files: &[(&str, String)]) -> Result<(App, Mesh)> {
    let app = App::start()?;
    let mut builder = Mesh::pair(app.port(), Some("http"))?
        .setting("defaultDeny", false)
        .setting("traffic", DEFAULTS);
    for (name, yaml) in files {
        builder = builder.file(name, yaml.clone());
    }
    Ok((app, builder.start()?))
}

fn http_route() -> (&'static str, String) {
    let parent = service_ref("billing");
    ("route.yaml", route("HTTPRoute", "billing", &parent, RULES))
}

/// What a request to a path has left of its time, milliseconds, and how often it is sent where the
/// app answers 503.
fn effective(app: &App, mesh: &Mesh, path: &str) -> Result<(u64, usize)> {
    let before = app.requests().len();
    app.behave(Behaviour::Status(503));
    assert_eq!(get(mesh, path)?.status, 503);
    let requests = app.requests().split_off(before);
    let first = requests.first().context("a request")?;
    Ok((time_left(first).context("its time")?, requests.len()))
}

fn holds(app: &App, mesh: &Mesh, path: &str, expected: (u64, usize)) -> Result<()> {
    let (left, attempts) = effective(app, mesh, path)?;
    let (milliseconds, sent) = expected;
    assert!(
        just_below(milliseconds).contains(&left),
        "{path}: {left} ms"
    );
    assert_eq!(attempts, sent, "{path}");
    Ok(())
}

fn just_below(milliseconds: u64) -> RangeInclusive<u64> {
    milliseconds - 1_500..=milliseconds
}

#[test]
fn the_meshs_defaults_hold_where_nothing_else_is_said() -> Result<()> {
    let (app, mesh) = mesh(&[])?;
    holds(&app, &mesh, "/", (8_000, 2))
}

#[test]
fn the_service_comes_before_the_mesh_and_the_rule_before_the_service() -> Result<()> {
    let own = ("traffic.yaml", traffic_policy("billing", OWN));
    let (app, mesh) = mesh(&[own, http_route()])?;
    holds(&app, &mesh, "/other", (4_000, 3))?;
    holds(&app, &mesh, "/rule", (2_000, 4))?;
    // A rule that says nothing of retries leaves the Service's.
    holds(&app, &mesh, "/half", (2_000, 3))
}

#[test]
fn a_rule_comes_before_the_mesh_without_a_policy_between() -> Result<()> {
    let (app, mesh) = mesh(&[http_route()])?;
    holds(&app, &mesh, "/other", (8_000, 2))?;
    holds(&app, &mesh, "/rule", (2_000, 4))?;
    holds(&app, &mesh, "/half", (2_000, 2))
}

#[test]
fn each_field_is_inherited_by_itself() -> Result<()> {
    let own = traffic_policy("billing", "retry: {attempts: 0}");
    let (app, mesh) = mesh(&[("traffic.yaml", own)])?;
    holds(&app, &mesh, "/", (8_000, 1))?;
    let own = traffic_policy("billing", "timeouts: {backendRequest: 3s}");
    mesh.write("traffic.yaml", &own)?;
    until("the retry is the mesh's again", PATIENCE, || {
        Ok(effective(&app, &mesh, "/")?.1 == 2)
    })?;
    holds(&app, &mesh, "/", (8_000, 2))
}

#[test]
fn an_edit_of_any_level_is_in_force_at_once() -> Result<()> {
    let own = ("traffic.yaml", traffic_policy("billing", OWN));
    let (app, mesh) = mesh(&[own, http_route()])?;
    let becomes = |path: &str, milliseconds: u64, attempts: usize| {
        until("the edit holds", PATIENCE, || {
            let (left, sent) = effective(&app, &mesh, path)?;
            Ok(just_below(milliseconds).contains(&left) && sent == attempts)
        })
    };
    holds(&app, &mesh, "/rule", (2_000, 4))?;
    mesh.remove("route.yaml")?;
    becomes("/rule", 4_000, 3)?;
    mesh.remove("traffic.yaml")?;
    becomes("/rule", 8_000, 2)?;
    mesh.write("traffic.yaml", &traffic_policy("billing", OWN))?;
    becomes("/rule", 4_000, 3)?;
    mesh.write("route.yaml", &http_route().1)?;
    becomes("/rule", 2_000, 4)
}

#[test]
fn a_disabled_timeout_is_none_and_not_the_inherited_one() -> Result<()> {
    let own = format!("{NO_BREAKER}\ntimeouts: {{request: 0s}}");
    let rules = "- matches: [{path: {value: /cut}}]\n  timeouts: {request: 300ms}\n  \
                 backendRefs: [{name: billing, port: 80}]\n\
                 - backendRefs: [{name: billing, port: 80}]";
    let parent = service_ref("billing");
    let (app, mesh) = mesh(&[
        ("traffic.yaml", traffic_policy("billing", &own)),
        ("route.yaml", route("HTTPRoute", "billing", &parent, rules)),
    ])?;
    assert_eq!(get(&mesh, "/free")?.status, 200);
    let free = app.last().context("a request")?;
    assert_eq!(time_left(&free), None, "{}", free.head);
    app.behave(Behaviour::Hang);
    assert_refused(&get(&mesh, "/cut")?, 504, "request_timeout");
    Ok(())
}
