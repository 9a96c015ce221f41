//! Balancing to and from the wire.

use http::HeaderName;

use super::{Algorithm, Balancing, HashOn, Locality};
use crate::model::error::{Cause, ModelError, maybe, nested};
use crate::model::units::{milliseconds, time, within};
use crate::proto;

impl TryFrom<proto::Balancing> for Balancing {
    type Error = ModelError;

    fn try_from(wire: proto::Balancing) -> Result<Self, ModelError> {
        use proto::balancing::Algorithm as Kind;
        let algorithm = match wire.algorithm {
            None => return Err(ModelError::new("algorithm", Cause::Missing)),
            Some(Kind::Simple(number)) => {
                simple(number).map_err(ModelError::at("algorithm.simple"))?
            }
            Some(Kind::ConsistentHash(on)) => {
                let on = nested("algorithm.consistent_hash", on)?;
                Algorithm::ConsistentHash(on)
            }
        };
        let slow_start = wire.slow_start_ms.map(time).transpose();
        Ok(Self {
            algorithm,
            slow_start: slow_start.map_err(ModelError::at("slow_start_ms"))?,
            locality: maybe("locality", wire.locality)?,
        })
    }
}

fn simple(number: i32) -> Result<Algorithm, Cause> {
    use proto::Algorithm as Wire;
    match Wire::try_from(number) {
        Ok(Wire::PeakEwma) => Ok(Algorithm::PeakEwma),
        Ok(Wire::LeastRequest) => Ok(Algorithm::LeastRequest),
        Ok(Wire::RoundRobin) => Ok(Algorithm::RoundRobin),
        Ok(Wire::Random) => Ok(Algorithm::Random),
        Ok(Wire::Unspecified) | Err(_) => Err(Cause::Number(number)),
    }
}

impl From<&Balancing> for proto::Balancing {
    fn from(balancing: &Balancing) -> Self {
        use proto::balancing::Algorithm as Kind;
        let simple = |algorithm: proto::Algorithm| Kind::Simple(algorithm.into());
        let algorithm = match &balancing.algorithm {
            Algorithm::PeakEwma => simple(proto::Algorithm::PeakEwma),
            Algorithm::LeastRequest => simple(proto::Algorithm::LeastRequest),
            Algorithm::RoundRobin => simple(proto::Algorithm::RoundRobin),
            Algorithm::Random => simple(proto::Algorithm::Random),
            Algorithm::ConsistentHash(on) => Kind::ConsistentHash(on.into()),
        };
        let locality = balancing.locality.map(|locality| proto::Locality {
            min_available_percent: locality.min_available_percent.into(),
        });
        Self {
            algorithm: Some(algorithm),
            slow_start_ms: balancing.slow_start.map(milliseconds),
            locality,
        }
    }
}

impl TryFrom<proto::HashOn> for HashOn {
    type Error = ModelError;

    fn try_from(wire: proto::HashOn) -> Result<Self, ModelError> {
        use proto::hash_on::Kind;
        match wire.kind {
            Some(Kind::Header(name)) => {
                let name = name.parse().map_err(ModelError::at("header"))?;
                Ok(Self::Header(name))
            }
            Some(Kind::Cookie(name)) => {
                // Both are tokens (RFC 6265, section 4.1.1).
                name.parse::<HeaderName>()
                    .map_err(ModelError::at("cookie"))?;
                Ok(Self::Cookie(name))
            }
            Some(Kind::Source(true)) => Ok(Self::Source),
            Some(Kind::Source(false)) | None => Err(ModelError::new("kind", Cause::Missing)),
        }
    }
}

impl From<&HashOn> for proto::HashOn {
    fn from(on: &HashOn) -> Self {
        use proto::hash_on::Kind;
        let kind = match on {
            HashOn::Header(name) => Kind::Header(name.to_string()),
            HashOn::Cookie(name) => Kind::Cookie(name.clone()),
            HashOn::Source => Kind::Source(true),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Locality> for Locality {
    type Error = ModelError;

    fn try_from(wire: proto::Locality) -> Result<Self, ModelError> {
        let percent = within(wire.min_available_percent, 1..=100);
        Ok(Self {
            min_available_percent: percent.map_err(ModelError::at("min_available_percent"))?,
        })
    }
}
