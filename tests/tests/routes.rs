//! HTTPRoute with a Service as its parent: which rule a request meets, and where it goes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mesh_tests::http::{self, Response, exchange};
use mesh_tests::manifest::{account, policy, route, service_ref};
use mesh_tests::wait::becomes;
use mesh_tests::{App, Mesh, Service, Workload};

use crate::common::{assert_refused, get, refusals};

/// `order-1` calls billing, whose requests a route may send to `v1` and `v2`; billing's own instance
/// is a third app.
pub(crate) struct Versions {
    pub(crate) v1: App,
    pub(crate) v2: App,
    pub(crate) own: App,
    pub(crate) mesh: Mesh,
}

impl Versions {
    pub(crate) fn start(files: &[(&str, String)]) -> Result<Self> {
        Self::speaking("http", files)
    }

    pub(crate) fn speaking(protocol: &str, files: &[(&str, String)]) -> Result<Self> {
        let [v1, v2, own] = [App::start()?, App::start()?, App::start()?];
        let instance = |name: &str, app: &App| -> Result<Workload> {
            Ok(Workload::new(name)?.port("app", app.port(), Some(protocol)))
        };
        let mut builder = Mesh::builder()
            .setting("defaultDeny", false)
            .workload(Workload::new("order-1")?.upstream("billing", 80)?)
            .workload(instance("v1-1", &v1)?)
            .workload(instance("v2-1", &v2)?)
            .workload(instance("billing-1", &own)?);
        for name in ["v1", "v2"] {
            builder = builder.service(Service::new(name).port(80, "app", Some(protocol)));
        }
        let parent = Service::new("billing")
            .port(80, "app", Some(protocol))
            .port(8080, "app", Some(protocol));
        builder = builder.service(parent);
        for (name, yaml) in files {
            builder = builder.file(name, yaml.clone());
        }
        Ok(Self {
            v1,
            v2,
            own,
            mesh: builder.start()?,
        })
    }

    /// Which app a request reaches, by the path that it has there.
    fn reached(&self, path: &str) -> Option<&'static str> {
        let apps = [("v1", &self.v1), ("v2", &self.v2), ("own", &self.own)];
        apps.into_iter()
            .find(|(_, app)| app.count(path) > 0)
            .map(|(name, _)| name)
    }
}

/// An HTTPRoute for billing, in billing's namespace.
pub(crate) fn http_route(rules: &str) -> (&'static str, String) {
    let parent = service_ref("billing");
    ("route.yaml", route("HTTPRoute", "billing", &parent, rules))
}

/// A call with a head of its own.
fn send(mesh: &Mesh, method: &str, path: &str, fields: &str) -> Result<Response> {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: billing\r\nContent-Length: 0\r\n{fields}\r\n");
    exchange(mesh.http("order-1")?, head)
}

const MATCHES: &str = r#"
- name: exact
  matches: [{path: {type: Exact, value: /exact}}]
  backendRefs: [{name: v2, port: 80}]
- name: short-prefix
  matches: [{path: {type: PathPrefix, value: /p}}]
  backendRefs: [{name: v1, port: 80}]
- name: long-prefix
  matches: [{path: {type: PathPrefix, value: /p/long}}]
  backendRefs: [{name: v2, port: 80}]
- name: regex
  matches: [{path: {type: RegularExpression, value: "/r[0-9]+/.*"}}]
  backendRefs: [{name: v2, port: 80}]
- name: method
  matches: [{path: {type: PathPrefix, value: /m}, method: DELETE}]
  backendRefs: [{name: v2, port: 80}]
- name: without-method
  matches: [{path: {type: PathPrefix, value: /m}}]
  backendRefs: [{name: v1, port: 80}]
- name: header
  matches: [{path: {type: PathPrefix, value: /h}, headers: [{name: X-Version, value: "2"}]}]
  backendRefs: [{name: v2, port: 80}]
- name: header-regex
  matches:
  - path: {type: PathPrefix, value: /h}
    headers: [{type: RegularExpression, name: x-other, value: "b[a-z]*"}, {name: x-and, value: "yes"}]
  backendRefs: [{name: v2, port: 80}]
- name: query
  matches:
  - {path: {type: PathPrefix, value: /q}, queryParams: [{name: version, value: "2 a"}]}
  backendRefs: [{name: v2, port: 80}]
- name: either
  matches:
  - {path: {type: Exact, value: /e1}}
  - {path: {type: Exact, value: /e2}}
  backendRefs: [{name: v2, port: 80}]
"#;

#[test]
fn requests_meet_the_rule_that_fits_best() -> Result<()> {
    let versions = Versions::start(&[http_route(MATCHES)])?;
    let expected = [
        ("GET", "/exact", "", Some("v2")),
        ("GET", "/exact/", "", None),
        ("GET", "/p", "", Some("v1")),
        ("GET", "/p/short", "", Some("v1")),
        ("GET", "/pp", "", None),
        ("GET", "/p/long", "", Some("v2")),
        ("GET", "/p/long/er?x=1", "", Some("v2")),
        ("GET", "/p/longer", "", Some("v1")),
        ("GET", "/r12/x", "", Some("v2")),
        ("GET", "/x/r12/x", "", None),
        ("DELETE", "/m", "", Some("v2")),
        ("GET", "/m/1", "", Some("v1")),
        ("GET", "/h", "x-version: 2\r\n", Some("v2")),
        ("GET", "/h/1", "x-version: 3\r\n", None),
        ("GET", "/h/2", "x-other: bcd\r\nx-and: yes\r\n", Some("v2")),
        ("GET", "/h/3", "x-other: abc\r\nx-and: yes\r\n", None),
        ("GET", "/h/4", "x-other: bcd\r\n", None),
        ("GET", "/q?version=2%20a", "", Some("v2")),
        ("GET", "/q?version=2+a&x=y", "", Some("v2")),
        ("GET", "/q?version=3", "", None),
        ("GET", "/q", "", None),
        ("GET", "/e1", "", Some("v2")),
        ("GET", "/e2", "", Some("v2")),
    ];
    for (method, path, fields, app) in expected {
        let response = send(&versions.mesh, method, path, fields)?;
        assert_eq!(versions.reached(path), app, "{method} {path} {fields}");
        match app {
            Some(_) => assert_eq!(response.status, 200, "{method} {path}: {}", response.head),
            None => assert_refused(&response, 404, "no_route"),
        }
    }
    let refused = expected.iter().filter(|case| case.3.is_none()).count();
    refusals(
        &versions.mesh,
        "order-1",
        "outbound",
        "no_route",
        refused as f64,
    )
}

#[test]
fn a_request_that_no_rule_fits_is_404_and_without_a_route_traffic_passes() -> Result<()> {
    let versions = Versions::start(&[])?;
    let mesh = &versions.mesh;
    assert_eq!(get(mesh, "/free")?.status, 200);
    assert_eq!(versions.reached("/free"), Some("own"));
    let (name, yaml) = http_route(MATCHES);
    mesh.write(name, &yaml)?;
    becomes("the route is in force", &404, || {
        Ok(get(mesh, "/free")?.status)
    })?;
    let response = get(mesh, "/free")?;
    assert_eq!(
        response.header("proxy-status"),
        Some("outrider; error=destination_not_found; details=\"no_route\"")
    );
    mesh.remove(name)?;
    becomes("it passes again", &200, || Ok(get(mesh, "/free")?.status))
}

#[test]
fn a_route_may_be_for_one_port_of_the_service() -> Result<()> {
    let parent = "{group: \"\", kind: Service, name: billing, port: 8080}";
    let rules = "- backendRefs: [{name: v1, port: 80}]";
    let yaml = route("HTTPRoute", "billing", parent, rules);
    let versions = Versions::start(&[("route.yaml", yaml)])?;
    let at = versions.mesh.http("order-1")?;
    assert_eq!(http::get(at, "billing:8080", "/routed")?.status, 200);
    assert_eq!(http::get(at, "billing", "/direct")?.status, 200);
    assert_eq!(versions.reached("/routed"), Some("v1"));
    assert_eq!(versions.reached("/direct"), Some("own"));
    // The port of the sidecar that leads to billing obeys the routes of that port, too.
    let upstream = versions.mesh.upstream("order-1", "billing", 80)?;
    assert_eq!(http::get(upstream, "anything", "/upstream")?.status, 200);
    assert_eq!(versions.reached("/upstream"), Some("own"));
    Ok(())
}

#[test]
fn backends_get_their_share() -> Result<()> {
    const CALLS: usize = 400;
    let rules = "- backendRefs: [{name: v1, port: 80, weight: 3}, {name: v2, port: 80, weight: 1}, \
                 {name: billing, port: 80, weight: 0}]";
    let versions = Versions::start(&[http_route(rules)])?;
    for _ in 0..CALLS {
        assert_eq!(get(&versions.mesh, "/share")?.status, 200);
    }
    let (first, second) = (versions.v1.count("/share"), versions.v2.count("/share"));
    assert_eq!((first + second, versions.own.count("/share")), (CALLS, 0));
    // 100 expected, with a standard deviation of 8.7.
    assert!((50..=150).contains(&second), "{second} of {CALLS}");
    Ok(())
}

#[test]
fn the_share_of_an_invalid_backend_is_500() -> Result<()> {
    const CALLS: usize = 200;
    let rules =
        "- backendRefs: [{name: v1, port: 80, weight: 1}, {name: ghost, port: 80, weight: 1}]";
    let versions = Versions::start(&[http_route(rules)])?;
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for _ in 0..CALLS {
        let response = get(&versions.mesh, "/share")?;
        *statuses.entry(response.status).or_default() += 1;
        if response.status != 200 {
            assert_refused(&response, 500, "backend_invalid");
            assert_eq!(
                response.header("proxy-status"),
                Some("outrider; error=proxy_configuration_error; details=\"backend_invalid\"")
            );
        }
    }
    let refused = statuses.get(&500).copied().unwrap_or(0);
    // 100 expected, with a standard deviation of 7.
    assert!((60..=140).contains(&refused), "{statuses:?}");
    assert_eq!(versions.v1.count("/share"), CALLS - refused);
    refusals(
        &versions.mesh,
        "order-1",
        "outbound",
        "backend_invalid",
        refused as f64,
    )
}

#[test]
fn a_rule_without_any_backend_is_500() -> Result<()> {
    let rules = "- matches: [{path: {value: /none}}]";
    let versions = Versions::start(&[http_route(rules)])?;
    assert_refused(&get(&versions.mesh, "/none")?, 500, "backend_invalid");
    Ok(())
}

#[test]
fn a_consumers_route_is_for_callers_of_its_namespace_alone() -> Result<()> {
    let own = App::start()?;
    let other = App::start()?;
    let parent = "{group: \"\", kind: Service, name: billing, namespace: shop}";
    let rules = "- backendRefs: [{name: canary, namespace: shop, port: 80}]";
    let consumer = route("HTTPRoute", "billing", parent, rules).replace(
        "name: billing, namespace: shop}\nspec",
        "name: billing, namespace: front}\nspec",
    );
    let producer = route(
        "HTTPRoute",
        "billing",
        &service_ref("billing"),
        "- matches: [{path: {value: /producer}}]\n  backendRefs: [{name: billing, port: 80}]",
    );
    let mesh = Mesh::builder()
        .setting("defaultDeny", false)
        .service(Service::new("billing").port(80, "app", Some("http")))
        .service(Service::new("canary").port(80, "app", Some("http")))
        .workload(Workload::new("order-1")?)
        .workload(Workload::new("front-1")?.namespace("front"))
        .workload(Workload::new("billing-1")?.port("app", own.port(), Some("http")))
        .workload(Workload::new("canary-1")?.port("app", other.port(), Some("http")))
        .file("consumer.yaml", consumer)
        .file("producer.yaml", producer)
        .start()?;
    let call = |from: &str, path: &str| http::get(mesh.http(from)?, "billing.shop", path);
    assert_eq!(call("front-1", "/anything")?.status, 200);
    assert_eq!((other.count("/anything"), own.count("/anything")), (1, 0));
    assert_eq!(call("order-1", "/producer")?.status, 200);
    assert_eq!((other.count("/producer"), own.count("/producer")), (0, 1));
    assert_refused(&call("order-1", "/anything")?, 404, "no_route");
    Ok(())
}

/// Where a request goes is decided before who may go there: the rules of the backend are asked.
#[test]
fn a_route_does_not_lead_around_policy() -> Result<()> {
    let rules = "- matches: [{path: {value: /v1}}]\n  backendRefs: [{name: v1, port: 80}]\n\
                 - backendRefs: [{name: v2, port: 80}]";
    let allow = format!("- sources: [{}]", account("someone-else"));
    let versions = Versions::start(&[
        http_route(rules),
        ("policy.yaml", policy("v2", "v2", "ALLOW", &allow)),
    ])?;
    assert_eq!(get(&versions.mesh, "/v1")?.status, 200);
    assert_refused(&get(&versions.mesh, "/v2")?, 403, "authorization_denied");
    Ok(())
}

#[test]
fn a_rules_own_timeouts_and_retries_are_instead_of_the_services() -> Result<()> {
    use crate::traffic::{NO_BREAKER, retries};
    use mesh_tests::app::Behaviour;
    use mesh_tests::manifest::traffic_policy;
    let rules = "- matches: [{path: {value: /cut}}]\n  timeouts: {request: 200ms}\n  \
                 backendRefs: [{name: billing, port: 80}]\n\
                 - matches: [{path: {value: /again}}]\n  retry: {codes: [500], attempts: 2, backoff: 1ms}\n  \
                 backendRefs: [{name: billing, port: 80}]\n\
                 - backendRefs: [{name: billing, port: 80}]";
    let spec = format!("{NO_BREAKER}\ntimeouts: {{request: 30s}}\nretry: {{attempts: 0}}");
    let versions = Versions::start(&[
        http_route(rules),
        ("traffic.yaml", traffic_policy("billing", &spec)),
    ])?;
    versions.own.behave(Behaviour::Status(500));
    assert_eq!(get(&versions.mesh, "/again")?.status, 500);
    assert_eq!(versions.own.count("/again"), 3);
    assert_eq!(retries(&versions.mesh, "status")?, 2.0);
    assert_eq!(get(&versions.mesh, "/once")?.status, 500);
    assert_eq!(versions.own.count("/once"), 1);
    versions.own.behave(Behaviour::Hang);
    assert_refused(&get(&versions.mesh, "/cut")?, 504, "request_timeout");
    let last = versions.own.last().context("a request")?;
    let left = crate::traffic::time_left(&last).context("its time")?;
    assert!(left <= 200, "{left} ms");
    Ok(())
}
