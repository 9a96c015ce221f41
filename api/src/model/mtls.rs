//! What becomes of a call that has no identity.

use super::error::{Cause, ModelError};
use crate::proto;

/// How a workload takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mtls {
    /// Whoever has no identity is refused.
    #[default]
    Strict,
    /// Plaintext is let in, and counted.
    Permissive,
}

impl TryFrom<i32> for Mtls {
    type Error = ModelError;

    fn try_from(wire: i32) -> Result<Self, ModelError> {
        match proto::Mtls::try_from(wire) {
            Ok(proto::Mtls::Strict) => Ok(Self::Strict),
            Ok(proto::Mtls::Permissive) => Ok(Self::Permissive),
            Ok(proto::Mtls::Unspecified) | Err(_) => {
                Err(ModelError::new("mtls", Cause::Number(wire)))
            }
        }
    }
}

impl From<Mtls> for proto::Mtls {
    fn from(mtls: Mtls) -> Self {
        match mtls {
            Mtls::Strict => Self::Strict,
            Mtls::Permissive => Self::Permissive,
        }
    }
}
