//! Every metric of the sidecar. Names that Istio's dashboards know keep Istio's labels; ours begin
//! with `outrider_`. Label values come from the mesh's own objects or from closed sets, never from
//! a request, so that no caller can make series; [`super::names`] bounds the one exception.

use std::time::Instant;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::edge::EdgeLabels;
use super::series::Series;
use super::traffic::TrafficMetrics;
use crate::refusal::Refusal;

/// The labels that tell one edge of the mesh from another, in the order in which
/// [`EdgeLabels`] has their values.
pub const EDGE_LABELS: [&str; 14] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "connection_security_policy",
    "request_protocol",
];
const ANSWER_LABELS: [&str; 3] = ["response_code", "grpc_response_status", "response_flags"];
/// Upper bounds of the latency histogram, milliseconds: Istio's, without the longest.
const DURATION_BUCKETS: [f64; 17] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0,
    10000.0, 30000.0,
];

/// The registry and its handles. Shared by all threads; what a request counts into is resolved
/// beforehand, in [`super::edge::Edge`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Who counts into the series of which edge, and into those of which answers.
    pub edges: Series<EdgeLabels, [String; ANSWER_LABELS.len()]>,
    pub requests: IntCounterVec,
    pub durations: HistogramVec,
    pub tcp_sent: IntCounterVec,
    pub tcp_received: IntCounterVec,
    pub tcp_opened: IntCounterVec,
    pub tcp_closed: IntCounterVec,
    pub refusals: IntCounterVec,
    pub audit: IntCounterVec,
    pub handshakes: IntCounterVec,
    pub traffic: TrafficMetrics,
    pub detections: IntCounterVec,
    pub intercepted: IntCounterVec,
    pub named_connections: IntCounterVec,
    pub probes: IntCounterVec,
    pub rate_limits: IntCounterVec,
    pub queued_requests: IntGauge,
    pub open_connections: IntGaugeVec,
    pub certificate_expiry: IntGauge,
    pub certificate_renewals: IntCounterVec,
    pub config_version: IntGauge,
    pub config_age: IntGauge,
    pub config_rejected: IntCounter,
    pub control_plane_connected: IntGauge,
    pub foreign_sockets: IntGauge,
    resident_memory: IntGauge,
}

impl Metrics {
    /// Registers everything. Fails only if two metrics had one name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let with_answer: Vec<&str> = EDGE_LABELS.iter().chain(&ANSWER_LABELS).copied().collect();
        let metrics = Self {
            edges: Series::default(),
            requests: counters(
                &registry,
                "istio_requests_total",
                "Requests, by edge and answer.",
                &with_answer,
            )?,
            durations: histograms(
                &registry,
                "istio_request_duration_milliseconds",
                "From a request's head to the end of its response, milliseconds.",
                &EDGE_LABELS,
                &DURATION_BUCKETS,
            )?,
            tcp_sent: counters(
                &registry,
                "istio_tcp_sent_bytes_total",
                "Bytes sent to the caller.",
                &EDGE_LABELS,
            )?,
            tcp_received: counters(
                &registry,
                "istio_tcp_received_bytes_total",
                "Bytes received from the caller.",
                &EDGE_LABELS,
            )?,
            tcp_opened: counters(
                &registry,
                "istio_tcp_connections_opened_total",
                "Opaque connections opened.",
                &EDGE_LABELS,
            )?,
            tcp_closed: counters(
                &registry,
                "istio_tcp_connections_closed_total",
                "Opaque connections closed.",
                &EDGE_LABELS,
            )?,
            refusals: counters(
                &registry,
                "outrider_refusals_total",
                "What the sidecar refused itself, by its closed reason.",
                &["direction", "reason", "peer"],
            )?,
            audit: counters(
                &registry,
                "outrider_audit_total",
                "Calls that a policy with action AUDIT would have refused.",
                &["policy", "peer"],
            )?,
            handshakes: counters(
                &registry,
                "outrider_tls_handshakes_total",
                "TLS handshakes between sidecars, by result.",
                &["direction", "result"],
            )?,
            traffic: TrafficMetrics::new(&registry)?,
            detections: counters(
                &registry,
                "outrider_detection_total",
                "Connections of undeclared protocol, by what they turned out to be.",
                &["result"],
            )?,
            intercepted: counters(
                &registry,
                "outrider_intercepted_connections_total",
                "Intercepted connections, by where they lead.",
                &["direction", "to"],
            )?,
            named_connections: counters(
                &registry,
                "outrider_named_connections_total",
                "Intercepted connections that are carried or refused without being read, by the name that the client says.",
                &["destination", "by", "name"],
            )?,
            probes: counters(
                &registry,
                "outrider_probes_total",
                "Health probes without an identity that reached the app, by kind.",
                &["kind"],
            )?,
            rate_limits: counters(
                &registry,
                "outrider_rate_limit_total",
                "Requests and opaque connections that a rate limit counted, by result.",
                &["policy", "limit", "result"],
            )?,
            queued_requests: gauge(
                &registry,
                "outrider_queued_requests",
                "Requests that wait for room in the app.",
            )?,
            open_connections: gauges(
                &registry,
                "outrider_open_connections",
                "Connections that are open now.",
                &["direction"],
            )?,
            certificate_expiry: gauge(
                &registry,
                "outrider_certificate_expiry_timestamp_seconds",
                "When the certificate in use ends, Unix seconds; 0 without one.",
            )?,
            certificate_renewals: counters(
                &registry,
                "outrider_certificate_renewals_total",
                "Certificates asked for, by result.",
                &["result"],
            )?,
            config_version: gauge(
                &registry,
                "outrider_config_version",
                "The newest version applied.",
            )?,
            config_age: gauge(
                &registry,
                "outrider_config_age_seconds",
                "Since the last snapshot was received; -1 before the first.",
            )?,
            config_rejected: counter(
                &registry,
                "outrider_config_rejected_total",
                "Snapshots that were rejected.",
            )?,
            control_plane_connected: gauge(
                &registry,
                "outrider_control_plane_connected",
                "Whether the stream from the control plane is up.",
            )?,
            foreign_sockets: gauge(
                &registry,
                "outrider_foreign_sockets",
                "TCP sockets that have the sidecar's user and are another process's: they pass the sidecar.",
            )?,
            resident_memory: gauge(
                &registry,
                "outrider_resident_memory_bytes",
                "Resident memory of the sidecar, bytes.",
            )?,
            registry,
        };
        metrics.config_age.set(-1);
        Ok(metrics)
    }

    /// Counts a refusal. `peer` is a verified identity, or empty.
    pub fn refused(&self, direction: &str, refusal: Refusal, peer: &str) {
        self.refusals
            .with_label_values(&[direction, refusal.reason(), peer])
            .inc();
    }

    /// Takes out the series of edges and endpoints that are long gone.
    pub fn sweep(&self, now: Instant) {
        self.edges.sweep(now, |edge, answers| {
            // They have some of these each: what is not there cannot be taken out.
            let _ = self.durations.remove_label_values(edge);
            for tcp in [
                &self.tcp_sent,
                &self.tcp_received,
                &self.tcp_opened,
                &self.tcp_closed,
            ] {
                let _ = tcp.remove_label_values(edge);
            }
            for answer in answers {
                let labels: Vec<&String> = edge.iter().chain(answer).collect();
                let _ = self.requests.remove_label_values(&labels);
            }
        });
        self.traffic.sweep(now);
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> prometheus::Result<String> {
        self.resident_memory.set(resident_bytes().unwrap_or(0));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Resident set, bytes: the second field of `/proc/self/statm` counts pages of 4 KiB.
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm
        .split(' ')
        .nth(1)?
        .parse::<i64>()
        .ok()
        .map(|pages| pages * 4096)
}

pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

pub(super) fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::new(name, help)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    let metric = HistogramVec::new(
        HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        labels,
    )?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_render() {
        let metrics = Metrics::new().expect("unique names");
        metrics.refused(
            "inbound",
            Refusal::AuthorizationDenied,
            "spiffe://a/ns/b/sa/c",
        );
        let text = metrics.render().expect("text");
        assert!(text.contains(
            "outrider_refusals_total{direction=\"inbound\",peer=\"spiffe://a/ns/b/sa/c\",reason=\"authorization_denied\"} 1"
        ));
    }
}
