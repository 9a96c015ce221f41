//! Settings to and from the wire. What is out of bounds refuses the whole message.

use http::uri::PathAndQuery;

use super::{
    Fault, FaultKind, HealthCheck, Limits, Outliers, Retry, RetryBudget, Timeouts, TrafficSettings,
    WhenAllEjected,
};
use crate::model::error::{Cause, ModelError, each, maybe, parsed, port, required};
use crate::model::units::{
    check_not_longer, milliseconds, percent, positive, time, time_or_zero, within,
};
use crate::proto;
use crate::routing::EditError;

impl TryFrom<proto::TrafficSettings> for TrafficSettings {
    type Error = ModelError;

    fn try_from(wire: proto::TrafficSettings) -> Result<Self, ModelError> {
        Ok(Self {
            timeouts: required("timeouts", wire.timeouts)?,
            retry: required("retry", wire.retry)?,
            budget: required("budget", wire.budget)?,
            limits: required("limits", wire.limits)?,
            outliers: required("outliers", wire.outliers)?,
            health_check: maybe("health_check", wire.health_check)?,
            balancing: required("balancing", wire.balancing)?,
            faults: each("faults", wire.faults)?,
        })
    }
}

impl From<&TrafficSettings> for proto::TrafficSettings {
    fn from(settings: &TrafficSettings) -> Self {
        Self {
            timeouts: Some((&settings.timeouts).into()),
            retry: Some((&settings.retry).into()),
            budget: Some((&settings.budget).into()),
            limits: Some((&settings.limits).into()),
            outliers: Some((&settings.outliers).into()),
            health_check: settings.health_check.as_ref().map(Into::into),
            balancing: Some((&settings.balancing).into()),
            faults: settings.faults.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Timeouts> for Timeouts {
    type Error = ModelError;

    fn try_from(wire: proto::Timeouts) -> Result<Self, ModelError> {
        let at = ModelError::at::<Cause>;
        let request = wire.request_ms.map(time).transpose();
        let backend_request = wire.backend_request_ms.map(time).transpose();
        let stream_idle = wire.stream_idle_ms.map(time).transpose();
        let tcp_idle = wire.tcp_idle_ms.map(time).transpose();
        let timeouts = Self {
            request: request.map_err(at("request_ms"))?,
            backend_request: backend_request.map_err(at("backend_request_ms"))?,
            connect: time(wire.connect_ms).map_err(at("connect_ms"))?,
            stream_idle: stream_idle.map_err(at("stream_idle_ms"))?,
            tcp_idle: tcp_idle.map_err(at("tcp_idle_ms"))?,
        };
        check_not_longer(timeouts.backend_request, timeouts.request)
            .map_err(at("backend_request_ms"))?;
        Ok(timeouts)
    }
}

impl From<&Timeouts> for proto::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            request_ms: timeouts.request.map(milliseconds),
            backend_request_ms: timeouts.backend_request.map(milliseconds),
            connect_ms: milliseconds(timeouts.connect),
            stream_idle_ms: timeouts.stream_idle.map(milliseconds),
            tcp_idle_ms: timeouts.tcp_idle.map(milliseconds),
        }
    }
}

impl TryFrom<proto::Retry> for Retry {
    type Error = ModelError;

    fn try_from(wire: proto::Retry) -> Result<Self, ModelError> {
        let max_backoff = time_or_zero(wire.max_backoff_ms);
        Ok(Self {
            attempts: wire.attempts,
            codes: parsed("codes", wire.codes, retry_status)?,
            grpc_codes: parsed("grpc_codes", wire.grpc_codes, grpc_error)?,
            on_reset: wire.on_reset,
            on_timeout: wire.on_timeout,
            non_idempotent: wire.non_idempotent,
            backoff: time_or_zero(wire.backoff_ms).map_err(ModelError::at("backoff_ms"))?,
            max_backoff: max_backoff.map_err(ModelError::at("max_backoff_ms"))?,
        })
    }
}

/// A status that says that something failed.
pub(in crate::model) fn retry_status(wire: u32) -> Result<u16, Cause> {
    within(wire, 400..=599)
}

/// A gRPC status but OK.
fn grpc_error(wire: u32) -> Result<u8, Cause> {
    within(wire, 1..=16)
}

impl From<&Retry> for proto::Retry {
    fn from(retry: &Retry) -> Self {
        Self {
            attempts: retry.attempts,
            codes: retry.codes.iter().copied().map(Into::into).collect(),
            grpc_codes: retry.grpc_codes.iter().copied().map(Into::into).collect(),
            on_reset: retry.on_reset,
            on_timeout: retry.on_timeout,
            non_idempotent: retry.non_idempotent,
            backoff_ms: milliseconds(retry.backoff),
            max_backoff_ms: milliseconds(retry.max_backoff),
        }
    }
}

impl TryFrom<proto::RetryBudget> for RetryBudget {
    type Error = ModelError;

    fn try_from(wire: proto::RetryBudget) -> Result<Self, ModelError> {
        let min_interval = time(wire.min_interval_ms);
        Ok(Self {
            percent: percent(wire.percent).map_err(ModelError::at("percent"))?,
            interval: time(wire.interval_ms).map_err(ModelError::at("interval_ms"))?,
            min_count: wire.min_count,
            min_interval: min_interval.map_err(ModelError::at("min_interval_ms"))?,
        })
    }
}

impl From<&RetryBudget> for proto::RetryBudget {
    fn from(budget: &RetryBudget) -> Self {
        Self {
            percent: budget.percent.into(),
            interval_ms: milliseconds(budget.interval),
            min_count: budget.min_count,
            min_interval_ms: milliseconds(budget.min_interval),
        }
    }
}

impl TryFrom<proto::Limits> for Limits {
    type Error = ModelError;

    fn try_from(wire: proto::Limits) -> Result<Self, ModelError> {
        Ok(Self {
            max_connections: wire.max_connections,
            max_pending_requests: wire.max_pending_requests,
            max_requests: wire.max_requests,
        })
    }
}

impl From<&Limits> for proto::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            max_connections: limits.max_connections,
            max_pending_requests: limits.max_pending_requests,
            max_requests: limits.max_requests,
        }
    }
}

impl TryFrom<proto::Outliers> for Outliers {
    type Error = ModelError;

    fn try_from(wire: proto::Outliers) -> Result<Self, ModelError> {
        use proto::WhenAllEjected as Wire;
        let at = ModelError::at::<Cause>;
        let when_all_ejected = match Wire::try_from(wire.when_all_ejected) {
            Ok(Wire::Refuse) => WhenAllEjected::Refuse,
            Ok(Wire::UseAll) => WhenAllEjected::UseAll,
            Ok(Wire::Unspecified) | Err(_) => {
                let cause = Cause::Number(wire.when_all_ejected);
                return Err(ModelError::new("when_all_ejected", cause));
            }
        };
        let latency = wire.latency_ms.map(time).transpose();
        Ok(Self {
            consecutive_errors: wire.consecutive_errors,
            consecutive_gateway_errors: wire.consecutive_gateway_errors,
            failure_percent: percent(wire.failure_percent).map_err(at("failure_percent"))?,
            minimum_requests: wire.minimum_requests,
            latency: latency.map_err(at("latency_ms"))?,
            window: time(wire.window_ms).map_err(at("window_ms"))?,
            base_ejection: time(wire.base_ejection_ms).map_err(at("base_ejection_ms"))?,
            max_ejection: time(wire.max_ejection_ms).map_err(at("max_ejection_ms"))?,
            max_ejected_percent: percent(wire.max_ejected_percent)
                .map_err(at("max_ejected_percent"))?,
            when_all_ejected,
        })
    }
}

impl From<&Outliers> for proto::Outliers {
    fn from(outliers: &Outliers) -> Self {
        let when_all_ejected = match outliers.when_all_ejected {
            WhenAllEjected::Refuse => proto::WhenAllEjected::Refuse,
            WhenAllEjected::UseAll => proto::WhenAllEjected::UseAll,
        };
        Self {
            consecutive_errors: outliers.consecutive_errors,
            consecutive_gateway_errors: outliers.consecutive_gateway_errors,
            failure_percent: outliers.failure_percent.into(),
            minimum_requests: outliers.minimum_requests,
            latency_ms: outliers.latency.map(milliseconds),
            window_ms: milliseconds(outliers.window),
            base_ejection_ms: milliseconds(outliers.base_ejection),
            max_ejection_ms: milliseconds(outliers.max_ejection),
            max_ejected_percent: outliers.max_ejected_percent.into(),
            when_all_ejected: when_all_ejected.into(),
        }
    }
}

impl TryFrom<proto::HealthCheck> for HealthCheck {
    type Error = ModelError;

    fn try_from(wire: proto::HealthCheck) -> Result<Self, ModelError> {
        let at = ModelError::at::<Cause>;
        let path = wire.path.parse::<PathAndQuery>();
        path.map_err(EditError::from)
            .map_err(ModelError::at("path"))?;
        if !wire.path.starts_with('/') {
            return Err(ModelError::new("path", Cause::Path(wire.path)));
        }
        let port = match wire.port {
            0 => None,
            given => Some(port(given).map_err(at("port"))?),
        };
        let unhealthy = positive(wire.unhealthy_threshold);
        Ok(Self {
            path: wire.path,
            port,
            interval: time(wire.interval_ms).map_err(at("interval_ms"))?,
            timeout: time(wire.timeout_ms).map_err(at("timeout_ms"))?,
            unhealthy_threshold: unhealthy.map_err(at("unhealthy_threshold"))?,
            healthy_threshold: positive(wire.healthy_threshold).map_err(at("healthy_threshold"))?,
        })
    }
}

impl From<&HealthCheck> for proto::HealthCheck {
    fn from(check: &HealthCheck) -> Self {
        Self {
            path: check.path.clone(),
            port: check.port.unwrap_or_default().into(),
            interval_ms: milliseconds(check.interval),
            timeout_ms: milliseconds(check.timeout),
            unhealthy_threshold: check.unhealthy_threshold,
            healthy_threshold: check.healthy_threshold,
        }
    }
}

impl TryFrom<proto::Fault> for Fault {
    type Error = ModelError;

    fn try_from(wire: proto::Fault) -> Result<Self, ModelError> {
        use proto::fault::Kind;
        let at = ModelError::at::<Cause>;
        let kind = match wire.kind {
            None => return Err(ModelError::new("kind", Cause::Missing)),
            Some(Kind::DelayMs(delay)) => {
                FaultKind::Delay(time_or_zero(delay).map_err(at("delay_ms"))?)
            }
            Some(Kind::Abort(abort)) => FaultKind::Abort {
                status: within(abort.status, 200..=599).map_err(at("abort.status"))?,
                grpc: grpc_error(abort.grpc).map_err(at("abort.grpc"))?,
            },
        };
        Ok(Self {
            basis_points: within(wire.basis_points, 0..=10_000).map_err(at("basis_points"))?,
            kind,
        })
    }
}

impl From<&Fault> for proto::Fault {
    fn from(fault: &Fault) -> Self {
        use proto::fault::Kind;
        let kind = match fault.kind {
            FaultKind::Delay(delay) => Kind::DelayMs(milliseconds(delay)),
            FaultKind::Abort { status, grpc } => Kind::Abort(proto::FaultAbort {
                status: status.into(),
                grpc: grpc.into(),
            }),
        };
        Self {
            basis_points: fault.basis_points.into(),
            kind: Some(kind),
        }
    }
}
