//! Every metric of the control plane. Owns the registry; the rest of the crate only counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

const PREFIX: &str = "outrider_control_plane";

/// The control plane's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connected_sidecars: IntGauge,
    pub(crate) resource_version: IntGauge,
    pub(crate) acknowledged_version: IntGaugeVec,
    pub(crate) sent_version: IntGaugeVec,
    pub(crate) propagation: Histogram,
    pub(crate) nacks: IntCounter,
    pub(crate) withdrawals: IntCounter,
    pub(crate) withdrawal: Histogram,
    pub(crate) streams_ended: IntCounterVec,
    pub(crate) certificates_issued: IntCounter,
    pub(crate) certificates_refused: IntCounterVec,
    pub(crate) handshakes: IntCounterVec,
    pub(crate) accept_errors: IntCounter,
    pub(crate) own_certificate_expiry: IntGauge,
    pub(crate) authority: AuthorityMetrics,
    pub(crate) config: ConfigMetrics,
    pub(crate) watches: WatchMetrics,
    pub(crate) webhook: WebhookMetrics,
}

/// What the watches of an API server came to, by the kind.
#[derive(Clone, Debug)]
pub(crate) struct WatchMetrics {
    pub(crate) errors: IntCounterVec,
    pub(crate) last_event: IntGaugeVec,
}

/// Of the certificate authority.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityMetrics {
    pub(crate) expiry: IntGauge,
    pub(crate) anchors: IntGauge,
    pub(crate) leads: IntGauge,
    pub(crate) valid: IntGauge,
    pub(crate) step: IntGauge,
    pub(crate) bundles: IntCounterVec,
}

/// What became of what the source held.
#[derive(Clone, Debug)]
pub(crate) struct ConfigMetrics {
    pub(crate) valid: IntGauge,
    pub(crate) problems: IntGauge,
    pub(crate) reloads: IntCounterVec,
    pub(crate) last_success: IntGauge,
}

/// What the admission webhooks were asked.
#[derive(Clone, Debug)]
pub(crate) struct WebhookMetrics {
    pub(crate) reviews: IntCounterVec,
    pub(crate) certificate_expiry: IntGauge,
}

impl Metrics {
    /// Registers every metric in a registry of its own.
    ///
    /// # Errors
    /// Two metrics share a name: a mistake in this function.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let make = Register(&registry);
        Ok(Self {
            connected_sidecars: make.gauge(
                "connected_sidecars",
                "Sidecars whose discovery stream is open.",
            )?,
            resource_version: make.gauge(
                "resource_version",
                "The version of the mesh: grows with every change that was applied.",
            )?,
            acknowledged_version: make.gauges(
                "acknowledged_version",
                "The newest version that the workload's connected sidecar has acknowledged.",
                &["namespace", "workload"],
            )?,
            sent_version: make.gauges(
                "sent_version",
                "The newest version that the workload's connected sidecar was sent.",
                &["namespace", "workload"],
            )?,
            propagation: make.seconds(
                "propagation_seconds",
                "From a change being noticed to a sidecar's acknowledgement of it.",
            )?,
            nacks: make.counter("nacks_total", "Resources that a sidecar rejected.")?,
            withdrawals: make.counter(
                "withdrawals_total",
                "Endpoints that were withdrawn, since their sidecars drain.",
            )?,
            withdrawal: make.seconds(
                "withdrawal_seconds",
                "From a sidecar saying that it drains until every sidecar that knew its endpoint has \
                 acknowledged that it is gone.",
            )?,
            streams_ended: make.counters(
                "streams_ended_total",
                "Discovery streams that have ended, by the reason.",
                &["reason"],
            )?,
            certificates_issued: make.counter(
                "certificates_issued_total",
                "Certificates issued to sidecars.",
            )?,
            certificates_refused: make.counters(
                "certificates_refused_total",
                "Requests for a certificate that were refused, by the reason.",
                &["reason"],
            )?,
            handshakes: make.counters(
                "tls_handshakes_total",
                "TLS handshakes on the sidecars' port, by the result.",
                &["result"],
            )?,
            accept_errors: make.counter(
                "accept_errors_total",
                "Connections that could not be accepted.",
            )?,
            own_certificate_expiry: make.gauge(
                "certificate_expiry_timestamp_seconds",
                "When the control plane's own certificate expires.",
            )?,
            authority: AuthorityMetrics::new(&make)?,
            config: ConfigMetrics::new(&make)?,
            watches: WatchMetrics::new(&make)?,
            webhook: WebhookMetrics::new(&make)?,
            registry,
        })
    }

    /// The Prometheus text format, and its content type.
    ///
    /// # Errors
    /// A metric could not be written.
    pub(crate) fn render(&self) -> Result<(Vec<u8>, String), prometheus::Error> {
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        Ok((text, encoder.format_type().to_owned()))
    }

    pub(crate) fn observe_propagation(&self, taken: Duration) {
        self.propagation.observe(taken.as_secs_f64());
    }
}

impl WatchMetrics {
    fn new(make: &Register<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            errors: make.counters(
                "watch_errors_total",
                "Lists and watches of the API server that have failed; each is tried again.",
                &["kind"],
            )?,
            last_event: make.gauges(
                "watch_last_event_timestamp_seconds",
                "When the API server last said something of this kind.",
                &["kind"],
            )?,
        })
    }
}

impl AuthorityMetrics {
    fn new(make: &Register<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            expiry: make.gauge(
                "ca_expiry_timestamp_seconds",
                "When the certificate of the authority that signs expires.",
            )?,
            anchors: make.gauge("trust_anchors", "Authorities that are trusted.")?,
            leads: make.gauge(
                "leader",
                "1 if this replica holds the Lease, else 0; on Kubernetes only.",
            )?,
            valid: make.gauge(
                "ca_secret_valid",
                "1 if the authority's Secret could be used when it was read last, else 0; on \
                 Kubernetes only.",
            )?,
            step: make.gauge(
                "ca_rotation_step",
                "0 no rotation, 1 the next authority is trusted, 2 it signs \
                 and the previous is to be forgotten.",
            )?,
            bundles: make.counters(
                "trust_bundle_writes_total",
                "ConfigMaps with the trust bundle that were written or deleted, by the result.",
                &["result"],
            )?,
        })
    }
}

impl WebhookMetrics {
    fn new(make: &Register<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            reviews: make.counters(
                "webhook_reviews_total",
                "Reviews that the API server asked for, by webhook and result.",
                &["webhook", "result"],
            )?,
            certificate_expiry: make.gauge(
                "webhook_certificate_expiry_timestamp_seconds",
                "When the certificate of the webhooks ends; 0 where there is none.",
            )?,
        })
    }
}

impl ConfigMetrics {
    fn new(make: &Register<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            valid: make.gauge(
                "config_valid",
                "1 if what the source holds now is valid and applied, else 0.",
            )?,
            problems: make.gauge("config_problems", "Problems in what the source holds now.")?,
            reloads: make.counters(
                "config_reloads_total",
                "Changes of the source that were read, by the result.",
                &["result"],
            )?,
            last_success: make.gauge(
                "config_last_success_timestamp_seconds",
                "When a change of the source was last applied.",
            )?,
        })
    }
}

/// Seconds since 1970; 0 before it.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// A version as a gauge's value.
pub(crate) fn gauge_value(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

struct Register<'r>(&'r Registry);

impl Register<'_> {
    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let options = HistogramOpts::new(name, help).buckets(buckets);
        let histogram = Histogram::with_opts(options)?;
        self.0.register(Box::new(histogram.clone()))?;
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_documented() {
        let metrics = Metrics::new().unwrap();
        metrics.config.reloads.with_label_values(&["applied"]).inc();
        let (text, _) = metrics.render().unwrap();
        let text = String::from_utf8(text).unwrap();
        for name in [
            "connected_sidecars 0",
            "resource_version 0",
            "propagation_seconds_bucket{le=\"0.1\"} 0",
            "config_reloads_total{result=\"applied\"} 1",
        ] {
            assert!(
                text.contains(&format!("outrider_control_plane_{name}")),
                "{name} is not in {text}"
            );
        }
    }
}
