//! Numbers of the wire, and their bounds.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Cause;

/// The longest that GEP-2257 can write (4 times 99,999 h), milliseconds: 45 years, so that it can
/// be added to any time.
const LONGEST: u64 = 4 * 99_999 * 3_600_000;

/// The number, if it is one of `range` and of `T`.
pub(super) fn within<T: TryFrom<u64>>(
    wire: impl Into<u64>,
    range: RangeInclusive<u64>,
) -> Result<T, Cause> {
    let value = wire.into();
    let error = || Cause::Range {
        value,
        least: *range.start(),
        most: *range.end(),
    };
    if !range.contains(&value) {
        return Err(error());
    }
    T::try_from(value).map_err(|_| error())
}

/// More than zero.
pub(super) fn positive(wire: u32) -> Result<u32, Cause> {
    within(wire, 1..=u32::MAX.into())
}

/// Of 0 to 100.
pub(super) fn percent(wire: u32) -> Result<u8, Cause> {
    within(wire, 0..=100)
}

/// A time of at least one millisecond.
pub(super) fn time(wire: u64) -> Result<Duration, Cause> {
    within(wire, 1..=LONGEST).map(Duration::from_millis)
}

/// A time, or none at all.
pub(super) fn time_or_zero(wire: u64) -> Result<Duration, Cause> {
    within(wire, 0..=LONGEST).map(Duration::from_millis)
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One that is not longer than another, where there are both.
pub(super) fn check_not_longer(
    time: Option<Duration>,
    than: Option<Duration>,
) -> Result<(), Cause> {
    match (time, than) {
        (Some(time), Some(than)) if time > than => Err(Cause::Range {
            value: milliseconds(time),
            least: 1,
            most: milliseconds(than),
        }),
        _ => Ok(()),
    }
}
