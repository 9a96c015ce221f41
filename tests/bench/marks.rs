//! What issue and documents ask of Outrider beside its peers, and whether this run shows it.

use crate::results::Results;
use crate::systems::System;

/// What a figure of ours must not exceed.
enum Limit {
    /// So many times the least of these systems' figures.
    Times(f64, &'static [&'static str]),
    AtMost(f64),
}

struct Mark {
    workload: &'static str,
    metric: &'static str,
    limit: Limit,
}

const HAPROXY: &[&str] = &["haproxy", "haproxy-h2"];
const HAPROXY_H2: &[&str] = &["haproxy-h2"];
const ENVOY: &[&str] = &["envoy"];
const NGINX: &[&str] = &["nginx"];
const CPU: &str = "cpu_us_per_request";

const fn mark(workload: &'static str, metric: &'static str, limit: Limit) -> Mark {
    Mark {
        workload,
        metric,
        limit,
    }
}

const MARKS: [Mark; 30] = [
    mark("http1-64", CPU, Limit::Times(1.0, HAPROXY_H2)),
    mark("http1-64", CPU, Limit::Times(0.22, ENVOY)),
    mark("http1-256", CPU, Limit::Times(1.0, HAPROXY_H2)),
    mark("http1-256", CPU, Limit::Times(0.22, ENVOY)),
    mark("http1-100k", CPU, Limit::Times(0.9, NGINX)),
    mark("http2", CPU, Limit::Times(1.0, HAPROXY)),
    mark("http2", CPU, Limit::Times(0.2, ENVOY)),
    mark("grpc-unary", CPU, Limit::Times(1.0, HAPROXY)),
    mark("grpc-unary", CPU, Limit::Times(0.2, ENVOY)),
    mark("opaque", CPU, Limit::Times(0.8, NGINX)),
    mark("opaque-new", CPU, Limit::Times(0.2, ENVOY)),
    mark("http-new", CPU, Limit::Times(1.0, HAPROXY)),
    mark("rate-800", CPU, Limit::Times(0.8, NGINX)),
    mark("rate-800", "p50_us", Limit::Times(1.0, NGINX)),
    mark("rate-800", "p99_us", Limit::Times(1.0, NGINX)),
    mark("rate-2000", CPU, Limit::Times(0.8, NGINX)),
    mark("rate-2000", "p50_us", Limit::Times(1.0, NGINX)),
    mark("rate-2000", "p99_us", Limit::Times(1.0, NGINX)),
    mark("bulk-down", "cpu_s_per_gb", Limit::Times(1.0, ENVOY)),
    mark("bulk-up", "cpu_s_per_gb", Limit::Times(1.0, ENVOY)),
    mark("at-rest", "rss_kb", Limit::AtMost(8192.0)),
    mark("at-rest", "rss_anonymous_kb", Limit::AtMost(2560.0)),
    mark(
        "idle-http",
        "outbound_kb_per_connection",
        Limit::AtMost(4.0),
    ),
    mark(
        "idle-opaque",
        "outbound_kb_per_connection",
        Limit::AtMost(6.0),
    ),
    mark(
        "idle-opaque",
        "inbound_kb_per_connection",
        Limit::AtMost(6.0),
    ),
    mark("idle-mtls", "inbound_rss_kb", Limit::AtMost(30.0 * 1024.0)),
    mark("start", "listening_ms", Limit::AtMost(30.0)),
    mark("gone-http", "growth_percent", Limit::AtMost(10.0)),
    mark("gone-opaque", "growth_percent", Limit::AtMost(10.0)),
    mark("mesh-size", "growth_kb", Limit::AtMost(1024.0)),
];

/// A mark and what became of it.
pub(crate) struct Judged {
    pub(crate) workload: &'static str,
    pub(crate) metric: &'static str,
    /// "≤ 0.22 × envoy"
    pub(crate) asked: String,
    pub(crate) ours: f64,
    /// Ours over theirs, where it is a ratio.
    pub(crate) ratio: Option<f64>,
    pub(crate) holds: bool,
}

/// Every mark for which both figures were measured.
pub(crate) fn judged(results: &Results) -> Vec<Judged> {
    MARKS
        .iter()
        .filter_map(|mark| judge(mark, results))
        .collect()
}

fn judge(mark: &Mark, results: &Results) -> Option<Judged> {
    let ours = results.median(System::OURS, mark.workload, mark.metric)?;
    let (asked, ratio, holds) = match mark.limit {
        Limit::AtMost(most) => (format!("≤ {most}"), None, ours <= most),
        Limit::Times(times, systems) => {
            let figures = systems
                .iter()
                .filter_map(|system| results.median(system, mark.workload, mark.metric));
            let theirs = figures.min_by(f64::total_cmp)?;
            let name = systems.first()?;
            let name = if systems.len() > 1 {
                "haproxy (its best)"
            } else {
                name
            };
            let ratio = ours / theirs;
            (format!("≤ {times} × {name}"), Some(ratio), ratio <= times)
        }
    };
    Some(Judged {
        workload: mark.workload,
        metric: mark.metric,
        asked,
        ours,
        ratio,
        holds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    #[test]
    fn a_mark_holds_up_to_its_limit_and_is_left_out_without_a_figure() {
        let mut results = Results::default();
        for (system, cpu) in [("outrider", 44.0), ("envoy", 200.0), ("haproxy-h2", 40.0)] {
            results.add(system, "http1-64", Sample::from([(CPU, cpu)]));
        }
        results.add("outrider", "start", Sample::from([("listening_ms", 31.0)]));
        let judged = judged(&results);
        let told: Vec<_> = judged
            .iter()
            .map(|mark| (mark.asked.as_str(), mark.holds))
            .collect();
        let expected = [
            ("≤ 1 × haproxy-h2", false),
            ("≤ 0.22 × envoy", true),
            ("≤ 30", false),
        ];
        assert_eq!(told, expected);
    }
}
