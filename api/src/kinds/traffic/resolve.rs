//! From what is written, layer over layer, to what holds: every field of a Service's callers given.

use std::time::Duration;

use super::settings::{
    Algorithm, Budget, HashOn, HealthCheck, Limits, LoadBalancing, MinRetryRate, OutlierDetection,
    Retry, RetryBudget, Timeouts, Traffic, WhenAllEjected,
};
use crate::duration::format;
use crate::kinds::bounded::{Count, Span};
use crate::model::traffic as model;

/// Fields that are good alone and wrong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Below [`Traffic`], for instance `timeouts.backendRequest`.
    pub field: &'static str,
    pub message: String,
}

fn wrong<T>(field: &'static str, message: impl Into<String>) -> Result<T, Wrong> {
    let message = message.into();
    Err(Wrong { field, message })
}

/// `self.or(lower)`: field by field, what is written in `self`, else what is in `lower`.
macro_rules! layered {
    ($type:ty { $($leaf:ident),* } { $($nested:ident),* }) => {
        impl $type {
            #[must_use]
            pub fn or(&self, lower: &Self) -> Self {
                Self {
                    $($leaf: self.$leaf.clone().or_else(|| lower.$leaf.clone()),)*
                    $($nested: self.$nested.or(&lower.$nested),)*
                }
            }
        }
    };
}

layered!(Traffic { faults } {
    timeouts, retry, retry_budget, limits, outlier_detection, health_check, load_balancing
});
layered!(Timeouts { request, backend_request, connect, stream_idle, tcp_idle } {});
layered!(Retry {
    attempts, codes, grpc_codes, on_reset, on_timeout, non_idempotent, backoff, max_backoff
} {});
layered!(RetryBudget {} { budget, min_retry_rate });
layered!(Budget { percent, interval } {});
layered!(MinRetryRate { count, interval } {});
layered!(Limits { max_connections, max_pending_requests, max_requests } {});
layered!(OutlierDetection {
    consecutive_errors, consecutive_gateway_errors, failure_percent, minimum_requests, latency,
    window, base_ejection, max_ejection, max_ejected_percent, when_all_ejected
} {});
layered!(HealthCheck {
    path, port, interval, timeout, unhealthy_threshold, healthy_threshold
} {});
layered!(LoadBalancing { algorithm, hash_on, slow_start, locality } {});

impl Traffic {
    /// What holds where only this is written: the rest is the default.
    ///
    /// # Errors
    /// Two fields contradict each other.
    pub fn resolve(&self) -> Result<model::TrafficSettings, Wrong> {
        let faults = self.faults.iter().flatten().map(|fault| model::Fault {
            basis_points: fault.percent.basis_points(),
            kind: fault.kind,
        });
        Ok(model::TrafficSettings {
            timeouts: self.timeouts.resolve()?,
            retry: self.retry.resolve()?,
            budget: self.retry_budget.resolve(),
            limits: self.limits.resolve(),
            outliers: self.outlier_detection.resolve()?,
            health_check: self.health_check.resolve()?,
            balancing: self.load_balancing.resolve()?,
            faults: faults.collect(),
        })
    }
}

impl Timeouts {
    fn resolve(&self) -> Result<model::Timeouts, Wrong> {
        let default = model::Timeouts::default();
        let span = |given: Option<Span<0, _>>, default| given.map_or(default, Span::enabled);
        let request = span(self.request, default.request);
        let backend_request = span(self.backend_request, default.backend_request);
        if let (Some(whole), Some(attempt)) = (request, backend_request)
            && attempt > whole
        {
            return wrong(
                "timeouts.backendRequest",
                format!(
                    "is {}, longer than timeouts.request, which is {}; expected at most that",
                    format(attempt),
                    format(whole)
                ),
            );
        }
        Ok(model::Timeouts {
            request,
            backend_request,
            connect: self.connect.map_or(default.connect, Span::get),
            stream_idle: span(self.stream_idle, default.stream_idle),
            tcp_idle: self.tcp_idle.map_or(default.tcp_idle, Span::enabled),
        })
    }
}

/// The first of a pair of bounds is the one that was meant where the second is only a default.
fn at_least<const MIN: u64, const MAX: u64>(
    written: Option<Span<MIN, MAX>>,
    default: Duration,
    least: Duration,
    (field, other): (&'static str, &str),
) -> Result<Duration, Wrong> {
    match written.map(Span::get) {
        None => Ok(default.max(least)),
        Some(most) if most >= least => Ok(most),
        Some(most) => wrong(
            field,
            format!(
                "is {}, shorter than {other}, which is {}; expected at least that",
                format(most),
                format(least)
            ),
        ),
    }
}

impl Retry {
    fn resolve(&self) -> Result<model::Retry, Wrong> {
        let default = model::Retry::default();
        let backoff = self.backoff.map_or(default.backoff, Span::get);
        let names = ("retry.maxBackoff", "retry.backoff");
        let codes = self.codes.as_ref();
        let grpc_codes = self.grpc_codes.as_ref();
        Ok(model::Retry {
            attempts: self.attempts.map_or(default.attempts, Count::get),
            codes: codes.map_or(default.codes, |codes| {
                codes.iter().map(|code| code.get_u16()).collect()
            }),
            grpc_codes: grpc_codes.map_or(default.grpc_codes, |codes| {
                codes.iter().map(|code| code.number()).collect()
            }),
            on_reset: self.on_reset.unwrap_or(default.on_reset),
            on_timeout: self.on_timeout.unwrap_or(default.on_timeout),
            non_idempotent: self.non_idempotent.unwrap_or(default.non_idempotent),
            backoff,
            max_backoff: at_least(self.max_backoff, default.max_backoff, backoff, names)?,
        })
    }
}

impl RetryBudget {
    fn resolve(&self) -> model::RetryBudget {
        let default = model::RetryBudget::default();
        let (budget, rate) = (&self.budget, &self.min_retry_rate);
        model::RetryBudget {
            percent: budget.percent.map_or(default.percent, Count::get_u8),
            interval: budget.interval.map_or(default.interval, Span::get),
            min_count: rate.count.map_or(default.min_count, Count::get),
            min_interval: rate.interval.map_or(default.min_interval, Span::get),
        }
    }
}

impl Limits {
    fn resolve(&self) -> model::Limits {
        let default = model::Limits::default();
        let pending = self.max_pending_requests;
        model::Limits {
            max_connections: self
                .max_connections
                .map_or(default.max_connections, Count::get),
            max_pending_requests: pending.map_or(default.max_pending_requests, Count::get),
            max_requests: self.max_requests.map_or(default.max_requests, Count::get),
        }
    }
}

impl OutlierDetection {
    fn resolve(&self) -> Result<model::Outliers, Wrong> {
        let default = model::Outliers::default();
        let errors = self.consecutive_errors;
        let gateway_errors = self.consecutive_gateway_errors;
        let base = self.base_ejection.map_or(default.base_ejection, Span::get);
        let names = (
            "outlierDetection.maxEjection",
            "outlierDetection.baseEjection",
        );
        let share = self.max_ejected_percent;
        let minimum = self.minimum_requests;
        Ok(model::Outliers {
            consecutive_errors: errors.map_or(default.consecutive_errors, Count::get),
            consecutive_gateway_errors: gateway_errors
                .map_or(default.consecutive_gateway_errors, Count::get),
            failure_percent: self
                .failure_percent
                .map_or(default.failure_percent, Count::get_u8),
            minimum_requests: minimum.map_or(default.minimum_requests, Count::get),
            latency: self.latency.map_or(default.latency, Span::enabled),
            window: self.window.map_or(default.window, Span::get),
            base_ejection: base,
            max_ejection: at_least(self.max_ejection, default.max_ejection, base, names)?,
            max_ejected_percent: share.map_or(default.max_ejected_percent, Count::get_u8),
            when_all_ejected: match self.when_all_ejected {
                None => default.when_all_ejected,
                Some(WhenAllEjected::Refuse) => model::WhenAllEjected::Refuse,
                Some(WhenAllEjected::UseAll) => model::WhenAllEjected::UseAll,
            },
        })
    }
}

impl HealthCheck {
    /// `None`: nobody gave a path.
    fn resolve(&self) -> Result<Option<model::HealthCheck>, Wrong> {
        let Some(path) = self.path.clone() else {
            return Ok(None);
        };
        let default = model::HealthCheck::of(path);
        let timeout = self.timeout.map_or(default.timeout, Span::get);
        let names = ("healthCheck.interval", "healthCheck.timeout");
        let unhealthy = self.unhealthy_threshold;
        let healthy = self.healthy_threshold;
        Ok(Some(model::HealthCheck {
            port: self.port.map(Count::get_u16),
            interval: at_least(self.interval, default.interval, timeout, names)?,
            timeout,
            unhealthy_threshold: unhealthy.map_or(default.unhealthy_threshold, Count::get),
            healthy_threshold: healthy.map_or(default.healthy_threshold, Count::get),
            ..default
        }))
    }
}

impl LoadBalancing {
    fn resolve(&self) -> Result<model::Balancing, Wrong> {
        let algorithm = match (self.algorithm, &self.hash_on) {
            (None, _) => model::Algorithm::default(),
            (Some(Algorithm::PeakEwma), _) => model::Algorithm::PeakEwma,
            (Some(Algorithm::LeastRequest), _) => model::Algorithm::LeastRequest,
            (Some(Algorithm::RoundRobin), _) => model::Algorithm::RoundRobin,
            (Some(Algorithm::Random), _) => model::Algorithm::Random,
            (Some(Algorithm::ConsistentHash), Some(on)) => {
                model::Algorithm::ConsistentHash(match on.clone() {
                    HashOn::Header(name) => model::HashOn::Header(name),
                    HashOn::Cookie(name) => model::HashOn::Cookie(name),
                    HashOn::Source => model::HashOn::Source,
                })
            }
            (Some(Algorithm::ConsistentHash), None) => {
                let message = "is ConsistentHash, expected \"hashOn\" beside it";
                return wrong("loadBalancing.algorithm", message);
            }
        };
        Ok(model::Balancing {
            algorithm,
            slow_start: self.slow_start.and_then(Span::enabled),
            locality: self.locality.as_ref().map(|locality| {
                let least = locality.min_available_percent;
                let default = model::Locality::default();
                model::Locality {
                    min_available_percent: least
                        .map_or(default.min_available_percent, Count::get_u8),
                }
            }),
        })
    }
}
