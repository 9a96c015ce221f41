//! TrafficPolicy and RateLimitPolicy: each way of getting them wrong.

use super::assert_problem;

/// A policy on the Service a, with one field more in line 6.
fn policy(kind: &str, field: &str) -> String {
    format!(
        "apiVersion: outrider.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: a}}]\n  {field}\n"
    )
}

#[test]
fn targets_that_are_wrong() {
    let of = |targets: &str| {
        let good = policy("TrafficPolicy", "limits: {}");
        good.replace("[{group: '', kind: Service, name: a}]", targets)
    };
    let many = "{group: '', kind: Service, name: a}, ".repeat(17);
    let table = [
        (
            of("[]"),
            "5:15: spec.targetRefs: has 0 entries, expected 1 to 16",
        ),
        (
            of(&format!("[{many}]")),
            "5:15: spec.targetRefs: has 17 entries",
        ),
        (
            of("[{group: '', kind: Pod, name: a}]"),
            "5:16: spec.targetRefs[0]: cannot target group \"\", kind \"Pod\", expected group \"\" with kind Service",
        ),
        (
            of("[{group: '', kind: Service, name: a, sectionName: x}]"),
            "5:52: spec.targetRefs[0].sectionName: unknown field \"sectionName\"",
        ),
        (
            of("[{group: '', kind: Service, name: a.b}]"),
            "5:49: spec.targetRefs[0].name: \"a.b\" is not a name",
        ),
    ];
    for (text, expected) in table {
        assert_problem(&text, expected);
    }
}

#[test]
fn settings_that_are_wrong() {
    let table = [
        (
            "timeout: {}",
            "6:3: spec.timeout: unknown field \"timeout\", expected targetRefs, timeouts",
        ),
        (
            "timeouts: {request: -1s}",
            "6:23: spec.timeouts.request: \"-1s\" is not a duration",
        ),
        (
            "timeouts: {request: 1.5s}",
            "6:23: spec.timeouts.request: \"1.5s\" is not a duration",
        ),
        (
            "timeouts: {request: 25h}",
            "6:23: spec.timeouts.request: is 25h, expected 0s to 24h",
        ),
        (
            "timeouts: {connect: 0s}",
            "6:23: spec.timeouts.connect: is 0s, expected 1ms to 1m",
        ),
        (
            "timeouts: {request: 10}",
            "6:23: spec.timeouts.request: is the number 10, expected text",
        ),
        (
            "retry: {attempts: 11}",
            "6:21: spec.retry.attempts: is 11, expected 0 to 10",
        ),
        (
            "retry: {attempts: -1}",
            "6:21: spec.retry.attempts: is -1, expected 0 to 10",
        ),
        (
            "retry: {codes: [200]}",
            "6:19: spec.retry.codes[0]: is 200, expected 400 to 599",
        ),
        (
            "retry: {codes: [503, 503]}",
            "6:18: spec.retry.codes: has the same entry at 0 and 1",
        ),
        (
            "retry: {grpcCodes: [UNAVAILBLE]}",
            "6:23: spec.retry.grpcCodes[0]: is \"UNAVAILBLE\", expected CANCELLED",
        ),
        (
            "retry: {grpcCodes: [0]}",
            "6:23: spec.retry.grpcCodes[0]: 0 is not the status of a failure",
        ),
        (
            "retryBudget: {budget: {percent: 101}}",
            "6:35: spec.retryBudget.budget.percent: is 101, expected 0 to 100",
        ),
        (
            "limits: {maxRequests: 0}",
            "6:25: spec.limits.maxRequests: is 0, expected 1 to 1000000",
        ),
        (
            "outlierDetection: {window: 0s}",
            "6:30: spec.outlierDetection.window: is 0s, expected 1s to 1h",
        ),
        (
            "outlierDetection: {whenAllEjected: Panic}",
            "6:38: spec.outlierDetection.whenAllEjected: is \"Panic\", expected Refuse or UseAll",
        ),
        (
            "healthCheck: {path: healthz}",
            "6:23: spec.healthCheck.path: path \"healthz\" does not begin",
        ),
        (
            "healthCheck: {path: /, port: 0}",
            "6:32: spec.healthCheck.port: is 0, expected 1 to 65535",
        ),
        (
            "loadBalancing: {algorithm: Maglev}",
            "6:30: spec.loadBalancing.algorithm: is \"Maglev\", expected PeakEwma",
        ),
        (
            "loadBalancing: {hashOn: {}}",
            "6:27: spec.loadBalancing.hashOn: expected exactly one of",
        ),
        (
            "loadBalancing: {hashOn: {header: 'a b'}}",
            "6:27: spec.loadBalancing.hashOn: \"a b\" is not the name of a header",
        ),
        (
            "loadBalancing: {locality: {minAvailablePercent: 0}}",
            "6:51: spec.loadBalancing.locality.minAvailablePercent: is 0, expected 1 to 100",
        ),
        (
            "faults: [{percent: 100.5, delay: 1s}]",
            "6:22: spec.faults[0].percent: is 100.5, expected 0 to 100",
        ),
        (
            "faults: [{percent: 0.001, delay: 1s}]",
            "6:22: spec.faults[0].percent: is 0.001, expected 0 to 100",
        ),
        (
            "faults: [{percent: 1}]",
            "6:12: spec.faults[0]: expected exactly one of \"delay\" and \"abort\"",
        ),
        (
            "faults: [{percent: 1, abort: {status: 99}}]",
            "6:41: spec.faults[0].abort.status: is 99, expected 200 to 599",
        ),
        ("faults:", "6:9: spec.faults: is nothing, expected a list"),
    ];
    for (field, expected) in table {
        assert_problem(&policy("TrafficPolicy", field), expected);
    }
}

#[test]
fn mesh_wide_settings_are_the_same() {
    let mesh = "apiVersion: outrider.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec:\n  traffic: {retry: {attempts: 11}}\n";
    assert_problem(
        mesh,
        "5:31: spec.traffic.retry.attempts: is 11, expected 0 to 10",
    );
    let targets = mesh.replace("{retry: {attempts: 11}}", "{targetRefs: []}");
    assert_problem(
        &targets,
        "5:13: spec.traffic.targetRefs: unknown field \"targetRefs\"",
    );
}

#[test]
fn rate_limits_that_are_wrong() {
    let table = [
        ("limits: []", "6:11: spec.limits: is an empty list"),
        (
            "limits: [{name: A, requests: 1}]",
            "6:19: spec.limits[0].name: \"A\" is not a name",
        ),
        (
            "limits: [{name: a}]",
            "6:12: spec.limits[0].requests: is missing",
        ),
        (
            "limits: [{name: a, requests: 0}]",
            "6:32: spec.limits[0].requests: is 0, expected 1 to 1000000000",
        ),
        (
            "limits: [{name: a, requests: 1, interval: 0s}]",
            "6:45: spec.limits[0].interval: is 0s, expected 1ms to 24h",
        ),
        (
            "limits: [{name: a, requests: 1, burst: 0}]",
            "6:42: spec.limits[0].burst: is 0",
        ),
        (
            "limits: [{name: a, requests: 1, sources: []}]",
            "6:44: spec.limits[0].sources: is an empty list",
        ),
        ("limits: [{name: a, requests: 1, sources: }]", "6:"),
        (
            "limits: [{name: a, requests: 1}, {name: a, requests: 2}]",
            "6:11: spec.limits: has two limits named \"a\"",
        ),
        (
            "concurrency: {}",
            "6:16: spec.concurrency.maxRequests: is missing",
        ),
        (
            "concurrency: {maxRequests: 1, maxWait: 2m}",
            "6:42: spec.concurrency.maxWait: is 2m, expected 1ms to 1m",
        ),
    ];
    for (field, expected) in table {
        assert_problem(&policy("RateLimitPolicy", field), expected);
    }
}
