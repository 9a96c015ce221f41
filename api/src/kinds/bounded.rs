//! Numbers and durations with their bounds in the type: what is out of range goes no further than
//! the parser, and the reference page knows the bounds.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::field;
use crate::duration;

/// A duration of `MIN` to `MAX` milliseconds, in Gateway API's syntax (GEP-2257).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> Span<MIN, MAX> {
    const LEAST: Duration = Duration::from_millis(MIN);
    const MOST: Duration = Duration::from_millis(MAX);

    /// The nearest that is within bounds.
    #[must_use]
    pub fn nearest(duration: Duration) -> Self {
        Self(duration.clamp(Self::LEAST, Self::MOST))
    }

    #[must_use]
    pub fn get(self) -> Duration {
        self.0
    }

    /// `None`: zero, which disables.
    #[must_use]
    pub fn enabled(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    fn bounds() -> String {
        let [least, most] = [Self::LEAST, Self::MOST].map(duration::format);
        format!("{least} to {most}")
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Span<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = field::duration(deserializer)?;
        if (Self::LEAST..=Self::MOST).contains(&given) {
            return Ok(Self(given));
        }
        Err(D::Error::custom(format!(
            "is {}, expected {}",
            duration::format(given),
            Self::bounds()
        )))
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Span<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration::format(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Span<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Span{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let [least, most] = [Self::LEAST, Self::MOST].map(duration::format);
        json_schema!({
            "type": "string",
            "format": format!("duration, {}", Self::bounds()),
            "pattern": duration::PATTERN,
            "maxLength": duration::LENGTH_MAX,
            "x-kubernetes-validations": [{
                "rule": format!(
                    "duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
                ),
                "message": format!("expected {}", Self::bounds()),
            }],
        })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// The nearest that is within bounds.
    #[must_use]
    pub fn nearest(number: u32) -> Self {
        Self(number.clamp(MIN, MAX))
    }

    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Of a `MAX` that fits, the number itself.
    #[must_use]
    pub fn get_u8(self) -> u8 {
        u8::try_from(self.0).unwrap_or(u8::MAX)
    }

    /// Of a `MAX` that fits, the number itself.
    #[must_use]
    pub fn get_u16(self) -> u16 {
        u16::try_from(self.0).unwrap_or(u16::MAX)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = i64::deserialize(deserializer)?;
        match u32::try_from(given) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!(
                "is {given}, expected {MIN} to {MAX}"
            ))),
        }
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Count{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// Hundredths of a percent.
const BASIS_POINTS: f64 = 100.0;

/// 0 to 100 percent, in steps of 0.01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u16);

impl Percent {
    /// Hundredths of a percent, 0 to 10,000.
    #[must_use]
    pub fn basis_points(self) -> u16 {
        self.0
    }

    /// At most 10,000 hundredths of a percent.
    #[must_use]
    pub fn from_basis_points(points: u16) -> Self {
        Self(points.min(10_000))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = f64::deserialize(deserializer)?;
        let points = (given * BASIS_POINTS).round();
        let is_whole = (points - given * BASIS_POINTS).abs() < 1e-6;
        if !(0.0..=100.0).contains(&given) || !is_whole {
            return Err(D::Error::custom(format!(
                "is {given}, expected 0 to 100 with at most two decimals"
            )));
        }
        // Within the range that was checked.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(points as u16))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / BASIS_POINTS)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 100})
    }
}
