//! From what holds to how it would be written, for `outrider explain` and the reference page.

use std::time::Duration;

use super::grpc::GrpcCode;
use super::settings::{
    Algorithm, Budget, Fault, HashOn, HealthCheck, Limits, LoadBalancing, Locality, MinRetryRate,
    OutlierDetection, Retry, RetryBudget, Timeouts, Traffic, WhenAllEjected,
};
use crate::kinds::bounded::{Count, Percent, Span};
use crate::model::traffic as model;

/// As somebody would write it who left nothing out.
impl From<&model::TrafficSettings> for Traffic {
    fn from(settings: &model::TrafficSettings) -> Self {
        let health_check = settings.health_check.as_ref();
        let faults = settings.faults.iter().map(|fault| Fault {
            percent: Percent::from_basis_points(fault.basis_points),
            kind: fault.kind,
        });
        Self {
            timeouts: (&settings.timeouts).into(),
            retry: (&settings.retry).into(),
            retry_budget: (&settings.budget).into(),
            limits: (&settings.limits).into(),
            outlier_detection: (&settings.outliers).into(),
            health_check: health_check.map(Into::into).unwrap_or_default(),
            load_balancing: (&settings.balancing).into(),
            faults: Some(faults.collect()),
        }
    }
}

impl From<&model::Timeouts> for Timeouts {
    fn from(timeouts: &model::Timeouts) -> Self {
        let span = |timeout: Option<Duration>| Some(Span::nearest(timeout.unwrap_or_default()));
        Self {
            request: span(timeouts.request),
            backend_request: span(timeouts.backend_request),
            connect: Some(Span::nearest(timeouts.connect)),
            stream_idle: span(timeouts.stream_idle),
            tcp_idle: Some(Span::nearest(timeouts.tcp_idle.unwrap_or_default())),
        }
    }
}

impl From<&model::Retry> for Retry {
    fn from(retry: &model::Retry) -> Self {
        let codes = retry
            .codes
            .iter()
            .map(|code| Count::nearest((*code).into()));
        let grpc_codes = retry.grpc_codes.iter().copied().filter_map(GrpcCode::new);
        Self {
            attempts: Some(Count::nearest(retry.attempts)),
            codes: Some(codes.collect()),
            grpc_codes: Some(grpc_codes.collect()),
            on_reset: Some(retry.on_reset),
            on_timeout: Some(retry.on_timeout),
            non_idempotent: Some(retry.non_idempotent),
            backoff: Some(Span::nearest(retry.backoff)),
            max_backoff: Some(Span::nearest(retry.max_backoff)),
        }
    }
}

impl From<&model::RetryBudget> for RetryBudget {
    fn from(budget: &model::RetryBudget) -> Self {
        Self {
            budget: Budget {
                percent: Some(Count::nearest(budget.percent.into())),
                interval: Some(Span::nearest(budget.interval)),
            },
            min_retry_rate: MinRetryRate {
                count: Some(Count::nearest(budget.min_count)),
                interval: Some(Span::nearest(budget.min_interval)),
            },
        }
    }
}

impl From<&model::Limits> for Limits {
    fn from(limits: &model::Limits) -> Self {
        Self {
            max_connections: Some(Count::nearest(limits.max_connections)),
            max_pending_requests: Some(Count::nearest(limits.max_pending_requests)),
            max_requests: Some(Count::nearest(limits.max_requests)),
        }
    }
}

impl From<&model::Outliers> for OutlierDetection {
    fn from(outliers: &model::Outliers) -> Self {
        let gateway_errors = outliers.consecutive_gateway_errors;
        Self {
            consecutive_errors: Some(Count::nearest(outliers.consecutive_errors)),
            consecutive_gateway_errors: Some(Count::nearest(gateway_errors)),
            failure_percent: Some(Count::nearest(outliers.failure_percent.into())),
            minimum_requests: Some(Count::nearest(outliers.minimum_requests)),
            latency: Some(Span::nearest(outliers.latency.unwrap_or_default())),
            window: Some(Span::nearest(outliers.window)),
            base_ejection: Some(Span::nearest(outliers.base_ejection)),
            max_ejection: Some(Span::nearest(outliers.max_ejection)),
            max_ejected_percent: Some(Count::nearest(outliers.max_ejected_percent.into())),
            when_all_ejected: Some(match outliers.when_all_ejected {
                model::WhenAllEjected::Refuse => WhenAllEjected::Refuse,
                model::WhenAllEjected::UseAll => WhenAllEjected::UseAll,
            }),
        }
    }
}

impl From<&model::HealthCheck> for HealthCheck {
    fn from(check: &model::HealthCheck) -> Self {
        Self {
            path: Some(check.path.clone()),
            port: check.port.map(|port| Count::nearest(port.into())),
            interval: Some(Span::nearest(check.interval)),
            timeout: Some(Span::nearest(check.timeout)),
            unhealthy_threshold: Some(Count::nearest(check.unhealthy_threshold)),
            healthy_threshold: Some(Count::nearest(check.healthy_threshold)),
        }
    }
}

impl From<&model::Balancing> for LoadBalancing {
    fn from(balancing: &model::Balancing) -> Self {
        let (algorithm, hash_on) = match &balancing.algorithm {
            model::Algorithm::PeakEwma => (Algorithm::PeakEwma, None),
            model::Algorithm::LeastRequest => (Algorithm::LeastRequest, None),
            model::Algorithm::RoundRobin => (Algorithm::RoundRobin, None),
            model::Algorithm::Random => (Algorithm::Random, None),
            model::Algorithm::ConsistentHash(on) => {
                let on = match on.clone() {
                    model::HashOn::Header(name) => HashOn::Header(name),
                    model::HashOn::Cookie(name) => HashOn::Cookie(name),
                    model::HashOn::Source => HashOn::Source,
                };
                (Algorithm::ConsistentHash, Some(on))
            }
        };
        Self {
            algorithm: Some(algorithm),
            hash_on,
            slow_start: Some(Span::nearest(balancing.slow_start.unwrap_or_default())),
            locality: balancing.locality.map(|locality| Locality {
                min_available_percent: Some(Count::nearest(locality.min_available_percent.into())),
            }),
        }
    }
}
