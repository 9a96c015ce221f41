//! Durations as the Gateway API writes them (GEP-2257): `10s`, `50ms`, `1h30m`.

use std::fmt::Write as _;
use std::time::Duration;

/// At most this many number and unit pairs (GEP-2257).
const PAIRS_MAX: usize = 4;
/// At most this many digits in a number (GEP-2257).
const DIGITS_MAX: usize = 5;

/// What [`parse`] takes, as a regular expression.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// The longest text that [`parse`] takes, in bytes.
pub const LENGTH_MAX: usize = PAIRS_MAX * (DIGITS_MAX + "ms".len());

/// The text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration, expected one to four whole numbers of at most five digits, \
     each with its unit h, m, s or ms, for instance 10s, 50ms or 1h30m"
)]
pub struct DurationError(pub String);

/// # Errors
/// The text is not of the form `([0-9]{1,5}(h|m|s|ms)){1,4}`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.chars().take(64).collect());
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..PAIRS_MAX {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > DIGITS_MAX {
            return Err(error());
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| error())?;
        // "ms" before "m" and "s": the longest unit wins.
        let (milliseconds, tail) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find_map(|(unit, scale)| Some((number * scale, tail.strip_prefix(unit)?)))
            .ok_or_else(error)?;
        total += Duration::from_millis(milliseconds);
        rest = tail;
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(error())
}

/// The text that [`parse`] reads back, to the millisecond; of durations below 100,000 hours.
#[must_use]
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
    ];
    let mut text = String::new();
    for (number, unit) in parts.into_iter().filter(|(number, _)| *number != 0) {
        // Writing to a String does not fail.
        let _ = write!(text, "{number}{unit}");
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_api_durations() {
        let table = [
            ("0s", 0),
            ("0h", 0),
            ("10s", 10_000),
            ("50ms", 50),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1h30m10s5ms", 5_410_005),
            ("30m1h", 5_400_000),
            ("99999h", 359_996_400_000),
        ];
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for (text, milliseconds) in table {
            assert_eq!(
                parse(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
            assert!(pattern.is_match(text) && text.len() <= LENGTH_MAX, "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        let table = [
            "",
            "10",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            " 1s",
            "1s ",
            "1 s",
            "1S",
            "100000s",
            "1us",
            "1d",
            "1h1h1h1h1h",
            "1sm",
            "1m s",
            "١s",
            "1s\n",
        ];
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for text in table {
            assert!(parse(text).is_err(), "{text:?}");
            assert!(!pattern.is_match(text), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(milliseconds in 0u64..3_600_000 * 99_999) {
            let duration = Duration::from_millis(milliseconds);
            proptest::prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
