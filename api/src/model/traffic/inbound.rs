//! What a workload takes, to and from the wire.

use super::{Concurrency, InboundLimits, RateLimit};
use crate::model::error::{ModelError, each, maybe, parsed, port};
use crate::model::units::{milliseconds, positive, time, time_or_zero};
use crate::proto;

impl TryFrom<proto::InboundLimits> for InboundLimits {
    type Error = ModelError;

    fn try_from(wire: proto::InboundLimits) -> Result<Self, ModelError> {
        Ok(Self {
            rates: each("rates", wire.rates)?,
            concurrency: maybe("concurrency", wire.concurrency)?,
        })
    }
}

impl From<&InboundLimits> for proto::InboundLimits {
    fn from(limits: &InboundLimits) -> Self {
        Self {
            rates: limits.rates.iter().map(Into::into).collect(),
            concurrency: limits.concurrency.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::RateLimit> for RateLimit {
    type Error = ModelError;

    fn try_from(wire: proto::RateLimit) -> Result<Self, ModelError> {
        let sources = wire.sources.map(|wire| each("sources", wire.sources));
        Ok(Self {
            policy: wire.policy,
            name: wire.name,
            sources: sources.transpose()?,
            ports: parsed("ports", wire.ports, port)?,
            requests: positive(wire.requests).map_err(ModelError::at("requests"))?,
            interval: time(wire.interval_ms).map_err(ModelError::at("interval_ms"))?,
            burst: positive(wire.burst).map_err(ModelError::at("burst"))?,
        })
    }
}

impl From<&RateLimit> for proto::RateLimit {
    fn from(limit: &RateLimit) -> Self {
        let sources = limit.sources.as_ref().map(|sources| proto::Sources {
            sources: sources.iter().map(Into::into).collect(),
        });
        Self {
            policy: limit.policy.clone(),
            name: limit.name.clone(),
            sources,
            ports: limit.ports.iter().copied().map(Into::into).collect(),
            requests: limit.requests,
            interval_ms: milliseconds(limit.interval),
            burst: limit.burst,
        }
    }
}

impl TryFrom<proto::Concurrency> for Concurrency {
    type Error = ModelError;

    fn try_from(wire: proto::Concurrency) -> Result<Self, ModelError> {
        let max_wait = time_or_zero(wire.max_wait_ms);
        Ok(Self {
            max_requests: positive(wire.max_requests).map_err(ModelError::at("max_requests"))?,
            max_queued: wire.max_queued,
            max_wait: max_wait.map_err(ModelError::at("max_wait_ms"))?,
        })
    }
}

impl From<&Concurrency> for proto::Concurrency {
    fn from(concurrency: &Concurrency) -> Self {
        Self {
            max_requests: concurrency.max_requests,
            max_queued: concurrency.max_queued,
            max_wait_ms: milliseconds(concurrency.max_wait),
        }
    }
}
