//! TrafficPolicy over MeshConfig over the defaults, and what RateLimitPolicies add up to.

use std::collections::BTreeSet;

use outrider_api::model::traffic::{Algorithm, FaultKind, HashOn, InboundLimits, TrafficSettings};

use super::explain::Setting;
use super::*;

/// A TrafficPolicy on the Service billing of [`SHOP`].
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrider.mesh/v1alpha1\nkind: TrafficPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: billing}}]\n  {spec}\n"
    )
}

fn limit(name: &str, spec: &str) -> String {
    policy(name, spec).replace("TrafficPolicy", "RateLimitPolicy")
}

/// [`SHOP`] with mesh-wide settings, and a TrafficPolicy.
fn text(everywhere: &str, own: &str) -> String {
    let shop = SHOP.replacen(
        "certificateLifetime: 1h}",
        &format!("certificateLifetime: 1h,\n  traffic: {{{everywhere}}}}}"),
        1,
    );
    format!("{shop}{}", policy("p", own))
}

fn settings(everywhere: &str, own: &str) -> TrafficSettings {
    let mesh = fold(&text(everywhere, own)).unwrap();
    let destination = &**mesh.destination(&service("billing")).unwrap();
    let wire = outrider_api::proto::Destination::from(destination);
    let read: outrider_api::model::Destination = wire.try_into().unwrap();
    assert_eq!(&read, destination, "a sidecar takes it as it is");
    read.traffic
}

#[test]
fn field_by_field_the_nearest_wins() {
    let everywhere = "timeouts: {request: 30s, connect: 1s}, retry: {attempts: 2}, \
                      faults: [{percent: 1, delay: 1s}]";
    let own = "timeouts: {request: 10s, backendRequest: 2s}";
    let settings = settings(everywhere, own);
    let default = TrafficSettings::default();
    assert_eq!(settings.timeouts.request, Some(Duration::from_secs(10)));
    assert_eq!(
        settings.timeouts.backend_request,
        Some(Duration::from_secs(2))
    );
    assert_eq!(settings.timeouts.connect, Duration::from_secs(1));
    assert_eq!(settings.timeouts.stream_idle, default.timeouts.stream_idle);
    assert_eq!(settings.retry.attempts, 2);
    assert_eq!(settings.retry.codes, default.retry.codes);
    assert_eq!(settings.faults.len(), 1);
    let mesh = fold(&text(everywhere, own)).unwrap();
    let other = &mesh.destination(&service("billing-db")).unwrap().traffic;
    assert_eq!(other.timeouts.request, Some(Duration::from_secs(30)));
}

#[test]
fn every_setting_can_be_written() {
    let settings = settings(
        "",
        "timeouts: {request: 0s, backendRequest: 0s, streamIdle: 0s, tcpIdle: 0s}\n  \
         retry: {attempts: 0, codes: [500, 502], grpcCodes: [UNAVAILABLE, 8], onReset: false, onTimeout: false, nonIdempotent: true, backoff: 1s}\n  \
         retryBudget: {budget: {percent: 50, interval: 20s}, minRetryRate: {count: 1, interval: 2s}}\n  \
         limits: {maxConnections: 1, maxPendingRequests: 0, maxRequests: 2}\n  \
         outlierDetection: {consecutiveErrors: 3, latency: 1s, baseEjection: 10m, whenAllEjected: UseAll}\n  \
         healthCheck: {path: /healthz, port: 80, interval: 10s}\n  \
         loadBalancing: {algorithm: ConsistentHash, hashOn: {header: X-User}, slowStart: 30s, locality: {}}\n  \
         faults: [{percent: 0.5, delay: 100ms}, {percent: 100, abort: {status: 500, grpcStatus: INTERNAL}}]",
    );
    assert_eq!(settings.timeouts.request, None);
    assert_eq!(settings.timeouts.tcp_idle, None);
    assert_eq!(settings.retry.grpc_codes, [14, 8]);
    assert_eq!(
        settings.retry.max_backoff,
        Duration::from_secs(1),
        "raised with backoff"
    );
    assert_eq!(settings.budget.percent, 50);
    assert_eq!(settings.limits.max_pending_requests, 0);
    assert_eq!(settings.outliers.latency, Some(Duration::from_secs(1)));
    assert_eq!(settings.outliers.max_ejection, Duration::from_secs(600));
    let check = settings.health_check.unwrap();
    assert_eq!((check.port, check.unhealthy_threshold), (Some(80), 3));
    let on = HashOn::Header("x-user".parse().unwrap());
    assert_eq!(settings.balancing.algorithm, Algorithm::ConsistentHash(on));
    assert_eq!(
        settings.balancing.locality.unwrap().min_available_percent,
        70
    );
    assert_eq!(settings.faults[0].basis_points, 50);
    let abort = FaultKind::Abort {
        status: 500,
        grpc: 13,
    };
    assert_eq!(settings.faults[1].kind, abort);
}

#[test]
fn settings_that_contradict_each_other_are_problems() {
    let table = [
        (
            "",
            "timeouts: {backendRequest: 16s}",
            "spec.timeouts.backendRequest: is 16s, longer than timeouts.request, which is 15s",
        ),
        (
            "timeouts: {request: 1s}",
            "timeouts: {backendRequest: 2s}",
            "spec.timeouts.backendRequest: is 2s, longer",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}",
            "{}",
            "spec.traffic.timeouts.backendRequest: is 2s",
        ),
        (
            "timeouts: {backendRequest: 2s}",
            "timeouts: {request: 1s}",
            "spec.timeouts.backendRequest: by the MeshConfig is 2s, longer than timeouts.request",
        ),
        (
            "",
            "retry: {backoff: 1s, maxBackoff: 500ms}",
            "spec.retry.maxBackoff: is 500ms, shorter than retry.backoff",
        ),
        (
            "",
            "outlierDetection: {baseEjection: 1m, maxEjection: 1s}",
            "spec.outlierDetection.maxEjection: is 1s, shorter",
        ),
        (
            "",
            "healthCheck: {path: /, interval: 1s, timeout: 2s}",
            "spec.healthCheck.interval: is 1s, shorter",
        ),
        (
            "",
            "healthCheck: {path: /, port: 81}",
            "spec.healthCheck.port: Service shop/billing has no port 81, expected one of 80",
        ),
        (
            "",
            "loadBalancing: {algorithm: ConsistentHash}",
            "spec.loadBalancing.algorithm: is ConsistentHash, expected \"hashOn\"",
        ),
        (
            "healthCheck: {port: 80}",
            "limits: {}",
            "spec.traffic.healthCheck.port: is of no Service",
        ),
    ];
    for (everywhere, own, expected) in table {
        let own = if own == "{}" { "limits: {}" } else { own };
        let problems = problems(&text(everywhere, own));
        assert!(
            problems[0].contains(expected),
            "\n   got: {problems:?}\nexpect: {expected}"
        );
    }
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let table = [
        (
            "healthCheck: {interval: 1s}",
            Some("spec.healthCheck: is not looked at: without"),
        ),
        ("healthCheck: {interval: 10s, path: /}", None),
        (
            "loadBalancing: {hashOn: {source: true}}",
            Some("spec.loadBalancing.hashOn: is not looked at: \"algorithm\" is not"),
        ),
        (
            "loadBalancing: {algorithm: ConsistentHash, hashOn: {source: true}}",
            None,
        ),
    ];
    for (own, expected) in table {
        let mesh = fold(&text("", own)).unwrap();
        let warnings: Vec<String> = mesh.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings.len(),
            usize::from(expected.is_some()),
            "{warnings:?}"
        );
        if let Some(expected) = expected {
            assert!(warnings[0].contains(expected), "{warnings:?}");
        }
    }
}

#[test]
fn a_service_has_one_traffic_policy() {
    let text = format!(
        "{SHOP}{}{}",
        policy("a", "limits: {}"),
        policy("b", "limits: {}")
    );
    let problems = problems(&text);
    let expected = "spec.targetRefs[0].name: Service shop/billing has two TrafficPolicies, expected \
                    one: TrafficPolicy shop/a is about it too";
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains(expected), "{problems:?}");
    let missing = policy("a", "limits: {}").replace("name: billing", "name: billig");
    let problems = super::problems(&format!("{SHOP}{missing}"));
    assert!(
        problems[0].contains("there is no Service shop/billig"),
        "{problems:?}"
    );
}

fn limits<'m>(mesh: &'m Mesh, name: &str) -> &'m InboundLimits {
    &workload(mesh, name).limits
}

#[test]
fn rate_limits_add_up() {
    let mesh = fold(&format!(
        "{SHOP}{}{}",
        limit("a", "limits: [{name: all, requests: 100, ports: [8080]}]\n  concurrency: {maxRequests: 5}"),
        limit("b", "limits: [{name: order, sources: [{type: ServiceAccount, serviceAccount: {name: order}}], requests: 10, interval: 1m, burst: 3}]"),
    ))
    .unwrap();
    let billing = limits(&mesh, "billing-1");
    let named: Vec<(&str, &str, u32, u32)> = billing
        .rates
        .iter()
        .map(|rate| (&*rate.policy, &*rate.name, rate.requests, rate.burst))
        .collect();
    assert_eq!(
        named,
        [("shop/a", "all", 100, 100), ("shop/b", "order", 10, 3)]
    );
    let concurrency = billing.concurrency.unwrap();
    assert_eq!((concurrency.max_requests, concurrency.max_queued), (5, 0));
    assert_eq!(concurrency.max_wait, Duration::from_millis(100));
    assert_eq!(limits(&mesh, "billing-2"), billing);
    assert_eq!(limits(&mesh, "order-1"), &InboundLimits::default());
}

#[test]
fn rate_limits_that_are_wrong() {
    let bound = "concurrency: {maxRequests: 5}";
    let table = [
        (
            limit("a", "limits: [{name: x, requests: 1, ports: [9]}]"),
            "spec.limits[0].ports[0]: no workload that this policy is about has the port 9",
        ),
        (limit("a", ""), "spec: limits nothing"),
        (
            format!("{}{}", limit("a", bound), limit("b", bound)),
            "spec.concurrency: another RateLimitPolicy bounds",
        ),
        (
            limit("a", bound).replace("name: billing", "name: x"),
            "spec.targetRefs[0].name: there is no Service shop/x",
        ),
    ];
    for (policies, expected) in table {
        let problems = problems(&format!("{SHOP}{policies}"));
        assert!(
            problems[0].contains(expected),
            "\n   got: {problems:?}\nexpect: {expected}"
        );
    }
}

#[test]
fn each_setting_says_where_it_comes_from() {
    let text = text(
        "timeouts: {request: 30s, connect: 1s}",
        "timeouts: {request: 10s}\n  loadBalancing: {algorithm: ConsistentHash, hashOn: {cookie: c}}",
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let settings = explain::settings(&objects, mesh.destination(&service("billing")).unwrap());
    let texts: Vec<String> = settings
        .iter()
        .map(|setting| format!("{} {} {}", setting.field, setting.value, setting.origin))
        .collect();
    let place = |needle| format!("(mesh.yaml:{})", line(&text, needle));
    let expected = [
        format!(
            "timeouts.request 10s TrafficPolicy shop/p {}",
            place("timeouts: {request: 10s}")
        ),
        format!("timeouts.connect 1s MeshConfig {}", place("traffic: {")),
        "timeouts.backendRequest 0s default".to_owned(),
        "retry.codes [503] default".to_owned(),
        "healthCheck.path none default".to_owned(),
        "faults none default".to_owned(),
        format!(
            "loadBalancing.hashOn {{\"cookie\":\"c\"}} TrafficPolicy shop/p {}",
            place("loadBalancing: {")
        ),
    ];
    for expected in expected {
        assert!(texts.contains(&expected), "{expected} is not in {texts:#?}");
    }
}

#[test]
fn what_a_layer_replaces_whole_is_the_layer_s() {
    let text = text(
        "loadBalancing: {hashOn: {source: true}, locality: {minAvailablePercent: 50}}",
        "loadBalancing: {locality: {}}",
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let settings = explain::settings(&objects, mesh.destination(&service("billing")).unwrap());
    let of = |field: &str| {
        let found = settings.iter().find(|setting| setting.field == field);
        let Setting { value, origin, .. } = found.unwrap();
        format!("{value} {origin}")
    };
    let place = line(&text, "loadBalancing: {locality: {}}");
    assert_eq!(
        of("loadBalancing.locality.minAvailablePercent"),
        format!("70 TrafficPolicy shop/p (mesh.yaml:{place})")
    );
    assert_eq!(of("loadBalancing.hashOn"), "none default");
}

/// The table of docs/concepts.md, "Whose settings".
#[test]
fn a_backend_keeps_what_concerns_its_endpoints() {
    let text = text("", "healthCheck: {path: /}");
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let settings = explain::settings(&objects, mesh.destination(&service("billing")).unwrap());
    let (of_backend, of_called): (Vec<&str>, Vec<&str>) = settings
        .iter()
        .map(|setting| setting.field.as_str())
        .partition(|field| explain::is_of_backend(field));
    let parts = |fields: &[&str]| {
        let parts = fields.iter().map(|field| match field.split_once('.') {
            Some((part, _)) if part != "timeouts" => part.to_owned(),
            _ => (*field).to_owned(),
        });
        parts.collect::<BTreeSet<String>>()
    };
    let expected = [
        "timeouts.request",
        "timeouts.backendRequest",
        "timeouts.streamIdle",
        "retry",
        "faults",
    ];
    assert_eq!(parts(&of_called), expected.map(str::to_owned).into());
    let expected = [
        "timeouts.connect",
        "timeouts.tcpIdle",
        "retryBudget",
        "limits",
        "outlierDetection",
        "healthCheck",
        "loadBalancing",
    ];
    assert_eq!(parts(&of_backend), expected.map(str::to_owned).into());
}

#[test]
fn each_limit_says_where_it_comes_from() {
    let text = format!(
        "{SHOP}{}{}",
        limit(
            "a",
            "limits: [{name: x, requests: 1}, {name: y, requests: 5, interval: 1m, burst: 9}]"
        ),
        limit("b", "concurrency: {maxRequests: 5}"),
    );
    let objects = manifest::parse(Path::new("mesh.yaml"), &text).unwrap();
    let mesh = build(&objects, None).unwrap();
    let told = |name: &str| -> Vec<String> {
        let limits = explain::limits(&objects, workload(&mesh, name), |rate| rate.name == "y");
        let texts = limits.iter();
        texts
            .map(|limit| format!("{} {} {}", limit.field, limit.value, limit.origin))
            .collect()
    };
    let place = |needle| format!("(mesh.yaml:{})", line(&text, needle));
    let (a, b) = (place("limits: [{name: x"), place("concurrency: "));
    let expected = [
        format!("limits.y 5 in 1m, burst 9 RateLimitPolicy shop/a {a}"),
        format!("concurrency.maxRequests 5 RateLimitPolicy shop/b {b}"),
        format!("concurrency.maxQueued 0 RateLimitPolicy shop/b {b}"),
        format!("concurrency.maxWait 100ms RateLimitPolicy shop/b {b}"),
    ];
    assert_eq!(told("billing-1"), expected);
    assert_eq!(told("order-1"), [""; 0]);
}
