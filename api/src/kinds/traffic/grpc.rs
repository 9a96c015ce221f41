//! gRPC statuses, by name or number.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

/// The names of the gRPC statuses; 0 is OK, which is no failure.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A gRPC status that says of a failure, 1 to 16, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(u8);

impl GrpcCode {
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// `None`: OK, or no status at all.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (1..=16).contains(&number).then_some(Self(number))
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        GRPC_CODES[usize::from(self.0)]
    }
}

impl<'de> Deserialize<'de> for GrpcCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = GrpcCode;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a gRPC status by name (UNAVAILABLE) or number (1 to 16)")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<GrpcCode, E> {
                let code = u8::try_from(number).ok().and_then(GrpcCode::new);
                code.ok_or_else(|| {
                    E::custom(format!(
                        "{number} is not the status of a failure, expected 1 to 16"
                    ))
                })
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<GrpcCode, E> {
                self.visit_u64(u64::try_from(number).unwrap_or(u64::MAX))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<GrpcCode, E> {
                let number = GRPC_CODES.iter().position(|known| *known == name);
                let code = number.and_then(|number| GrpcCode::new(u8::try_from(number).ok()?));
                code.ok_or_else(|| E::unknown_variant(name, &GRPC_CODES[1..]))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for GrpcCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl JsonSchema for GrpcCode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GrpcCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "gRPC status",
            "minimum": 1,
            "maximum": 16,
            "pattern": format!("^({})$", GRPC_CODES[1..].join("|")),
        })
    }
}
