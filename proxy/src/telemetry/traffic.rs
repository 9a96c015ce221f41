//! What the decisions about traffic came to.

use std::time::Instant;

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, gauges};
use super::series::Series;
use crate::traffic::health::{Status, Transition};

/// See the module. `service` is `namespace/name`, `endpoint` is `namespace/workload`.
#[derive(Debug)]
pub struct TrafficMetrics {
    pub retries: IntCounterVec,
    pub retries_not_made: IntCounterVec,
    pub active_requests: IntGaugeVec,
    pub pending_requests: IntGaugeVec,
    pub mirrored: IntCounterVec,
    endpoint_state: IntGaugeVec,
    endpoint_transitions: IntCounterVec,
    /// Who has an endpoint, and how its breaker has changed. By `service` and `endpoint`.
    endpoints: Series<[String; 2], Transition>,
    context_kept: IntCounter,
    context_lost: IntCounter,
}

impl TrafficMetrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let context = counters(
            registry,
            "outrider_context_total",
            "Calls of the app while it works on requests, by whether it handed their tracestate on.",
            &["result"],
        )?;
        Ok(Self {
            retries: counters(
                registry,
                "outrider_retries_total",
                "Requests sent again, by what failed before.",
                &["service", "reason"],
            )?,
            retries_not_made: counters(
                registry,
                "outrider_retries_not_made_total",
                "Failures that a policy names and that were not retried, by why not.",
                &["service", "reason"],
            )?,
            active_requests: gauges(
                registry,
                "outrider_active_requests",
                "Requests from their head to the end of their answer.",
                &["service"],
            )?,
            pending_requests: gauges(
                registry,
                "outrider_pending_requests",
                "Requests that wait for a connection.",
                &["service"],
            )?,
            mirrored: counters(
                registry,
                "outrider_mirrored_total",
                "Copies of requests for mirrors, by result.",
                &["result"],
            )?,
            endpoint_state: gauges(
                registry,
                "outrider_endpoint_state",
                "Workers that have the endpoint's breaker in this state.",
                &["service", "endpoint", "state"],
            )?,
            endpoint_transitions: counters(
                registry,
                "outrider_endpoint_transitions_total",
                "Changes of an endpoint's breaker.",
                &["service", "endpoint", "from", "to", "reason"],
            )?,
            endpoints: Series::default(),
            context_kept: context.with_label_values(&["kept"]),
            context_lost: context.with_label_values(&["lost"]),
        })
    }

    /// A call of the app. Whether it carries a context; and whether it could be one that ought to.
    pub fn called(&self, has_context: bool, app_serves: bool) {
        if has_context {
            self.context_kept.inc();
        } else if app_serves {
            self.context_lost.inc();
        }
    }

    /// An endpoint's breaker changed.
    pub fn changed(&self, service: &str, endpoint: &str, change: Transition) {
        let Transition { from, to, .. } = change;
        let labels = transition_labels(service, endpoint, &change);
        self.endpoint_transitions.with_label_values(&labels).inc();
        self.endpoints.add(&owned(service, endpoint), change);
        self.moves(service, endpoint, Some(from), Some(to));
    }

    /// A worker's endpoint has come (from `None`), gone (to `None`) or changed. Several workers add
    /// up; the series of an endpoint end with the last of them.
    pub fn moves(&self, service: &str, endpoint: &str, from: Option<Status>, to: Option<Status>) {
        match (from, to) {
            (None, Some(_)) => {
                self.endpoints.begin(owned(service, endpoint));
            }
            (Some(_), None) => self
                .endpoints
                .end(&owned(service, endpoint), Instant::now()),
            (None, None) | (Some(_), Some(_)) => {}
        }
        let gauge = |status: Status| {
            let labels = [service, endpoint, status.label()];
            self.endpoint_state.with_label_values(&labels)
        };
        if let Some(to) = to {
            gauge(to).inc();
        }
        if let Some(from) = from {
            gauge(from).dec();
        }
        let all = [Status::Closed, Status::HalfOpen, Status::Open];
        if to.is_none() && all.into_iter().all(|status| gauge(status).get() == 0) {
            for status in all {
                // It is there: it has just been read.
                let _ =
                    self.endpoint_state
                        .remove_label_values(&[service, endpoint, status.label()]);
            }
        }
    }

    /// Takes out what is told of endpoints that are long gone.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.sweep(now, |[service, endpoint], changes| {
            for change in changes {
                let labels = transition_labels(service, endpoint, change);
                // It is there: it has been counted.
                let _ = self.endpoint_transitions.remove_label_values(&labels);
            }
        });
    }
}

fn owned(service: &str, endpoint: &str) -> [String; 2] {
    [service.to_owned(), endpoint.to_owned()]
}

fn transition_labels<'l>(service: &'l str, endpoint: &'l str, change: &Transition) -> [&'l str; 5] {
    let Transition { from, to, reason } = change;
    [service, endpoint, from.label(), to.label(), reason.label()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::series::LINGER;
    use crate::traffic::health::Reason;

    #[test]
    fn the_series_of_an_endpoint_follow_it_and_end_with_it() {
        let registry = Registry::new();
        let metrics = TrafficMetrics::new(&registry).expect("unique names");
        let state = |status: Status| {
            let labels = ["shop/billing", "shop/billing-1", status.label()];
            metrics.endpoint_state.with_label_values(&labels).get()
        };
        let moves = |from, to| metrics.moves("shop/billing", "shop/billing-1", from, to);
        moves(None, Some(Status::Closed));
        moves(None, Some(Status::Closed));
        let change = Transition {
            from: Status::Closed,
            to: Status::Open,
            reason: Reason::ConsecutiveErrors,
        };
        metrics.changed("shop/billing", "shop/billing-1", change);
        assert_eq!((state(Status::Closed), state(Status::Open)), (1, 1));
        moves(Some(Status::Open), None);
        moves(Some(Status::Closed), None);
        let has = |name: &str| registry.gather().iter().any(|family| family.name() == name);
        assert!(!has("outrider_endpoint_state"));
        assert!(has("outrider_endpoint_transitions_total"));
        let gone = Instant::now();
        metrics.sweep(gone);
        assert!(has("outrider_endpoint_transitions_total"));
        metrics.sweep(gone + LINGER);
        assert!(!has("outrider_endpoint_transitions_total"));
    }
}
